"""What detectors of fake users share: the most suspicious users' interactions are left out."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import numpy as np
import scipy.sparse as sp
import torch
from pydantic import Field
from torch import Tensor

from graphsec.defenses.base import Defense
from graphsec.graph import Graph
from graphsec.models.base import GNN, Sizes
from graphsec.ops import Adj, Features
from graphsec.predict import How, Predictor
from graphsec.registry import Range
from graphsec.rng import Rng
from graphsec.train import OnEpoch, Recipe, Trace
from graphsec.train import fit as train_model


@dataclass(frozen=True, kw_only=True)
class FakeUsers(Defense):
    """Base of defenses that drop the interactions of the users who look most like fakes.

    Training and answers are without them. The share to drop is given, not found.

    Attributes:
        share: Share of the users that is dropped.
    """

    tasks: ClassVar[tuple[str, ...]] = ("ranking",)

    share: Annotated[float, Field(ge=0, lt=1), Range(0.01, 0.2, log=True)] = 0.05
    _users: int = field(init=False, default=0, repr=False, compare=False)

    def suspect(self, taken: sp.csr_matrix) -> Tensor:
        """(users,) how likely each is a fake, by who took what (users, items)."""
        raise NotImplementedError

    def suspicion(self, graph: Graph) -> Tensor:
        """As ``suspect`` says."""
        return self.suspect(graph.to_scipy()[: graph.num_users, graph.num_users :])

    def dropped(self, taken: sp.csr_matrix) -> Tensor:
        """The users (k,) to drop."""
        count = int(self.share * taken.shape[0] + 1e-9)
        return self.suspect(taken).argsort(descending=True, stable=True)[:count]

    # -- the way through ----------------------------------------------------------------------

    def _of(self, users: int) -> FakeUsers:
        """For graphs of so many users: an adjacency does not say who is one."""
        other = copy.copy(self)
        object.__setattr__(other, "_users", users)
        return other

    def drawn(self, graph: Graph, rng: Rng) -> Defense:
        """For the users of a graph; nothing is drawn."""
        return self._of(graph.num_users)

    def predictor(self, recipe: Recipe, sizes: Sizes) -> Predictor:
        """For the users that the model was built for."""
        made: Predictor = Defense.predictor(self._of(sizes.users), recipe, sizes)
        return made

    def sanitise(
        self, x: Tensor | Features, adj: Adj, how: How = "exact"
    ) -> tuple[Tensor | Features, Adj]:
        """Without the interactions of the users to drop; who they are has no gradient."""
        if how == "bypass" or not self._users:
            return x, adj
        whole = adj.merged()
        assert whole.weight is not None
        row, col = whole.csr.coo
        n, live = adj.num_nodes, (whole.weight.detach() != 0).numpy()
        entries = (row.numpy()[live], col.numpy()[live])
        matrix = sp.csr_matrix((np.ones(int(live.sum()), np.float32), entries), (n, n))
        keep = torch.ones(n, dtype=torch.bool)
        keep[self.dropped(matrix[: self._users, self._users :])] = False
        return x, Adj(csr=whole.csr, weight=whole.weight * (keep[row] & keep[col])).pruned()

    def train(
        self, model: GNN, graph: Graph, recipe: Recipe, rng: Rng, x: Tensor | Features, adj: Adj,
        on_epoch: OnEpoch | None = None, whole: Defense | None = None,
    ) -> Trace:  # fmt: skip
        """On the interactions of the other users."""
        users = graph.num_users
        gone = torch.zeros(graph.num_nodes, dtype=torch.bool)
        gone[self.dropped(graph.to_scipy()[:users, users:])] = True
        rest = graph.flip(graph.pairs[:, gone[graph.pairs[0]]])
        trace = train_model(
            model, rest, recipe.training, rng,
            x=x, adj=adj.pruned(), release=(whole or self).release, on_epoch=on_epoch,
        )  # fmt: skip
        trace.cost["dropped"] = float(gone.sum())
        return trace
