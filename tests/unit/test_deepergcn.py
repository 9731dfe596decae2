"""DeeperGCN's aggregation against torch_geometric's, and what makes it deep."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import graphsec
from graphsec.graph import Graph
from graphsec.models.base import Sizes, build
from graphsec.models.deepergcn import GENConv
from graphsec.ops import Adj, propagate, soft_median
from graphsec.rng import Rng
from graphsec.testing.common import tiny_graphs, x_of

WIDTH = 8


def convolution(aggregation: Any, temperature: float = 1.0, message_norm: bool = False) -> GENConv:
    with Rng(0)["conv"].scope():
        return GENConv(WIDTH, aggregation, temperature, True, message_norm, 1)


def operator() -> tuple[Graph, Adj, Tensor]:
    graph = tiny_graphs()["blocks"]
    with Rng(1)["h"].scope():
        return graph, graph.adj.normalized("row", self_loops=False), torch.randn(90, WIDTH)


@pytest.mark.parametrize(
    ("ours", "theirs", "temperature"),
    [("softmax", "softmax", 1.7), ("power", "powermean", 2.5), ("mean", "mean", 1.0)],
)
def test_it_gathers_as_torch_geometric_does(ours: str, theirs: str, temperature: float) -> None:
    from torch_geometric.nn import GENConv as Peer

    graph, adj, h = operator()
    h = h.abs() + 0.1  # its power mean clamps at 1e-4, the paper's at 1e-7
    mine = convolution(ours, temperature)
    key = {"softmax": {"t": temperature}, "powermean": {"p": temperature}}.get(theirs, {})
    peer = Peer(WIDTH, WIDTH, aggr=theirs, num_layers=1, bias=True, **key)
    peer.mlp[0].load_state_dict(mine.mlp[0].state_dict())
    linked = graph.degree > 0  # where there is nothing to gather, its power mean gives its clamp
    out, wanted = mine(h, adj, propagate)[linked], peer(h, graph.edge_index)[linked]
    torch.testing.assert_close(out, wanted, rtol=1e-4, atol=1e-5)


def test_message_norm_is_torch_geometrics() -> None:
    from torch_geometric.nn import GENConv as Peer

    graph, adj, h = operator()
    mine = convolution("softmax", message_norm=True)
    peer = Peer(WIDTH, WIDTH, aggr="softmax", msg_norm=True, num_layers=1, bias=True)
    peer.mlp[0].load_state_dict(mine.mlp[0].state_dict())
    torch.testing.assert_close(
        mine(h, adj, propagate), peer(h, graph.edge_index), rtol=1e-4, atol=1e-5
    )


def test_the_sum_forms_multiply_by_a_power_of_the_degree() -> None:
    graph, adj, h = operator()
    mean, total = convolution("softmax"), convolution("softmax_sum")
    assert total.degree_power is not None
    total.degree_power.data.fill_(0.3)
    message = torch.relu(h) + 1e-7
    power = graph.degree[:, None] ** torch.tensor(0.3).sigmoid()
    torch.testing.assert_close(
        total._generalised(adj, message), mean._generalised(adj, message) * power
    )


def test_gradients_flow_through_the_shares_of_the_softmax() -> None:
    """Against finite differences in the messages and in the temperature."""
    _, adj, h = operator()
    mine = convolution("softmax", 1.3).double()
    message = (torch.relu(h) + 0.1).double().requires_grad_()

    def gathered(message: Tensor, temperature: Tensor) -> Tensor:
        mine.temperature = torch.nn.Parameter(temperature.detach())
        del mine._parameters["temperature"]
        object.__setattr__(mine, "temperature", temperature)
        return mine._generalised(adj, message)

    temperature = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(gathered, (message, temperature), atol=1e-6)


def test_large_temperatures_approach_the_maximum() -> None:
    _, adj, h = operator()
    message = torch.relu(h) + 1e-7
    near = convolution("softmax", 30.0)._generalised(adj, message)
    top = propagate(adj, message, "max")
    assert (near <= top + 1e-5).all()
    assert (top - near).mean() < 0.05


def test_checkpointing_changes_no_gradient() -> None:
    graph = tiny_graphs()["karate"]
    found = []
    for start in (2, 99):
        spec = {"name": "deepergcn", "layers": 9, "hidden": 8, "checkpoint_from": start}
        with Rng(0)["model"].scope():
            model = build(spec, graph).train()
            loss = model(x_of(graph), graph.adj).square().sum()
            found.append(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True))
    for one, other in zip(*found, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("layers", [56, 112])
def test_very_deep_models_train(layers: int) -> None:
    """They fit the training nodes, where a GCN of this depth keeps guessing."""
    graph = tiny_graphs()["blocks"]
    assert graph.y is not None
    assert graph.split is not None
    fitted = {}
    for name in ("deepergcn", "gcn"):
        spec = {"name": name, "layers": layers, "hidden": 16, "dropout": 0.0}
        predictor = graphsec.fit(graph, spec, training={"epochs": 30, "lr": 3e-3})
        right = predictor.predict(graph, graph.split.train) == graph.y[graph.split.train]
        fitted[name] = float(right.float().mean())
    assert fitted["deepergcn"] > 0.9
    assert fitted["gcn"] < 0.6


def test_soft_median_takes_the_place_of_the_softmax() -> None:
    graph = tiny_graphs()["blocks"]
    with Rng(0)["model"].scope():
        model = build({"name": "deepergcn", "hidden": 8}, graph).eval()
    plain = model(x_of(graph), graph.adj)
    model.aggregate = lambda adj, h: soft_median(adj, h, 0.5)
    assert Sizes.of(graph).outputs == plain.shape[1]
    assert not torch.allclose(plain, model(x_of(graph), graph.adj))
