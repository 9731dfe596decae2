"""SVD, Soft Medoid, median, GNNGuard and RGCN against naive dense versions of themselves."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck

import graphsec
from graphsec.defenses.purify.svd import SVD
from graphsec.defenses.robust.gnnguard import guarded
from graphsec.graph import Graph
from graphsec.models.base import Sizes, inputs
from graphsec.ops import CSR, Adj, low_rank, median_sum, propagate, soft_median, soft_medoid
from graphsec.outcome import Outcome
from graphsec.predict import Predictor
from graphsec.registry import MODELS
from graphsec.rng import Rng
from graphsec.sampling import batches
from graphsec.testing import some_flips, tiny_graphs


@pytest.fixture(params=["blocks", "weighted", "karate"])
def graph(request: pytest.FixtureRequest) -> Graph:
    return tiny_graphs()[request.param]


def double(graph: Graph) -> Adj:
    weight = torch.ones(graph.adj.csr.nnz) if graph.adj.weight is None else graph.adj.weight
    return dataclasses.replace(graph.adj, weight=weight.double())


def values(graph: Graph, width: int = 3) -> Tensor:
    noise = np.random.default_rng(0).normal(size=(graph.num_nodes, width))
    return torch.from_numpy(noise)


def with_pairs(adj: Adj, graph: Graph, weight: Tensor) -> Adj:
    return adj.with_block(some_flips(graph, len(weight) // 2), weight, symmetric=True)


def matrix(adj: Adj) -> Tensor:
    """The dense matrix of an adjacency."""
    merged = adj.merged()
    assert merged.weight is not None
    zeros = merged.weight.new_zeros(adj.num_nodes, merged.csr.num_cols)
    return zeros.index_put(merged.csr.coo, merged.weight, accumulate=True)


# -- SVD ----------------------------------------------------------------------------------------


def truncated(a: Tensor, rank: int) -> Tensor:
    u, s, vt = torch.linalg.svd(a)
    best: Tensor = (u[:, :rank] * s[:rank]) @ vt[:rank]
    return best


@pytest.mark.parametrize("rank", [3, 12])
def test_low_rank_is_the_truncated_svd(graph: Graph, rank: int) -> None:
    """Of the clean graph and with candidate pairs."""
    clean = double(graph)
    for adj in (clean, with_pairs(clean, graph, torch.full((12,), 0.3, dtype=torch.float64))):
        wanted = truncated(matrix(adj), rank)
        torch.testing.assert_close(matrix(low_rank(adj, rank)), wanted)


@pytest.mark.parametrize("directed", [False, True])
@pytest.mark.parametrize("twins", [False, True])
def test_low_rank_of_a_larger_graph(directed: bool, twins: bool) -> None:
    """By Lanczos iterations, which must not miss singular values that two components share."""
    rng = np.random.default_rng(1)
    edges = np.argwhere(np.triu(rng.random((350, 350)) < 0.02, 1)).T
    other = edges + 350 if twins else rng.integers(350, 700, edges.shape)
    graph = Graph.from_edges(np.concatenate([edges, other], 1), 700, directed=directed)
    made, a = matrix(low_rank(double(graph), 8)), matrix(double(graph))
    best = torch.linalg.svdvals(a)[8:].norm()
    assert float((a - made).norm()) == pytest.approx(float(best), rel=1e-9)
    assert torch.equal(made, matrix(low_rank(double(graph), 8)))


def test_low_rank_keeps_what_has_no_more(graph: Graph) -> None:
    assert low_rank(graph.adj, graph.num_nodes) is graph.adj


def test_frozen_low_rank_is_the_clean_one_without_pairs(graph: Graph) -> None:
    adj = with_pairs(double(graph), graph, torch.zeros(12, dtype=torch.float64))
    wanted = matrix(low_rank(double(graph), 5))
    torch.testing.assert_close(matrix(low_rank(adj, 5, frozen=True)), wanted)


def test_gradient_of_the_frozen_low_rank(graph: Graph) -> None:
    """Numerically, through the normalised propagation that a GCN makes of it."""
    h, adj = values(graph), double(graph)

    def call(weight: Tensor) -> Tensor:
        made = low_rank(with_pairs(adj, graph, weight), 6, frozen=True)
        return propagate(made.normalized("sym"), h)

    assert gradcheck(call, torch.full((12,), 0.3, dtype=torch.float64, requires_grad=True))


def test_gradient_of_low_rank_is_that_of_the_svd_where_nothing_is_dropped() -> None:
    """A complete bipartite graph has rank 2: numerical derivatives of its best rank-2 matrix."""
    edges = [[u, v] for u in range(5) for v in range(5, 14)]
    graph = Graph.from_edges(np.array(edges).T, 14)
    adj, pairs = double(graph), torch.tensor([[0, 0, 2, 6], [1, 7, 9, 12]])
    probe = values(graph, 14)

    def loss(weight: Tensor) -> Tensor:
        return (matrix(low_rank(adj.with_block(pairs, weight), 2)) * probe).sum()

    weight = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(weight), weight)
    steps = 1e-5 * torch.eye(4, dtype=torch.float64)
    slope = torch.stack([(loss(step) - loss(-step)) / 2e-5 for step in steps]).detach()
    assert gradient.abs().min() > 1e-3
    torch.testing.assert_close(gradient, slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", ["sym", "row", None])
def test_factors_are_the_matrix_they_stand_for(graph: Graph, kind: Any) -> None:
    """Degrees, operators and products, beside edges and candidate pairs too."""
    left, right, h = values(graph, 2).abs(), values(graph, 2).abs(), values(graph)
    adj = dataclasses.replace(double(graph), factors=(left, right))
    for each in (adj, with_pairs(adj, graph, torch.full((12,), 0.3, dtype=torch.float64))):
        plain = dataclasses.replace(each, factors=None)
        dense = matrix(plain) + left @ right.T
        torch.testing.assert_close(each.degrees(), dense.sum(1))
        full = dense + torch.eye(len(dense))
        if kind:
            factor = full.sum(1)
            full = full / (factor[:, None] if kind == "row" else factor.outer(factor).sqrt())
        operator = each.normalized(kind)
        torch.testing.assert_close(matrix(operator), full)
        torch.testing.assert_close(propagate(operator, h), full @ h)
        again = operator.with_tensors([2 * part for part in operator.tensors()])
        assert torch.equal(again.factors[0], 2 * left)  # type: ignore[index]


@pytest.mark.parametrize("least", [1e-5, 4.0])
def test_svd_lifts_small_degrees(graph: Graph, least: float) -> None:
    """What is below ``min_degree`` becomes that, the rest stays, in value and gradient."""
    svd, h = SVD(rank=3, min_degree=least), values(graph)
    low = truncated(matrix(double(graph)), 3)
    factor = (low.sum(1) + 1).clamp_min(least).rsqrt()
    wanted = factor[:, None] * ((low + torch.eye(len(low))) @ (factor[:, None] * h))
    _, adj = svd.sanitise(h, double(graph))
    torch.testing.assert_close(propagate(adj.normalized("sym"), h), wanted)

    def call(weight: Tensor) -> Tensor:
        _, made = svd.sanitise(h, with_pairs(double(graph), graph, weight), "relaxed")
        return propagate(made.normalized("sym"), h)

    assert gradcheck(call, torch.full((12,), 0.3, dtype=torch.float64, requires_grad=True))


def test_factors_are_refused_where_edges_are_needed() -> None:
    n = 5_001
    one = torch.ones(n, 1)
    csr = CSR(torch.zeros(n + 1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), n)
    adj = Adj(csr=csr, factors=(one, one))
    with pytest.raises(ValueError, match=r"num_nodes must be ≤ 5000.*got 5001"):
        adj.merged()
    with pytest.raises(ValueError, match="no edges to filter"):
        adj.scaled(one[:0, 0], None)
    with pytest.raises(ValueError, match="sparse to be sampled"):
        next(iter(batches(adj, torch.arange(4), 2, (-1,), Rng(0)["batch"])))


# -- Soft Medoid and median ---------------------------------------------------------------------


def naive_soft_medoid(a: Tensor, h: Tensor, k: int, temperature: float) -> Tensor:
    out = []
    for row in a:
        near = sorted(row.nonzero().ravel().tolist(), key=lambda j: (-float(row[j]), j))[:k]
        if not near:
            out.append(torch.zeros_like(h[0]))
            continue
        weight, x = row[near], h[near]
        cost = (torch.cdist(x, x) * weight).sum(1)
        share = weight * (-cost / temperature).softmax(0)
        out.append(row.sum() * (share @ x) / share.sum())
    return torch.stack(out)


@pytest.mark.parametrize("k", [1, 3, 64])
def test_soft_medoid_is_the_naive_one(graph: Graph, k: int) -> None:
    weight = torch.full((12,), 0.4, dtype=torch.float64)
    h = values(graph)
    for adj in (double(graph), with_pairs(double(graph), graph, weight)):
        operator = adj.normalized("sym")
        wanted = naive_soft_medoid(matrix(operator), h, k, 0.5)
        torch.testing.assert_close(soft_medoid(operator, h, k, 0.5), wanted)


def test_soft_medoid_limits(graph: Graph) -> None:
    """T → ∞ is the plain sum if no neighbour is left out; T → 0 the medoid."""
    adj, h = double(graph), values(graph)
    for temperature in (math.inf, 1e9):
        made = soft_medoid(adj, h, graph.num_nodes, temperature)
        torch.testing.assert_close(made, propagate(adj, h))
    sharp, a = soft_medoid(adj, h, graph.num_nodes, 1e-5), matrix(adj)
    for i, row in enumerate(a):
        near = row.nonzero().ravel()
        if len(near) < 3:  # two neighbours of equal weight are both the medoid
            continue
        cost = (torch.cdist(h[near], h[near]) * row[near]).sum(1)
        if cost.sort().values.diff()[0] > 1e-3:
            torch.testing.assert_close(sharp[i], row.sum() * h[near[cost.argmin()]])


@pytest.mark.parametrize("aggregate", [lambda a, h: soft_medoid(a, h, 4, 0.7), median_sum])
def test_gradients_of_robust_sums(graph: Graph, aggregate: Any) -> None:
    """In values and candidate pairs, absent ones (weight 0) among them where k is not reached."""
    adj, h = double(graph), values(graph).requires_grad_()
    weight = torch.linspace(0.1, 0.6, 12, dtype=torch.float64).requires_grad_()
    assert gradcheck(lambda h, w: aggregate(with_pairs(adj, graph, w), h), (h, weight))


def test_absent_pairs_have_the_gradient_of_their_first_weight() -> None:
    graph = tiny_graphs()["blocks"]
    adj, h = double(graph), values(graph)

    def loss(weight: Tensor) -> Tensor:
        return soft_medoid(with_pairs(adj, graph, weight), h, 64, 0.7).square().sum()

    zero = torch.zeros(12, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(zero), zero)
    base = loss(zero)
    slope = torch.stack([(loss(step) - base) / 1e-6 for step in 1e-6 * torch.eye(12).double()])
    torch.testing.assert_close(gradient, slope.detach(), rtol=1e-3, atol=1e-3)


def test_median_sum_is_the_median_times_the_sum(graph: Graph) -> None:
    adj, h = double(graph), values(graph)
    made = median_sum(adj, h)
    for i, row in enumerate(matrix(adj)):
        for c in range(h.shape[1]):
            reached, wanted = 0.0, 0.0
            for j in sorted(row.nonzero().ravel().tolist(), key=lambda j: float(h[j, c])):
                reached += float(row[j])
                if reached >= float(row.sum()) / 2 * (1 - 1e-6):
                    wanted = float(h[j, c] * row.sum())
                    break
            assert float(made[i, c]) == pytest.approx(wanted)


@pytest.mark.parametrize("aggregate", [soft_medoid, median_sum])
def test_robust_sums_take_heads_one_by_one(graph: Graph, aggregate: Any) -> None:
    adj, h = double(graph), values(graph, 6).view(graph.num_nodes, 2, 3)
    assert adj.weight is not None
    weight = torch.stack([adj.weight, adj.weight.square()], dim=1)
    made = aggregate(dataclasses.replace(adj, weight=weight), h)
    for q in range(2):
        one = dataclasses.replace(adj, weight=weight[:, q])
        assert torch.equal(made[:, q], aggregate(one, h[:, q]))


def test_a_far_outlier_moves_the_sum_only() -> None:
    """Nine neighbours at 1 and one at −1000: what robust sums are for."""
    graph = Graph.from_edges([[0] * 10, list(range(1, 11))], 11)
    h = torch.ones(11, 1)
    h[10] = -1000
    assert float(propagate(graph.adj, h)[0]) == -991
    for made in (soft_medoid(graph.adj, h, 64, 0.5), soft_median(graph.adj, h, 0.5)):
        assert float(made[0]) == pytest.approx(10)
    assert float(median_sum(graph.adj, h)[0]) == 10


# -- GNNGuard -----------------------------------------------------------------------------------


def naive_guard(a: Tensor, h: Tensor, threshold: float) -> Tensor:
    unit = F.normalize(h, dim=1)
    similar = unit @ unit.T * (a > 0)
    similar = torch.where(similar >= threshold, similar, 0.0)
    alpha = F.normalize(similar, p=1, dim=1)
    own = 1 / ((alpha != 0).sum(1) + 1)
    omega = torch.where(alpha > 0, alpha.exp(), 0.0) + torch.diag(own.exp())
    degree = omega.sum(1).rsqrt()
    return degree[:, None] * omega * degree


@pytest.mark.parametrize("name", ["blocks", "karate"])
def test_gnnguard_weighs_every_layer_by_its_input(name: str) -> None:
    """Against a dense GCN whose two operators come from the features and from the hidden state."""
    graph = tiny_graphs()[name]
    made = graphsec.fit(graph, {"name": "gcn", "hidden": 8}, "gnnguard", training={"epochs": 20})
    flips = some_flips(graph)
    for each in (graph, graph.flip(flips)):
        a, x = matrix(each.adj), inputs(each).to_dense()
        weight, bias = (list(getattr(made.model, part)) for part in ("weight", "bias"))
        hidden = torch.relu(naive_guard(a, x, 0.1) @ x @ weight[0] + bias[0])
        wanted = naive_guard(a, hidden, 0.1) @ hidden @ weight[1] + bias[1]
        torch.testing.assert_close(made.logits(each), wanted.detach(), rtol=1e-4, atol=1e-5)


def test_gradient_of_the_guard(graph: Graph) -> None:
    """In the layer's input and in candidate pairs, of which some are below the threshold."""
    adj, h = double(graph), values(graph).requires_grad_()
    weight = torch.full((12,), 0.3, dtype=torch.float64, requires_grad=True)

    def call(h: Tensor, w: Tensor) -> Tensor:
        return propagate(guarded(with_pairs(adj, graph, w), h, 0.1), h)

    assert gradcheck(call, (h, weight))


