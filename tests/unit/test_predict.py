"""Predictors: answers, files, foreign models."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphsec
from graphsec.graph import Graph
from graphsec.predict import Predictor
from graphsec.testing import some_flips, tiny_graphs

GRAPH = tiny_graphs()["weighted"]


@pytest.fixture(scope="module")
def victim() -> Predictor:
    return graphsec.fit(GRAPH, {"name": "gcn", "hidden": 8}, training={"epochs": 20})


def test_answers_agree(victim: Predictor) -> None:
    nodes = torch.tensor([3, 0, 3])
    logits = victim.logits(GRAPH)
    assert torch.equal(victim.logits(GRAPH, nodes), logits[nodes])
    assert torch.equal(victim.predict(GRAPH, nodes), logits[nodes].argmax(1))
    assert torch.equal(victim.predict_proba(GRAPH), logits.softmax(1))
    assert GRAPH.x is not None
    states = victim.hidden(GRAPH.x, GRAPH.adj)
    assert [tuple(state.shape) for state in states] == [(48, 8), (48, 2)]
    assert torch.equal(states[-1].detach(), logits)


def test_no_dropout_in_answers() -> None:
    victim = graphsec.fit(GRAPH, {"name": "gcn", "dropout": 0.9}, training={"epochs": 2})
    assert not victim.model.training
    assert GRAPH.x is not None
    one, two = (victim.forward(GRAPH.x, GRAPH.adj) for _ in range(2))
    assert torch.equal(one, two)


def test_answers_are_kept_by_graph_not_by_name(victim: Predictor) -> None:
    before = victim.logits(GRAPH)
    attacked = GRAPH.flip(some_flips(GRAPH))
    assert attacked.name == GRAPH.name
    assert not torch.equal(victim.logits(attacked), before)
    assert torch.equal(victim.logits(GRAPH), before)


def test_graph_without_features(victim: Predictor) -> None:
    with pytest.raises(ValueError, match="x is missing in 'weighted'"):
        victim.logits(GRAPH.replace(x=None))


def test_what_it_cannot_do_it_says(victim: Predictor) -> None:
    with pytest.raises(TypeError, match="does not rank"):
        victim.rank(GRAPH, torch.tensor([0]), 3)
    with pytest.raises(TypeError, match="certifies nothing"):
        victim.certify(GRAPH, torch.tensor([0]), None)


def test_files_hold_no_code(victim: Predictor, tmp_path: Path) -> None:
    """A pickle that runs code is refused, never run."""

    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "exploded",)

    path = tmp_path / "bomb.pt"
    torch.save({"header": Bomb(), "state": {}}, path)
    with pytest.raises(pickle.UnpicklingError):
        Predictor.load(path)
    assert not (tmp_path / "exploded").exists()
    loaded = Predictor.load(victim.save(tmp_path / "good.pt"))
    assert loaded.origin is not None
    assert victim.origin is not None
    assert loaded.origin.spec() == victim.origin.spec()


class Foreign(nn.Module):
    """Mean of weighted in-neighbours and self, by loops over edges."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 2)

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor) -> Tensor:
        source, target = edge_index
        h = self.linear(x)
        out = h.index_add(0, target, h[source] * edge_weight.unsqueeze(1))
        degree = torch.ones(len(x)).index_add(0, target, edge_weight)
        result: Tensor = out / degree.unsqueeze(1)
        return result


@pytest.fixture
def wrapped() -> Predictor:
    module = Foreign()
    with torch.no_grad():  # any weights do, but not those of the global generator
        module.linear.weight.copy_(torch.linspace(-1, 1, 24).view(2, 12))
        module.linear.bias.zero_()
    return Predictor.wrap(module, lambda m, x, edges, weight: m(x, edges, weight))


def test_wrapped_models_see_flips_and_give_gradients(wrapped: Predictor) -> None:
    flips = some_flips(GRAPH)
    assert GRAPH.x is not None
    weight = torch.ones(flips.shape[1], requires_grad=True)
    out = wrapped.forward(GRAPH.x, GRAPH.adj.with_block(flips, weight))
    torch.testing.assert_close(out.detach(), wrapped.logits(GRAPH.flip(flips)))
    (gradient,) = torch.autograd.grad(out.square().sum(), weight)
    assert torch.isfinite(gradient).all()
    assert (gradient != 0).any()


def test_wrapped_models_get_edges_from_source_to_target(wrapped: Predictor) -> None:
    graph = Graph.from_edges([[0], [1]], 2, directed=True, x=torch.eye(2, 12))
    module: Any = wrapped.model.module
    h = module.linear(torch.eye(2, 12)).detach()
    wanted = torch.stack([h[0], (h[0] + h[1]) / 2])
    torch.testing.assert_close(wrapped.logits(graph), wanted)


def test_wrapped_models_can_be_attacked(wrapped: Predictor) -> None:
    outcome = graphsec.attack(
        {"name": "prbcd", "steps": 10}, wrapped, GRAPH, threat={"budget": {"edges": 0.2}}
    )
    numbers = graphsec.score(outcome, GRAPH, wrapped)
    assert float(numbers["attacked_accuracy"]) < float(numbers["accuracy"])
