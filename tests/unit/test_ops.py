"""Kernels and their derivatives: both paths, all promised orders, on random graphs."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import grad, jvp, vmap

from graphsec.graph import Graph
from graphsec.ops import (
    CSR,
    Adj,
    Features,
    Pairs,
    compiled,
    dropout,
    edge_ratio,
    edge_softmax,
    linear,
    propagate,
    sddmm,
    segment_median,
    soft_median,
    spmm,
)
from graphsec.ops.similarity import edge_similarity, pair_similarity
from graphsec.rng import Rng
from graphsec.testing import some_flips, tiny_graphs

seeds = st.integers(0, 10_000)


def csr_of(seed: int, rows: int = 7, cols: int = 6, density: float = 0.35) -> CSR:
    """A random pattern; some rows and columns are empty."""
    rng = np.random.default_rng(seed)
    mask = rng.random((rows, cols)) < density
    mask[rng.integers(rows)] = False
    row, col = np.nonzero(mask)
    indptr = np.searchsorted(row, np.arange(rows + 1))
    return CSR(torch.from_numpy(indptr), torch.from_numpy(col), cols)


def pairs_of(seed: int, symmetric: bool, n: int = 6) -> Pairs:
    rng = np.random.default_rng(seed)
    u, v = np.triu_indices(n, 1)
    kept = rng.choice(len(u), 5, replace=False)
    return Pairs(torch.from_numpy(u[kept]), torch.from_numpy(v[kept]), n, symmetric)


def rand(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed + 1).normal(size=shape)).to(dtype)


def graph_of(seed: int, n: int = 9, p: float = 0.3) -> Graph:
    """A weighted graph whose last node is isolated."""
    rng = np.random.default_rng(seed)
    edges = np.argwhere(np.triu(rng.random((n, n)) < p, 1))
    edges = edges[edges.max(1, initial=0) < n - 1] if len(edges) else edges
    weight = rng.uniform(0.1, 2, len(edges))
    return Graph.from_edges(edges.reshape(-1, 2).T, n, edge_weight=weight)


def patterns(seed: int) -> list[CSR | Pairs]:
    csr = csr_of(seed)
    return [csr, csr.T, pairs_of(seed, True), pairs_of(seed, False)]


def shapes(pattern: CSR | Pairs) -> tuple[int, int, int]:
    count = pattern.nnz if isinstance(pattern, CSR) else len(pattern.u)
    return pattern.num_rows, pattern.num_cols, count


def dense(pattern: CSR | Pairs, w: Tensor) -> Tensor:
    """The matrix itself, (rows, cols), of one head of values."""
    rows, cols, _ = shapes(pattern)
    out = torch.zeros(rows, cols, dtype=w.dtype)
    if isinstance(pattern, CSR):
        return out.index_put(pattern.coo, w, accumulate=True)
    out = out.index_put((pattern.u, pattern.v), w, accumulate=True)
    return out + out.T if pattern.symmetric else out


# -- both paths against the dense definition ----------------------------------------------------


@given(seed=seeds, dtype=st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=15, deadline=None)
def test_products_are_their_definition(seed: int, dtype: torch.dtype) -> None:
    for pattern in patterns(seed):
        rows, cols, count = shapes(pattern)
        w, h = rand(seed, count, 2, dtype=dtype), rand(seed + 1, cols, 2, 3, dtype=dtype)
        a = rand(seed + 2, rows, 2, 3, dtype=dtype)
        for enabled in (True, False):
            with compiled(enabled):
                product, dots, plain = (
                    spmm(pattern, w, h),
                    sddmm(pattern, a, h),
                    spmm(pattern, None, h),
                )
            for q in range(2):
                torch.testing.assert_close(product[:, q], dense(pattern, w[:, q]) @ h[:, q])
                ones = dense(pattern, torch.ones_like(w[:, q]))
                torch.testing.assert_close(plain[:, q], ones @ h[:, q])
                scores = a[:, q] @ h[:, q].T
                if isinstance(pattern, CSR):
                    torch.testing.assert_close(dots[:, q], scores[pattern.coo])
                else:
                    wanted = scores[pattern.u, pattern.v]
                    wanted = wanted + scores[pattern.v, pattern.u] if pattern.symmetric else wanted
                    torch.testing.assert_close(dots[:, q], wanted)


def _gradients(call: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    leaves = [x.clone().requires_grad_() for x in inputs]
    out = call(*leaves)
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return [out.detach(), *torch.autograd.grad((out * weight).sum(), leaves)]


@given(seed=seeds)
@settings(max_examples=10, deadline=None)
def test_paths_agree(seed: int) -> None:
    """Compiled and plain torch: forward, and gradients in features and in edge weights."""
    graph = graph_of(seed)
    n, adj = graph.num_nodes, graph.adj
    assert graph.edge_weight is not None
    weight, h = graph.edge_weight, rand(seed, n, 4, dtype=torch.float32)
    scores = rand(seed + 3, len(weight), 2, dtype=torch.float32)
    pairs = torch.tensor([[0, 1, 2], [3, 4, n - 1]])
    p = torch.tensor([0.0, 0.4, 1.0])

    def weighted(w: Tensor) -> Adj:
        return dataclasses.replace(adj, weight=w)

    def blocked(w: Tensor, q: Tensor) -> Adj:
        return weighted(w).with_block(pairs, q)

    calls: list[tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = [
        (lambda w, x: propagate(weighted(w).normalized(), x), (weight, h)),
        (lambda w, x: propagate(weighted(w), x, "mean"), (weight, h)),
        (lambda w, x: propagate(weighted(w), x, "max"), (weight, h)),
        (lambda w, x, q: propagate(blocked(w, q).normalized(), x), (weight, h, p)),
        (lambda w, x, q: propagate(blocked(w, q).normalized().merged(), x), (weight, h, p)),
        (lambda w, s: edge_softmax(weighted(w), s), (weight, scores)),
        (lambda w, x: soft_median(weighted(w), x, 0.5), (weight, h)),
        (lambda x: segment_median(adj, x), (h,)),
    ]  # fmt: skip
    for i, (call, inputs) in enumerate(calls):
        if i == 2:  # the maximum has no derivative in the weights
            call, inputs = (lambda x: propagate(adj, x, "max")), (h,)
        with compiled(True):
            fast = _gradients(call, *inputs)
        with compiled(False):
            slow = _gradients(call, *inputs)
        for one, two in zip(fast, slow, strict=True):
            torch.testing.assert_close(one, two, rtol=2e-4, atol=2e-5)


@given(seed=seeds)
@settings(max_examples=10, deadline=None)
def test_sparse_features_equal_dense(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.normal(size=(8, 5)) * (rng.random((8, 5)) < 0.4))
    x[3] = 0
    weight, sparse = rand(seed, 5, 3), Features.of(x.to_sparse_csr())
    for enabled in (True, False):
        with compiled(enabled):
            torch.testing.assert_close(linear(x.to_sparse_csr(), weight), x @ weight)
            fast = _gradients(lambda v, w: linear(dataclasses.replace(sparse, values=v), w),
                              sparse.values, weight)  # fmt: skip
        slow = _gradients(lambda v, w: dataclasses.replace(sparse, values=v).to_dense() @ w,
                          sparse.values, weight)  # fmt: skip
        for one, two in zip(fast, slow, strict=True):
            torch.testing.assert_close(one, two)
    index = torch.from_numpy(rng.permutation(8)[:5])
    torch.testing.assert_close(sparse.rows(index).to_dense(), x[index])


# -- derivatives --------------------------------------------------------------------------------


def ratio_inputs(seed: int) -> tuple[CSR, Tensor, Tensor]:
    csr = csr_of(seed)
    w = rand(seed, csr.nnz, 2).abs() + 0.1
    return csr, w, rand(seed + 1, csr.nnz, 2)


CALLS = ["spmm", "sddmm", "edge_ratio", "linear"]


def call_of(name: str, seed: int) -> tuple[Callable[..., Tensor], list[Tensor]]:
    csr = csr_of(seed)
    if name == "spmm":
        return (lambda w, h: spmm(csr, w, h)), [rand(1, csr.nnz, 2), rand(2, csr.num_cols, 2, 3)]
    if name == "sddmm":
        a, b = rand(3, csr.num_rows, 2, 3), rand(4, csr.num_cols, 2, 3)
        return (lambda a, b: sddmm(csr, a, b)), [a, b]
    if name == "edge_ratio":
        csr, w, s = ratio_inputs(seed)
        return (lambda w, s: edge_ratio(csr, w, s)), [w, s]
    return (lambda v, w: linear(Features(csr, v), w)), [rand(5, csr.nnz), rand(6, csr.num_cols, 3)]


@pytest.mark.parametrize("enabled", [True, False], ids=["compiled", "torch"])
@pytest.mark.parametrize("name", CALLS)
def test_first_and_second_derivatives(name: str, enabled: bool) -> None:
    call, inputs = call_of(name, 4)
    leaves = [x.requires_grad_() for x in inputs]
    with compiled(enabled):
        assert gradcheck(call, leaves)
        assert gradgradcheck(call, leaves)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("enabled", [True, False], ids=["compiled", "torch"])
def test_derivatives_of_pairs(enabled: bool, symmetric: bool) -> None:
    pattern = pairs_of(3, symmetric)
    w, h, a = rand(1, 5, 2), rand(2, 6, 2, 3), rand(3, 6, 2, 3)
    leaves = [x.requires_grad_() for x in (w, h, a)]
    with compiled(enabled):
        for check in (gradcheck, gradgradcheck):
            assert check(lambda w, h: spmm(pattern, w, h), leaves[:2])
            assert check(lambda a, h: sddmm(pattern, a, h), [leaves[2], leaves[1]])


@pytest.mark.parametrize("enabled", [True, False], ids=["compiled", "torch"])
@pytest.mark.parametrize("name", CALLS)
def test_vmap_is_a_loop(name: str, enabled: bool) -> None:
    """Of the call and of its gradient, whichever of the inputs are batched."""
    call, inputs = call_of(name, 5)
    batched = [torch.stack([x, x.flip(0), x * 1.5]) for x in inputs]
    weight = torch.linspace(0.5, 1.5, call(*inputs).numel(), dtype=torch.float64)

    def loss(*args: Tensor) -> Tensor:
        out = call(*args)
        return (out.reshape(-1) * weight).sum() + out.square().sum()

    with compiled(enabled):
        for dims in ((0, 0), (None, 0), (0, None)):
            args = [many if dim == 0 else one
                    for one, many, dim in zip(inputs, batched, dims, strict=True)]  # fmt: skip
            both = vmap(call, in_dims=dims)(*args)
            slopes = vmap(grad(loss, argnums=(0, 1)), in_dims=dims)(*args)
            for i in range(3):
                single = [x[i] if dim == 0 else x for x, dim in zip(args, dims, strict=True)]
                torch.testing.assert_close(both[i], call(*single))
                for many, one in zip(slopes, grad(loss, argnums=(0, 1))(*single), strict=True):
                    torch.testing.assert_close(many[i], one)


@pytest.mark.parametrize("enabled", [True, False], ids=["compiled", "torch"])
@pytest.mark.parametrize("name", CALLS)
def test_jvp_is_the_difference(name: str, enabled: bool) -> None:
    call, inputs = call_of(name, 6)
    directions = [rand(11 + i, *x.shape) for i, x in enumerate(inputs)]
    with compiled(enabled):
        pushed: Any = jvp(call, tuple(inputs), tuple(directions))
        value, slope = pushed
        torch.testing.assert_close(value, call(*inputs))
        e = 1e-6
        up, down = (call(*[x + s * d for x, d in zip(inputs, directions, strict=True)])
                    for s in (e, -e))  # fmt: skip
    torch.testing.assert_close(slope, (up - down) / (2 * e), rtol=1e-5, atol=1e-6)


def test_attention_ignores_absent_edges() -> None:
    """Weight 0 gets nothing and takes nothing, however large its score; its slope is finite."""
    csr = CSR(torch.tensor([0, 3, 4, 4]), torch.tensor([0, 1, 2, 0]), 3)
    w = torch.tensor([[1.0], [2.0], [0.0], [0.0]], requires_grad=True)
    s = torch.tensor([[0.3], [-0.2], [500.0], [1.0]], requires_grad=True)
    for enabled in (True, False):
        with compiled(enabled):
            attention = edge_softmax(Adj(csr=csr, weight=w.squeeze(1)), s)
            gradients = torch.autograd.grad(attention.square().sum(), (w, s))
        share = torch.tensor([1.0, 2.0]) * torch.tensor([0.3, -0.2]).exp()
        wanted = torch.cat([share / share.sum(), torch.zeros(2)]).unsqueeze(1)
        torch.testing.assert_close(attention, wanted)
        assert all(torch.isfinite(g).all() for g in gradients)


# -- operators ----------------------------------------------------------------------------------


@given(seed=seeds)
@settings(max_examples=10, deadline=None)
def test_normalisation_is_its_definition(seed: int) -> None:
    graph = graph_of(seed)
    a = torch.from_numpy(graph.to_scipy().todense()).double()
    n = len(a)
    h = rand(seed, n, 3)
    for kind, loops in (("sym", True), ("sym", False), ("row", True), ("row", False), (None, True)):
        m = a + torch.eye(n) * loops
        degree = m.sum(1)
        inverse = torch.where(degree > 0, 1 / degree.clamp(min=1e-9), 0.0)
        if kind == "sym":
            m = inverse.sqrt().unsqueeze(1) * m * inverse.sqrt()
        elif kind == "row":
            m = inverse.unsqueeze(1) * m
        operator = graph.adj.normalized(kind, loops)  # type: ignore[arg-type]
        for form in (operator, operator.merged()):
            torch.testing.assert_close(propagate(form, h), m @ h, rtol=1e-5, atol=1e-6)


@given(seed=seeds)
@settings(max_examples=10, deadline=None)
def test_clean_and_block_equal_merged_and_flipped(seed: int) -> None:
    graph, rng = graph_of(seed), np.random.default_rng(seed)
    n = graph.num_nodes
    u, v = np.triu_indices(n, 1)
    kept = rng.choice(len(u), 8, replace=False)
    pairs = torch.from_numpy(np.stack([u[kept], v[kept]]))
    h = rand(seed, n, 3, dtype=torch.float32)
    ones = graph.adj.with_block(pairs, torch.ones(8))
    flipped = graph.flip(pairs).adj
    part = graph.adj.with_block(pairs, torch.from_numpy(rng.random(8)).float())
    for kind in ("sym", "row", None):
        a, b = (adj.normalized(kind) for adj in (ones, flipped))
        torch.testing.assert_close(propagate(a, h), propagate(b, h), rtol=1e-4, atol=1e-5)
        c = part.normalized(kind)
        torch.testing.assert_close(propagate(c, h), propagate(c.merged(), h), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(propagate(part, h, "max"), propagate(part.merged(), h, "max"))


@given(seed=seeds)
@settings(max_examples=8, deadline=None)
def test_weight_zero_is_absent(seed: int) -> None:
    graph = graph_of(seed)
    assert graph.edge_weight is not None
    off = graph.edge_weight > 1
    both = graph.adj
    zeroed = dataclasses.replace(both, weight=torch.where(off, 0.0, graph.edge_weight))
    kept = zeroed.pruned()
    assert kept.csr.nnz == int((~off).sum())
    h = rand(seed, graph.num_nodes, 3, dtype=torch.float32)
    calls: list[Callable[[Adj], Tensor]] = [
        lambda adj: propagate(adj.normalized(), h),
        lambda adj: propagate(adj, h, "mean"),
        lambda adj: propagate(adj, h, "max"),
        lambda adj: segment_median(adj, h),
        lambda adj: soft_median(adj, h, 0.3),
    ]
    for enabled in (True, False):
        with compiled(enabled):
            for call in calls:
                torch.testing.assert_close(call(zeroed), call(kept))


def test_edge_gradient_at_zero_weight() -> None:
    """An edge that is not there yet has a slope, in the degrees too."""
    graph = graph_of(2)
    pairs, h = torch.tensor([[0, 1, 2], [8, 5, 3]]), rand(1, 9, 2)

    def call(p: Tensor) -> Tensor:
        adj = dataclasses.replace(graph.adj, weight=graph.adj.weight.double())  # type: ignore[union-attr]
        return propagate(adj.with_block(pairs, p).normalized(), h)

    assert gradcheck(call, torch.zeros(3, dtype=torch.float64, requires_grad=True))


def test_directed_messages_go_from_source_to_target() -> None:
    graph = Graph.from_edges([[0, 0], [1, 2]], 3, directed=True, edge_weight=[2.0, 3.0])
    out = propagate(graph.adj, torch.tensor([[1.0], [10.0], [100.0]]))
    assert out.ravel().tolist() == [0, 2, 3]


# -- medians ------------------------------------------------------------------------------------


def brute_median(adj: Adj, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(median, node, clear): smallest value whose weight from below reaches half, first of equals.

    ``clear`` is False where a sum misses half by so little that rounding decides.
    """
    merged = adj.merged()
    assert merged.weight is not None
    indptr, indices = merged.csr.indptr.tolist(), merged.csr.indices.tolist()
    weight, values = merged.weight.double().tolist(), h.tolist()
    out = torch.zeros(len(indptr) - 1, h.shape[1], dtype=h.dtype)
    node = torch.full_like(out, -1)
    clear = torch.ones_like(out, dtype=torch.bool)
    for i in range(len(out)):
        entries = [e for e in range(indptr[i], indptr[i + 1]) if weight[e] > 0]
        total = sum(weight[e] for e in entries)
        for k in range(h.shape[1]):
            column = {e: values[indices[e]][k] for e in entries}
            reached, found = 0.0, False
            for e in sorted(entries, key=column.__getitem__):
                reached += weight[e]
                miss = abs(reached / total - 0.5)
                clear[i, k] &= not 1e-9 < miss < 1e-4
                if not found and reached >= total / 2 * (1 - 1e-6):
                    found = True
                    first = next(f for f in entries if column[f] == column[e])
                    out[i, k], node[i, k] = column[e], indices[first]
    return out, node, clear


