"""Gradient shilling: fake users whose interactions follow the gradient of a surrogate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from graphsec.attacks.shilling._profiles import ShillingAttack, draw, popularity
from graphsec.graph import Graph
from graphsec.registry import ATTACKS, Range
from graphsec.rng import Rng
from graphsec.threat import Access, View


@ATTACKS.register("shilling-gradient")
@dataclass(frozen=True, kw_only=True)
class GradientShilling(ShillingAttack):
    """Fake users' fillers are exchanged along the gradient of a surrogate, user by user.

    The surrogate is LightGCN's propagation without anything learned: users' scores are
    R̃ R̃ᵀ R̃ with R̃ = D_U^-½ R D_I^-½ over genuine and fake users (a linear filter, as in
    GF-CF). It has no weights, so that no training stands between interactions and scores: the
    gradient in the relaxed interactions is exact. The loss is the mean over users and promoted
    items of softplus((θ_u − s) / scale), where θ_u is the user's 20th best score before the attack
    and the scale the mean of these. Fake users begin as in the average attack. Then one after the
    other gives up its fillers of the worst gradient for the items of the best: all of them, a
    quarter, or one in sixteen, whatever lowers the loss most, if any does. (Moving all at once
    makes them alike, which is worse than random once it is rounded.) Memory is interactions and
    fake users × items.

    Source: relaxed interactions and their gradients as Li, Wang, Singh & Vorobeychik, Data
    Poisoning Attacks on Factorization-Based Collaborative Filtering, NeurIPS 2016, §4; the
    surrogate is the linear filter of Shen et al., How Powerful is Graph Convolution for
    Recommendation?, CIKM 2021 (from memory). Their combination and the exchanges are ours.

    Attributes:
        rounds: How often each fake user's turn comes.
    """

    rounds: Annotated[int, Field(ge=1), Range(1, 5)] = 1

    @property
    def needs(self) -> Access:
        """The interactions, for the surrogate."""
        return Access.EDGES

    def fillers(self, view: View, promoted: Tensor, users: int, each: int, rng: Rng) -> Tensor:
        """What no exchange that was tried makes better."""
        surrogate = _Filter(view.known, promoted)
        weight = (popularity(view.known) + 1e-9).repeat(users, 1)
        weight[:, promoted] = 0
        found = draw(weight, each, rng)
        w = torch.zeros(users, surrogate.items).scatter_(1, found, 1.0)
        for _ in range(self.rounds):
            for user in range(users):
                w = self._exchanged(surrogate, w, user, each)
        return w.topk(each, 1).indices

    def _exchanged(self, surrogate: _Filter, w: Tensor, user: int, each: int) -> Tensor:
        """The interactions with the best exchange of one user's fillers."""
        leaf = w.clone().requires_grad_()
        loss = surrogate.loss(leaf)
        (slope,) = torch.autograd.grad(loss, leaf)
        mine, gain = w[user], -slope[user]
        gain[surrogate.promoted] = -torch.inf
        out = torch.where(mine > 0, gain, torch.inf).argsort()
        into = torch.where(mine > 0, -torch.inf, gain).argsort(descending=True)
        best, chosen = float(loss.detach()), w
        for count in dict.fromkeys(max(1, each // part) for part in (1, 4, 16)):
            count = min(count, len(mine) - each - len(surrogate.promoted))
            tried = w.clone()
            tried[user, out[:count]] = 0
            tried[user, into[:count]] = 1
            with torch.no_grad():
                now = float(surrogate.loss(tried))
            if now < best:
                best, chosen = now, tried
        return chosen


class _Filter:
    """The surrogate's loss as a function of fake users' interactions."""

    def __init__(self, graph: Graph, promoted: Tensor, ranked: int = 20) -> None:
        users = graph.num_users
        self.promoted, self.items = promoted, graph.num_nodes - users
        user, item = graph.pairs
        self.shape = (users, self.items)
        self.taken = torch.sparse_coo_tensor(
            torch.stack([user, item - users]), torch.ones(len(user)), self.shape,
            check_invariants=True,
        ).coalesce()  # fmt: skip
        self.by_item = self.taken.t().coalesce()
        degree = graph.degree.double().float()
        self.left = degree[:users].clamp(min=1).rsqrt().unsqueeze(1)
        self.degree = degree[users:]
        self.threshold = self._threshold(ranked)
        self.scale = float(self.threshold.mean().clamp(min=1e-12))
        own = torch.sparse.mm(self.taken, F.one_hot(promoted, self.items).float().T)
        self.new = own == 0  # who has not taken an item

    def _threshold(self, ranked: int, block: int = 512) -> Tensor:
        """(users, 1) score of the last item that a user is shown, before the attack."""
        right = self.degree.clamp(min=1).rsqrt()
        found = []
        for part in torch.split(torch.arange(self.shape[0]), block):
            rows = torch.stack([self.taken[int(u)].to_dense() for u in part])
            walk = (rows * self.left[part] * right * right).T
            back = torch.sparse.mm(self.taken, walk) * self.left.square()
            scores = torch.sparse.mm(self.by_item, back).T * right
            scores[rows > 0] = -torch.inf
            last = min(ranked, scores.shape[1])
            found.append(scores.topk(last, 1).values[:, -1:].clamp(min=0))
        return torch.cat(found)

    def loss(self, w: Tensor) -> Tensor:
        """Mean softplus((θ_u − s_ut) / scale) of users who have not taken t."""
        hot = F.one_hot(self.promoted, self.items).float().sum(0)
        w = w + hot  # fake users take what they promote
        right = (self.degree + w.sum(0)).clamp(min=1).rsqrt().unsqueeze(1)
        fake = w * w.sum(1, keepdim=True).clamp(min=1).rsqrt()
        pick = F.one_hot(self.promoted, self.items).float().T * right  # (items, t)
        across = torch.sparse.mm(self.by_item, self.left.square() * torch.sparse.mm(
            self.taken, pick
        )) + fake.T @ (fake @ pick)  # fmt: skip
        scores = torch.sparse.mm(self.taken, right.square() * across) * self.left
        return F.softplus((self.threshold - scores) / self.scale)[self.new].mean()
