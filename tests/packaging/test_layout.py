"""The lists in pyproject.toml and constraints.txt against what lies on disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOTS = ("attacks", "defenses", "datasets")


def folders(root: Path, *, holding: str) -> set[str]:
    """Name, as packages, the source folders that hold a file matching ``holding``."""
    found = set()
    for top in ("graphsec", *ROOTS):
        for folder, _, _ in os.walk(root / top):  # os.walk does not follow the symlinks
            if any(Path(folder).glob(holding)):
                name = Path(folder).relative_to(root).as_posix().replace("/", ".")
                found.add(name if top == "graphsec" else f"graphsec.{name}")
    return found


def test_every_package_on_disk_is_listed(root: Path, pyproject: dict[str, Any]) -> None:
    listed = pyproject["tool"]["setuptools"]["packages"]
    assert len(listed) == len(set(listed))
    assert set(listed) == folders(root, holding="__init__.py")


def test_every_folder_with_modules_is_a_package(root: Path) -> None:
    assert folders(root, holding="*.py") == folders(root, holding="__init__.py")


@pytest.mark.parametrize("name", ROOTS)
def test_symlink_leads_to_the_root_folder(root: Path, name: str) -> None:
    link = root / "graphsec" / name
    if not link.exists():
        pytest.skip("this checkout has no symlinks (git's core.symlinks is off)")
    if not link.is_symlink():
        assert link.is_file(), f"graphsec/{name} must be a symlink, not a second folder"
        pytest.skip("this checkout has no symlinks (git's core.symlinks is off)")
    assert link.readlink() == Path("..") / name  # relative, so that it survives a move


@pytest.mark.parametrize("name", ROOTS)
def test_root_folder_refuses_its_own_name(root: Path, name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import {name}"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert done.stderr.rstrip().endswith(f"ImportError: import graphsec.{name}, not {name}")


def test_constraints_pin_what_is_required(root: Path, pyproject: dict[str, Any]) -> None:
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {}
    for line in lines:
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            assert version, f"constraints.txt: {line!r} is not name==version"
            assert "+" not in version, f"constraints.txt: {line!r} names one machine's build"
            pins[canonicalize_name(name)] = version
    project = pyproject["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    for requirement in map(Requirement, wanted):
        pin = pins.get(canonicalize_name(requirement.name))
        assert pin, f"constraints.txt lacks {requirement.name}"
        assert requirement.specifier.contains(pin), f"{requirement}: {pin} was tested"