@given(seed=seeds, ties=st.booleans(), n=st.sampled_from([6, 40, 180]))
@settings(max_examples=20, deadline=None)
def test_segment_median_is_brute_force(seed: int, ties: bool, n: int) -> None:
    """Equal weights and few distinct values make ties; short rows and long ones (quickselect)."""
    graph = graph_of(seed, n, 0.85)
    adj = graph.adj if not ties else Adj(csr=graph.adj.csr)
    h = rand(seed, n, 2, dtype=torch.float32)
    h = h.round() if ties else h
    wanted, node, clear = brute_median(adj, h)
    if ties:
        assert clear.all()
    for enabled in (True, False):
        with compiled(enabled):
            leaf = h.clone().requires_grad_()
            out = segment_median(adj, leaf)
            (slope,) = torch.autograd.grad(out[clear].sum(), leaf)
        assert torch.equal(out.detach()[clear], wanted[clear])
        counts = torch.zeros_like(h)
        for k in range(2):
            hit = node[:, k][(node[:, k] >= 0) & clear[:, k]].long()
            counts[:, k] = torch.bincount(hit, minlength=n)
        assert torch.equal(slope, counts)


@given(seed=seeds)
@settings(max_examples=8, deadline=None)
def test_soft_median_limits(seed: int) -> None:
    """T → ∞ is the weighted sum, exactly at infinity; T → 0 the neighbour nearest to the median."""
    adj = graph_of(seed).adj
    h = rand(seed, 9, 4, dtype=torch.float64)
    adj = dataclasses.replace(adj, weight=adj.weight.double())  # type: ignore[union-attr]
    assert torch.equal(soft_median(adj, h, math.inf), propagate(adj, h))
    for enabled in (True, False):
        with compiled(enabled):
            torch.testing.assert_close(soft_median(adj, h, 1e9), propagate(adj, h))
            sharp = soft_median(adj, h, 1e-4)
        median, _, _ = brute_median(adj, h)
        row, col = adj.csr.coo
        for i in range(9):
            near = col[row == i]
            if len(near) == 0:
                assert (sharp[i] == 0).all()
                continue
            distance = (h[near] - median[i]).norm(dim=1)
            if len(near) > 1 and distance.topk(2, largest=False).values.diff() < 0.01:
                continue  # two are about equally near
            total = adj.weight[row == i].sum()  # type: ignore[index]
            torch.testing.assert_close(sharp[i], total * h[near[distance.argmin()]])


