"""Neighbourhood samples: bipartite hops for batches, and subtrees kept apart for each root."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from graphsec.ops import CSR, Adj, Features
from graphsec.rng import Rng


def sample(
    adj: Adj, roots: Tensor, fanouts: Sequence[int], rng: Rng, *, separate: bool = False
) -> tuple[Tensor, Adj]:
    """Neighbourhoods of ``roots``, one bipartite hop a layer (Hamilton et al. 2017, alg. 2).

    A node with more than ``fanout`` neighbours keeps that many, drawn without replacement, with
    weights scaled up so that sums stay unbiased. With fan-outs of −1 the logits of the roots
    equal those of the whole graph: ``degree`` carries the true degrees.

    Args:
        adj: The whole adjacency, without candidate pairs.
        roots: (B,) nodes whose outputs are wanted.
        fanouts: Neighbours kept in each layer, the first layer first; −1 keeps all.
        rng: Stream to draw from.
        separate: Keep each root's copies of nodes apart (per-root subtrees); ``owner`` tells
            whose copy each is.

    Returns:
        (nodes, adj): the nodes whose features the first layer takes, and the adjacency with
        ``hops`` and ``roots``.
    """
    if adj.block is not None:
        raise ValueError("adj must be without candidate pairs to be sampled")
    if adj.factors is not None:
        raise ValueError("adj must be sparse to be sampled, got a low-rank one")
    generator = rng.numpy()
    n = adj.num_nodes
    indptr, indices = adj.csr.indptr.numpy(), adj.csr.indices.numpy()
    weight = None if adj.weight is None else adj.weight.numpy()
    degree = adj.degrees()
    codes = roots.numpy().astype(np.int64)
    if separate:  # a copy is known by its owner and its node
        codes = np.arange(len(codes)) * n + codes
    hops: list[Adj] = []
    for fanout in reversed(list(fanouts)):
        nodes = codes % n
        entry, row = _draw(indptr, nodes, fanout, generator)
        sources = codes[row] // n * n + indices[entry]
        new = np.setdiff1d(sources, codes)
        order = np.argsort(codes, kind="stable")
        wider = np.concatenate([codes, new])
        place = np.minimum(np.searchsorted(codes[order], sources), len(codes) - 1)
        known = codes[order][place] == sources
        column = np.where(known, order[place], len(codes) + np.searchsorted(new, sources))
        counts = np.bincount(row, minlength=len(codes))
        full = np.diff(indptr)[nodes]
        values = np.ones(len(entry), np.float32) if weight is None else weight[entry]
        values = values * (full[row] / counts[row]).astype(np.float32)
        csr = CSR(
            torch.from_numpy(np.concatenate([[0], counts.cumsum()]).astype(np.int64)),
            torch.from_numpy(column.astype(np.int64)),
            len(wider),
        )
        whole = weight is None and bool((values == 1).all())
        hops.append(
            Adj(
                csr=csr,
                weight=None if whole else torch.from_numpy(values),
                degree=degree[torch.from_numpy(wider % n)],
                owner=torch.from_numpy(wider // n) if separate else None,
            )
        )
        codes = wider
    hops.reverse()
    batch = Adj(csr=hops[-1].csr, hops=tuple(hops), roots=roots, owner=hops[0].owner)
    return torch.from_numpy(codes % n), batch


def subtrees(adj: Adj, roots: Tensor, hops: int) -> tuple[Tensor, Adj]:
    """All that ``hops`` layers see of each root, with copies of nodes and degrees of its own.

    The subtree of a root has the nodes within ``hops`` steps of it, and the edges with an end
    within ``hops`` − 1. Degrees count these edges and no others: those of the outermost nodes
    would otherwise tell of nodes one step further out.

    Args:
        adj: The whole adjacency, without candidate pairs.
        roots: (B,) nodes.
        hops: Number of layers; 0 gives the roots alone.

    Returns:
        (nodes, adj) as from ``sample`` with ``separate``; the copy of root i is row i.
    """
    if hops == 0:
        count = len(roots)
        alone = CSR(roots.new_zeros(count + 1), roots.new_zeros(0), count)
        return roots, Adj(csr=alone, roots=roots, owner=torch.arange(count))
    nodes, batch = sample(adj, roots, (-1,) * hops, Rng(0), separate=True)
    widest = batch.hops[0]
    row, col = widest.csr.coo
    values = torch.ones(widest.csr.nnz) if widest.weight is None else widest.weight
    degree = torch.zeros(widest.csr.num_cols).index_add(0, row, values)
    rim = col >= widest.num_nodes
    degree = degree.index_add(0, col[rim], values[rim])
    own = tuple(replace(hop, degree=degree[: hop.csr.num_cols]) for hop in batch.hops)
    return nodes, replace(batch, hops=own)


def _draw(
    indptr: np.ndarray, nodes: np.ndarray, fanout: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Entries kept for each of ``nodes``, and the position of the node each belongs to."""
    counts = indptr[nodes + 1] - indptr[nodes]
    entry, row = entries_of(indptr, nodes)
    rank = entry - indptr[nodes][row]
    if fanout < 0 or not (counts > fanout).any():
        return entry, row
    order = np.lexsort((generator.random(len(entry)), row))
    keep = np.sort(order[rank < fanout])
    return entry[keep], row[keep]


def entries_of(indptr: np.ndarray, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All entries of the rows ``nodes``, and the position of the node each belongs to."""
    counts = indptr[nodes + 1] - indptr[nodes]
    row = np.repeat(np.arange(len(nodes)), counts)
    first = np.concatenate([[0], counts.cumsum()])[:-1]
    return np.arange(len(row)) + (indptr[nodes] - first)[row], row


def batches(
    adj: Adj, nodes: Tensor, size: int, fanouts: Sequence[int], rng: Rng, *, shuffle: bool = True
) -> Iterator[tuple[Tensor, Tensor, Adj]]:
    """Batches of roots with their neighbourhoods: (roots, input nodes, adjacency)."""
    order = nodes[torch.randperm(len(nodes), generator=rng["order"].torch())] if shuffle else nodes
    for i, start in enumerate(range(0, len(order), size)):
        roots = order[start : start + size]
        yield roots, *sample(adj, roots, fanouts, rng["batch"][i])


def take(x: Tensor | Features, nodes: Tensor) -> Tensor | Features:
    """Rows of dense or sparse features."""
    if isinstance(x, Tensor):
        if x.layout == torch.strided:
            return x[nodes]
        x = Features.of(x)
    return x.rows(nodes)
