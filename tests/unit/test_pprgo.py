"""PPRGo: rows of PageRank, answers node by node, batches, and what attackers differentiate."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import graphsec
from graphsec.graph import Graph
from graphsec.models import build
from graphsec.models.pprgo import PPRGo
from graphsec.ops import Adj, compiled, low_rank, personalized_pagerank, ranked, soft_median
from graphsec.rng import Rng
from graphsec.testing import some_flips, tiny_graphs
from graphsec.testing.common import x_of
from graphsec.train import Recipe, fit

GRAPHS = pytest.mark.parametrize("graph", tiny_graphs().values(), ids=list(tiny_graphs()))
BLOCKS = tiny_graphs()["blocks"]
EXACT: dict[str, Any] = {"name": "pprgo", "topk": 500, "epsilon": 1e-9, "hidden": 8}


def pagerank(graph: Graph, alpha: float) -> Tensor:
    """α (I − (1 − α) D^-1 A)^-1; the walk of an isolated node ends there."""
    adj, n = graph.adj, graph.num_nodes
    weight = torch.ones(adj.csr.nnz) if adj.weight is None else adj.weight
    matrix = torch.zeros(n, n, dtype=torch.float64).index_put(adj.csr.coo, weight.double())
    degree = matrix.sum(1, keepdim=True)
    step = torch.where(degree > 0, matrix / degree.clamp(min=1e-12), torch.eye(n))
    inverse: Tensor = torch.linalg.inv(torch.eye(n) - (1 - alpha) * step)
    return alpha * inverse


def dense(adj: Adj) -> Tensor:
    """Rows with numbers."""
    assert adj.weight is not None
    zeros = torch.zeros(adj.num_nodes, adj.csr.num_cols, dtype=torch.float64)
    return zeros.index_put(adj.csr.coo, adj.weight.double())


def made(spec: Any, graph: Graph = BLOCKS) -> PPRGo:
    with Rng(0).scope():
        model = build(spec, graph).eval()
    assert isinstance(model, PPRGo)
    return model


@GRAPHS
@pytest.mark.parametrize("numba", [True, False])
def test_rows_are_the_largest_entries_of_pagerank(graph: Graph, numba: bool) -> None:
    wanted = pagerank(graph, 0.2)
    roots = torch.tensor([3, graph.num_nodes - 1, 0])
    with compiled(numba):
        fresh = dataclasses.replace(graph.adj)
        rows = ranked(fresh, roots, 5, 0.2, 1e-9)
        again = ranked(fresh, roots.flip(0), 5, 0.2, 1e-9)
    assert torch.equal(dense(again), dense(rows).flip(0))
    for row, root in zip(dense(rows), roots.tolist(), strict=True):
        kept = row.nonzero().ravel()
        assert root in kept
        assert len(kept) == min(5, int((wanted[root] > 1e-12).sum()))
        torch.testing.assert_close(row[kept], wanted[root][kept], rtol=1e-5, atol=1e-7)
        near = kept[kept != root]
        left_out = wanted[root].index_fill(0, torch.cat([kept, torch.tensor([root])]), 0.0)
        if len(near):
            assert float(left_out.max()) <= float(wanted[root][near].min()) + 1e-7


def test_rows_do_not_depend_on_numbering() -> None:
    """A coarse precision, where the order of pushes would show."""
    order = torch.from_numpy(np.random.default_rng(1).permutation(BLOCKS.num_nodes))
    everyone = torch.arange(BLOCKS.num_nodes)
    rows = dense(ranked(BLOCKS.adj, everyone, 90, 0.1, 1e-2))
    other = dense(ranked(BLOCKS.subgraph(order).adj, everyone, 90, 0.1, 1e-2))
    torch.testing.assert_close(other, rows[order][:, order], rtol=1e-6, atol=1e-9)
    assert float(rows.sum(1).min()) < 0.9  # so it was coarse


@GRAPHS
def test_answers_some_nodes_alone(graph: Graph) -> None:
    model, nodes = made("pprgo", graph), torch.tensor([7, 0, 3])
    with torch.no_grad():
        whole = model(x_of(graph), graph.adj)
        alone = model.at(x_of(graph), dataclasses.replace(graph.adj), nodes)
    torch.testing.assert_close(alone, whole[nodes])


def test_batches_train_as_the_whole_does() -> None:
    """Without dropout a batch of all labelled nodes is a full step, up to the order of sums."""
    states = []
    for size in (None, 1000):
        spec = {"name": "pprgo", "dropout": 0.0}
        recipe = Recipe.of(spec, {"epochs": 5, "batch_size": size})
        model = made(spec)
        fit(model, BLOCKS, recipe.training, Rng(0))
        states.append(model.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-3, atol=1e-4)


def test_small_batches_cover_every_labelled_node() -> None:
    recipe = Recipe.of("pprgo", {"epochs": 30, "batch_size": 7})
    model = made("pprgo")
    fit(model, BLOCKS, recipe.training, Rng(0))
    assert BLOCKS.split is not None
    assert BLOCKS.y is not None
    nodes = BLOCKS.split.train
    right = model.at(x_of(BLOCKS), BLOCKS.adj, nodes).argmax(1) == BLOCKS.y[nodes]
    assert right.double().mean() > 0.8


@GRAPHS
def test_walks_give_the_whole_of_pagerank(graph: Graph) -> None:
    """What attackers differentiate is Π H, up to a hundredth of the walk."""
    h = torch.randn(graph.num_nodes, 3, generator=torch.Generator().manual_seed(0))
    walk = made("pprgo", graph).walked(h, graph.adj)
    wanted = pagerank(graph, 0.1).float() @ h
    assert float((walk - wanted).abs().max()) <= 0.01 * 2 * float(h.abs().max())


def test_its_gradient_is_that_of_the_rows_where_nothing_is_cut_off() -> None:
    """Finite differences of the exact rows, candidate by candidate."""
    model, flips = made(EXACT).double(), some_flips(BLOCKS, 3)
    x, nodes = x_of(BLOCKS).double(), torch.tensor([4, 11, 30])

    def value(p: Tensor) -> Tensor:
        adj = BLOCKS.adj.with_block(flips, p)
        return model.at(x, adj, nodes).square().sum()

    p = torch.full((6,), 0.3, dtype=torch.float64)
    (slope,) = torch.autograd.grad(value(p.requires_grad_()), p)
    with torch.no_grad():
        step = 1e-2 * torch.eye(6, dtype=torch.float64)
        numeric = torch.stack([value(p + d) - value(p - d) for d in step]) / 2e-2
    torch.testing.assert_close(slope, numeric, rtol=0.05, atol=float(numeric.abs().max()) * 0.02)


def test_behind_soft_median_the_value_stays_exact() -> None:
    """The robust form is this model with another aggregation; attackers see its true answers."""
    victim = graphsec.fit(BLOCKS, "pprgo", "soft-median", training={"epochs": 20})
    x, flips = x_of(BLOCKS), some_flips(BLOCKS)
    p = torch.full((flips.shape[1],), 0.5)
    with torch.no_grad():
        wanted = victim.forward(x, BLOCKS.adj.with_block(flips, p))
        model = victim.model
        assert isinstance(model, PPRGo)
        rows = ranked(BLOCKS.adj, torch.arange(BLOCKS.num_nodes), 90, 0.1, 1e-5)
        mine = soft_median(rows, model.encode(x), 0.5)
        torch.testing.assert_close(victim.forward(x, BLOCKS.adj), mine)
    p.requires_grad_()
    out = victim.forward(x, BLOCKS.adj.with_block(flips, p))
    torch.testing.assert_close(out.detach(), wanted)
    assert float(torch.autograd.grad(out.square().sum(), p)[0].abs().min()) > 0


@pytest.mark.parametrize("defense", ["none", "soft-median"])
def test_informed_attacks_beat_random_flips(defense: str) -> None:
    victim = graphsec.fit(BLOCKS, "pprgo", defense, training={"epochs": 50})
    left = {}
    for attack in ({"name": "prbcd", "steps": 15, "block": 2_000}, "random"):
        outcome = graphsec.attack(attack, victim, BLOCKS, threat={"budget": {"edges": 0.25}})
        name = attack if isinstance(attack, str) else "prbcd"
        left[name] = float(graphsec.score(outcome, BLOCKS, victim)["attacked_accuracy"])
    assert left["prbcd"] < left["random"] - 0.1


def test_links_of_a_defense_take_the_place_of_pagerank() -> None:
    victim = graphsec.fit(BLOCKS, "pprgo", "gdc", training={"epochs": 5})
    model = victim.model
    assert isinstance(model, PPRGo)
    links = personalized_pagerank(BLOCKS.adj, 0.15, 64)
    with torch.no_grad():
        wanted = model.aggregate(links, model.encode(x_of(BLOCKS)))
        torch.testing.assert_close(victim.forward(x_of(BLOCKS), BLOCKS.adj), wanted)


def test_refuses_low_rank_adjacencies() -> None:
    with pytest.raises(ValueError, match="must be sparse for PageRank by pushes"):
        ranked(low_rank(BLOCKS.adj, 4), torch.tensor([0]), 5, 0.1, 1e-4)
