"""Link stealing: nodes that are answered alike are probably linked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from graphsec.attacks.base import Attack
from graphsec.outcome import LinkScores
from graphsec.registry import ATTACKS
from graphsec.rng import Rng
from graphsec.threat import Access, Timing, View

Distance = Literal[
    "cosine", "euclidean", "correlation", "chebyshev", "braycurtis", "canberra", "cityblock",
    "sqeuclidean",
]  # fmt: skip

_ALL_PAIRS = 5_000  # nodes up to which every pair is scored when no question is asked
_CHUNK = 131_072


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    norm = a.norm(dim=1) * b.norm(dim=1)
    # A row without direction is unlike any other: distance 1.
    return 1 - torch.where(norm > 0, (a * b).sum(1) / norm.clamp(min=1e-300), 0.0)


def _braycurtis(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().sum(1) / (a + b).abs().sum(1)


def _canberra(a: Tensor, b: Tensor) -> Tensor:
    size = a.abs() + b.abs()
    return torch.where(size > 0, (a - b).abs() / size.clamp(min=1e-300), 0.0).sum(1)


def _centred(a: Tensor) -> Tensor:
    return a - a.mean(1, keepdim=True)


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": _cosine,
    "euclidean": lambda a, b: (a - b).norm(dim=1),
    "correlation": lambda a, b: _cosine(_centred(a), _centred(b)),
    "chebyshev": lambda a, b: (a - b).abs().amax(1),
    "braycurtis": _braycurtis,
    "canberra": _canberra,
    "cityblock": lambda a, b: (a - b).abs().sum(1),
    "sqeuclidean": lambda a, b: (a - b).square().sum(1),
}


def distances(posteriors: Tensor, pairs: Tensor, name: Distance) -> Tensor:
    """Distance between the posteriors of each pair, in memory linear in the pairs.

    Args:
        posteriors: (n, classes) rows that are compared.
        pairs: (2, k) indices of rows.
        name: Which distance, as in ``scipy.spatial.distance``; a row without direction has
            cosine and correlation distance 1 to any other, where scipy gives NaN.

    Returns:
        (k,) float64.
    """
    rows = posteriors.double()
    parts = torch.split(pairs, _CHUNK, 1)
    measure = DISTANCES[name]
    return torch.cat([measure(rows[part[0]], rows[part[1]]) for part in parts])


def ranked(values: Tensor) -> Tensor:
    """Average ranks in (0, 1]; equal values share theirs."""
    _, place, counts = np.unique(values.numpy(), return_inverse=True, return_counts=True)
    mean = counts.cumsum() - (counts - 1) / 2
    return torch.from_numpy(mean[place] / len(values))


@ATTACKS.register("link-stealing")
@dataclass(frozen=True, kw_only=True)
class LinkStealing(Attack):
    """Scores pairs by how near the victim's answers to their two nodes are.

    The attacker knows neither features nor edges nor any labelled pair ("attack-0"): a pair
    scores minus the distance of its posteriors. The combination takes, without fitting
    anything, the mean over the eight distances of the pair's rank (0 to 1) among all pairs
    asked about, so that no distance outweighs another by its scale.

    Source: He et al., Stealing Links from Graph Neural Networks, USENIX Security 2021, §4.2 and
    the distances of its appendix; the unsupervised combination is ours.

    Attributes:
        distance: One of the eight distances, or "combined".
    """

    game = "links"
    timing: ClassVar[Timing] = "inference"

    distance: Literal[Distance, "combined"] = "combined"

    @property
    def needs(self) -> Access:
        """The victim's scores for the nodes in question."""
        return Access.SCORES

    def run(self, view: View, rng: Rng) -> LinkScores:
        """A score for each pair asked about; all pairs of a small graph where none is asked."""
        pairs = view.question
        if pairs is None:
            n = view.known.num_nodes
            if n > _ALL_PAIRS:
                raise ValueError(
                    f"attack 'link-stealing' scores all pairs of up to {_ALL_PAIRS} nodes, "
                    f"{view.known.name!r} has {n}: pass question=secret.question"
                )
            pairs = torch.triu_indices(n, n, 1)
        nodes, place = torch.unique(pairs, return_inverse=True)
        posteriors = view.logits(nodes).softmax(1)
        if self.distance != "combined":
            return LinkScores(pairs=pairs, scores=-distances(posteriors, place, self.distance))
        total = torch.zeros(pairs.shape[1], dtype=torch.float64)
        names: tuple[Distance, ...] = get_args(Distance)
        for name in names:
            total += ranked(-distances(posteriors, place, name))
        return LinkScores(pairs=pairs, scores=total / len(names))
