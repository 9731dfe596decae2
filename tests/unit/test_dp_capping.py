"""The soft cap: its constant, and what a node can change, looked for rather than believed."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphsec.dp.capping import SENSITIVITY, loads, soft_cap
from graphsec.graph import Graph
from graphsec.ops import Adj, propagate

Array = npt.NDArray[np.float64]


def moved(edges: set[tuple[int, int]], n: int, gone: int, cap: float) -> float:
    """The worst change of the other rows, over √K, for features that all agree.

    Rows of T − T' times features of norm 1 are longest where signs let all entries add: the sum of
    their sizes bounds every choice of features.
    """

    def operator(kept: set[tuple[int, int]]) -> Array:
        pairs = torch.tensor(sorted(kept), dtype=torch.int64).reshape(-1, 2).T
        adj = Graph.from_edges(pairs, num_nodes=n).adj
        return propagate(soft_cap(adj, cap), torch.eye(n)).double().numpy()

    before = operator(edges)
    after = operator({edge for edge in edges if gone not in edge})
    rows = np.delete(np.abs(before - after).sum(1), gone)
    return float(np.sqrt((rows**2).sum() / cap))


@st.composite
def graphs(draw: st.DrawFn) -> tuple[set[tuple[int, int]], int]:
    """Random graphs with hubs and two sides, where changes run far."""
    n = draw(st.integers(2, 24))
    hubs = draw(st.integers(0, min(4, n)))
    dense = draw(st.floats(0, 1))
    sides = draw(st.booleans())
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    edges = set()
    for u in range(n):
        for v in range(u + 1, n):
            if u < hubs or (rng.random() < dense and not (sides and (u + v) % 2 == 0)):
                edges.add((u, v))
    return edges, n


@settings(max_examples=150, deadline=None)
@given(graphs(), st.floats(0.05, 50), st.integers(0, 23))
def test_no_node_moves_the_others_by_more(
    graph: tuple[set[tuple[int, int]], int], cap: float, gone: int
) -> None:
    """Rows' changes stay below the constant for every node of hub-heavy graphs."""
    edges, n = graph
    assert moved(edges, n, gone % n, cap) <= SENSITIVITY


def test_a_hub_alone_moves_its_leaves_by_nearly_the_root_of_the_cap() -> None:
    """What no method that lets K of a node's messages pass can avoid; the worst that was found."""
    star = {(0, leaf) for leaf in range(1, 400)}
    assert 0.9 < moved(star, 400, 0, 1.0) < 1.0


def rate(a: Array, lam: float = 2.1, theta: float = 0.7) -> Array:
    """What a neighbour that gives ``a`` adds to (1 + θ) direct² + (1 + 1/θ) response²."""
    x = 1 / np.clip(a, 1e-9, 1 - 1e-7) ** 2 - 1
    gamma = x / (2 * (1 + x))
    square = 8 * (gamma + 1) * a + 2 / 3**1.5
    z2 = gamma**2 * square + lam * (gamma**2 - 1)
    assert (z2 < 0).all()  # which also says that nodes that are no neighbours add nothing
    z1 = 2 * lam - 8 * gamma**2 * a
    found: Array = (1 + theta) * a**4 + (1 + 1 / theta) * a * (z1**2 / (-4 * z2) - lam) / x
    return found


def test_the_constant_is_that_of_the_proof() -> None:
    """The integral of the proof, from above cell by cell, is below the constant, and near it."""
    grid = np.linspace(1e-3, 1, 100_001)
    values = rate(grid)
    peak = grid[values.argmax()]
    assert (np.diff(np.sign(np.diff(values))) <= 0).all()  # rises, then falls
    assert (values <= 8 * grid**3).all()  # so that neighbours that give below .01 add below .2
    starts, times = np.geomspace(0.01, 1, 1500), np.geomspace(1e-7, 1, 4000)
    early = np.concatenate([[1e-12], times[:-1]])
    worst = 0.0
    for low, high in pairwise(starts):
        least, most = low * np.sqrt(early), np.minimum(1, high / np.sqrt(early))
        cells = rate(np.clip(peak, least, most))
        worst = max(worst, float(cells @ (times - early)) / low)
    assert SENSITIVITY - 0.01 < np.sqrt(worst) < SENSITIVITY


@pytest.mark.parametrize("cap", [0.5, 5.0, 1e6])
def test_loads_solve_their_equation(cap: float) -> None:
    """a = (1 + A a / K)^-½, rows of T sum to less than K, and squares of columns too."""
    rng = np.random.default_rng(0)
    pairs = torch.from_numpy(rng.integers(0, 200, (2, 1500)))
    adj: Adj = Graph.from_edges(pairs[:, pairs[0] != pairs[1]], num_nodes=200).adj
    a = loads(adj, cap)
    heard = propagate(adj, a.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(a, (1 + heard / cap).rsqrt())
    operator = propagate(soft_cap(adj, cap), torch.eye(200))
    assert float(operator.sum(1).max()) < min(cap, float(adj.degrees().max()) + 1e-3)
    assert float(operator.square().sum(0).max()) < cap


def test_caps_must_be_positive() -> None:
    """A cap of 0 lets nothing through and has no solution."""
    adj = Graph.from_edges(torch.tensor([[0], [1]]), num_nodes=2).adj
    with pytest.raises(ValueError, match="cap must be > 0, got 0"):
        loads(adj, 0.0)
