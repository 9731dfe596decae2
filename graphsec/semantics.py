"""Which flips change what a node is, and which only what a model says about it.

In a contextual block model the class of a node, given its features, its edges and everybody
else's labels, has a posterior in closed form. Flips that move this posterior across 1/2 change the
semantics of the node: a model should follow. Flips that don't should leave its answer alone.

Source: Gosch, Sturm, Geisler & Günnemann, Revisiting Robustness in Graph Machine Learning,
ICLR 2023: over-robustness and the measures built on it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graphsec.datasets.synthetic import LabelledSBM
from graphsec.graph import Graph
from graphsec.outcome import Perturbation
from graphsec.predict import Predictor


@dataclass(frozen=True, kw_only=True)
class Bayes:
    """The best classifier of a node of ``csbm-pq``, who knows the labels of all others.

    Attributes:
        p_in: Probability of an edge inside a class, strictly between 0 and 1.
        p_out: Probability of an edge between classes, likewise.
        distance: Distance of the class means, in standard deviations of the features.
    """

    p_in: float
    p_out: float
    distance: float

    def __post_init__(self) -> None:
        for name in ("p_in", "p_out"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")

    @staticmethod
    def of(dataset: LabelledSBM) -> Bayes:
        """The classifier of a data set's graphs."""
        return Bayes(p_in=dataset.p_in, p_out=dataset.p_out, distance=dataset.distance)

    @property
    def per_flip(self) -> float:
        """How far one flip moves the log-odds: log of p (1 − q) over q (1 − p)."""
        p, q = self.p_in, self.p_out
        return math.log(p) - math.log(q) + math.log1p(-q) - math.log1p(-p)

    def log_odds(self, graph: Graph, nodes: Tensor) -> Tensor:
        """(k,) log-odds of class 1 for each node, given the rest of the graph and its labels.

        Features N((2y − 1) μ, I), independent edges, classes equally likely beforehand.
        """
        _check(graph)
        assert graph.y is not None
        assert graph.x is not None
        x = graph.x.to_dense()
        mean = torch.full((x.shape[1],), self.distance / 2 / x.shape[1] ** 0.5, dtype=torch.float64)
        sign = 2 * graph.y.double() - 1
        # Every other node votes for its own class where there is an edge, against it where not.
        absent = math.log1p(-self.p_in) - math.log1p(-self.p_out)
        neighbours = torch.zeros_like(sign).index_add(
            0, graph.edge_index[1], sign[graph.edge_index[0]]
        )
        edges = self.per_flip * neighbours[nodes] + absent * (sign.sum() - sign[nodes])
        return 2 * x[nodes].double() @ mean + edges

    def predict(self, graph: Graph, nodes: Tensor) -> Tensor:
        """(k,) classes."""
        return (self.log_odds(graph, nodes) > 0).long()

    def radius(self, graph: Graph, nodes: Tensor) -> Tensor:
        """(k,) most flips at the node that can't change its Bayes class, whichever they are.

        Every flip that takes support away (an edge inside the class deleted, one to the other
        class added) moves the log-odds by the same ``per_flip``. Where p_out is larger, the other
        two kinds do.
        """
        step = abs(self.per_flip)
        if step == 0:
            raise ValueError(f"p_in and p_out must differ, got {self.p_in} twice: no flip matters")
        odds = self.log_odds(graph, nodes)
        # Class 1 needs log-odds above 0, class 0 keeps at 0.
        away = torch.where(odds > 0, (odds / step).ceil() - 1, (-odds / step).floor())
        return away.long()


@dataclass(frozen=True, kw_only=True)
class SemanticRobustness:
    """Flips that answers and semantics withstand, along the same perturbations.

    Attributes:
        nodes: (k,) nodes that model, Bayes classifier and label agreed about beforehand.
        model: (k,) most flips that did not change the model's answer.
        bayes: (k,) most flips that did not change the Bayes class.
        most: Largest number of flips tried; where an answer withstood it, more is not known.
    """

    nodes: Tensor
    model: Tensor
    bayes: Tensor
    most: int

    @property
    def adversarial(self) -> float:
        """Adversarial robustness: the share of the semantic boundary that the model reaches."""
        return self._share(self.bayes)

    @property
    def over(self) -> float:
        """Over-robustness: the share of the model's robustness beyond the semantic boundary."""
        return 1 - self._share(self.model)

    @property
    def f1(self) -> float:
        """Harmonic mean of ``adversarial`` and 1 − ``over``."""
        reached, meant = self.adversarial, 1 - self.over
        return 2 * reached * meant / (reached + meant) if reached + meant else 0.0

    @property
    def censored(self) -> float:
        """Share of nodes whose answer withstood all that was tried: ``over`` is then larger."""
        return float((self.model == self.most).double().mean())

    def _share(self, of: Tensor) -> float:
        total = int(of.sum())
        return int(torch.minimum(self.model, self.bayes).sum()) / total if total else 1.0


