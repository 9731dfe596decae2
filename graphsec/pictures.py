"""What was recovered beside what is true, as pictures that a record keeps and the report shows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphsec.game import Secret
from graphsec.graph import Graph
from graphsec.graph.arrays import take_rows
from graphsec.metrics.reconstruction import psnr
from graphsec.outcome import Outcome, Reconstruction

NODES = 8  # nodes with a picture of their features: the first ones
PIXELS = 4096  # pixels beyond which a picture is left out
DRAWN = 24  # nodes beyond which no edges are drawn


def pictures(
    outcome: Outcome, graph: Graph, secret: Secret | None, grid: tuple[int, int] | None
) -> list[dict[str, Any]]:
    """Pictures of a reconstruction, plain lists of bounded size.

    They hold the truth, and so are made after scoring, by who may see the secret; no attack reads
    a record.

    Args:
        outcome: What the attack returned.
        graph: The graph that was trained on.
        secret: The game's secret; without one there is nothing to compare with.
        grid: Rows and columns, where features are pixels (``Dataset.grid``).

    Returns:
        "pixels": of at most 8 nodes the ``true`` and the ``found`` images as whole numbers 0 …
        255, row by row, with ``psnr`` in dB of each. "edges": where edge scores among at most 24
        nodes were recovered, the ``true`` edges and as many of the likeliest pairs as ``found``,
        both as pairs of places in ``nodes``.
    """
    if not isinstance(outcome, Reconstruction) or secret is None:
        return []
    made = []
    if outcome.x is not None and grid is not None and graph.x is not None:
        made += _pixels(outcome.x, outcome.nodes, take_rows(graph.x, outcome.nodes), grid)
    if outcome.adj is not None and 2 <= len(outcome.nodes) <= DRAWN:
        made.append(_edges(outcome.adj, outcome.nodes, graph))
    return made


def _pixels(
    found: Tensor, nodes: Tensor, truth: Tensor, grid: tuple[int, int]
) -> list[dict[str, Any]]:
    truth = truth.to_dense()
    inside = 0 <= float(truth.min()) <= float(truth.max()) <= 1
    if not inside or grid[0] * grid[1] != truth.shape[1] or truth.shape[1] > PIXELS:
        return []
    return [{
        "kind": "pixels", "grid": list(grid), "nodes": nodes[:NODES].tolist(),
        "true": [_bytes(row) for row in truth[:NODES]],
        "found": [_bytes(row) for row in found[:NODES]],
        "psnr": [round(psnr(a, b), 3) for a, b in zip(found[:NODES], truth, strict=False)],
    }]  # fmt: skip


def _bytes(row: Tensor) -> list[int]:
    return [int(v) for v in (row.double().clamp(0, 1) * 255).round()]


def _edges(scores: Tensor, nodes: Tensor, graph: Graph) -> dict[str, Any]:
    k = len(nodes)
    pairs = torch.triu_indices(k, k, 1)
    scored = scores[pairs[0], pairs[1]] + scores[pairs[1], pairs[0]]
    there = graph.has_edges(nodes[pairs]) | graph.has_edges(nodes[pairs.flip(0)])
    best = scored.argsort(descending=True, stable=True)[: int(there.sum())].sort().values
    return {
        "kind": "edges", "nodes": nodes.tolist(), "true": pairs[:, there].T.tolist(),
        "found": pairs[:, best].T.tolist(),
    }  # fmt: skip


__all__ = ["pictures"]
