"""Subgraphs that share no node: a step draws some, and each has one clipped gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphsec.dp.accountant import SwappedTermDpEvent
from graphsec.dp.step import PrivateSteps
from graphsec.ops import CSR, Adj, Features
from graphsec.sampling import take
from graphsec.sampling.hops import entries_of


@dataclass(frozen=True, eq=False, kw_only=True)
class Cells:
    """Every cell is drawn with probability ``rate``; a cell sees the edges inside of it.

    Empty cells are drawn like others, so that nothing about a step but the terms of the cells
    depends on the graph. docs/privacy.md, "Disjoint cells", has what follows where the cell of a
    node depends on no other node and on no edge.

    Attributes:
        adj: The edges inside of cells.
        cell: (n,) the cell of each node, 0 … count − 1.
        count: m, the number of cells.
        rate: q.
        hops: 0; a subgraph is all that a cell sees, whatever the model's depth.
        sensitivity: Noise of one multiplier and clip norm 1 has this standard deviation.
    """

    adj: Adj
    cell: Tensor
    count: int
    rate: float
    hops: int = 0
    sensitivity: float = 1.0

    @staticmethod
    def of(adj: Adj, cell: Tensor, *, count: int, rate: float) -> Cells:
        """Cells of the whole graph ``adj``.

        Raises:
            ValueError: ``cell`` is not a number in 0 … count − 1 for each node.
        """
        if len(cell) != adj.num_nodes:
            raise ValueError(
                f"cells must be given for all {adj.num_nodes} nodes, got {len(cell)} of them"
            )
        if len(cell) and not 0 <= int(cell.min()) <= int(cell.max()) < count:
            raise ValueError(
                f"cells must lie in 0…{count - 1}, got {int(cell.min())}…{int(cell.max())}"
            )
        row, col = adj.csr.coo
        inside = (cell[row] == cell[col]).to(torch.float32)
        return Cells(adj=adj.scaled(inside, None).pruned(), cell=cell, count=count, rate=rate)

    @property
    def batch(self) -> float:
        """Cells of a step, in the mean; public, as their number is."""
        return self.rate * self.count

    @property
    def nodes(self) -> Tensor:
        """All cells, which are the roots here."""
        return torch.arange(self.count)

    def draw(self, generator: np.random.Generator) -> Tensor:
        """A Poisson sample of all cells, empty ones too."""
        return torch.from_numpy(generator.random(self.count) < self.rate).nonzero().ravel()

    def event(self, noise_multiplier: float) -> Any:
        """One term at most changes, and no other."""
        return SwappedTermDpEvent(noise_multiplier, self.rate)


class CellSteps(PrivateSteps):
    """Private steps on cells. The loss of a cell is the mean over its labelled nodes.

    Takes what ``PrivateSteps`` takes, with labels (n,) that are −1 for all nodes that are not
    trained on.
    """

    def __init__(self, *args: Any, roots: Cells, **kwargs: Any) -> None:
        super().__init__(*args, roots=roots, **kwargs)
        self.cells = roots
        self._order = roots.cell.argsort(stable=True)
        self._copies = roots.cell.bincount(minlength=roots.count).double()
        self._place = torch.empty_like(self._order)

    def total(self, roots: Tensor) -> dict[str, Tensor]:
        """Σ of the cells' clipped gradients; an empty cell adds nothing."""
        return super().total(roots[self._copies[roots] > 0])

    def _seen(self, roots: Tensor) -> tuple[Tensor | Features, Adj, Tensor]:
        """The subgraphs of cells that are not empty, side by side, and the labels in them."""
        size = self._copies.long()
        first = size.cumsum(0) - size
        owner = torch.repeat_interleave(size[roots])
        start = size[roots].cumsum(0) - size[roots]
        nodes = self._order[torch.arange(len(owner)) - start[owner] + first[roots][owner]]
        self._place[nodes] = torch.arange(len(nodes))
        whole = self.cells.adj
        entry, row = entries_of(whole.csr.indptr.numpy(), nodes.numpy())
        kept = torch.from_numpy(entry)
        counts = torch.from_numpy(np.bincount(row, minlength=len(nodes)))
        indptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        csr = CSR(indptr, self._place[whole.csr.indices[kept]], len(nodes))
        weight = None if whole.weight is None else whole.weight[kept]
        return take(self.x, nodes), Adj(csr=csr, weight=weight, owner=owner), self.y[nodes]


def hashed(nodes: int, cells: int, salt: int) -> Tensor:
    """(nodes,) the cell of each node by a hash of its number and a public salt, and nothing else.

    The finaliser of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014; from memory), modulo ``cells``.
    """
    start = np.full(1, salt % 2**64, np.uint64) * np.uint64(0xD1342543DE82EF95)
    z = np.arange(1, nodes + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + start
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return torch.from_numpy((z % np.uint64(cells)).astype(np.int64))


def walked(adj: Adj, length: int, generator: np.random.Generator) -> Tensor:
    """(n,) the walk that each node is on: walks of at most ``length`` nodes that share none.

    Walks start from the nodes in random order, those that no walk has been at, and go on to a
    neighbour that no walk has been at, drawn uniformly, until they are long enough or stuck.
    """
    indptr, indices = adj.csr.indptr.numpy(), adj.csr.indices.numpy()
    walk = np.full(adj.num_nodes, -1, np.int64)
    count = 0
    for node in generator.permutation(adj.num_nodes).tolist():
        if walk[node] >= 0:
            continue
        walk[node] = count
        for _ in range(length - 1):
            near = indices[indptr[node] : indptr[node + 1]]
            free = near[walk[near] < 0]
            if len(free) == 0:
                break
            node = int(free[generator.integers(len(free))])
            walk[node] = count
        count += 1
    return torch.from_numpy(walk)