@pytest.mark.parametrize("enabled", [True, False], ids=["compiled", "torch"])
def test_soft_median_gradient(enabled: bool) -> None:
    adj, h = graph_of(3, 8, 0.6).adj, rand(3, 8, 3).requires_grad_()
    weight = adj.weight.double().requires_grad_()  # type: ignore[union-attr]

    def call(w: Tensor, h: Tensor) -> Tensor:
        return soft_median(dataclasses.replace(adj, weight=w), h, 0.7)

    with compiled(enabled):
        assert gradcheck(call, (weight, h))


def test_soft_median_survives_vanishing_weights() -> None:
    """Attention underflows to denormal numbers; they count as absent and nothing overflows."""
    csr = CSR(torch.tensor([0, 2, 5, 5]), torch.tensor([0, 1, 0, 1, 2]), 3)
    for weights in ([5e-43, 0.0, 5e-43, 0.4, 0.0], [1e-21] * 5, [1e-19, 1.0, 1e-21, 1.0, 0.0]):
        for enabled in (True, False):
            w = torch.tensor(weights, requires_grad=True)
            h = (rand(0, 3, 4, dtype=torch.float32) * 100).requires_grad_()
            with compiled(enabled):
                out = soft_median(Adj(csr=csr, weight=w), h, 0.5)
                gradients = torch.autograd.grad(out.square().sum(), (w, h))
            assert all(torch.isfinite(t).all() for t in (out, *gradients))