def test_pairs_of_weight_0_change_nothing_in_the_guard(graph: Graph) -> None:
    h, adj = values(graph), double(graph)
    absent = with_pairs(adj, graph, torch.zeros(12, dtype=torch.float64))
    torch.testing.assert_close(matrix(guarded(absent, h, 0.1)), matrix(guarded(adj, h, 0.1)))


def test_gnnguard_says_what_it_cannot_guard() -> None:
    graph = tiny_graphs()["blocks"]
    with pytest.raises(TypeError, match="model with layers, got "):
        graphsec.fit(graph, "ignn", "gnnguard", training={"epochs": 1})
    with pytest.raises(ValueError, match=r"training\.batch_size must be None"):
        graphsec.fit(graph, "gcn", "gnnguard", training={"epochs": 1, "batch_size": 8})


# -- adaptive attacks ---------------------------------------------------------------------------

DEFENSES: dict[str, Any] = {
    "svd": {"name": "svd", "rank": 8},
    "soft-medoid": "soft-medoid",
    "median": "median",
    "gnnguard": "gnnguard",
}


def attacked(graph: Graph, victim: Predictor, adaptive: bool) -> float:
    spec = {"name": "prbcd", "steps": 12, "samples": 2, "block": 1000}
    threat = {"budget": {"edges": 0.1}, "adaptive": adaptive}
    outcome: Any = graphsec.attack(spec, victim, graph, threat=threat, seed=0)
    return float(graphsec.score(Outcome(), outcome.apply(graph), victim)["accuracy"])


