"""Tables, figures and the one-file HTML report of any iterable of records."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphsec.report.terminal import table, text

if TYPE_CHECKING:
    from graphsec.cell import Record


def html(results: Iterable[Record], path: str | Path) -> Path:
    """Write the report: one HTML file that asks for nothing from outside.

    The same records give the same bytes, in whatever order they come.

    Args:
        results: Records; ``name`` and ``notes`` of a ``Results`` are printed too.
        path: File to write; its folder is made where missing.

    Returns:
        The path.

    Raises:
        OSError: The file can't be written; one that was there stays as it was.
    """
    return written(render(results), path)


def written(page: str, path: str | Path) -> Path:
    """Write a page, whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        partial.write_text(page, encoding="utf-8", newline="\n")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def render(results: Iterable[Record]) -> str:
    """The report as text."""
    from graphsec.report.page import content

    return filled("report.html.j2", content(results))


def filled(template: str, content: Mapping[str, Any]) -> str:
    """A page of this package's template and style sheet."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    folder = resources.files("graphsec.report")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made = environment.from_string((folder / template).read_text("utf-8"))
    css = Markup((folder / "report.css").read_text("utf-8"))
    return made.render(css=css, **content).lstrip() + "\n"


__all__ = ["filled", "html", "render", "table", "text", "written"]
