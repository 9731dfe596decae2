"""DefNet against a naive dense version of itself, and the game that it is trained in."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import graphsec
from graphsec.graph import Graph
from graphsec.models.base import Sizes, inputs
from graphsec.registry import MODELS
from graphsec.rng import Rng
from graphsec.testing import disturb, tiny_graphs


@pytest.fixture(params=["blocks", "weighted", "karate"])
def graph(request: pytest.FixtureRequest) -> Graph:
    return tiny_graphs()[request.param]


def made(graph: Graph, **fields: Any) -> Any:
    """The model in double precision, with biases that are not zero."""
    spec: Any = MODELS.build({"name": "defnet", "hidden": 7, "bottleneck": 4, **fields})
    with Rng(0).scope():
        model = spec.build(Sizes.of(graph)).double()
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def features(graph: Graph) -> Tensor:
    return inputs(graph).to_dense().double()


def naive(model: Any, graph: Graph, first: Tensor) -> tuple[Tensor, Tensor]:
    """The last M and the logits from P of the first layer."""
    a = torch.zeros(graph.num_nodes, graph.num_nodes, dtype=torch.float64)
    a[*graph.edge_index] = 1.0 if graph.edge_weight is None else graph.edge_weight.double()
    mean, p = a / a.sum(1, keepdim=True).clamp(min=1e-9), first
    for i in range(len(model.widen)):
        near = mean @ p
        mine, theirs = (torch.tanh(z @ model.key[i]) @ model.query[i] for z in (p, near))
        alpha = torch.sigmoid(mine - theirs)
        m = torch.relu(alpha * p + (1 - alpha) * near + model.bias[i])
        out = m @ model.widen[i] + model.wide_bias[i]
        if i + 1 < len(model.widen):
            p = torch.relu(out) @ model.squeeze[i + 1]
    return m, out


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_defnet_is_the_naive_one(graph: Graph, layers: int) -> None:
    model = made(graph, layers=layers).eval()
    x = features(graph)
    wanted = naive(model, graph, x @ model.squeeze[0])[1]
    torch.testing.assert_close(model(x, graph.adj), wanted)


def loss(model: Any, graph: Graph, x: Tensor) -> Tensor:
    """The penalty after an answer, under one draw of noise."""
    with Rng(1).scope():
        model.train()(x, graph.adj)
        penalty = model.penalty(x, graph.adj)
    assert isinstance(penalty, Tensor)
    return penalty


def test_the_penalty_is_the_discriminators_loss(graph: Graph) -> None:
    """Fakes lie ``radius`` away; the penalty is the binary cross-entropy of real against fake."""
    model, x = made(graph, dropout=0.0, contrast=0.3, radius=0.6), features(graph)
    first = x @ model.squeeze[0]
    real = naive(model, graph, first)[0]
    summary = torch.sigmoid(real.mean(0))
    with Rng(1).scope():
        moves = model._moves(first, summary)
    length = 0.6 * first.norm(dim=1)
    torch.testing.assert_close(moves.norm(dim=1), length)
    fake = naive(model, graph, first + moves)[0]
    scores = torch.cat([real, fake]) @ model.discriminator @ summary
    truth = torch.cat([torch.ones(len(real)), torch.zeros(len(fake))]).double()
    wanted = 0.3 * F.binary_cross_entropy_with_logits(scores, truth)
    torch.testing.assert_close(loss(model, graph, x), wanted)


def slope(model: Any, graph: Graph, name: str) -> tuple[Tensor, Tensor]:
    """The gradient of the penalty along a direction of one parameter, and the numerical one."""
    x, parameter = features(graph), model.get_parameter(name)
    direction = torch.randn(parameter.shape, generator=Rng(2).torch(), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(loss(model, graph, x), parameter)
    values = []
    for step in (1e-6, -1e-6):
        with torch.no_grad():
            parameter += step * direction
            values.append(loss(model, graph, x))
            parameter -= step * direction
    return (gradient * direction).sum(), (values[0] - values[1]) / 2e-6


@pytest.mark.parametrize("name", ["generator.0", "generator.1"])
def test_the_generator_climbs(graph: Graph, name: str) -> None:
    """Its gradient is the numerical one with the sign turned."""
    found, numeric = slope(made(graph, dropout=0.0, contrast=1.0), graph, name)
    assert numeric.abs() > 1e-9
    torch.testing.assert_close(found, -numeric, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize(
    "name", ["discriminator", "squeeze.0", "key.0", "query.0", "widen.0", "bias.1"]
)
def test_all_others_descend(graph: Graph, name: str) -> None:
    """Encoder and discriminator have the numerical gradient, the generator's moves held."""
    model, x = made(graph, dropout=0.0, contrast=1.0), features(graph)
    first = x @ model.squeeze[0]
    with Rng(1).scope():
        moves = model._moves(first, torch.sigmoid(naive(model, graph, first)[0].mean(0))).detach()
    model._moves = lambda first, summary: moves
    found, numeric = slope(model, graph, name)
    assert numeric.abs() > 1e-9
    torch.testing.assert_close(found, numeric, rtol=1e-4, atol=1e-9)


def test_only_training_plays(graph: Graph) -> None:
    """In evaluation, a second time, and without weight there is no penalty."""
    model, x = made(graph), features(graph)
    loss(model, graph, x)
    assert model.penalty(x, graph.adj) is None
    model.eval()(x, graph.adj)
    assert model.penalty(x, graph.adj) is None
    plain = made(graph, contrast=0.0).train()
    plain(x, graph.adj)
    assert plain.penalty(x, graph.adj) is None


@pytest.mark.parametrize(
    ("defense", "training"),
    [("none", {}), ("gnnguard", {}), ("none", {"batch_size": 5, "fanouts": (3, 2)})],
)
def test_the_game_moves_the_encoder(graph: Graph, defense: str, training: Any) -> None:
    """In batches and behind a defense of layers too, repeatably."""

    def fitted(contrast: float) -> Tensor:
        disturb()
        spec = {"name": "defnet", "hidden": 8, "bottleneck": 4, "contrast": contrast}
        answers: Tensor = graphsec.fit(
            graph, spec, defense, training={"epochs": 5, **training}
        ).logits(graph)
        return answers

    with_game = fitted(1.0)
    assert torch.isfinite(with_game).all()
    assert torch.equal(with_game, fitted(1.0))
    assert not torch.equal(with_game, fitted(0.0))
