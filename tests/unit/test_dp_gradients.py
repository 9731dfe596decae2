"""Clipped sums of per-root gradients, beside a loop over roots and beside vmap(grad)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from graphsec.dp.blocks import AT_ONCE
from graphsec.dp.gradients import Clip, clipped_sum, looped_sum, losses
from graphsec.dp.recorder import UnknownUseError
from graphsec.graph import Graph
from graphsec.models.base import GNN, build, inputs
from graphsec.ops import Adj, Features, linear
from graphsec.rng import Rng
from graphsec.sampling import subtrees, take
from graphsec.testing import tiny_graphs

GRAPHS = tiny_graphs()
MODELS: list[Any] = [
    {"name": "mlp", "layers": 1},
    "mlp",
    {"name": "gcn", "layers": 1},
    "gcn",
    {"name": "sage", "layers": 1},
    "sage",
    {"name": "sage", "layers": 3},
    {"name": "gin", "learn_epsilon": False},
    {"name": "appnp", "hops": 2},
    "sgc",
]
CLIPS = [Clip(norm=0.3), Clip(norm=0.3, how="layer"), Clip(norm=0.3, how="automatic")]


def made(spec: Any, graph: Graph) -> GNN:
    with Rng(0).scope():
        return build(spec, graph).eval()


def seen(model: GNN, graph: Graph, roots: Tensor) -> tuple[Tensor | Features, Adj, Tensor]:
    hops = (model.layers or 0) if model.capabilities.uses_edges else 0
    nodes, adj = subtrees(graph.adj, roots, hops)
    assert graph.y is not None
    return take(inputs(graph), nodes), adj, graph.y[roots]


def each(model: GNN, graph: Graph, roots: Tensor) -> Iterator[tuple[Any, Adj, Tensor]]:
    return (seen(model, graph, root.view(1)) for root in roots)


def far(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Relative distance of two sums, all parameters taken together."""
    wanted = torch.cat([other[name].detach().flatten() for name in one])
    found = torch.cat([value.detach().flatten() for value in one.values()])
    return float((found - wanted).norm() / wanted.norm().clamp(min=1e-12))


@pytest.mark.parametrize("how", ["flat", "layer", "automatic"])
@pytest.mark.parametrize("spec", MODELS, ids=str)
@pytest.mark.parametrize("name", list(GRAPHS))
def test_sums_are_those_of_a_loop(name: str, spec: Any, how: Any) -> None:
    """Dense and sparse features, weighted edges, isolated and unlabelled roots; half clipped."""
    graph = GRAPHS[name]
    model, roots = made(spec, graph), torch.arange(graph.num_nodes)[-15:]
    _, free = looped_sum(model, each(model, graph, roots), graph.task, Clip())
    clip = Clip(norm=float(free.median()) + 1e-3, how=how)
    mine, norms = clipped_sum(model, *seen(model, graph, roots), graph.task, clip)
    loop, wanted = looped_sum(model, each(model, graph, roots), graph.task, clip)
    assert far(mine, loop) < 1e-5
    torch.testing.assert_close(norms, wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(free, wanted)
    assert float(wanted.max()) > clip.norm


@pytest.mark.parametrize("spec", MODELS[:6], ids=str)
@pytest.mark.parametrize("name", list(GRAPHS))
def test_sums_are_those_of_vmap(name: str, spec: Any) -> None:
    graph, clip = GRAPHS[name], Clip(norm=0.3)
    model, roots = made(spec, graph), torch.arange(10)
    x, adj, y = seen(model, graph, roots)

    def loss(parameters: dict[str, Tensor], i: Tensor) -> Tensor:
        logits = torch.func.functional_call(model, parameters, (x, adj))
        return (losses(graph.task, logits[: len(y)], y) * (torch.arange(10) == i)).sum()

    parameters: dict[str, Tensor] = dict(model.named_parameters())
    grad = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, torch.arange(10))
    norm = torch.stack([g.flatten(1).square().sum(1) for g in grad.values()]).sum(0).sqrt()
    scale = (clip.norm / norm).clamp(max=1)
    wanted = {n: torch.einsum("b,b...->...", scale, g) for n, g in grad.items()}
    sums, norms = clipped_sum(model, x, adj, y, graph.task, clip)
    assert far(sums, wanted) < 1e-5
    torch.testing.assert_close(norms, norm, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("spec", MODELS, ids=str)
def test_without_clipping_the_sum_is_the_gradient(spec: Any) -> None:
    """Of the loss over the roots, as training without privacy has it."""
    graph = GRAPHS["blocks"]
    model, roots = made(spec, graph), torch.arange(40)
    x, adj, y = seen(model, graph, roots)
    sums, _ = clipped_sum(model, x, adj, y, graph.task, Clip(norm=1e9))
    loss = losses(graph.task, model(x, adj)[: len(y)], y).sum()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    wanted = dict(zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True))
    assert far(sums, wanted) < 1e-5


