"""Formulas of the zoo against torch_geometric's layers and dense references, weights copied."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from graphsec.graph import Graph
from graphsec.models.base import GNN, build
from graphsec.rng import Rng
from graphsec.testing.common import tiny_graphs, x_of


def made(spec: Any, graph: Graph) -> GNN:
    """The model in evaluation mode, with biases that are not zero."""
    with Rng(0)["model"].scope():
        model = build(spec, graph).eval()
        for parameter in model.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    return model


def dense_operator(graph: Graph, loops: bool) -> Tensor:
    """D^-½ (A + loops) D^-½ as a dense matrix."""
    adjacency = torch.zeros(graph.num_nodes, graph.num_nodes)
    row, col = graph.edge_index
    adjacency[row, col] = 1.0 if graph.edge_weight is None else graph.edge_weight
    adjacency += torch.eye(graph.num_nodes) if loops else 0
    degree = adjacency.sum(1)
    scale = torch.where(degree > 0, degree.clamp(min=1e-9).rsqrt(), 0.0)
    return scale[:, None] * adjacency * scale


@pytest.fixture(params=["blocks", "weighted"])
def graph(request: Any) -> Graph:
    return tiny_graphs()[request.param]


def perceptron(model: Any, x: Tensor) -> Tensor:
    hidden = torch.relu(x @ model.weight[0] + model.bias[0])
    out: Tensor = hidden @ model.weight[1] + model.bias[1]
    return out


def test_appnp_is_torch_geometrics(graph: Graph) -> None:
    from torch_geometric.nn import APPNP

    model = made({"name": "appnp", "hops": 5, "teleport": 0.2}, graph)
    start = perceptron(model, x_of(graph))
    wanted = APPNP(5, 0.2)(start, graph.edge_index, graph.edge_weight)
    torch.testing.assert_close(model(x_of(graph), graph.adj), wanted, rtol=1e-4, atol=1e-5)


def test_gprgnn_is_a_polynomial_of_the_operator(graph: Graph) -> None:
    model: Any = made({"name": "gprgnn", "hops": 4}, graph)
    start, operator = perceptron(model, x_of(graph)), dense_operator(graph, True)
    wanted, power = torch.zeros_like(start), start
    for weight in model.gamma:
        wanted, power = wanted + weight * power, operator @ power
    torch.testing.assert_close(model(x_of(graph), graph.adj), wanted, rtol=1e-4, atol=1e-5)


def test_gprgnn_starts_as_personalised_pagerank(graph: Graph) -> None:
    with Rng(0)["model"].scope():
        gpr: Any = build({"name": "gprgnn", "teleport": 0.1}, graph).eval()
        appnp: Any = build({"name": "appnp", "teleport": 0.1}, graph).eval()
    state = {k: v for k, v in gpr.state_dict().items() if k != "gamma"}
    appnp.load_state_dict(state)
    torch.testing.assert_close(
        gpr(x_of(graph), graph.adj), appnp(x_of(graph), graph.adj), rtol=1e-4, atol=1e-5
    )


def test_chebnetii_interpolates_its_filter(graph: Graph) -> None:
    """The filter takes the trained values at the Chebyshev nodes of the spectrum of L − I."""
    model: Any = made({"name": "chebnetii", "hops": 6}, graph)
    start = perceptron(model, x_of(graph))
    values, vectors = torch.linalg.eigh(-dense_operator(graph, False).double())
    nodes = torch.cos((torch.arange(7) + 0.5) * math.pi / 7).double()
    response = torch.zeros_like(values)
    for j, level in enumerate(model.gamma.relu().double()):  # Lagrange's form
        others = torch.cat([nodes[:j], nodes[j + 1 :]])
        response += level * ((values[:, None] - others) / (nodes[j] - others)).prod(1)
    wanted = (vectors * response) @ (vectors.T @ start.double())
    out = model(x_of(graph), graph.adj)
    torch.testing.assert_close(out.double(), wanted, rtol=1e-3, atol=1e-4)


def test_gcnii_is_torch_geometrics(graph: Graph) -> None:
    from torch_geometric.nn import GCN2Conv

    spec = {"name": "gcnii", "layers": 5, "hidden": 8, "residual": 0.2, "identity": 0.7}
    model: Any = made(spec, graph)
    first = torch.relu(x_of(graph) @ model.dense[0] + model.bias[0])
    h = first
    for i in range(5):
        layer = GCN2Conv(8, alpha=0.2, theta=0.7, layer=i + 1)
        layer.weight1.data = model.weight[i].data
        h = torch.relu(layer(h, first, graph.edge_index, graph.edge_weight))
    wanted = h @ model.dense[1] + model.bias[1]
    torch.testing.assert_close(model(x_of(graph), graph.adj), wanted, rtol=1e-4, atol=1e-5)


def test_gin_is_torch_geometrics() -> None:
    from torch_geometric.nn import GINConv

    graph = tiny_graphs()["blocks"]  # its convolution knows no edge weights
    model: Any = made({"name": "gin", "layers": 2, "hidden": 8, "norm": "none"}, graph)
    h = x_of(graph)
    for i in range(2):
        inner, outer = (
            torch.nn.Linear(*weight.shape) for weight in (model.inner[i], model.outer[i])
        )
        inner.weight.data, inner.bias.data = model.inner[i].T, model.inner_bias[i]
        outer.weight.data, outer.bias.data = model.outer[i].T, model.bias[i]
        layer = GINConv(torch.nn.Sequential(inner, torch.nn.ReLU(), outer))
        layer.eps = model.epsilon[i]
        h = layer(h, graph.edge_index)
        h = torch.relu(h) if i == 0 else h
    torch.testing.assert_close(model(x_of(graph), graph.adj), h, rtol=1e-4, atol=1e-5)


def test_gatv2_is_torch_geometrics() -> None:
    from torch_geometric.nn import GATv2Conv

    graph = tiny_graphs()["blocks"]
    model: Any = made({"name": "gatv2", "layers": 1, "heads": 1, "out_heads": 3}, graph)
    classes = graph.num_classes
    layer = GATv2Conv(graph.num_features, classes, heads=3, concat=False)
    layer.lin_l.weight.data, layer.lin_r.weight.data = model.weight[0].T, model.receive[0].T
    layer.lin_l.bias.data.zero_()
    layer.lin_r.bias.data.zero_()
    layer.att.data, layer.bias.data = model.send[0][None], model.bias[0]
    wanted = layer(x_of(graph), graph.edge_index)
    torch.testing.assert_close(model(x_of(graph), graph.adj), wanted, rtol=1e-4, atol=1e-5)


def test_decays_and_rates_are_the_papers() -> None:
    graph = tiny_graphs()["blocks"]
    gcnii: Any = made({"name": "gcnii", "layers": 3, "hidden": 8}, graph)
    convolutions, dense = gcnii.groups(5e-4, "all")
    assert convolutions["weight_decay"] == 0.01
    assert dense["weight_decay"] == 5e-4
    assert {id(p) for p in convolutions["params"]} == {id(p) for p in gcnii.weight}
    gpr: Any = made({"name": "gprgnn", "filter_lr": 0.05}, graph)
    *_, filter_group = gpr.groups(5e-4, "all")
    assert filter_group == {"params": [gpr.gamma], "weight_decay": 0.0, "lr": 0.05}
    for model in (gcnii, gpr):
        grouped = [id(p) for group in model.groups(5e-4, "all") for p in group["params"]]
        assert sorted(grouped) == sorted(id(p) for p in model.parameters())


# -- GRAND, the random one ----------------------------------------------------------------------


def test_views_that_drop_nothing_are_the_answer_of_evaluation() -> None:
    """Propagating features or what the first map makes of them is the same."""
    graph = tiny_graphs()["karate"]
    nothing = {"drop_nodes": 0, "input_dropout": 0, "dropout": 0, "hops": 3, "views": 2}
    model: Any = made({"name": "grand-random", **nothing}, graph)
    x = x_of(graph)
    seen = model.train()(x, graph.adj)
    answer = model.eval()(x, graph.adj).log_softmax(1)
    torch.testing.assert_close(seen, answer)
    hat = dense_operator(graph, loops=True)
    powers = torch.stack([torch.linalg.matrix_power(hat, k) for k in range(4)])
    mixed = powers.mean(0) @ x.to_dense()
    h = torch.relu(mixed @ model.weight[0] + model.bias[0])
    torch.testing.assert_close(answer, (h @ model.weight[1] + model.bias[1]).log_softmax(1))


@pytest.mark.parametrize(("temperature", "drop"), [(1.0, 0.0), (0.5, 0.0), (0.5, 0.5)])
def test_the_penalty_is_the_distance_of_views_from_their_sharpened_mean(
    temperature: float, drop: float
) -> None:
    graph = tiny_graphs()["blocks"]
    spec = {"temperature": temperature, "drop_nodes": drop, "consistency": 2.0, "views": 3}
    still = {"input_dropout": 0, "dropout": 0}
    model: Any = made({"name": "grand-random", **spec, **still}, graph)
    x = x_of(graph)
    model.train()(x, graph.adj)
    views = model._views.exp()
    mean = views.mean(0)
    sharp = mean ** (1 / temperature)
    sharp = sharp / sharp.sum(1, keepdim=True)
    wanted = 2.0 * (views - sharp).square().sum() / (3 * len(mean))
    found = model.penalty(x, graph.adj)
    torch.testing.assert_close(found, wanted)
    assert (float(found.detach()) > 1e-6) == (drop > 0 or temperature < 1)
    assert model.penalty(x, graph.adj) is None  # of one step only