# -- the rest -----------------------------------------------------------------------------------


def test_dropout_keeps_the_mean_and_is_repeatable() -> None:
    x = torch.ones(200_001)

    def drawn() -> Tensor:
        with Rng(0).scope():
            out = dropout(x, 0.6, True)
        assert isinstance(out, Tensor)
        return out

    first = drawn()
    assert torch.equal(drawn(), first)
    assert abs(float((first == 0).float().mean()) - 0.6) < 0.005
    assert abs(float(first.mean()) - 1) < 0.01
    assert dropout(x, 0.6, False) is x


@given(seed=seeds)
@settings(max_examples=8, deadline=None)
def test_pair_similarity(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = torch.from_numpy((rng.random((7, 9)) < 0.4) * rng.uniform(0.5, 2, (7, 9))).float()
    x[2] = 0
    pairs = torch.triu_indices(7, 7, 1)
    sets = [set(row.nonzero().ravel().tolist()) for row in x]
    jaccard = [len(sets[u] & sets[v]) / max(len(sets[u] | sets[v]), 1) for u, v in pairs.T.tolist()]
    cosine = torch.nn.functional.cosine_similarity(x[pairs[0]], x[pairs[1]])
    for enabled in (True, False):
        with compiled(enabled):
            for form in (x, x.to_sparse_csr()):
                torch.testing.assert_close(
                    pair_similarity(form, pairs, "jaccard"), torch.tensor(jaccard)
                )
                torch.testing.assert_close(
                    pair_similarity(form, pairs, "cosine"), cosine, rtol=1e-4, atol=1e-5
                )


@pytest.mark.parametrize("directed", [False, True])
def test_edge_similarity_is_that_of_the_pairs(directed: bool) -> None:
    graph = graph_of(3, 20, 0.2)
    csr = graph.adj.csr
    if directed:
        keep = torch.arange(graph.num_nodes) < 10  # rows that keep their entries
        row, col = (part[keep[csr.coo[0]]] for part in csr.coo)
        counts = torch.bincount(row, minlength=graph.num_nodes)
        csr = CSR(torch.cat([counts.new_zeros(1), counts.cumsum(0)]), col, csr.num_cols)
    assert csr.symmetric is not directed
    x = torch.rand(20, 6, generator=torch.Generator().manual_seed(0)).round()
    for form in (x, x.to_sparse_csr()):
        found = edge_similarity(form, csr, "jaccard")
        assert len(set(found.tolist())) > 3
        assert torch.equal(found, pair_similarity(form, torch.stack(csr.coo), "jaccard"))


def test_smoothing_sample() -> None:
    """Edges go and come with the stated probabilities, both directions together."""
    graph = graph_of(1, 60, 0.3)
    adj = Adj(csr=graph.adj.csr)
    assert adj.sample(0.0, 1.0, Rng(0)).csr.nnz == 0
    kept = adj.sample(0.0, 0.0, Rng(0))
    assert torch.equal(kept.csr.indices, adj.csr.indices)
    noisy = adj.sample(0.1, 0.5, Rng(0))
    row, col = noisy.csr.coo
    matrix = torch.zeros(60, 60, dtype=torch.bool)
    matrix[row, col] = True
    clean = torch.zeros(60, 60, dtype=torch.bool)
    clean[adj.csr.coo] = True
    assert torch.equal(matrix, matrix.T)
    assert not matrix.diagonal().any()
    assert abs(float((matrix & clean).sum() / clean.sum()) - 0.5) < 0.1
    absent = ~clean & ~torch.eye(60, dtype=torch.bool)
    assert abs(float((matrix & absent).sum() / absent.sum()) - 0.1) < 0.03


@pytest.mark.parametrize("hidden", ["dgl", "numba"])
def test_works_without(hidden: str) -> None:
    """A GCN trains, and its logits are the same, where DGL or numba is missing."""
    program = f"""
import sys
sys.modules[{hidden!r}] = None
import graphsec
from graphsec.testing import tiny_graphs
graph = tiny_graphs()["karate"]
victim = graphsec.fit(graph, {{"name": "gcn", "hidden": 8}}, training={{"epochs": 20}})
print(victim.logits(graph).double().square().sum().item())
"""
    import graphsec

    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True
    )
    graph = tiny_graphs()["karate"]
    victim = graphsec.fit(graph, {"name": "gcn", "hidden": 8}, training={"epochs": 20})
    wanted = float(victim.logits(graph).double().square().sum())
    assert float(run.stdout) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("enabled", [True, False], ids=["compiled", "torch"])
