"""A neighbourhood sum that no node can sway by much, on any graph: degrees are capped softly.

Cutting edges until every degree is at most K makes a graph whose edges depend on each other: take
a hub away, and each of its neighbours has a place to give to another one. Weights don't jump. Here
a node that is asked for much gives less to each, a_u = (1 + s_u / K)^-½ with s_u = Σ a_w over its
neighbours, and the sum that it hears is held down by its own load, Y_u = a_u² Σ_w a_w x_w.

Theorem (docs/privacy.md): take a node with its edges out of any undirected graph. If the rows of X
have norm at most 1 and stay the same, the other rows of Y move by at most ``SENSITIVITY`` · √K in
Frobenius norm. A node's messages alone make √K of it; a hard cap on degrees, were it stable, would
have as much.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from graphsec.ops import Adj, propagate

SENSITIVITY = 1.53  # times √K; tests/unit/test_dp_capping.py evaluates the bound of the proof
_PRECISE = 1e-12


def loads(adj: Adj, cap: float) -> Tensor:
    """(n,) float64 a: how much of itself every node gives.

    Iterated until no logarithm moves; each step at least halves how far they are off.

    Args:
        adj: Plain undirected adjacency; weights, if any, must lie in 0…1.
        cap: K > 0. A node of degree far below K gives 1, a hub's messages have squares that sum
            to less than K.
    """
    if cap <= 0:
        raise ValueError(f"cap must be > 0, got {cap}")
    a = torch.ones(adj.num_nodes, 1, dtype=torch.float64)
    while True:
        heard = propagate(adj, a)
        new = (1 + heard / cap).rsqrt()
        moved = (new.log() - a.log()).abs().max() if len(a) else 0.0
        a = new
        if moved < _PRECISE:
            return a.squeeze(1)


def soft_cap(adj: Adj, cap: float) -> Adj:
    """The operator T = diag(a²) A diag(a): its rows, and the squares of its columns, sum to < K."""
    a = loads(adj, cap).float()
    return replace(adj, left=a.square(), right=a, loop=0.0, final=True)