@pytest.mark.parametrize("name", ["blocks", "karate"])
def test_norms_of_wide_blocks_are_the_same_either_way(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pairs of rows and written-out gradients, all at once and in many parts."""
    graph = GRAPHS[name]
    model, roots = made({"name": "sage", "hidden": 4}, graph), torch.arange(20)
    args = (*seen(model, graph, roots), graph.task, Clip(norm=0.1))
    first, _ = clipped_sum(model, *args)
    monkeypatch.setattr("graphsec.dp.blocks.AT_ONCE", 1)
    again, _ = clipped_sum(model, *args)
    loop, _ = looped_sum(model, each(model, graph, roots), graph.task, Clip(norm=0.1))
    assert AT_ONCE > 1
    assert far(first, loop) < 1e-5
    assert far(again, loop) < 1e-5


@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: clip.how)
@pytest.mark.parametrize("name", ["blocks", "karate"])
def test_no_root_adds_more_than_the_clip_norm(name: str, clip: Clip) -> None:
    graph = GRAPHS[name]
    model = made("gcn", graph)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(20)
    for root in range(graph.num_nodes):
        at = torch.tensor([root])
        sums, _ = clipped_sum(model, *seen(model, graph, at), graph.task, clip)
        total = torch.stack([g.double().square().sum() for g in sums.values()]).sum().sqrt()
        assert float(total) <= clip.norm


def test_layers_share_the_clip_norm() -> None:
    """Weight and bias of a layer are clipped together, at C / √2 where there are two."""
    graph = GRAPHS["blocks"]
    model = made("gcn", graph)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(20)
    x, adj, y = seen(model, graph, torch.tensor([3]))
    wrong = (y + 1) % graph.num_classes
    sums, _ = clipped_sum(model, x, adj, wrong, graph.task, Clip(norm=1e-3, how="layer"))
    for layer in ("0", "1"):
        parts = [g.square().sum() for n, g in sums.items() if n.endswith(layer)]
        assert float(torch.stack(parts).sum().sqrt()) == pytest.approx(1e-3 / 2**0.5, rel=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("name", ["blocks", "karate"])
def test_a_root_without_a_finite_gradient_counts_as_zero(name: str, value: float) -> None:
    graph = GRAPHS[name]
    model, roots = made("sage", graph), torch.arange(12)
    x, adj, y = seen(model, graph, roots)
    clean = x if isinstance(x, Tensor) else x.to_dense()
    owner = adj.hops[0].owner
    assert owner is not None
    spoilt = clean.clone()
    spoilt[owner == 4] = value
    broken: Any = spoilt if name == "blocks" else Features.of(spoilt.to_sparse_csr())
    sums, _ = clipped_sum(model, broken, adj, y, graph.task, Clip())
    others = torch.cat([roots[:4], roots[5:]])
    wanted, _ = looped_sum(model, each(model, graph, others), graph.task, Clip())
    assert all(g.isfinite().all() for g in sums.values())
    assert far(sums, wanted) < 1e-5


def test_norms_are_not_too_small_where_rows_cancel() -> None:
    """Two neighbours whose products nearly cancel: float32 alone loses what is left of them."""

    class Difference(GNN):
        def __init__(self) -> None:
            super().__init__(1)
            self.weight = torch.nn.ParameterList([torch.nn.Parameter(torch.zeros(2, 2))])

        def layer(self, i: int, h: Any, adj: Adj, x: Any) -> Tensor:
            z = linear(h, self.weight[i])
            return (z[:1] - z[1:]).repeat(len(h), 1)[: adj.num_nodes]

    graph = Graph.from_edges(
        [[0], [1]], 2, x=np.array([[3e4, 1.0], [3e4, 1.002]]), y=[0, 1], split=([0], [], [1])
    )
    nodes, adj = subtrees(graph.adj, torch.tensor([0]), 1)
    assert graph.y is not None
    x = take(inputs(graph), nodes)
    sums, _ = clipped_sum(
        Difference(), x, adj, graph.y[:1], graph.task, Clip(norm=1e-4, how="flat")
    )
    total = torch.stack([g.double().square().sum() for g in sums.values()]).sum().sqrt()
    assert float(total) <= 1e-4


def test_what_is_not_known_is_refused_by_name() -> None:
    graph = GRAPHS["blocks"]
    for name, parameter in (("gat", "send.0"), ("gprgnn", "gamma"), ("gin", "epsilon")):
        model = made(name, graph)
        with pytest.raises(UnknownUseError, match=f"uses its parameter '{parameter}'"):
            clipped_sum(model, *seen(model, graph, torch.arange(3)), graph.task, Clip())


def test_what_goes_past_the_recorder_is_found() -> None:
    class Hidden(GNN):
        def __init__(self) -> None:
            super().__init__(1)
            self.weight = torch.nn.Parameter(torch.ones(2, 2))
            self.kept = [self.weight.view(-1)]

        def layer(self, i: int, h: Any, adj: Adj, x: Any) -> Tensor:
            return linear(h, self.weight)[: adj.num_nodes] + self.kept[0][:2]

    graph = Graph.from_edges([[0], [1]], 2, x=np.eye(2), y=[0, 1], split=([0], [], [1]))
    model = Hidden()
    with pytest.raises(UnknownUseError, match="'weight' in a function that was not watched"):
        clipped_sum(model, *seen(model, graph, torch.arange(2)), graph.task, Clip())


def test_subtrees_know_nothing_outside_of_them() -> None:
    """The loss of a root is the same in the whole graph and in its subtree cut out of it."""
    graph = GRAPHS["blocks"]
    for spec in ("gcn", "sage"):
        model = made(spec, graph)
        for root in range(12):
            x, adj, _ = seen(model, graph, torch.tensor([root]))
            near, ball = {root}, [root]
            for _ in range(2):
                row, col = graph.adj.csr.coo
                near |= {int(v) for u in near for v in col[row == u]}
            ball = sorted(near)
            place = {v: i for i, v in enumerate(ball)}
            u, v = graph.adj.csr.coo
            inside = [
                (place[a], place[b])
                for a, b in zip(u.tolist(), v.tolist(), strict=True)
                if a in place and b in place and a < b
            ]
            assert graph.y is not None
            cut = Graph.from_edges(
                np.array(inside).T.reshape(2, -1), len(ball),
                x=inputs(graph)[torch.tensor(ball)], y=graph.y[torch.tensor(ball)],
                split=([0], [], [len(ball) - 1]),
            )  # fmt: skip
            again, trees, _ = seen(model, cut, torch.tensor([place[root]]))
            torch.testing.assert_close(model(x, adj)[:1], model(again, trees)[:1])
