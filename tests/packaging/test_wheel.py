"""The built wheel, imported from outside the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

SOURCES = ("graphsec", "attacks", "defenses", "datasets")
FILES = ("pyproject.toml", "README.md", "LICENSE")
# What the extras bring: only a module that needs one of these may fail to import without it.
OPTIONAL = {
    "dask",
    "distributed",
    "dp_accounting",
    "flwr",
    "httpx",  # with flwr
    "opacus",
    "psycopg",
    "torchdiffeq",
}

IMPORT_ALL = """
import importlib, json, sys, traceback
folder, *names = sys.argv[1:]
# Without this an editable install of the checkout would serve what the wheel forgot.
sys.meta_path = [f for f in sys.meta_path if "editable" not in str(getattr(f, "__module__", f))]
sys.path.insert(0, folder)
report = {}
for name in names:
    try:
        report[name] = {"file": importlib.import_module(name).__file__}
    except BaseException as error:
        report[name] = {"error": traceback.format_exc(), "missing": getattr(error, "name", None)}
print("\\n" + json.dumps(report))
"""


def sources(root: Path) -> dict[str, Path]:
    """Map a path inside the wheel to the source file it is made from."""
    found = {}
    for top in SOURCES:
        for folder, subfolders, names in os.walk(root / top):  # does not follow the symlinks
            subfolders[:] = [name for name in subfolders if name != "__pycache__"]
            for name in names:
                path = Path(folder) / name
                if not path.is_symlink():
                    inside = path.relative_to(root).as_posix()
                    found[inside if top == "graphsec" else f"graphsec/{inside}"] = path
    return found


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build sdist, then the wheel from it, out of a copy that has no symlinks."""
    checkout = tmp_path_factory.mktemp("checkout")
    for name in FILES:
        shutil.copy(root / name, checkout / name)
    for inside, path in sources(root).items():
        plain = inside if path.is_relative_to(root / "graphsec") else inside[len("graphsec/") :]
        (checkout / plain).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, checkout / plain)
    dist = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, checkout],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert len(list(dist.glob("graphsec-*.tar.gz"))) == 1
    (built,) = dist.glob("graphsec-*.whl")
    return built


@pytest.fixture(scope="module")
def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def test_wheel_owns_one_top_level_name(contents: set[str]) -> None:
    tops = {name.partition("/")[0] for name in contents}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"graphsec"}


def test_wheel_holds_the_sources_and_nothing_else(root: Path, contents: set[str]) -> None:
    inside = {name for name in contents if ".dist-info/" not in name}
    assert inside == set(sources(root))


def test_every_module_imports_from_the_wheel(
    wheel: Path, contents: set[str], tmp_path: Path
) -> None:
    unpacked = tmp_path / "unpacked"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    modules = sorted(
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in contents
        # A lab (labs/texts/01-posteriors.py) is a script to copy, no module.
        if name.endswith(".py") and not name.endswith("__main__.py") and "-" not in name
    )
    assert {f"graphsec.{name}" for name in ("attacks", "defenses", "datasets")} < set(modules)
    done = subprocess.run(
        [sys.executable, "-I", "-c", IMPORT_ALL, unpacked, *modules],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    for name in modules:
        outcome = report[name]
        if "error" in outcome:
            top = (outcome["missing"] or "").partition(".")[0]
            assert top in OPTIONAL, f"{name}\n{outcome['error']}"
        else:
            assert Path(outcome["file"]).is_relative_to(unpacked), outcome["file"]
