"""What this installation is: versions, threads, kernels, data; and what is wrong with it."""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from graphsec import datasets
from graphsec.costs import versions
from graphsec.ops.structure import kernels_for

# Extra → the module that its methods import.
EXTRAS = {
    "privacy": "dp_accounting", "ode": "torchdiffeq", "federated": "flwr", "cluster": "distributed",
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        what: What was looked at.
        found: What there is.
        fine: Whether that is as it should be.
        advice: What to do if it is not.
    """

    what: str
    found: str
    fine: bool = True
    advice: str = ""


def examine() -> list[Finding]:
    """Look at everything that is known to go wrong."""
    return [*_software(), *_speed(), *_data()]


def _software() -> list[Finding]:
    named = ", ".join(f"{name} {version}" for name, version in versions().items())
    python = sys.version_info[:2]
    dgl = _version("dgl")
    wanted = python >= (3, 12)
    found = [
        Finding("versions", named),
        Finding("interpreter", sys.executable),
        Finding(
            "dgl", dgl or "not installed", bool(dgl) or wanted,
            "pip install dgl==1.1.3: without it graphsec works, some products are slower",
        ),
    ]  # fmt: skip
    for extra, module in EXTRAS.items():
        there = importlib.util.find_spec(module) is not None
        text = "installed" if there else f'not installed (pip install "graphsec[{extra}]")'
        found.append(Finding(f"extra {extra}", text))
    return found


def _speed() -> list[Finding]:
    import torch

    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    threads = torch.get_num_threads()
    pools = {name: os.environ.get(name, "unset") for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    kernels = kernels_for("sparse") is not None
    return [
        Finding("cores", str(cores)),
        Finding(
            "threads", f"torch {threads}, " + ", ".join(f"{k} {v}" for k, v in pools.items()),
            threads <= cores, "more threads than cores: set OMP_NUM_THREADS",
        ),
        Finding(
            "kernels", "compiled by numba" if kernels else "plain torch", kernels,
            "numba can't be imported: everything works, many times slower",
        ),
        Finding("kernel cache", _kernel_cache()),
        Finding("device", "CUDA" if torch.cuda.is_available() else "CPU"),
    ]  # fmt: skip


def _kernel_cache() -> str:
    """How many compiled kernels are kept on disk, and where."""
    folder = os.environ.get("NUMBA_CACHE_DIR")
    place = Path(folder) if folder else Path(__file__).parent / "kernels" / "__pycache__"
    count = len(list(place.rglob("*.nbc"))) if place.is_dir() else 0
    hint = "" if count else ": python -m graphsec.ops.warm compiles them ahead"
    return f"{count} kept in {place}{hint}"


def _data() -> list[Finding]:
    rows = datasets.listing()
    wanted = [row for row in rows if row.needs_files]
    here = [row.name for row in wanted if row.present]
    folder = datasets.where()
    text = f"{len(here)} of {len(wanted)} published data sets in {folder}"
    found = [Finding("data", f"{text}; {len(rows) - len(wanted)} are built in")]
    near = next(path for path in (folder, *folder.parents) if path.exists())
    writable = os.access(near, os.W_OK)
    found.append(
        Finding(
            "data folder",
            "can be written to" if writable else "can't be written to",
            writable or len(here) == len(wanted),
            f"nothing can be downloaded into {folder}: set GRAPHSEC_DATA",
        )
    )
    return found


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
