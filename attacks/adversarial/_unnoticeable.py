"""What goes unnoticed: degrees that keep their power law, words that go with a node's own."""

from __future__ import annotations

import math

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from graphsec.graph.arrays import as_scipy

D_MIN = 2  # the power law is fitted to degrees from here on
THRESHOLD = 0.004  # of the likelihood ratio, which is χ² with one degree of freedom


def likelihood_ratio(
    clean: Tensor, degree: Tensor, target: int, ends: Tensor, change: Tensor
) -> Tensor:
    """How much worse one power law fits clean and flipped degrees than one each.

    Source: Zügner et al., Adversarial Attacks on Neural Networks for Graph Data, KDD 2018, §4.1.

    Args:
        clean: (n,) degrees before the attack.
        degree: (n,) degrees now.
        target: One end of the next flip.
        ends: (k,) the other end.
        change: (k,) +1 for an addition, −1 for a deletion.

    Returns:
        (k,) −2 log of the ratio of likelihoods after each flip; the smaller the less noticeable.
    """

    def statistics(degrees: Tensor) -> Tensor:
        """(2, …) whether each degree counts, and its logarithm if it does."""
        counts = degrees >= D_MIN
        return torch.stack([counts.double(), degrees.clamp(min=1).double().log() * counts])

    before, now = statistics(clean).sum(1, keepdim=True), statistics(degree).sum(1, keepdim=True)
    both = torch.stack([degree[ends], degree[target].expand(len(ends))])
    after = now + (statistics(both + change) - statistics(both)).sum(1)
    return 2 * (_fit(before) + _fit(after) - _fit(before + after))


def _fit(statistics: Tensor) -> Tensor:
    """Log-likelihood of the power law of largest likelihood, from count and sum of logarithms."""
    count, logs = statistics
    alpha = 1 + count / (logs - count * math.log(D_MIN - 0.5))
    value = count * (alpha.log() + alpha * math.log(D_MIN)) - (alpha + 1) * logs
    return torch.where(count > 0, value, 0.0)


class Cooccurrence:
    """Words as a graph: an edge where two stand together at some node.

    A word may be added to a node where a step of a random walk from one of the node's own words,
    drawn uniformly, ends at it with more than half of the largest chance there could be, that of
    a word beside all of them. Taking a word away is never noticed.

    Source: Zügner et al., KDD 2018, §4.1.

    Args:
        x: (n, d) clean features; what is not 0 is a word.
    """

    def __init__(self, x: Tensor) -> None:
        has = (as_scipy(x) != 0).astype(np.int64)
        links = has.T @ has
        links -= sp.diags(links.diagonal(), dtype=np.int64)
        self._links = (links > 0).astype(np.float64)
        degree = self._links.getnnz(axis=1)
        self._step = np.where(degree > 0, 1 / degree.clip(min=1), 0.0)

    def may_add(self, words: Tensor) -> Tensor:
        """(d,) whether each word would go unnoticed beside words (d,), which are 0 or 1."""
        own = words.nonzero().ravel().numpy()
        chance = self._step[own] @ self._links[own]
        return torch.from_numpy(chance > 0.5 * self._step[own].sum())