def semantic_robustness(
    predictor: Predictor, bayes: Bayes, graph: Graph, worlds: Sequence[Perturbation]
) -> SemanticRobustness:
    """How many flips at each target the model withstands, and how many its semantics.

    Args:
        predictor: The model, asked at evasion.
        bayes: The classifier of the graph's own model.
        graph: The clean graph.
        worlds: Outcomes of one local attack at budgets 1, 2, 3, … flips a target (see
            ``closest_first``, or local attacks at growing ``edges_per_node``).

    Raises:
        ValueError: No budgets, outcomes without targets, or no target that all agree about.
    """
    _check(graph)
    assert graph.y is not None
    if not worlds or any(not w.per_target for w in worlds):
        raise ValueError("worlds must hold an outcome with targets for each budget 1, 2, …")
    nodes = torch.tensor(sorted(worlds[0].per_target))
    told, meant = predictor.predict(graph, nodes), bayes.predict(graph, nodes)
    agreed = (told == meant) & (meant == graph.y[nodes])
    if not agreed.any():
        raise ValueError(
            f"model and Bayes classifier are both right about none of {len(nodes)} targets"
        )
    nodes, answers = nodes[agreed], meant[agreed]
    model, semantic = (torch.full((len(nodes),), len(worlds)) for _ in range(2))
    for i, (node, answer) in enumerate(zip(nodes, answers, strict=True)):
        for withstood, outcome in enumerate(worlds):
            world = outcome.world(graph, int(node))
            for classifier, found in ((predictor, model), (bayes, semantic)):
                changed = bool(classifier.predict(world, node.unsqueeze(0)) != answer)
                if changed and found[i] == len(worlds):
                    found[i] = withstood
            if max(model[i], semantic[i]) < len(worlds):
                break
    return SemanticRobustness(nodes=nodes, model=model, bayes=semantic, most=len(worlds))


def closest_first(graph: Graph, nodes: Tensor, most: int) -> list[Perturbation]:
    """Edges to the nodes of the other class whose features are closest, 1 to ``most`` a target.

    A weak attack, which knows labels and no model: along it semantics change before a model that
    relies on features would notice.

    Source: Gosch et al. 2023, the attack "ℓ2-weak".

    Args:
        graph: Labelled graph with features.
        nodes: (k,) targets.
        most: Largest number of edges, at most the nodes of the other class without an edge.

    Raises:
        ValueError: Too few nodes of the other class.
    """
    _check(graph)
    assert graph.x is not None
    assert graph.y is not None
    x = graph.x.to_dense()
    ends = {}
    for node in nodes.tolist():
        free = graph.y != graph.y[node]
        free[graph.indices[graph.indptr[node] : graph.indptr[node + 1]]] = False
        others = free.nonzero().ravel()
        if len(others) < most:
            raise ValueError(
                f"most must be ≤ {len(others)}, the nodes of the other class that node {node} has "
                f"no edge to, got {most}"
            )
        distance = (x[others] - x[node]).norm(dim=1)
        nearest = others[torch.argsort(distance, stable=True)[:most]]
        ends[node] = torch.stack([nearest, torch.full_like(nearest, node)])
    return [
        Perturbation(per_target={node: pairs[:, :k] for node, pairs in ends.items()})
        for k in range(1, most + 1)
    ]


def _check(graph: Graph) -> None:
    if graph.x is None or graph.y is None or graph.directed or graph.num_classes != 2:
        raise ValueError(
            f"graph {graph.name!r} must be undirected with features and labels 0 and 1, as "
            "'csbm-pq' makes them"
        )


__all__ = ["Bayes", "SemanticRobustness", "closest_first", "semantic_robustness"]
