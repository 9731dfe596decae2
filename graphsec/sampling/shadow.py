"""shaDow: a subgraph around each node, on which a model of any depth gives that node's answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from graphsec.ops import CSR, Adj, Features, visited
from graphsec.registry import SAMPLERS, Component, Range
from graphsec.rng import Rng
from graphsec.sampling.hops import entries_of, take

Pooling = Literal["center", "mean", "max"]
Model = Callable[[Tensor | Features, Adj], Tensor]

_ANSWERED = 512  # roots at a time in ``answers``


@SAMPLERS.register("shadow")
@dataclass(frozen=True, kw_only=True)
class Shadow(Component):
    """Depth and scope decoupled: each node has a small subgraph of its own, kept apart from others.

    The model sees one adjacency of all subgraphs of a batch, side by side, with the degrees of the
    whole graph; the answer about a node is read at its own copy, or pooled over its subgraph.
    Where the subgraph holds all that the model's layers reach, the answer is that of the whole
    graph.

    Source: Zeng et al., Decoupling the Depth and Scope of Graph Neural Networks, NeurIPS 2021, §3;
    k = 200, threshold .01 and ε = 1e-6 as in its published configurations. Pooling is over the
    logits, not over hidden states as in its §3.4.

    Attributes:
        hops: All nodes within so many hops; None takes those of the largest personalised PageRank.
        nodes: Most nodes of a subgraph by PageRank.
        threshold: PageRank below this share of the best neighbour's is left out.
        epsilon: Precision of PageRank.
        teleport: Probability that its walk starts again.
        pooling: How a root's logits are read from its subgraph.
    """

    kind: ClassVar[str] = "sampler"

    hops: Annotated[int, Field(ge=0, le=64)] | None = None
    nodes: Annotated[int, Field(ge=1), Range(20, 200, log=True)] = 200
    threshold: Annotated[float, Field(ge=0, le=1), Range(1e-3, 1e-1, log=True)] = 0.01
    epsilon: Annotated[float, Field(gt=0, lt=1)] = 1e-6
    teleport: Annotated[float, Field(gt=0, le=1), Range(0.05, 0.5)] = 0.15
    pooling: Pooling = "center"

    @torch.no_grad()
    def scopes(self, adj: Adj, roots: Tensor) -> Scopes:
        """The nodes of each root's subgraph; drawn from no random numbers.

        Args:
            adj: Plain adjacency; candidate pairs count with the weight that they have.
            roots: (B,) nodes.
        """
        adj = _fixed(adj)
        if self.hops is not None:
            owner, nodes = _ball(adj, roots.numpy(), self.hops)
            indptr = np.searchsorted(owner, np.arange(len(roots) + 1))
            return Scopes(adj, roots, torch.from_numpy(indptr), torch.from_numpy(nodes))
        indptr_t, found, _ = visited(
            adj, roots, most=self.nodes, threshold=self.threshold,
            teleport=self.teleport, epsilon=self.epsilon,
        )  # fmt: skip
        owner = np.repeat(np.arange(len(roots)), indptr_t.diff().numpy())
        order = np.lexsort((found.numpy(), owner))
        return Scopes(adj, roots, indptr_t, found[torch.from_numpy(order)])

    @torch.no_grad()
    def answers(self, model: Model, x: Tensor | Features, scopes: Scopes) -> Tensor:
        """(B, classes) logits of all roots, a few hundred at a time."""
        if not len(scopes.roots):
            return model(x, scopes.adj)[:0]
        parts = []
        for index in torch.split(torch.arange(len(scopes.roots)), _ANSWERED):
            nodes, adj = scopes.batch(index)
            logits = model(take(x, nodes), adj)
            parts.append(read(logits, adj, scopes.roots[index], self.pooling))
        return torch.cat(parts)


@dataclass(frozen=True, eq=False)
class Scopes:
    """The nodes of the subgraphs of some roots.

    Args:
        adj: The whole adjacency, without gradients or candidate pairs.
        roots: (B,) nodes.
        indptr: (B + 1,) where each root's nodes stand.
        nodes: Nodes of all subgraphs, rising within each.
    """

    adj: Adj
    roots: Tensor
    indptr: Tensor
    nodes: Tensor

    def batch(self, index: Tensor) -> tuple[Tensor, Adj]:
        """The subgraphs of some roots, side by side.

        Args:
            index: (b,) positions in ``roots``.

        Returns:
            (nodes, adj): the node that each row is a copy of, and the adjacency of the copies,
            with ``roots`` (their rows), ``owner`` (0 … b − 1) and the degrees of the whole graph.
        """
        n, whole = self.adj.num_nodes, self.adj
        counts = self.indptr.diff()[index]
        owner = torch.repeat_interleave(counts)
        start = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        place = torch.arange(len(owner)) - start[owner] + self.indptr[index][owner]
        nodes = self.nodes[place]
        codes = (owner * n + nodes).numpy()
        entry, row = entries_of(whole.csr.indptr.numpy(), nodes.numpy())
        wanted = owner.numpy()[row] * n + whole.csr.indices.numpy()[entry]
        column = np.minimum(np.searchsorted(codes, wanted), max(len(codes) - 1, 0))
        inside = codes[column] == wanted
        filled = np.bincount(row[inside], minlength=len(codes))
        kept = torch.from_numpy(entry[inside])
        csr = CSR(
            torch.from_numpy(np.concatenate([[0], filled.cumsum()]).astype(np.int64)),
            torch.from_numpy(column[inside].astype(np.int64)),
            len(codes),
        )
        roots = np.searchsorted(codes, (torch.arange(len(index)) * n + self.roots[index]).numpy())
        return nodes, Adj(
            csr=csr,
            weight=None if whole.weight is None else whole.weight[kept],
            degree=whole.degrees()[nodes],
            roots=torch.from_numpy(roots),
            owner=owner,
            final=whole.final,
        )

    def batches(self, size: int, rng: Rng) -> Iterator[tuple[Tensor, Tensor, Adj]]:
        """Shuffled batches of all roots: (roots, nodes of the copies, adjacency)."""
        order = torch.randperm(len(self.roots), generator=rng["order"].torch())
        for part in torch.split(order, size):
            yield self.roots[part], *self.batch(part)


def read(logits: Tensor, adj: Adj, roots: Tensor, pooling: Pooling = "center") -> Tensor:
    """(B, classes) logits of the roots, out of a model's output.

    Args:
        logits: Output of the model on ``adj``.
        adj: The whole graph, sampled hops, or subgraphs side by side.
        roots: (B,) the nodes asked about.
        pooling: How subgraphs are read: at the root's copy, or the mean or maximum of all copies.
    """
    if adj.hops:
        return logits  # the rows of the last hop are the roots
    if adj.owner is None:
        return logits[roots]
    assert adj.roots is not None
    if pooling == "center":
        return logits[adj.roots]
    zeros = logits.new_zeros(len(roots), logits.shape[1])
    if pooling == "mean":
        count = torch.bincount(adj.owner, minlength=len(roots)).unsqueeze(1)
        return zeros.index_add(0, adj.owner, logits) / count
    owner = adj.owner.unsqueeze(1).expand_as(logits)
    return zeros.scatter_reduce(0, owner, logits, "amax", include_self=False)


def _fixed(adj: Adj) -> Adj:
    """Edges of today: no gradients, no candidate pairs, no entries of weight 0."""
    if adj.block is not None or adj.factors is not None:
        adj = replace(adj.merged(), final=adj.final)
    weight = None if adj.weight is None else adj.weight.detach()
    return replace(adj, weight=weight).pruned()


def _ball(adj: Adj, roots: np.ndarray, hops: int) -> tuple[np.ndarray, np.ndarray]:
    """(owner, node) of all nodes within some hops of each root, in order."""
    n = adj.num_nodes
    codes = front = np.arange(len(roots)) * n + roots
    for _ in range(hops):
        entry, row = entries_of(adj.csr.indptr.numpy(), front % n)
        front = np.setdiff1d(front[row] // n * n + adj.csr.indices.numpy()[entry], codes)
        codes = np.union1d(codes, front)
    return codes // n, codes % n
