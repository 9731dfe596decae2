"""Cells of percent scripts and of notebooks."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

_HEADER = re.compile(
    r"# %%(?P<title>.*?)(?P<markdown>\[markdown\])?\s*(?:tags=(?P<tags>\[.*\]))?\s*$"
)
_EXERCISE = re.compile(r"Exercise (\d+)\b")


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        title: What its header says, such as "Exercise 1: a score".
        source: Its lines below the header, those of text with their "# ".
        markdown: Whether it is text.
        tags: Its tags.
        line: Lines of the file above its source.
    """

    title: str
    source: str
    markdown: bool = False
    tags: tuple[str, ...] = ()
    line: int = 0

    @property
    def exercise(self) -> int:
        """Number of the exercise, 0 of any other cell."""
        found = _EXERCISE.match(self.title)
        return 0 if found is None or self.markdown else int(found[1])

    @property
    def plain(self) -> list[str]:
        """The lines without the "# " of text, and without empty ones at the end."""
        lines = self.source.rstrip().split("\n")
        return [re.sub(r"^# ?", "", line) for line in lines] if self.markdown else lines


def cells(text: str) -> list[Cell]:
    """Cells of a percent script; what stands before the first header is left out."""
    found: list[Cell] = []
    header: tuple[str, bool, tuple[str, ...], int] | None = None
    lines: list[str] = []

    def close() -> None:
        if header is not None:
            title, markdown, tags, line = header
            found.append(Cell(title, "\n".join(lines).rstrip(), markdown, tags, line))

    for number, line in enumerate(text.split("\n"), start=1):
        match = _HEADER.match(line)
        if match is None:
            lines.append(line)
            continue
        close()
        tags = tuple(json.loads(match["tags"] or "[]"))
        header, lines = (match["title"].strip(), match["markdown"] is not None, tags, number), []
    close()
    return found


def script(of: list[Cell]) -> str:
    """Percent script of cells."""
    parts = []
    for cell in of:
        words = ["# %%", cell.title, "[markdown]" if cell.markdown else ""]
        if cell.tags:
            words.append(f"tags={json.dumps(cell.tags)}")
        parts.append(" ".join(filter(None, words)) + "\n" + cell.source)
    return "\n\n".join(parts) + "\n"


def notebook(of: list[Cell]) -> str:
    """Notebook (nbformat 4.5) of cells, without outputs; titles as jupytext keeps them."""
    made = []
    for number, cell in enumerate(of):
        lines = cell.plain
        metadata: dict[str, Any] = {"title": cell.title} if cell.title else {}
        if cell.tags:
            metadata["tags"] = list(cell.tags)
        each: dict[str, Any] = {
            "cell_type": "markdown" if cell.markdown else "code",
            "id": f"cell-{number}",
            "metadata": metadata,
            "source": [f"{line}\n" for line in lines[:-1]] + lines[-1:],
        }
        made.append(each if cell.markdown else {**each, "outputs": [], "execution_count": None})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    content = {
        "cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5,
    }  # fmt: skip
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def from_notebook(text: str) -> list[Cell]:
    """Cells of a notebook that ``notebook`` made, and somebody filled in."""
    found = []
    for cell in json.loads(text)["cells"]:
        source, metadata = cell["source"], cell["metadata"]
        found.append(
            Cell(
                metadata.get("title", ""),
                source if isinstance(source, str) else "".join(source),
                cell["cell_type"] != "code",
                tuple(metadata.get("tags", ())),
            )
        )
    return found
