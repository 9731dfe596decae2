"""Nettack: greedy changes for a target, exactly scored on a linear surrogate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from graphsec.attacks.adversarial._features import entry_budget
from graphsec.attacks.adversarial._local import Changes, Row
from graphsec.attacks.adversarial._surrogate import Surrogate, SurrogateAttack, TargetRow
from graphsec.attacks.adversarial._unnoticeable import THRESHOLD, Cooccurrence, likelihood_ratio
from graphsec.graph.arrays import take_rows
from graphsec.registry import ATTACKS, Range
from graphsec.search import margins
from graphsec.threat import View


@ATTACKS.register("nettack")
@dataclass(frozen=True, kw_only=True)
class Nettack(SurrogateAttack):
    """Changes, one at a time, the pair or the word that lowers the target's margin most.

    The surrogate is Z = Â² X W + b (SGC), trained by the attacker on the known graph; the changes
    transfer to the victim, which is never asked, so that a defense is not adapted to. Margins
    after each single change are exact, for all candidates from a few sparse products. No flip
    leaves a node without edges, no change is taken back; the attack ends early where none lowers
    the margin.

    Pairs and words are those of the target itself, or of a few of its neighbours (influencers),
    whose pairs with the target are then left alone too. Each kind has a budget of its own: words
    are flipped where the threat has a budget of features and the features are binary, and at
    influencers, too, as many pairs as would be at the target.

    Source: Zügner et al., Adversarial Attacks on Neural Networks for Graph Data, KDD 2018, §4,
    algorithm 1 with the true label as the class to be left; undirected graphs. Influencers are
    chosen as in their published code.

    Attributes:
        unnoticeable: Whether the degrees must stay within a likelihood-ratio test of following
            the same power law as before (§4.1: d_min = 2, threshold 0.004), and added words must
            go with those of the node (``Cooccurrence``).
        influencers: Neighbours that are changed in place of the target: those whose edge holds
            its label up most (all, where it has fewer); 0 is the direct attack.
    """

    unnoticeable: bool = True
    influencers: Annotated[int, Field(ge=0), Range(0, 10)] = 0

    def entries(self, view: View) -> int:
        """Most feature entries flipped for a target."""
        return 0 if view.known.x is None else entry_budget(view.feature_limits, view.known)[0]

    def each(self, view: View, linear: Surrogate) -> Callable[[Row], Changes]:
        """Greedy changes for a target."""
        shared = _Shared(self, view, linear)
        return lambda row: _Greedy(shared, row).run()


class _Shared:
    """What all targets of an attack have in common."""

    def __init__(self, attack: Nettack, view: View, linear: Surrogate) -> None:
        self.attack, self.view, self.graph, self.linear = attack, view, view.known, linear

    @cached_property
    def words(self) -> Cooccurrence:
        """Which words go together."""
        assert self.graph.x is not None
        return Cooccurrence(self.graph.x)

    def addable(self, words: Tensor) -> Tensor:
        """(d,) which words may be added to a node that has words (d,): none that nobody has."""
        if self.attack.unnoticeable:
            return self.words.may_add(words)
        return self.view.feature_limits.high > 0


class _Found(NamedTuple):
    """A change and the margin after it: the other end v of a pair, or a column, at node p."""

    margin: float
    p: int = -1
    v: int = -1


class _Greedy:
    """The world of one target as it is changed, one pair or word after the other."""

    def __init__(self, shared: _Shared, row: Row) -> None:
        self.shared, self.row, self.linear = shared, row, shared.linear
        self.graph, self.target = row.graph, row.target
        each = shared.view.node_budget
        # Flips left at each node; none needs more than the whole budget.
        self.left = torch.full_like(self.graph.degree, row.budget) if each is None else each.clone()
        self.degree, self.h = self.graph.degree.clone(), self.linear.h
        self.pairs: list[tuple[int, int]] = []
        self.entries: list[tuple[int, int]] = []

    def run(self) -> Changes:
        """Change what lowers the margin most until the budgets are spent or nothing does."""
        self.attackers = self._attackers()
        self._read_words()
        while len(self.pairs) < self.row.budget or len(self.entries) < self.row.entries:
            now = self._now()
            lowest = float(self._margins(now.now.unsqueeze(0)))
            pair, entry = self._pair(now), self._entry(now)
            if not min(pair.margin, entry.margin) < lowest:
                break
            if pair.margin <= entry.margin:
                self._flip(pair.p, pair.v)
            else:
                self._change(entry.p, entry.v)
        flips, entries = (
            torch.tensor(made, dtype=torch.int64).view(-1, 2).T
            for made in (self.pairs, self.entries)
        )
        return Changes(flips.sort(dim=0).values, entries)

    def _now(self) -> TargetRow:
        flips = torch.tensor(self.pairs, dtype=torch.int64).view(-1, 2).T.sort(dim=0).values
        adj = self.graph.adj.with_block(flips, torch.ones(flips.shape[1]))
        return TargetRow(adj, self.h, self.target)

    def _margins(self, rows: Tensor) -> Tensor:
        return margins(rows + self.linear.bias, self.row.y.expand(len(rows)))

    def _attackers(self) -> list[int]:
        """The target; or the neighbours whose edge it would miss most."""
        count, t = self.shared.attack.influencers, self.target
        if count == 0:
            return [t]
        neighbours = self.graph.indices[self.graph.indptr[t] : self.graph.indptr[t + 1]]
        without = self._margins(self._now().flipped(t)[neighbours])
        chosen: list[int] = neighbours[without.argsort(stable=True)[:count]].tolist()
        return chosen

    def _read_words(self) -> None:
        """The words of every attacker, and those that it may be given."""
        if self.row.entries == 0:
            return
        assert self.graph.x is not None
        _, each = entry_budget(self.shared.view.feature_limits, self.graph)
        words = take_rows(self.graph.x, torch.tensor(self.attackers)).to_dense()
        self.words = dict(zip(self.attackers, words.bool(), strict=True))
        # Words may be taken away; of the others a few may be added. Nothing is taken back.
        self.free = {p: own | self.shared.addable(own) for p, own in self.words.items()}
        self.words_left = dict.fromkeys(self.attackers, each)

    def _pair(self, now: TargetRow) -> _Found:
        """The pair of an attacker whose flip leaves the lowest margin."""
        best = _Found(torch.inf)
        if len(self.pairs) == self.row.budget:
            return best
        clean, ends, unnoticeable = self.graph, self.row.ends, self.shared.attack.unnoticeable
        for p in self.attackers:
            change = torch.where(clean.has_edges(self._with(p)), -1, 1)
            allowed = (self.degree[ends] + change > 0) & (self.degree[p] + change > 0)
            allowed &= (self.left[ends] > 0) & (self.left[p] > 0) & (ends != p)
            if unnoticeable:
                ratio = likelihood_ratio(clean.degree, self.degree, p, ends, change)
                allowed &= ratio < THRESHOLD
            done = [u + v - p for u, v in self.pairs if p in (u, v)]
            allowed &= ~torch.isin(ends, torch.tensor(done, dtype=torch.int64))
            margin = self._margins(now.flipped(p)[ends])
            margin[~allowed] = torch.inf
            best = min(best, self._lowest(margin, p, ends))
        return best

    def _entry(self, now: TargetRow) -> _Found:
        """The word of an attacker whose flip leaves the lowest margin."""
        best = _Found(torch.inf)
        if len(self.entries) == self.row.entries:
            return best
        for p in self.attackers:
            if self.words_left[p]:
                moved = torch.where(self.words[p], -now.reach[p], now.reach[p]).unsqueeze(1)
                margin = self._margins(now.now + moved * self.linear.weight)
                margin[~self.free[p]] = torch.inf
                best = min(best, self._lowest(margin, p, torch.arange(len(margin))))
        return best

    @staticmethod
    def _lowest(margin: Tensor, p: int, which: Tensor) -> _Found:
        if len(margin) == 0:
            return _Found(torch.inf)
        i = int(margin.argmin())
        return _Found(float(margin[i]), p, int(which[i]))

    def _with(self, p: int) -> Tensor:
        """(2, k) the pairs of a node with all ends."""
        return torch.stack([self.row.ends, torch.full_like(self.row.ends, p)])

    def _flip(self, p: int, v: int) -> None:
        edge = bool(self.graph.has_edges(torch.tensor([[p], [v]])))
        self.degree[[p, v]] += -1 if edge else 1
        self.left[[p, v]] -= 1
        self.pairs.append((p, v))

    def _change(self, p: int, i: int) -> None:
        sign = -1 if self.words[p][i] else 1
        self.h = self.h.index_add(0, torch.tensor([p]), sign * self.linear.weight[i : i + 1])
        self.free[p][i] = False
        self.words_left[p] -= 1
        self.entries.append((p, i))
