"""What a cell cost, and what computed it."""

from __future__ import annotations

import platform
from importlib import metadata

from graphsec import __version__


def versions() -> dict[str, str]:
    """Versions of what computes: graphsec, Python and the numerical libraries."""
    found = {"graphsec": __version__, "python": platform.python_version()}
    for package in ("torch", "numpy", "numba", "scipy", "scikit-learn"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def reset_peak_memory() -> None:
    """Start the kernel's high-water mark afresh (Linux only; elsewhere it is the process's)."""
    try:
        with open("/proc/self/clear_refs", "w") as handle:  # noqa: PTH123
            handle.write("5")
    except OSError:
        return


def peak_memory() -> float:
    """Peak resident memory in MB since the last reset."""
    try:
        with open("/proc/self/status") as handle:  # noqa: PTH123
            for line in handle:
                if line.startswith("VmHWM"):
                    return int(line.split()[1]) / 1024
    except OSError:
        pass
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
