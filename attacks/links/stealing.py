"""Link stealing: nodes that are answered alike are probably linked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from graphsec.attacks.base import Attack
from graphsec.attacks.links._asked import asked
from graphsec.attacks.reconstruction._knowledge import combined
from graphsec.game import Links
from graphsec.graph import Graph
from graphsec.models.base import inputs
from graphsec.ops.similarity import pair_similarity
from graphsec.outcome import LinkScores
from graphsec.registry import ATTACKS, DATASETS, SpecError
from graphsec.rng import Rng
from graphsec.sampling import take
from graphsec.threat import Access, Timing, View

Knowledge = Literal["features", "partial", "shadow"]
Distance = Literal[
    "cosine", "euclidean", "correlation", "chebyshev", "braycurtis", "canberra", "cityblock",
    "sqeuclidean",
]  # fmt: skip

_TOGETHER = 65_536  # pairs that a classifier judges at once
_CHUNK = 262_144  # entries of compared rows in memory at once


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    norm = a.norm(dim=1) * b.norm(dim=1)
    # A row without direction is unlike any other: distance 1.
    return 1 - torch.where(norm > 0, (a * b).sum(1) / norm.clamp(min=1e-300), 0.0)


def _braycurtis(a: Tensor, b: Tensor) -> Tensor:
    size = (a + b).abs().sum(1)  # 0 of two empty rows, which are alike
    return torch.where(size > 0, (a - b).abs().sum(1) / size.clamp(min=1e-300), 0.0)


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


def distances(values: Tensor, pairs: Tensor, name: Distance) -> Tensor:
    """Distance between the rows of each pair, in memory linear in the pairs.

    Args:
        values: (n, d) rows that are compared: posteriors or features.
        pairs: (2, k) indices of rows.
        name: Which distance, as in ``scipy.spatial.distance``; a row without direction has
            cosine and correlation distance 1 to any other, where scipy gives NaN.

    Returns:
        (k,) float64.
    """
    rows = values.double()
    parts = torch.split(pairs, max(1, _CHUNK // max(1, rows.shape[1])), 1)
    measure = DISTANCES[name]
    return torch.cat([measure(rows[part[0]], rows[part[1]]) for part in parts])


def ranked(values: Tensor) -> Tensor:
    """Average ranks in (0, 1]; equal values share theirs."""
    from scipy.stats import rankdata

    return torch.from_numpy(rankdata(values.numpy()) / len(values))


def pair_features(
    posteriors: Tensor, x: Tensor | None, pairs: Tensor, *, classes: bool = True
) -> Tensor:
    """What a classifier of pairs sees; the same for (u, v) and (v, u).

    The mean, product, difference and squared difference of the two posteriors, and of their
    entropies; the eight distances of the posteriors, and of the features where they are known.

    Args:
        posteriors: (n, classes).
        x: (n, d) dense features, None where they are not known.
        pairs: (2, k) indices of rows.
        classes: Whether the posteriors' own columns are among them, which mean the same in graphs
            of the same classes only.

    Returns:
        (k, 12, and 4 · classes with ``classes``, and 8 with features) float64.
    """
    names: tuple[Distance, ...] = get_args(Distance)
    p = posteriors.double()
    entropy = -torch.xlogy(p, p).sum(1, keepdim=True)
    columns = []
    for rows in (p, entropy) if classes else (entropy,):
        a, b = rows[pairs[0]], rows[pairs[1]]
        columns += [(a + b) / 2, a * b, (a - b).abs(), (a - b).square()]
    for values in (p, x):
        if values is not None:
            columns += [distances(values, pairs, name).unsqueeze(1) for name in names]
    return torch.cat(columns, 1)


def classifier() -> Any:
    """A regression that standardises its input by the pairs it learns from, and no others."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))


