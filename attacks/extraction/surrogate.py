"""Model extraction: a copy learns from the victim's answers, on what the thief knows of a graph."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import scipy.sparse as sp
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from graphsec.attacks.extraction._thief import (
    ExtractionAttack,
    nearest,
    others,
    some,
    spread,
    trained_copy,
    with_edges,
)
from graphsec.graph import Graph
from graphsec.graph.arrays import features
from graphsec.models.base import inputs
from graphsec.ops import Adj, Features
from graphsec.outcome import StolenModel
from graphsec.predict import How
from graphsec.registry import ATTACKS, Range, SpecError
from graphsec.rng import Rng
from graphsec.threat import Access, View
from graphsec.train import Recipe

Share = Annotated[float, Field(ge=0, le=1), Range(0, 1)]


@dataclass(frozen=True, eq=False)
class Holding:
    """What the thief has before asking.

    Attributes:
        graph: Features and edges; features that are not known are 0.
        featured: (n,) whose features are known.
        shadow: (s,) nodes whose labels are known.
        pool: (p,) nodes to ask about.
    """

    graph: Graph
    featured: Tensor
    shadow: Tensor
    pool: Tensor


@ATTACKS.register("model-extraction", "extraction")
@dataclass(frozen=True, kw_only=True)
class ModelExtraction(ExtractionAttack):
    """Trains a model on the victim's answers about as many nodes as the budget has queries.

    The thief holds a share of the nodes' features and of the edges, both drawn at random, and asks
    about nodes whose features it has. Features that it lacks are the mean of the neighbours', in
    two rounds; edges may be added between similar nodes. Without any features a node is known by
    its number alone (one-hot): such a copy answers about the nodes of this graph, and takes others
    for nodes without features. A labelled subgraph (``shadow``) is learned from beside the
    answers. The copy is judged on the graph that the victim is asked about: who uses a stolen
    model has inputs of their own.

    Wu et al. number what is known of the graph of the answered nodes: 0 features and edges in part,
    1 features (``edges = 0``, ``rebuild``), 2 edges (``features = 0``), 3 to 6 none, features,
    edges and both with a shadow subgraph. Baselines at equal knowledge: ``answers = "truth"`` (as
    many true labels instead of answers: no theft at all), and ``model = "mlp"`` (the same answers
    without a graph).

    Source: Wu et al., Model Extraction Attacks on Graph Neural Networks: Taxonomy and Realisation,
    AsiaCCS 2022, §3 and 4; Shen et al., Model Stealing Attacks Against Inductive Graph Neural
    Networks, S&P 2022 (``query = "own"``, and similar nodes for edges); both from memory, beside
    their abstracts. Ours: what is known as fields, plain nearest neighbours where both learn a
    structure, means where they weigh by degree, soft cross-entropy as the only loss.

    Attributes:
        features: Share of the nodes whose features are known.
        edges: Share of the edges that are known.
        rebuild: Edges that are added: between nodes of like "features", or of like "answers".
        neighbours: Nodes that each is joined to then.
        shadow: Share of the nodes to ask about that form a labelled subgraph of the thief's: with
            features, the edges among them and true labels, and never asked about.
        answers: What is learned: the "scores" that the victim presents, its "labels", or the
            "truth" in their place, which asks nothing.
        query: Whether nodes are asked about in the victim's "graph", or in the thief's "own".
        model: Name or spec of the copy's architecture. The default has no dropout, which answers
            that are learned need less than labels: chosen on generated graphs (csbm, dc-sbm).
        training: Changes to that model's own recipe.
    """

    features: Share = 1.0
    edges: Share = 1.0
    rebuild: Literal["none", "features", "answers"] = "none"
    neighbours: Annotated[int, Field(ge=1), Range(1, 20)] = 5
    shadow: Annotated[float, Field(ge=0, lt=1), Range(0, 0.5)] = 0.0
    answers: Literal["scores", "labels", "truth"] = "scores"
    query: Literal["graph", "own"] = "graph"
    model: str | dict[str, Any] = field(default_factory=lambda: {"name": "gcn", "dropout": 0.0})
    training: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.recipe  # a wrong spec is found now
        known = self.features or self.shadow
        wrong = {
            "features, edges and shadow must not all be 0: nothing is known": (
                not known and not self.edges
            ),
            f"rebuild must not be {self.rebuild!r} without features": (
                self.rebuild == "features" and not known
            ),
            "rebuild = 'answers' needs answers = 'scores': labels are all alike or not": (
                self.rebuild == "answers" and self.answers != "scores"
            ),
            "rebuild = 'answers' needs query = 'graph': the answers come first": (
                self.rebuild == "answers" and self.query == "own"
            ),
            "query = 'own' needs features: a number means nothing to the victim": (
                self.query == "own" and not known
            ),
        }
        for rule, broken in wrong.items():
            if broken:
                raise SpecError(f"attack 'model-extraction': {rule}")

    @property
    def recipe(self) -> Recipe:
        """How the copy is made."""
        return Recipe.of(self.model, self.training)

    @property
    def needs(self) -> Access:
        """The victim's answers, and what is known of the graph."""
        needed = {"scores": Access.SCORES, "labels": Access.LABELS, "truth": Access.TRUE_LABELS}[
            self.answers
        ]
        for flag, wanted in (
            (Access.FEATURES, self.features or self.shadow),
            (Access.EDGES, self.edges or self.shadow),
            (Access.TRUE_LABELS, self.shadow),
            (Access.QUERY_INPUT, self.query == "own" and self.answers != "truth"),
        ):
            if wanted:
                needed |= flag
        return needed

    def run(self, view: View, rng: Rng) -> StolenModel:
        """A copy of the victim.

        Raises:
            ValueError: There is nothing to learn from, or a node has no true label to learn.
        """
        held = self._holding(view, rng["held"])
        graph, own = held.graph, None
        if held.featured.any():
            if not held.featured.all():
                graph = graph.replace(x=spread(graph, held.featured))
        else:
            own = _one_hot(graph.num_nodes)
            graph = graph.replace(x=own)
        if self.rebuild == "features":
            graph = with_edges(graph, nearest(inputs(graph).to_dense(), self.neighbours))
        asked = some(held.pool, self._queries(view, len(held.pool)), rng["asked"])
        if not len(asked) + len(held.shadow):
            raise ValueError(
                "attack 'model-extraction' has nothing to learn from: budget.queries is "
                f"{view.threat.budget.queries} and shadow {self.shadow:g}"
            )
        answers = self._answers(view, asked, graph)
        if self.rebuild == "answers" and len(asked) > 1:
            graph = with_edges(graph, asked[nearest(answers, self.neighbours)])
        nodes, targets = self._learned(view, held, asked, answers)
        copy = trained_copy(graph, nodes, targets, self.recipe, rng["copy"])
        if own is not None:
            copy.sanitise = _Numbered(own)
            copy.sizes = None  # the numbers would be missing from a file
        return StolenModel(predictor=copy, info={"asked": asked})

    def _holding(self, view: View, rng: Rng) -> Holding:
        known, pool = view.known, others(view)
        n = known.num_nodes
        shadow = some(pool, round(self.shadow * len(pool)), rng["shadow"])
        inside = torch.zeros(n, dtype=torch.bool)
        inside[shadow] = True
        featured = inside.clone()
        featured[some(torch.arange(n), round(self.features * n), rng["features"])] = True
        pairs = known.pairs
        kept = inside[pairs].all(0)
        order = torch.randperm(pairs.shape[1], generator=rng["edges"].torch())
        kept[order[: round(self.edges * len(order))]] = True
        pool = pool[~inside[pool]]
        if self.features:
            pool = pool[featured[pool]]
        return Holding(known.flip(pairs[:, ~kept]), featured, shadow, pool)

    def _queries(self, view: View, most: int) -> int:
        left = view.queries_left
        return most if left is None else min(left, most)

    def _answers(self, view: View, asked: Tensor, graph: Graph) -> Tensor:
        """(k, classes) probabilities to learn, of the nodes asked about."""
        if self.answers == "truth":
            return _labels(view, asked)
        x, adj = (inputs(graph), graph.adj) if self.query == "own" else (None, None)
        if self.answers == "scores":
            return view.logits(asked, x, adj).softmax(1)
        return F.one_hot(view.labels(asked, x, adj)).float()

    def _learned(
        self, view: View, held: Holding, asked: Tensor, answers: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Nodes and probabilities, those of the shadow subgraph beside the answers."""
        if not len(held.shadow):
            return _told(asked, answers)
        truth = _labels(view, held.shadow)
        classes = max(truth.shape[1], answers.shape[1])
        parts = [F.pad(part, (0, classes - part.shape[1])) for part in (answers, truth)]
        return _told(torch.cat([asked, held.shadow]), torch.cat(parts))


def _labels(view: View, nodes: Tensor) -> Tensor:
    """(k, classes) one-hot true labels; a row of zeros where there is none."""
    y = view.known.y
    if y is None:
        raise ValueError(f"y is missing in {view.known.name!r}: there are no labels to learn")
    return F.one_hot(y[nodes] + 1, int(y.max()) + 2)[:, 1:].float()


def _told(nodes: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Without those of which no class is known."""
    told = targets.sum(1) > 0
    return nodes[told], targets[told]


def _one_hot(n: int) -> Tensor:
    """(n, n) sparse identity."""
    return features(sp.identity(n, format="csr"))


@dataclass(frozen=True, eq=False)
class _Numbered:
    """The sanitising of a copy that knows nodes by their numbers."""

    x: Tensor

    def __call__(
        self, x: Tensor | Features, adj: Adj, how: How = "exact"
    ) -> tuple[Tensor | Features, Adj]:
        n = adj.num_nodes
        return (self.x if n == len(self.x) else torch.zeros(n, len(self.x))), adj