@pytest.mark.parametrize("name", ["gcn", "gat", "sage"])
def test_transforms_leave_nothing_behind(name: str, enabled: bool) -> None:
    """Patterns first made inside ``vmap(grad)`` serve outside as well; edge weights batch too."""
    from graphsec.models import build

    fresh = [graph.replace(name="fresh") for graph in tiny_graphs().values()]
    for graph in fresh:
        with Rng(0).scope():
            model = build(name, graph).eval()
        x, weight = graph.x, graph.adj.merged().weight
        if x is not None and x.layout == torch.sparse_csr:
            x = x.clone()  # its pattern is not known yet
        assert weight is not None

        def loss(w: Tensor, graph: Graph = graph, x: Tensor = x, model: Any = model) -> Tensor:  # type: ignore[assignment]
            out: Tensor = model(x, dataclasses.replace(graph.adj, weight=w)).square().sum()
            return out

        many = torch.stack([weight, weight * 0.5, weight.flip(0)])
        with compiled(enabled):
            batched = vmap(grad(loss))(many)
            for one, slope in zip(many, batched, strict=True):
                leaf = one.clone().requires_grad_()
                torch.testing.assert_close(
                    torch.autograd.grad(loss(leaf), leaf)[0], slope, rtol=1e-4, atol=1e-5
                )


