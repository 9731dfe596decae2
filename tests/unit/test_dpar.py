"""PageRank rows: what a hub moves, what the noise pays for, what training sees and claims."""

from __future__ import annotations

from typing import Any

import dp_accounting
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import graphsec
from graphsec.defenses.private.dpar import DPAR, pagerank_rows
from graphsec.dp.accountant import ChangedTermsDpEvent, Ledger
from graphsec.dp.canaries import removed
from graphsec.graph import Graph
from graphsec.registry import SpecError
from graphsec.rng import Rng
from graphsec.testing import tiny_graphs

KARATE = tiny_graphs()["karate"]
MLP: Any = {"name": "mlp", "hidden": 8}
QUICK: Any = {"name": "dpar", "steps": 4, "rate": 0.5, "delta": 1e-3}


def star(leaves: int, others: int = 0, seed: int = 0) -> Graph:
    """Node 0 has all others as neighbours, which have some edges among themselves."""
    rng = np.random.default_rng(seed)
    pairs = rng.integers(1, leaves + 1, (2, others))
    spokes = np.stack([np.zeros(leaves, int), np.arange(1, leaves + 1)])
    pairs = np.concatenate([spokes, pairs[:, pairs[0] != pairs[1]]], axis=1)
    n = leaves + 1
    return Graph.from_edges(
        pairs, n, x=rng.normal(size=(n, 3)), y=np.arange(n) % 2, split=(range(n), [], [])
    )


def test_a_hub_changes_every_row() -> None:
    """The counter-example to paying for one row, or for those that a node is near the top of."""
    graph = star(400, 200)
    moved = pagerank_rows(graph, 0.25) - pagerank_rows(removed(graph, torch.tensor([0])), 0.25)
    far = moved.norm(dim=1)
    assert float(far.min()) > 0.05
    assert float(moved.norm()) > 2.5 * 2**0.5


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6), leaves=st.integers(1, 20), others=st.integers(0, 40),
    alpha=st.floats(0.02, 0.98),
)  # fmt: skip
def test_rows_move_by_no_more_than_is_paid_for(
    seed: int, leaves: int, others: int, alpha: float
) -> None:
    graph = star(leaves, others, seed)
    for gone in (0, leaves):
        after = removed(graph, torch.tensor([gone]))
        moved = pagerank_rows(graph, alpha) - pagerank_rows(after, alpha)
        assert float(moved.norm(dim=1).max()) <= 2**0.5 + 1e-5
        assert float(moved.norm()) <= (2 * graph.num_nodes) ** 0.5


def test_noise_pays_for_all_rows() -> None:
    """Without noise the rows themselves; with much, weights that have nothing to do with them."""
    graph = star(40)
    best = pagerank_rows(graph, 0.25).argmax(1)
    hits = {}
    for rows, noise in (("all", 0.0), ("all", 0.4), ("one", 0.4)):
        made = DPAR(k=1, seen=1000, rows=rows)  # type: ignore[arg-type]
        noisy = made.noised(graph, noise, Rng(0)).merged()
        assert noisy.weight is not None
        row, col = (end[noisy.weight > 0] for end in noisy.csr.coo)
        assert len(row) == graph.num_nodes
        hits[rows, noise] = float((col == best[row]).float().mean())
    assert hits["all", 0.4] < 0.3 < 0.6 < hits["one", 0.4]
    assert hits["all", 0.0] == 1


def test_features_are_gathered_by_few_roots() -> None:
    graph = star(30)
    for seen in (1, 3):
        weights = DPAR(seen=seen, k=6).noised(graph, 0.0, Rng(0)).merged()
        _, col = weights.csr.coo
        assert weights.weight is not None
        assert int(col[weights.weight > 0].bincount().max()) <= seen


def test_a_training_looks_at_the_noisy_rows_alone() -> None:
    """With noise that drowns the rows, the edges make no difference to the weights."""
    fits = [
        graphsec.fit(graph, MLP, {**QUICK, "noise_multiplier": 1e9, "steps": 1})
        for graph in (KARATE, KARATE.flip(KARATE.edge_index[:, :1]))
    ]
    first, second = (list(fit.model.parameters()) for fit in fits)
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_claims() -> None:
    made = graphsec.fit(KARATE, MLP, {**QUICK, "secure": True, "epsilon": 5.0})
    assert made.privacy is not None
    assert 4.9 < made.privacy.epsilon <= 5.0
    rows, steps = made.trace.spent
    assert isinstance(rows[0], dp_accounting.GaussianDpEvent)
    assert isinstance(steps[0], ChangedTermsDpEvent)
    assert (steps[0].changed, steps[1]) == (4, 4)
    assert steps[0].noise_multiplier == pytest.approx(4 * rows[0].noise_multiplier)
    assert Ledger.resumed(made.trace.spent[1:]).epsilon(1e-3) < made.privacy.epsilon
    for spec in (QUICK, {**QUICK, "secure": True, "rows": "one"}):
        assert graphsec.fit(KARATE, MLP, spec).privacy is None


def test_bad_input_is_refused() -> None:
    with pytest.raises(SpecError, match="uses no edges, such as 'mlp', got 'gcn'"):
        graphsec.fit(KARATE, "gcn", QUICK)
    directed = Graph.from_edges(
        [[0, 1], [1, 2]], 3, directed=True, x=np.eye(3), y=[0, 1, 0], split=([0, 1], [], [2])
    )
    with pytest.raises(ValueError, match="dpar needs an undirected graph"):
        graphsec.fit(directed, MLP, QUICK)
