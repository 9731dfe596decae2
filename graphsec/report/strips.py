"""Strips of pictures: what attacks recovered, under what is true."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np

from graphsec.report import figures
from graphsec.report.data import Row, distinct, same, scenarios

COLUMNS = 8  # pictures in a row of a strip
DRAWINGS = 6  # drawings of edges in a section


def strips(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One strip for each defense and game: the true images, and below what each attack recovered.

    Columns are nodes of the first replicates; every recovered image has its PSNR.
    """
    shown = [row for row in rows if _pictures(row, "pixels")]
    found = []
    for defense in distinct(shown, lambda r: r.defense):
        for game in distinct(shown, lambda r: r.scenario.game):
            mine = [r for r in shown if r.defense == defense and r.scenario.game == game]
            if mine:
                found.append(_strip(defense, mine))
    return found


def _strip(defense: str, rows: Sequence[Row]) -> dict[str, Any]:
    truths: dict[tuple[int, int, int], str] = {}
    lines = []
    for scenario in scenarios(rows):
        cells = {}
        for row in rows:
            if same(row, scenario):
                for place, true, image, value in _images(row):
                    truths[place] = true
                    cells[place] = (image, value)
        lines.append((scenario, cells))
    places = sorted(truths)[:COLUMNS]
    return {
        "defense": defense,
        "heads": [f"node {node}, split {split}, seed {seed}" for split, seed, node in places],
        "true": [truths[place] for place in places],
        "rows": [
            {"scenario": scenario, "cells": [cells.get(place) for place in places]}
            for scenario, cells in lines
            if any(place in cells for place in places)
        ],
    }


def _pictures(row: Row, kind: str) -> list[dict[str, Any]]:
    return [picture for picture in row.record.pictures if picture["kind"] == kind]


def _images(row: Row) -> list[tuple[tuple[int, int, int], str, str, float]]:
    """(split, seed and node), true image, recovered image, PSNR of each node."""
    return [
        ((*row.replicate, node), png(true, made["grid"]), png(image, made["grid"]), value)
        for made in _pictures(row, "pixels")
        for node, true, image, value in zip(
            made["nodes"], made["true"], made["found"], made["psnr"], strict=True
        )
    ]


def png(pixels: Sequence[int], grid: Sequence[int]) -> str:
    """A grey image 0 … 255, row by row, as a ``data:`` address: nothing is asked from outside."""
    from matplotlib.image import imsave

    buffer, image = BytesIO(), np.asarray(pixels, np.uint8).reshape(tuple(grid))
    plain: Any = {"Software": None}
    imsave(buffer, image, cmap="gray", vmin=0, vmax=255, format="png", metadata=plain)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def drawings(dataset: str, model: str, rows: Sequence[Row], name: str) -> list[dict[str, Any]]:
    """True and recovered edges of the first replicate of each attack and defense, if any."""
    shown = [row for row in rows if _pictures(row, "edges")]
    found: list[dict[str, Any]] = []
    for scenario in scenarios(shown):
        mine = [row for row in shown if same(row, scenario)]
        for defense in distinct(mine, lambda r: r.defense):
            row = min((r for r in mine if r.defense == defense), key=lambda r: r.replicate)
            made = _pictures(row, "edges")[0]
            true, got = ({tuple(pair) for pair in made[kind]} for kind in ("true", "found"))
            title = f"{scenario.label}, defense: {defense}"
            svg = figures.edges(
                len(made["nodes"]), true, got, name=f"{name}-e{len(found) + 1}",
                title=f"edges recovered by {title}, {dataset}, {model}",
            )  # fmt: skip
            what = f"{len(true & got)} of {len(true)} edges found among as many guessed pairs"
            found.append({"svg": svg, "title": title, "tags": [scenario.tag], "what": what})
    return found[:DRAWINGS]


__all__ = ["drawings", "png", "strips"]
