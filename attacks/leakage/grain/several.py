"""Several graphs in one step: those of the graphs tried whose gradients add up to the one seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from graphsec.attacks.leakage._leak import Leak
from graphsec.attacks.leakage.grain.alphabet import Kinds
from graphsec.attacks.leakage.grain.join import Found
from graphsec.outcome import Reconstruction

MOST = 300  # different graphs that are held at once

Gradient = Callable[[Found, int], np.ndarray]  # of a graph with a label, as one vector


def together(
    candidates: Iterator[Found], gradient: Gradient, seen: np.ndarray, count: int, classes: int,
    match: float,
) -> tuple[list[tuple[Found, int]], float]:  # fmt: skip
    """Graphs and labels whose mean gradient is nearest to the one seen, and how far it is.

    The gradient of a step is Σ g_i / k over its graphs: shares of candidates, 1/k or a multiple,
    found by non-negative least squares over all that differ, each with each label. They are asked
    for whenever the candidates have one node more, and at the end.

    Args:
        candidates: Graphs to try, the small ones first.
        gradient: Of a graph with a label alone.
        seen: The gradient of the step.
        count: k.
        classes: Number of labels.
        match: Relative distance at which the search stops.
    """
    known: set[str] = set()
    tried: list[tuple[Found, int]] = []
    columns: list[np.ndarray] = []
    best: list[tuple[Found, int]] = []
    nearest, size, asked = float("inf"), 0, 0

    def ask() -> None:
        nonlocal best, nearest, asked
        asked = len(tried)
        chosen, off = shares(np.array(columns).T, seen, count)
        if off < nearest:
            best, nearest = [tried[i] for i in chosen], off

    for graph in candidates:
        if len(graph[0]) > size:
            size = len(graph[0])
            if len(tried) > asked:
                ask()
                if nearest < match:
                    return best, nearest
        mark = _mark(graph)
        if mark in known:
            continue
        known.add(mark)
        for label in range(classes):
            tried.append((graph, label))
            columns.append(gradient(graph, label))
        if len(known) >= MOST:
            break
    if len(tried) > asked:
        ask()
    return best, nearest


def shares(columns: np.ndarray, seen: np.ndarray, count: int) -> tuple[list[int], float]:
    """``count`` columns, some perhaps repeated, and the relative distance of their mean."""
    scale = np.linalg.norm(seen)
    share, _ = nnls(columns / scale, seen / scale, maxiter=100 * columns.shape[1])
    wanted = share * count
    whole = np.floor(wanted + 1e-9).astype(np.int64)
    if whole.sum() > count:
        whole[:] = 0
    rest = np.argsort(whole - wanted, kind="stable")[: count - whole.sum()]
    whole[rest] += 1
    chosen = np.repeat(np.arange(len(whole)), whole)
    off = np.linalg.norm(columns[:, chosen].mean(1) - seen) / scale
    return chosen.tolist(), float(off)


def _mark(graph: Found) -> str:
    """The same for graphs that no message passing tells apart."""
    import networkx as nx

    kind, adj = graph
    made = nx.from_numpy_array(adj)
    nx.set_node_attributes(made, {i: str(k) for i, k in enumerate(kind)}, "kind")
    return str(nx.weisfeiler_lehman_graph_hash(made, node_attr="kind", iterations=len(kind)))


def reconstruction(
    chosen: list[tuple[Found, int]], kinds: Kinds, leak: Leak, info: dict[str, object]
) -> Reconstruction:
    """The chosen graphs side by side."""
    every = [graph[0] for graph, _ in chosen]
    kind = np.concatenate(every) if every else np.zeros(0, np.int64)
    labels = torch.tensor([label for _, label in chosen], dtype=torch.int64)
    single = len(leak.roots) == 1
    sides = [torch.from_numpy(graph[1]) for graph, _ in chosen]
    return Reconstruction(
        nodes=torch.arange(len(kind)),
        x=torch.from_numpy(kinds.x[kind]).float(),
        adj=beside(sides),
        owner=torch.repeat_interleave(torch.tensor([*map(len, every)], dtype=torch.int64)),
        y=leak.last_bias.argmin().unsqueeze(0) if single else None,
        counts=None if single else torch.bincount(labels, minlength=leak.classes),
        info=info,
    )


def beside(sides: list[Tensor]) -> Tensor:
    """(n, n) adjacencies along the diagonal."""
    total, start = sum(map(len, sides)), 0
    adj = torch.zeros(total, total)
    for side in sides:
        adj[start : start + len(side), start : start + len(side)] = side
        start += len(side)
    return adj
