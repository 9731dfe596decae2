"""Models against their equations, written out densely, and against torch_geometric."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from graphsec.graph import Graph
from graphsec.models import GNN, build
from graphsec.models.base import Sizes, inputs
from graphsec.registry import MODELS
from graphsec.rng import Rng
from graphsec.testing import tiny_graphs

GRAPHS = pytest.mark.parametrize("graph", tiny_graphs().values(), ids=list(tiny_graphs()))


def made(name: str, graph: Graph, **fields: Any) -> Any:
    with Rng(0)["model"].scope():
        model: GNN = build({"name": name, **fields}, graph).eval()
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def parts(graph: Graph) -> tuple[Tensor, Tensor]:
    assert graph.x is not None
    return graph.x.to_dense(), torch.from_numpy(graph.to_scipy().toarray())


def close(model: GNN, graph: Graph, wanted: Tensor) -> None:
    assert graph.x is not None
    torch.testing.assert_close(model(graph.x, graph.adj), wanted, rtol=1e-4, atol=1e-5)


def sym(a: Tensor) -> Tensor:
    a = a + torch.eye(len(a))
    d = a.sum(1).rsqrt()
    return d.unsqueeze(1) * a * d


@GRAPHS
def test_gcn(graph: Graph) -> None:
    model, (x, a) = made("gcn", graph, hidden=8), parts(graph)
    h = (sym(a) @ x @ model.weight[0] + model.bias[0]).relu()
    close(model, graph, sym(a) @ h @ model.weight[1] + model.bias[1])


@GRAPHS
def test_sgc(graph: Graph) -> None:
    model, (x, a) = made("sgc", graph, hops=3), parts(graph)
    close(model, graph, torch.linalg.matrix_power(sym(a), 3) @ x @ model.weight[0] + model.bias)


@GRAPHS
def test_mlp(graph: Graph) -> None:
    model, (x, _) = made("mlp", graph, hidden=8), parts(graph)
    h = (x @ model.weight[0] + model.bias[0]).relu()
    close(model, graph, h @ model.weight[1] + model.bias[1])


@GRAPHS
def test_sage(graph: Graph) -> None:
    model, (x, a) = made("sage", graph, hidden=8), parts(graph)
    mean = a / a.sum(1, keepdim=True).clamp(min=1e-9)
    h = (x @ model.own[0] + mean @ x @ model.near[0] + model.bias[0]).relu()
    close(model, graph, h @ model.own[1] + mean @ h @ model.near[1] + model.bias[1])


@GRAPHS
def test_gat(graph: Graph) -> None:
    """With weights: w·exp(e) / Σ w·exp(e), self-loops of weight 1."""
    model, (x, a) = made("gat", graph, hidden=4, heads=3), parts(graph)
    a = a + torch.eye(len(a))
    h = x
    for i in range(2):
        heads = model.heads[i]
        z = (h @ model.weight[i]).view(len(h), heads, -1)
        outs = []
        for q in range(heads):
            e = (z[:, q] @ model.receive[i][q]).unsqueeze(1) + z[:, q] @ model.send[i][q]
            share = a * F.leaky_relu(e, 0.2).exp()
            outs.append(share / share.sum(1, keepdim=True) @ z[:, q])
        out = torch.stack(outs, 1)
        h = F.elu(out.flatten(1) + model.bias[i]) if i == 0 else out.mean(1) + model.bias[i]
    close(model, graph, h)


@pytest.mark.parametrize("name", ["gcn", "gat"])
def test_layers_agree_with_torch_geometric(name: str) -> None:
    nn = pytest.importorskip("torch_geometric.nn")
    graph = tiny_graphs()["blocks"]
    assert graph.x is not None
    if name == "gcn":
        model = made("gcn", graph, layers=1)
        theirs = nn.GCNConv(12, 3)
        theirs.lin.weight.data = model.weight[0].data.T.contiguous()
    else:
        model = made("gat", graph, layers=1, out_heads=2)
        theirs = nn.GATConv(12, 3, heads=2, concat=False)
        theirs.lin.weight.data = model.weight[0].data.T.contiguous()
        theirs.att_src.data = model.send[0].data.unsqueeze(0)
        theirs.att_dst.data = model.receive[0].data.unsqueeze(0)
    theirs.bias.data = model.bias[0].data
    with torch.no_grad():
        close(model, graph, theirs(graph.x, graph.edge_index))


def test_directed_graphs_receive_along_their_edges() -> None:
    graph = Graph.from_edges(
        [[0, 1], [1, 2]], 3, directed=True, x=torch.eye(3), y=torch.tensor([0, 1, 0])
    )
    model = made("sage", graph, layers=1)
    mean = torch.zeros(3, 3)
    mean[1, 0] = mean[2, 1] = 1
    close(model, graph, model.own[0] + mean @ model.near[0] + model.bias[0])


def test_depth_and_decode() -> None:
    graph = tiny_graphs()["blocks"]
    assert graph.x is not None
    model = made("gcn", graph, hidden=5, layers=4)
    shapes = [tuple(h.shape) for h in model.hidden(graph.x, graph.adj)]
    assert shapes == [(90, 5)] * 3 + [(90, 3)]
    z = torch.arange(6.0).view(3, 2)
    assert model.decode(z, torch.tensor([[0, 1], [1, 2]])).tolist() == [3, 23]


def test_dropout_only_in_training() -> None:
    graph = tiny_graphs()["blocks"]
    assert graph.x is not None
    model = made("gcn", graph, dropout=0.5)
    still = model(graph.x, graph.adj)
    model.train()
    with Rng(0).scope():
        assert not torch.equal(model(graph.x, graph.adj), still)


@pytest.mark.parametrize("name", ["mlp", "gcn", "sage"])
def test_tempered_sigmoids(name: str) -> None:
    """(2, 2, 1) is tanh; the default stays ReLU, and out of specs, so that old keys hold."""
    graph = tiny_graphs()["blocks"]

    def logits(**fields: Any) -> Tensor:
        with Rng(0).scope():
            model = build({"name": name, "hidden": 4, **fields}, graph).eval()
        out: Tensor = model(inputs(graph), graph.adj).detach()
        return out

    torch.testing.assert_close(logits(activation=[2, 2, 1]), logits(activation="tanh"))
    torch.testing.assert_close(logits(activation=[0, 1, 0]), logits(activation=[0, 5, 0]))
    assert torch.equal(logits(), logits(activation="relu"))
    assert not torch.allclose(logits(), logits(activation="tanh"))
    assert "activation" not in MODELS.build(name).spec()
    spec = MODELS.build({"name": name, "activation": (1.5, 3, 0.5)}).spec()
    assert spec["activation"] == [1.5, 3.0, 0.5]
    assert MODELS.build(spec).spec() == spec


# -- how weights begin --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gcn", "mlp", "sage"])
@pytest.mark.parametrize(
    ("init", "std"),
    [
        ("glorot", (2 / (300 + 100)) ** 0.5),
        ("glorot-normal", (2 / (300 + 100)) ** 0.5),
        ("kaiming", (2 / 300) ** 0.5),  # of the 300 inputs, not of the 100 outputs
        ("kaiming-normal", (2 / 300) ** 0.5),
        ("orthogonal", 300**-0.5),
    ],
)
def test_weights_begin_at_the_scale_asked_for(name: str, init: str, std: float) -> None:
    spec = MODELS.build({"name": name, "init": init, "hidden": 100})
    first = next(p for p in spec.build(Sizes(5, 300, 4)).parameters() if p.dim() == 2)
    assert first.shape == (300, 100)
    assert float(first.detach().std()) == pytest.approx(std, rel=0.05)
    if init == "orthogonal":
        assert torch.allclose(first.T @ first, torch.eye(100), atol=1e-4)
    assert ("init" in spec.spec()) == (init != "glorot")  # keys of old cells stay
    assert MODELS.build(spec.spec()) == spec
