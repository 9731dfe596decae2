"""Learning to rank items for users: triples, their loss, and the best items in blocks of users."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from graphsec.graph import Graph
from graphsec.metrics import hits, ndcg, recall
from graphsec.models.base import GNN
from graphsec.ops import Adj, Features
from graphsec.rng import Rng

if TYPE_CHECKING:
    from graphsec.train import Training

Draw = Literal["users", "interactions"]

# Scores held at a time when ranking: 64 MB, however many users and items there are.
BLOCK = 1 << 24
VALIDATE_AT = 20


class Triples:
    """Draws (user, item taken, item not taken), as many an epoch as there are interactions.

    Source: Rendle et al., BPR: Bayesian Personalized Ranking from Implicit Feedback, UAI 2009, §4.
    Users who took every item have no triple and are left out.

    Args:
        graph: Ranking graph.
        draw: "users" draws a user uniformly, then one of the user's items (what the published
            code of LightGCN does); "interactions" takes each once an epoch.

    Raises:
        ValueError: There is nothing to draw.
    """

    def __init__(self, graph: Graph, draw: Draw) -> None:
        self.draw = draw
        self.users, self.items = graph.num_users, graph.num_nodes - graph.num_users
        self.start = graph.indptr[: self.users + 1].cpu().numpy()
        self.taken = graph.indices[: self.start[-1]].cpu().numpy()
        self.degree = np.diff(self.start)
        self.able = np.flatnonzero((self.degree > 0) & (self.degree < self.items))
        if len(self.able) == 0:
            raise ValueError(f"edges in {graph.name!r} give no user an item taken and one not")
        # Entry j of a user has ``gap`` items not taken before it, so the r-th item not taken
        # lies behind the entries with gap ≤ r: one look-up, and never an item to reject.
        user = np.repeat(np.arange(self.users), self.degree)
        rank = np.arange(len(user)) - self.start[user]
        self.owner = user
        self.gap = user * (self.items + 1) + (self.taken - self.users - rank)

    def __len__(self) -> int:
        return len(self.taken)

    def epoch(self, generator: np.random.Generator) -> Tensor:
        """(3, m) nodes: users, items taken, items not taken."""
        if self.draw == "users":
            user = generator.choice(self.able, len(self))
            entry = self.start[user] + generator.integers(0, self.degree[user])
        else:
            entry = generator.permutation(len(self))
            entry = entry[self.degree[self.owner[entry]] < self.items]
            user = self.owner[entry]
        return torch.from_numpy(np.stack([user, self.taken[entry], self.others(user, generator)]))

    def hardest(
        self, z: Tensor, user: Tensor, first: Tensor, more: int, generator: np.random.Generator
    ) -> Tensor:
        """The highest ranked of an item not taken, ``first`` (B,), and ``more`` drawn for each.

        Source: Zhang, Chen, Wang & Yu, Optimizing Top-N Collaborative Filtering via Dynamic
        Negative Item Sampling, SIGIR 2013, §4: the largest of a uniform draw.
        """
        asked = user.cpu().numpy()
        rows, best = z[user], first
        score = (rows * z[first]).sum(1)
        for _ in range(more):
            other = torch.from_numpy(self.others(asked, generator)).to(z.device)
            found = (rows * z[other]).sum(1)
            best = torch.where(found > score, other, best)
            score = torch.maximum(found, score)
        return best

    def others(self, user: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """A uniform item not taken for each of ``user`` (m,)."""
        r = generator.integers(0, self.items - self.degree[user])
        key = user * (self.items + 1) + r
        before = np.searchsorted(self.gap, key, side="right") - self.start[user]
        found: np.ndarray = self.users + r + before
        return found


def bpr_loss(user: Tensor, taken: Tensor, other: Tensor) -> Tensor:
    """Mean −ln σ(⟨user, taken⟩ − ⟨user, other⟩) of (B, width) embeddings (Rendle et al. 2009)."""
    return F.softplus((user * (other - taken)).sum(1)).mean()


def top_items(
    z: Tensor, users: Tensor, num_users: int, k: int, exclude: Tensor, *, block: int = BLOCK
) -> Tensor:
    """Items of the largest ⟨user, item⟩, some pairs excluded.

    Args:
        z: (n, width) embeddings, users first.
        users: (u,) users to rank for.
        num_users: Number of users.
        k: Items a user.
        exclude: (2, m) pairs of user and item never to be ranked.
        block: Most scores held at a time (at least one user's).

    Returns:
        (u, k) item nodes, best first; −1 where the items run out.
    """
    items = z[num_users:].T.contiguous()
    # Excluded pairs in the order of their users, so that a block finds its own by slices.
    order = exclude[0].argsort(stable=True)
    column = exclude[1][order] - num_users
    start = torch.bincount(exclude[0], minlength=num_users).cumsum(0)
    start = torch.cat([start.new_zeros(1), start])
    parts = []
    for mine in torch.split(users, max(1, block // items.shape[1])):
        scores = z[mine] @ items
        count = start[mine + 1] - start[mine]
        row = torch.arange(len(mine), device=z.device).repeat_interleave(count)
        entry = torch.arange(len(row), device=z.device)
        entry += (start[mine] - count.cumsum(0) + count).repeat_interleave(count)
        scores[row, column[entry]] = -torch.inf
        best, found = scores.topk(min(k, items.shape[1]), dim=1)
        found = torch.where(best > -torch.inf, found + num_users, -1)
        parts.append(F.pad(found, (0, k - found.shape[1]), value=-1))
    return torch.cat(parts) if parts else users.new_zeros(0, k)


class BPR:
    """The ranking objective of one training: BPR with L2 on the rows of the batch.

    loss = mean softplus(s_other − s_taken) + λ/2 · Σ(‖e_u‖² + ‖e_i‖² + ‖e_j‖²) / B over the
    initial embeddings of the batch (He et al. 2020, eq. 15, restricted as in the authors' code).
    """

    def __init__(
        self, model: GNN, graph: Graph, training: Training, x: Tensor | Features, adj: Adj
    ) -> None:
        self.model, self.graph, self.training, self.x, self.adj = model, graph, training, x, adj
        self.triples = Triples(graph, training.triples)

    def losses(self, rng: Rng) -> Iterator[tuple[int, Tensor]]:
        """(triples, loss) of each step of an epoch."""
        drawn = self.triples.epoch(rng.numpy()).to(self.graph.indptr.device)
        generator = rng["negatives"].numpy()
        for batch in torch.split(drawn, self.training.batch_size or drawn.shape[1], dim=1):
            z = self.model(self.x, self.adj)
            if self.training.negatives > 1:
                user, taken, other = batch
                more = self.training.negatives - 1
                other = self.triples.hardest(z.detach(), user, other, more, generator)
                batch = torch.stack([user, taken, other])
            nodes, place = torch.unique(batch, return_inverse=True)
            z = z.index_select(0, nodes)
            loss = bpr_loss(*(z.index_select(0, part) for part in place))
            if self.training.weight_decay:
                # A node counts as often as the batch holds it.
                count = torch.bincount(place.ravel(), minlength=len(nodes)).to(z.dtype)
                rows = self.model.embeddings().index_select(0, nodes)
                penalty = (rows.square().sum(1) @ count) / (2 * batch.shape[1])
                loss = loss + self.training.weight_decay * penalty
            yield batch.shape[1], loss

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """NDCG and recall at 20 on the held-out validation pairs; nothing without any."""
        holdout = self.graph.holdout
        if holdout is None or holdout.val.shape[1] == 0:
            return {}
        self.model.eval()
        graph, users = self.graph, torch.unique(holdout.val[0])
        z = self.model(self.x, self.adj)
        ranked = top_items(z, users, graph.num_users, VALIDATE_AT, graph.pairs)
        hit, relevant = hits(ranked, users, holdout.val)
        return {"val_ndcg": ndcg(hit, relevant), "val_recall": recall(hit, relevant)}

    def settle(self) -> None:
        """Ranking leaves nothing open."""
