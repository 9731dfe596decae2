"""ProGAP: stages, their sums and their noise; what a node moves, what is spent and claimed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import graphsec
from graphsec.defenses.private.progap import ProGAP, Progressive
from graphsec.graph import Graph
from graphsec.models.base import inputs
from graphsec.ops import propagate
from graphsec.testing import tiny_graphs

KARATE = tiny_graphs()["karate"]
MLP: Any = {"name": "mlp", "hidden": 8}
QUICK: Any = {"name": "progap", "steps": 4, "rate": 0.5, "delta": 1e-3}


def fitted(graph: Graph = KARATE, seed: int = 0, **fields: Any) -> graphsec.Predictor:
    return graphsec.fit(graph, MLP, {**QUICK, **fields}, seed=seed)


def progressive(predictor: graphsec.Predictor) -> Progressive:
    assert isinstance(predictor.model, Progressive)
    return predictor.model


def test_stages_are_trained_one_after_the_other() -> None:
    """Three models and two sums, in the ledger and in the weights; a later stage moves no other."""
    start, made = (progressive(fitted(hops=2, steps=n, noise_multiplier=0.0)) for n in (1, 4))
    assert len(made.stages) == 2
    for name, value in made.named_parameters():
        assert not torch.equal(value, dict(start.named_parameters())[name])
    shallow = progressive(fitted(hops=1, noise_multiplier=0.0))
    for one, other in zip(shallow.own.parameters(), made.own.parameters(), strict=True):
        assert torch.equal(one, other)
    trace = fitted(hops=2).trace
    assert [count for _, count in trace.spent] == [4, 2, 4, 4]
    assert trace.epochs == 12


@torch.no_grad()
def test_a_sum_is_of_the_last_stage_s_states() -> None:
    predictor = fitted(hops=2, heard="bound", cap=20)
    model = progressive(predictor)
    x, adj = predictor.sanitise(inputs(KARATE), KARATE.adj)
    first, second = model.seen(x, adj, 0), model.seen(x, adj, 1)
    assert [len(first), len(second)] == [2, 3]
    assert torch.equal(first[0], second[0])
    state = model.stages[0].hidden(torch.cat(first, 1), adj)[-2]  # type: ignore[operator]
    torch.testing.assert_close(second[1], torch.nn.functional.normalize(state, dim=1))
    assert model.noise is not None
    heard = propagate(adj, second[1]) + model._rule.scale * model.noise[1]
    torch.testing.assert_close(second[2], torch.nn.functional.normalize(heard, dim=1))
    assert not torch.equal(model.noise[0], model.noise[1])


@torch.no_grad()
@pytest.mark.parametrize(("heard", "cap"), [("soft", 4.0), ("bound", 20.0)])
def test_a_node_moves_each_sum_within_the_sensitivity(heard: Any, cap: float) -> None:
    """Given the sums released before, which other nodes' states hang on, and nothing else."""
    predictor = fitted(hops=2, heard=heard, cap=cap)
    model, bound = progressive(predictor), ProGAP(heard=heard, cap=cap).sensitivity
    x, adj = predictor.sanitise(inputs(KARATE), KARATE.adj)
    row, col = KARATE.adj.csr.coo
    for node in range(KARATE.num_nodes):
        edges = torch.stack([row, col])[:, (row < col) & (row != node) & (col != node)]
        rest = Graph.from_edges(edges, KARATE.num_nodes).adj
        others = torch.arange(KARATE.num_nodes) != node
        for state in model.seen(x, adj, 1)[:2]:
            one, two = (propagate(model._rule.operator(a, 0), state) for a in (adj, rest))
            assert 0 < float((one - two)[others].norm()) <= bound


def test_claims_and_what_strangers_have() -> None:
    made = fitted(secure=True, epsilon=4.0, hops=2)
    assert made.privacy is not None
    assert 3.9 < made.privacy.epsilon <= 4.0
    assert "other nodes" in made.privacy.release
    assert fitted().privacy is None
    assert fitted(secure=True, heard="published").privacy is None
    edge = fitted(secure=True, level="edge").privacy
    assert edge is not None
    assert edge.relation == "add or remove one undirected edge"
    assert progressive(made).noise is not None
    assert progressive(made.public()).noise is None
    assert progressive(fitted(noise_multiplier=0.0)).noise is None