def test_dgl_sums_as_the_kernels_do(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dgl", reason="DGL has no wheels from Python 3.12 on")
    from graphsec.ops import structure

    edges = torch.randint(0, 50, (2, 200), generator=torch.Generator().manual_seed(0))
    graph = Graph.from_edges(edges, 50, directed=True)
    h = torch.randn(50, 2, 5, generator=torch.Generator().manual_seed(1))
    plain = graph.adj.csr.multiply(None, h), graph.adj.csr.T.multiply(None, h)
    monkeypatch.setattr(structure, "DGL_FROM", 0)
    fresh = Graph.from_edges(edges, 50, directed=True).adj.csr
    torch.testing.assert_close(fresh.multiply(None, h), plain[0])
    torch.testing.assert_close(fresh.T.multiply(None, h), plain[1])
    assert "_dgl_graph" in fresh.__dict__


def test_soft_median_frees_its_memory() -> None:
    """An output kept on its own autograd node would never be freed."""
    import gc
    import weakref

    graph = Graph.from_edges([[0, 1, 2], [1, 2, 0]], 3)
    h = torch.randn(3, 4, requires_grad=True)
    out = soft_median(graph.adj.normalized(), h, 0.5)
    out.sum().backward()  # type: ignore[no-untyped-call]
    assert out.grad_fn is not None
    node = weakref.ref(out)
    gc.disable()
    try:
        del out
        assert node() is None
    finally:
        gc.enable()


def test_a_graph_without_edges_gives_zeros() -> None:
    adj = Graph.from_edges(np.zeros((2, 0), int), 3).adj
    h = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    for enabled in (True, False):
        with compiled(enabled):
            assert not propagate(adj, h).any()
            assert not segment_median(adj, h).any()
            assert not soft_median(adj, h, 0.5).any()
            loops = adj.normalized()
            torch.testing.assert_close(soft_median(loops, h, 0.5), h)


@pytest.mark.parametrize("heads", [None, 2])
def test_propagating_without_gradients_gives_the_same_numbers(heads: int | None) -> None:
    """There sums are made in place; the inputs stay as they are, and dual numbers pass through."""
    graph = tiny_graphs()["weighted"]
    rng = np.random.default_rng(0)
    shape = (graph.num_nodes, 5) if heads is None else (graph.num_nodes, heads, 5)
    h = torch.from_numpy(rng.normal(size=shape))
    flips = some_flips(graph)
    weight = torch.full((flips.shape[1],), 0.3, dtype=torch.float64)
    left, right = torch.from_numpy(rng.normal(size=(2, graph.num_nodes, 3)) ** 2)
    assert graph.adj.weight is not None
    double = dataclasses.replace(graph.adj, weight=graph.adj.weight.double())
    block = double.with_block(flips, weight, symmetric=True)
    for adj in (block, dataclasses.replace(block, factors=(left, right))):
        operator, before = adj.normalized("sym"), h.clone()
        wanted = propagate(operator, h.clone().requires_grad_()).detach()
        with torch.no_grad():
            torch.testing.assert_close(propagate(operator, h), wanted, rtol=1e-12, atol=1e-13)
            assert torch.equal(h, before)
            with forward_ad.dual_level():
                dual: Any = forward_ad.make_dual(h, torch.ones_like(h))  # type: ignore[no-untyped-call]
                made: Any = forward_ad.unpack_dual(propagate(operator, dual))  # type: ignore[no-untyped-call]
        torch.testing.assert_close(made.tangent, propagate(operator, torch.ones_like(h)))
