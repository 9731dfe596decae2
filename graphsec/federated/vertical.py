"""The model that a vertical federation ends with: one backbone a party, joined by their sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphsec.federated.mechanisms import Sketch
from graphsec.models.base import GNN, Capabilities
from graphsec.models.rating import Rater
from graphsec.ops import CSR, Adj, Features


class Vertical(GNN):
    """Each party's backbone on its own part of the graph, exchanging sums as in training.

    Users have an embedding at each party. The answer holds them side by side, and an item's only
    in the columns of its party, zero elsewhere: inner products are then each party's own.

    Args:
        parts: The backbones: tables of all users and of the party's items.
        owner: (items,) the party of each item.
        users: Number of users.
        exchange: Whether parties add the others' sums to their own.
        rows: Rows of the projection that sums go through; 0 is none.
        shared: Whether degrees are those of the whole graph, or extrapolated from the part
            (and the part's own where nothing is exchanged).
    """

    capabilities: ClassVar[Capabilities] = Capabilities(
        tasks=("rating", "ranking"), sampled=False, per_sample=False
    )

    def __init__(
        self, parts: Sequence[Rater], owner: Tensor, users: int, exchange: bool, rows: int,
        shared: bool,
    ) -> None:  # fmt: skip
        super().__init__(parts[0].layers)
        self.parts = nn.ModuleList(parts)
        self.users, self.exchange, self.rows, self.shared = users, exchange, rows, shared
        self.owner: Tensor
        self.register_buffer("owner", owner)
        # The projection of the last round is a part of the model.
        self.bucket: Tensor
        self.sign: Tensor
        columns = users if rows else 0
        self.register_buffer("bucket", torch.zeros(columns, dtype=torch.int64))
        self.register_buffer("sign", torch.ones(columns))

    @property
    def sketch(self) -> Sketch | None:
        """The projection, None where there is none."""
        return Sketch(self.bucket, self.sign, self.rows) if self.rows else None

    def nodes(self, party: int) -> Tensor:
        """All users, and the items of a party."""
        mine = (self.owner == party).nonzero().ravel() + self.users
        return torch.cat([torch.arange(self.users, device=mine.device), mine])

    def blocks(self, adj: Adj) -> list[Adj]:
        """The part of the graph that each party has; weights stay differentiable."""
        if adj.num_nodes != self.users + len(self.owner):
            raise ValueError(
                f"Vertical has embeddings of {self.users + len(self.owner)} nodes, "
                f"the graph has {adj.num_nodes}"
            )
        whole = adj.merged()
        assert whole.weight is not None
        total = adj.degrees()
        row, col = whole.csr.coo
        item = torch.where(row >= self.users, row, col) - self.users
        party = self.owner[item]
        out = []
        for index in range(len(self.parts)):
            nodes = self.nodes(index)
            place = torch.full((adj.num_nodes,), -1, device=row.device)
            place[nodes] = torch.arange(len(nodes), device=row.device)
            entry = (party == index).nonzero().ravel()
            rows = place[row[entry]]
            order = (rows * len(nodes) + place[col[entry]]).argsort()
            entry, rows = entry[order], rows[order]
            counts = torch.bincount(rows, minlength=len(nodes))
            indptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
            csr = CSR(indptr, place[col[entry]], len(nodes))
            part = Adj(csr=csr, weight=whole.weight[entry])
            if self.shared:
                degree = torch.cat([total[: self.users], part.degrees()[self.users :]])
            else:
                own = part.degrees()
                mine = max(len(nodes) - self.users, 1)
                factor = len(self.owner) / mine if self.exchange else 1.0
                degree = torch.cat([own[: self.users] * factor, own[self.users :]])
            out.append(replace(part, degree=degree))
        return out

    def hidden(self, x: Tensor | Features, adj: Adj) -> list[Tensor]:
        """The embeddings (n, parties · (width + 2)) alone."""
        parts = [part for part in self.parts if isinstance(part, Rater)]
        operators = [part.operator(b) for part, b in zip(parts, self.blocks(adj), strict=True)]
        states: list[list[Tensor]] = [[part.table] for part in parts]
        for layer in range(self.layers or 0):
            sums = [
                part.gather(layer, state[-1], operator)
                for part, state, operator in zip(parts, states, operators, strict=True)
            ]
            if self.exchange and len(parts) > 1:
                sums = self._exchanged(sums)
            for part, state, own in zip(parts, states, sums, strict=True):
                state.append(part.update(layer, state[-1], own))
        read = [part.read(state) for part, state in zip(parts, states, strict=True)]
        width = read[0].shape[1]
        items = read[0].new_zeros(len(self.owner), width * len(parts))
        for index, z in enumerate(read):
            mine = (self.owner == index).nonzero().ravel()
            columns = F.pad(z[self.users :], (index * width, (len(parts) - index - 1) * width))
            items = items.index_add(0, mine, columns)
        return [torch.cat([torch.cat([z[: self.users] for z in read], 1), items])]

    def _exchanged(self, sums: list[Tensor]) -> list[Tensor]:
        """Everybody's sums with those of the others added, decoded from their projections."""
        sketch, users = self.sketch, self.users
        sent = [own[:users] if sketch is None else sketch.encode(own[:users]) for own in sums]
        out = []
        for index, own in enumerate(sums):
            others = torch.stack([s for p, s in enumerate(sent) if p != index]).sum(0)
            others = others if sketch is None else sketch.decode(others)
            out.append(own + F.pad(others, (0, 0, 0, len(own) - users)))
        return out