@pytest.mark.parametrize("name", DEFENSES)
def test_adaptive_is_at_least_as_strong_as_transfer(name: str) -> None:
    graph = tiny_graphs()["blocks"]
    victim = graphsec.fit(graph, {"name": "gcn", "hidden": 16}, DEFENSES[name])
    assert attacked(graph, victim, True) <= attacked(graph, victim, False)


# -- RGCN ---------------------------------------------------------------------------------------


def test_rgcn_is_the_naive_one(graph: Graph) -> None:
    spec: Any = MODELS.build({"name": "rgcn", "hidden": 5, "gamma": 0.7})
    with Rng(0).scope():
        model: Any = spec.build(Sizes.of(graph)).eval()
    a = matrix(graph.adj) + torch.eye(graph.num_nodes)
    d = a.sum(1)
    once, twice = a / d.outer(d).sqrt(), a / d.outer(d)
    mean = variance = inputs(graph).to_dense()
    for m, v in zip(model.mean, model.variance, strict=True):
        mean, variance = F.elu(mean @ m), torch.relu(variance @ v)
        alpha = torch.exp(-0.7 * variance)
        mean, variance = once @ (mean * alpha), twice @ (variance * alpha**2)
    torch.testing.assert_close(model(inputs(graph), graph.adj), mean)