@ATTACKS.register("link-stealing")
@dataclass(frozen=True, kw_only=True)
class LinkStealing(Attack):
    """Scores pairs by how near the victim's answers to their two nodes are.

    An attacker who knows nothing more ("attack 0") fits nothing: a pair scores minus the distance
    of its posteriors. The combination of distances is the mean over the eight of the pair's rank
    (0 to 1) among all pairs asked about, so that none outweighs another by its scale. With the
    nodes' features ("attack 2") Fisher's method joins that score with the cosine of the features.
    With a part of the graph ("attack 3", and with the features "attack 6") a logistic regression
    learns from the examples that the game reveals. With a shadow graph of the attacker's own
    (attacks 1, 4, 5 and 7) it learns, too or only, from the pairs of that graph and the answers of
    a model trained there as the victim was; it then sees what is comparable between graphs:
    distances and entropies.

    Source: He et al., Stealing Links from Graph Neural Networks, USENIX Security 2021, §4 and the
    distances of its appendix; knowledge and pair features from memory. The unsupervised
    combinations are ours, and so is the regression, where the paper has a perceptron.

    Attributes:
        distance: One of the eight distances, or "combined"; a classifier sees all.
        knows: What is known beside the posteriors: "features" of nodes, a "partial" graph, or a
            "shadow" graph.
        shadow: Name or spec of the dataset that is the shadow graph.
    """

    game = "links"
    timing: ClassVar[Timing] = "inference"

    distance: Literal[Distance, "combined"] = "combined"
    knows: tuple[Knowledge, ...] = ()
    shadow: str | dict[str, Any] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self._learns and self.distance != "combined":
            raise SpecError(
                f"attack 'link-stealing': distance must be 'combined' where a classifier learns "
                f"(knows {', '.join(self.knows)}), got {self.distance!r}"
            )
        if ("shadow" in self.knows) != (self.shadow is not None):
            raise SpecError(
                "attack 'link-stealing': shadow must name a dataset just where knows holds "
                f"'shadow', got shadow = {self.shadow!r} and knows = {self.knows}"
            )
        if self.shadow is not None:
            DATASETS.build(self.shadow)  # a wrong spec is found now

    @property
    def _learns(self) -> bool:
        return "partial" in self.knows or "shadow" in self.knows

    @property
    def needs(self) -> Access:
        """The victim's scores for the nodes in question, and what is known beside them."""
        return (
            Access.SCORES
            | (Access.FEATURES if "features" in self.knows else Access.NONE)
            | (Access.PARTIAL_EDGES if "partial" in self.knows else Access.NONE)
            | (Access.RECIPE if "shadow" in self.knows else Access.NONE)
        )

    def run(self, view: View, rng: Rng) -> LinkScores:
        """A score for each pair asked about; all pairs of a small graph where none is asked."""
        pairs = asked(view, self.name)
        if self._learns:
            return LinkScores(pairs=pairs, scores=self._learned(view, pairs, rng))
        nodes, place = torch.unique(pairs, return_inverse=True)
        scores = self._unsupervised(view.logits(nodes).softmax(1), place)
        if "features" in self.knows:
            alike = pair_similarity(inputs(view.known), pairs, "cosine")
            scores = combined([scores, alike])
        return LinkScores(pairs=pairs, scores=scores)

    def _unsupervised(self, posteriors: Tensor, pairs: Tensor) -> Tensor:
        if self.distance != "combined":
            return -distances(posteriors, pairs, self.distance)
        total = torch.zeros(pairs.shape[1], dtype=torch.float64)
        names: tuple[Distance, ...] = get_args(Distance)
        for name in names:
            total += ranked(-distances(posteriors, pairs, name))
        return total / len(names)

    def _learned(self, view: View, pairs: Tensor, rng: Rng) -> Tensor:
        none = (pairs[:, :0], torch.zeros(0, dtype=torch.int64))
        shown, answers = view.examples if "partial" in self.knows else none
        nodes, place = torch.unique(torch.cat([shown, pairs], 1), return_inverse=True)
        here = self._seen(view.known, nodes, view.logits(nodes))
        seen = [here(place[:, : shown.shape[1]])]
        truth = [answers]
        if self.shadow is not None:
            graph: Graph = DATASETS.build(self.shadow).load(rng["shadow"])
            _, secret = Links().prepare(graph, rng["pairs"])
            assert secret is not None
            model = view.train(graph, rng["model"])
            seen.append(self._seen(graph, None, model.logits(graph))(secret.question))
            truth.append(secret.answer)
        learned = classifier().fit(torch.cat(seen).numpy(), torch.cat(truth).numpy())
        parts = torch.split(place[:, shown.shape[1] :], _TOGETHER, 1)
        scores = [learned.decision_function(here(part).numpy()) for part in parts]
        return torch.from_numpy(np.concatenate(scores))

    def _seen(
        self, graph: Graph, nodes: Tensor | None, logits: Tensor
    ) -> Callable[[Tensor], Tensor]:
        """Features of pairs of rows of the logits, which are those of the nodes (None: all)."""
        x = None
        if "features" in self.knows:
            known = inputs(graph)
            x = (known if nodes is None else take(known, nodes)).to_dense()
        return partial(pair_features, logits.softmax(1), x, classes=self.shadow is None)
