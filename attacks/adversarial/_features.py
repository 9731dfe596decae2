"""Feature entries as what an attack may change: binary ones are flipped, others move."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from graphsec.attacks.adversarial._search import Found, GlobalAttack, Objective, Targets
from graphsec.graph import Graph
from graphsec.graph.arrays import features, flip_entries
from graphsec.ops import CSR, Features
from graphsec.outcome import Perturbation
from graphsec.predict import Predictor
from graphsec.registry import SpecError
from graphsec.rng import Rng
from graphsec.search import Candidates
from graphsec.threat import View
from graphsec.threat.features import FeatureLimits


class Entries(Candidates):
    """Feature entries as pairs (node, n + column): the edges of a bipartite graph.

    Node budgets are then limits of its nodes, and what searches for edges searches for entries.
    Columns without a range are left out.
    """

    def __init__(self, n: int, limits: FeatureLimits, rng: Rng) -> None:
        self.n, self._columns = n, (limits.high > limits.low).nonzero().ravel().numpy()
        self._width = len(limits.low)
        self._generator = rng.numpy()

    @property
    def total(self) -> int:
        """Number of entries that can change."""
        return self.n * len(self._columns)

    def every(self) -> np.ndarray:
        """Sorted codes of all of them."""
        codes: np.ndarray = np.arange(self.n)[:, None] * self._width + self._columns
        return codes.ravel()

    def _codes(self, count: int) -> np.ndarray:
        if count >= self.total:
            return self.every()
        rows = self._generator.integers(0, self.n, count)
        columns = self._columns[self._generator.integers(0, len(self._columns), count)]
        codes: np.ndarray = np.unique(rows * self._width + columns)
        return codes

    def pairs(self, codes: np.ndarray) -> Tensor:
        """(2, k) node and n + column of codes."""
        return torch.from_numpy(np.vstack([codes // self._width, codes % self._width + self.n]))

    def codes(self, pairs: Tensor) -> np.ndarray:
        """Sorted codes of pairs (2, k)."""
        node, column = pairs.numpy()
        return np.sort(node * self._width + column - self.n)


class EntryObjective(Objective):
    """Entries of binary features as what may be flipped.

    Raises:
        SpecError: The features are not binary.
    """

    def __init__(self, attack: GlobalAttack, view: View) -> None:
        limits, self.graph = view.feature_limits, view.known
        if not limits.binary:
            raise SpecError(
                f"attack {attack.name!r} flips features of 0 and 1: x of {self.graph.name!r} "
                "must hold nothing else and threat.budget.feature_range must not be given; take "
                "'feature-pgd'"
            )
        n, d = self.graph.num_nodes, self.graph.num_features
        assert self.graph.x is not None
        self._who, self._limits, self._x = f"attack {attack.name!r}", limits, self.graph.x
        (self.budget, each), self.per_node = entry_budget(limits, self.graph), None
        if each < d:
            self.per_node = torch.cat([torch.full((n,), each), torch.full((d,), self.budget)])
        self.targets = Targets(self.graph, view.targets, attack.loss, attack.alpha)

    @property
    def possible(self) -> bool:
        """Whether the budgets allow any change."""
        return self.budget > 0 and Entries(1, self._limits, Rng(0)).total > 0

    def candidates(self, victim: Predictor | None, rng: Rng) -> Entries:
        """Random entries, of all nodes."""
        return Entries(self.graph.num_nodes, self._limits, rng)

    def outcome(self, best: Found, info: dict[str, Any]) -> Perturbation:
        """The features with the entries flipped."""
        return Perturbation(x=self._changed(best.flips), info=info)

    @torch.no_grad()
    def judge(self, victim: Predictor, flips: Tensor) -> Found:
        """What flipped entries (2, k) do to the targets."""
        logits = victim.forward(self._changed(flips), self.graph.adj)
        return Found(self.score(logits[self.targets.nodes]), flips)

    def _changed(self, pairs: Tensor) -> Tensor:
        """(n, d) features after flips, laid out as before."""
        return flip_entries(self._x, self._entries(pairs))

    def _entries(self, pairs: Tensor) -> Tensor:
        return torch.stack([pairs[0], pairs[1] - self.graph.num_nodes])

    def _logits(self, victim: Predictor, pairs: Tensor, weight: Tensor) -> Tensor:
        x = flipped(self._x, self._entries(pairs), weight)
        return victim.forward(x, self.graph.adj)[self.targets.nodes]


def entry_budget(limits: FeatureLimits, graph: Graph) -> tuple[int, int]:
    """Most entries of binary features flipped in all, and at a node; none where they are not."""
    n, d = graph.num_nodes, graph.num_features
    if not limits.binary or limits.change < 1:  # a flip moves an entry by 1, and k a node by √k
        return 0, 0
    each = min(limits.per_node, d)
    if limits.norm == "l2" and limits.change < d**0.5:
        each = min(each, int(limits.change**2 + 1e-6))
    return min(limits.entries, each * n), each


def laid_out(x: Tensor, clean: Tensor) -> Tensor:
    """Features x (n, d), sparse where the clean ones are and no more than half of them is not 0."""
    if clean.layout == torch.strided or int((x != 0).sum()) > x.numel() / 2:
        return x
    return features(sp.csr_matrix(x.numpy()))


def flipped(x: Tensor, entries: Tensor, weight: Tensor) -> Tensor | Features:
    """Binary features with entries flipped, as far as their weight says; sparse ones stay so.

    Args:
        x: (n, d) of zeros and ones.
        entries: (2, k) distinct nodes and columns.
        weight: (k,) 0 (not at all) to 1; may require gradients.
    """
    row, column = entries
    if x.layout == torch.strided:
        now = x[row, column]
        return x.index_put((row, column), now + weight * (1 - 2 * now))
    clean = Features.of(x)
    place = clean.csr.find(row, column)
    new = place < 0
    was = clean.values[place[~new]]
    values = clean.values.index_put((place[~new],), was + weight[~new] * (1 - 2 * was))
    rows = torch.cat([clean.csr.coo[0], row[new]])
    columns = torch.cat([clean.csr.indices, column[new]])
    order = (rows * x.shape[1] + columns).argsort()
    counts = torch.bincount(rows, minlength=x.shape[0])
    indptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    merged = torch.cat([values, weight[new].to(values.dtype)])[order]
    return Features(CSR(indptr, columns[order], x.shape[1]), merged)