def test_rgcn_draws_in_training_only() -> None:
    graph = tiny_graphs()["blocks"]
    spec: Any = MODELS.build({"name": "rgcn", "dropout": 0.0})
    with Rng(0).scope():
        model = spec.build(Sizes.of(graph))
        first, second = (model(inputs(graph), graph.adj) for _ in range(2))
        assert not torch.equal(first, second)
        first, second = (model.eval()(inputs(graph), graph.adj) for _ in range(2))
    assert torch.equal(first, second)


def test_rgcn_is_trained_with_its_penalty(graph: Graph) -> None:
    """kl times the divergence from N(0, 1) of the first Gaussians, less its constant."""
    spec: Any = MODELS.build({"name": "rgcn", "hidden": 5, "kl": 0.01})
    with Rng(0).scope():
        model: Any = spec.build(Sizes.of(graph))
    x = inputs(graph).to_dense()
    mean, variance = F.elu(x @ model.mean[0]), torch.relu(x @ model.variance[0]) + 1e-8
    naive = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, variance.sqrt()), torch.distributions.Normal(0.0, 1.0)
    )
    wanted = 0.01 * (naive + 0.5).mean(1).sum()
    torch.testing.assert_close(model.penalty(inputs(graph), graph.adj), wanted, rtol=1e-4, atol=0)
    plain: Any = MODELS.build({"name": "rgcn", "kl": 0}).build(Sizes.of(graph))
    assert plain.penalty(inputs(graph), graph.adj) is None

    def divergence(kl: float) -> tuple[float, float]:
        fitted = graphsec.fit(graph, {"name": "rgcn", "kl": kl}, training={"epochs": 20})
        shown: Any = fitted.model
        shown.kl = 1.0
        with torch.no_grad():
            penalty = shown.penalty(inputs(graph), graph.adj)
        assert penalty is not None
        return float(penalty), fitted.trace.history[0]["loss"]

    (loose, first), (tight, charged) = divergence(0.0), divergence(0.1)
    assert tight < 0.9 * loose
    assert charged > first  # it is in the loss of the very first epoch


@pytest.mark.parametrize("defense", ["smoothing", "prognn"])
def test_a_wrapped_model_keeps_its_penalty(graph: Graph, defense: str) -> None:
    spec: Any = {"name": "rgcn", "kl": 0.1}
    fitted = graphsec.fit(graph, spec, defense, training={"epochs": 1})
    model: Any = fitted.model
    own = model.base.penalty(inputs(graph), graph.adj)
    assert torch.equal(model.penalty(inputs(graph), graph.adj), own)
