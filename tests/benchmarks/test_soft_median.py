"""Soft Median, forward and backward, beside three ways to write it in torch alone.

CPU seconds of one thread, alternating turns in one run; outputs and gradients agree.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import graphsec
from graphsec.ops import Adj, soft_median

pytestmark = pytest.mark.bench
WIDTH, TEMPERATURE, TURNS = 64, 0.5, 3
HALF = 1 - 1e-5  # graphsec's rule for ties: a cumulative weight this near to half counts as half
SCALE = 1 / (TEMPERATURE * math.sqrt(WIDTH))
Rows = tuple[Tensor, Tensor, Tensor]


def distances(x: Tensor, median: Tensor) -> Tensor:
    """‖x − median‖, whose derivative at 0 is 0."""
    square = (x - median).square().sum(-1)
    return torch.where(square > 1e-24, square.clamp(min=1e-24).sqrt(), 0.0)


class Bucketed:
    """Rows of like degree, padded to the longest, each bucket sorted by ``torch.sort``.

    Degrees up to √2 apart share a bucket: less padding than powers of 2, fewer calls than one
    bucket a degree.
    """

    def __init__(self, adj: Adj) -> None:
        degree = adj.csr.indptr.diff()
        kind = (2 * degree.double().clamp(min=1).log2()).ceil()
        self.buckets: list[Rows] = []
        for value in kind.unique().tolist():  # type: ignore[no-untyped-call]
            rows = (kind == value).nonzero().ravel()
            place = torch.arange(int(degree[rows].max()))
            inside = place < degree[rows].unsqueeze(1)
            entry = torch.where(inside, adj.csr.indptr[rows].unsqueeze(1) + place, 0)
            self.buckets.append((rows, entry, inside))
        self.order = torch.cat([rows for rows, _, _ in self.buckets]).argsort()
        self.col = adj.csr.indices

    def __call__(self, w: Tensor, h: Tensor) -> Tensor:
        """(rows, width)."""
        parts = [self._bucket(w, h, entry, inside) for _, entry, inside in self.buckets]
        return torch.cat(parts)[self.order]

    def _bucket(self, w: Tensor, h: Tensor, entry: Tensor, inside: Tensor) -> Tensor:
        x = h[self.col[entry]]
        weight = torch.where(inside, w[entry], 0.0)
        total = weight.sum(1, keepdim=True)
        with torch.no_grad():
            _, order = x.masked_fill(~inside.unsqueeze(2), math.inf).sort(dim=1)
            reached = weight.unsqueeze(2).expand_as(order).gather(1, order).cumsum(1)
            below = (reached < (total * 0.5 * HALF).unsqueeze(2)).sum(1, keepdim=True)
            place = order.gather(1, below.clamp(max=order.shape[1] - 1))
        distance = distances(x, x.gather(1, place))
        share = torch.softmax((-SCALE * distance).masked_fill(~inside, -math.inf), 1) * weight
        share = share * (total / share.sum(1, keepdim=True))
        return torch.bmm(share.unsqueeze(1), x).squeeze(1)


class Segmented:
    """All entries at once: values sorted, then stably sorted by (row, dimension), all in a line."""

    def __init__(self, adj: Adj) -> None:
        self.indptr, self.col, self.row = adj.csr.indptr, adj.csr.indices, adj.csr.coo[0]
        self.dims = torch.arange(WIDTH)
        self.segment = (self.row.unsqueeze(1) * WIDTH + self.dims).ravel()
        degree = self.indptr.diff().unsqueeze(1)
        self.start = self.indptr[:-1].unsqueeze(1) * WIDTH + self.dims * degree
        self.stop = self.start + degree

    def __call__(self, w: Tensor, h: Tensor) -> Tensor:
        """(rows, width)."""
        x, n = h[self.col], len(self.indptr) - 1
        total = w.new_zeros(n).index_add(0, self.row, w)
        median = h.gather(0, self.col[self.argmedian(w.detach(), x.detach())])
        score = torch.exp(-SCALE * distances(x, median[self.row])) * w
        norm = w.new_zeros(n).index_add(0, self.row, score)
        share = score * (total / norm)[self.row]
        return h.new_zeros(n, WIDTH).index_add(0, self.row, share.unsqueeze(1) * x)

    def argmedian(self, w: Tensor, x: Tensor) -> Tensor:
        """(rows, width) the entry that is the median."""
        order = x.ravel().argsort()
        order = order[self.segment[order].argsort(stable=True)]
        reached = pad(w.double()[order // WIDTH].cumsum(0))
        first, last = reached[self.start].ravel(), reached[self.stop].ravel()
        half = torch.lerp(first, last, 0.5 * HALF)
        below = pad((reached[1:] < half[self.segment[order]]).cumsum(0))
        place = self.start + below[self.stop] - below[self.start]
        return order[place.minimum(self.stop - 1)] // WIDTH


class Packed(Segmented):
    """The best global sort that we found: row and value packed into one integer, by dimension."""

    def argmedian(self, w: Tensor, x: Tensor) -> Tensor:
        """(rows, width) the entry that is the median."""
        bits = x.T.contiguous().view(torch.int32)
        rising = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # floats in the order of integers
        order = ((self.row << 32) + rising).sort(dim=1).indices
        weight = w.double()
        bound = pad(weight.cumsum(0))[self.indptr]
        half = torch.lerp(bound[:-1], bound[1:], 0.5 * HALF)
        below = pad((weight[order].cumsum(1) < half[self.row]).cumsum(1))
        start, stop = self.indptr[:-1], self.indptr[1:]
        place = start + below[:, stop] - below[:, start]
        return order.gather(1, place.minimum(stop - 1)).T


def pad(x: Tensor) -> Tensor:
    """A zero in front of the last dimension."""
    return torch.nn.functional.pad(x, (1, 0))


def cora_ml() -> Adj:
    """The graph of the robustness experiments."""
    return graphsec.load("nettack/cora_ml").adj


def heavy_tailed() -> Adj:
    """50,000 nodes, about 250,000 edges, some of them with hundreds."""
    rng, n, m = np.random.default_rng(0), 50_000, 250_000
    u, v = (n * rng.random((2, m)) ** 2).astype(np.int64)
    v = (v * 7919 + 1) % n  # hubs of one end are not those of the other
    pairs = np.stack([u, v])[:, u != v]
    return graphsec.Graph.from_edges(pairs, n, x=np.zeros((n, 1), np.float32)).adj


@pytest.mark.parametrize("make", [cora_ml, heavy_tailed])
def test_four_times_buckets_and_twenty_times_a_segment_sort(
    data_dir: Path, make: Callable[[], Adj]
) -> None:
    """64 dimensions; output, and gradients of values and weights."""
    torch.set_num_threads(1)
    adj = make().normalized("sym", self_loops=True).merged()
    assert adj.weight is not None
    n, generator = adj.num_nodes, torch.Generator().manual_seed(0)
    h = torch.randn(n, WIDTH, generator=generator).requires_grad_()
    g = torch.randn(n, WIDTH, generator=generator)
    w = adj.weight.clone().requires_grad_()

    def ours(w: Tensor, h: Tensor) -> Tensor:
        return soft_median(Adj(csr=adj.csr, weight=w, final=True), h, TEMPERATURE)

    ways: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "ours": ours, "buckets": Bucketed(adj), "segment sort": Segmented(adj),
        "packed sort": Packed(adj),
    }  # fmt: skip
    results: dict[str, tuple[Tensor, ...]] = {}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    ours(w, h).sum().backward()  # type: ignore[no-untyped-call]  # loads the kernels
    for turn in range(TURNS):
        for name, way in ways.items():
            if turn and name == "segment sort" and n > 10_000:
                continue  # once is long enough
            start = time.process_time()
            out = way(w, h)
            gradients = torch.autograd.grad(out, (h, w), g)
            taken[name].append(time.process_time() - start)
            results[name] = (out.detach(), *gradients)
    for name in ways:
        for mine, theirs in zip(results["ours"], results[name], strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4 * float(theirs.std()))
    median = {name: statistics.median(values) for name, values in taken.items()}
    ratio = {name: value / median["ours"] for name, value in median.items()}
    longest = int(adj.csr.indptr.diff().max())
    print(  # noqa: T201
        f"\n{n} nodes, {adj.csr.nnz} entries, longest row {longest}: "
        + ", ".join(f"{name} {median[name] * 1e3:.1f} ms ({ratio[name]:.1f}×)" for name in ways)
    )
    assert ratio["buckets"] >= 4
    assert ratio["segment sort"] >= 20
