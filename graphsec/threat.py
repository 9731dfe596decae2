"""Threat models: what an attacker may see and change, and the View that enforces it."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from graphsec.graph import Graph
from graphsec.ops import Adj, Features
from graphsec.outcome import LinkScores, MemberScores, Outcome, Perturbation
from graphsec.predict import Origin, Predictor
from graphsec.registry import DEFENSES, Component, SpecError, did_you_mean
from graphsec.rng import Rng
from graphsec.train import Release

Timing = Literal["evasion", "poisoning", "inference"]


class Access(enum.Flag):
    """What an attacker may see or do.

    Parts of the graph: FEATURES, EDGES, TRAIN_LABELS, TRUE_LABELS (of every node), SPLIT (who
    is in training), SENSITIVE, EDGE_COUNT. Of the victim: LABELS (predicted classes), SCORES
    (logits), HIDDEN (states of the layers), WEIGHTS (and so gradients through the model),
    GRADIENTS (of training), TRANSCRIPT (messages between parties), QUERY_INPUT (queries with
    own features or edges), RECIPE (may train models the same way).
    """

    NONE = 0
    FEATURES = enum.auto()
    EDGES = enum.auto()
    TRAIN_LABELS = enum.auto()
    TRUE_LABELS = enum.auto()
    SPLIT = enum.auto()
    SENSITIVE = enum.auto()
    EDGE_COUNT = enum.auto()
    LABELS = enum.auto()
    SCORES = enum.auto()
    HIDDEN = enum.auto()
    WEIGHTS = enum.auto()
    GRADIENTS = enum.auto()
    TRANSCRIPT = enum.auto()
    QUERY_INPUT = enum.auto()
    RECIPE = enum.auto()

    @staticmethod
    def of(names: Access | str | list[str] | tuple[str, ...]) -> Access:
        """Access from names ("scores", ["weights", "edges"])."""
        if isinstance(names, Access):
            return names
        access = Access.NONE
        for name in [names] if isinstance(names, str) else names:
            if str(name).upper() not in Access.__members__:
                hint = did_you_mean(str(name).lower(), [n.lower() for n in Access.__members__])
                raise SpecError(f"threat.access: no access {name!r}; {hint}")
            access |= Access[str(name).upper()]
        return access

    @property
    def names(self) -> list[str]:
        """Names of the granted flags."""
        return [str(flag.name).lower() for flag in Access if flag and flag in self]


WHITE_BOX = (
    Access.FEATURES | Access.EDGES | Access.TRAIN_LABELS | Access.TRUE_LABELS | Access.SPLIT
    | Access.EDGE_COUNT | Access.LABELS | Access.SCORES | Access.HIDDEN | Access.WEIGHTS
    | Access.RECIPE | Access.QUERY_INPUT
)  # fmt: skip


class AccessDenied(PermissionError):
    """An attack asked for what its threat does not grant."""


class BudgetExceeded(ValueError):
    """An outcome goes beyond the threat's budget."""


Amount = Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class Budget(Component):
    """How much an attacker may change or ask; None means nothing may be changed, or no limit.

    A float from 0 to 1 is a fraction (of the edges, of a node's degree, of the nodes), an
    integer an absolute number.

    Attributes:
        edges: Edges flipped.
        edges_per_node: Flips at any one node.
        nodes: Nodes injected.
        features: Feature entries changed.
        queries: Answers asked for (None: no limit).
        utility_drop: Largest loss of accuracy that goes unnoticed (None: no limit).
    """

    name: ClassVar[str] = "budget"
    kind: ClassVar[str] = "threat"

    edges: Amount | None = None
    edges_per_node: Amount | None = None
    nodes: Amount | None = None
    features: Amount | None = None
    queries: Annotated[int, Field(ge=0)] | None = None
    utility_drop: Annotated[float, Field(ge=0, le=1)] | None = None

    def edge_count(self, graph: Graph) -> int:
        """Largest number of flips in ``graph``.

        Raises:
            SpecError: The graph has fewer pairs than that.
        """
        if self.edges is None:
            return 0
        count = self.edges
        if isinstance(self.edges, float):
            count = math.floor(self.edges * graph.num_edges + 1e-9)
        n = graph.num_nodes
        pairs = n * (n - 1) // (1 if graph.directed else 2)
        if count > pairs:
            raise SpecError(
                f"threat.budget.edges must be at most the {pairs} pairs of {graph.name!r}, "
                f"got {count}"
            )
        return int(count)

    def node_count(self, graph: Graph) -> Tensor | None:
        """(n,) largest number of flips at each node, None without a limit."""
        if self.edges_per_node is None:
            return None
        if isinstance(self.edges_per_node, float):
            return (graph.degree * self.edges_per_node).floor().to(torch.int64)
        return torch.full((graph.num_nodes,), self.edges_per_node, dtype=torch.int64)


@dataclass(frozen=True, kw_only=True)
class Threat(Component):
    """Who the attacker is.

    Attributes:
        access: What is granted; None grants exactly what the attack needs.
        budget: How much may be changed or asked.
        targets: Nodes to be misclassified: "test", "train", "all", or indices.
        timing: When the attack happens; None is the attack's own.
        position: Where an eavesdropper sits: "outside", "server", "wire", "party:3".
        adaptive: Whether the attacker knows the defense and attacks it as a whole.
    """

    name: ClassVar[str] = "threat"
    kind: ClassVar[str] = "threat"

    access: tuple[str, ...] | None = None
    budget: Budget = dataclasses.field(default_factory=Budget)
    targets: Literal["test", "train", "all"] | tuple[int, ...] = "test"
    timing: Timing | None = None
    position: Annotated[str, Field(pattern=r"^(outside|server|wire|party:\d+)$")] = "outside"
    adaptive: bool = True

    def __post_init__(self) -> None:
        given: Any = self.access
        if isinstance(given, Access):
            object.__setattr__(self, "access", tuple(given.names))
        super().__post_init__()
        if self.access is not None:
            object.__setattr__(self, "access", tuple(Access.of(self.access).names))

    @staticmethod
    def of(spec: Threat | Mapping[str, Any] | None) -> Threat:
        """Threat from a mapping of its fields.

        Raises:
            SpecError: Unknown field or value.
        """
        if isinstance(spec, Threat):
            return spec
        fields = dict(spec or {})
        fields.pop("name", None)
        _known(fields, Threat, "threat")
        budget = fields.get("budget")
        if isinstance(budget, Mapping):
            plain = {k: v for k, v in budget.items() if k != "name"}
            _known(plain, Budget, "threat.budget")
            fields["budget"] = Budget(**plain)
        if isinstance(fields.get("access"), str):
            fields["access"] = (fields["access"],)
        return Threat(**fields)

    def resolve(self, attack: Any) -> Threat:
        """This threat with the attack's own access and timing where none is given."""
        access = tuple(attack.needs.names) if self.access is None else self.access
        return dataclasses.replace(self, access=access, timing=self.timing or attack.timing)

    @property
    def granted(self) -> Access:
        """Access as flags."""
        return Access.of(self.access or ())

    def missing(self, attack: Any) -> list[str]:
        """What the attack needs and this threat does not grant."""
        return [] if self.access is None else (attack.needs & ~self.granted).names

    def open(
        self,
        victim: Predictor | None,
        graph: Graph,
        rng: Rng,
        *,
        question: Tensor | None = None,
        origin: Origin | None = None,
        trained: dict[Any, Predictor] | None = None,
    ) -> View:
        """The attacker's door to the victim.

        Args:
            victim: Trained predictor; None when poisoning, before there is one.
            graph: The known graph.
            rng: Stream for what the view draws.
            question: Pairs or nodes that the game asks about.
            origin: Recipe and defense to come, when there is no victim yet.
            trained: Models trained through earlier views, to be reused where the graph, recipe,
                defense and stream are the same.
        """
        return View(self, victim, graph, rng, question, origin, trained)

    def target_nodes(self, graph: Graph) -> Tensor:
        """Indices of the targets."""
        if not isinstance(self.targets, str):
            nodes = torch.tensor(self.targets, dtype=torch.int64)
            if len(nodes) and (int(nodes.min()) < 0 or int(nodes.max()) >= graph.num_nodes):
                raise SpecError(
                    f"threat.targets must lie in 0…{graph.num_nodes - 1}, got {self.targets}"
                )
            return nodes
        if self.targets == "all" or graph.split is None:
            return torch.arange(graph.num_nodes)
        return dict(graph.split.items())[self.targets]

    def check(
        self,
        outcome: Outcome,
        graph: Graph,
        before: Predictor | None = None,
        after: Predictor | None = None,
        *,
        question: Tensor | None = None,
    ) -> None:
        """Verify that an outcome keeps to the budget and answers the question.

        Raises:
            BudgetExceeded: More was changed than allowed.
            ValueError: Scores are not finite or not about the question.
        """
        if isinstance(outcome, Perturbation):
            self._check_flips(outcome, graph)
            self._check_features(outcome, graph)
            if self.budget.utility_drop is not None and before is not None:
                self._check_utility(outcome, graph, before, after or before)
        elif isinstance(outcome, LinkScores | MemberScores):
            asked = outcome.pairs if isinstance(outcome, LinkScores) else outcome.nodes
            if not torch.isfinite(outcome.scores).all():
                raise ValueError("scores must be finite, found NaN or infinity")
            if outcome.scores.dim() != 1 or outcome.scores.shape[0] != asked.shape[-1]:
                raise ValueError(
                    f"scores must have one value for each asked item ({asked.shape[-1]}), "
                    f"found shape {tuple(outcome.scores.shape)}"
                )
            if question is not None and not torch.equal(asked, question):
                raise ValueError("scores must answer the question asked, in its order")

    def _check_flips(self, outcome: Perturbation, graph: Graph) -> None:
        worlds = [outcome.flips, *outcome.per_target.values()]
        limit, each = self.budget.edge_count(graph), self.budget.node_count(graph)
        for flips in worlds:
            graph.flip(flips)  # raises on self-loops, duplicates and nodes that don't exist
            if flips.shape[1] > limit:
                raise BudgetExceeded(
                    f"budget.edges allows {limit} flips, the outcome has {flips.shape[1]}"
                )
            if each is not None and flips.numel():
                count = torch.bincount(flips.ravel(), minlength=graph.num_nodes)
                over = (count > each).nonzero().ravel()
                if len(over):
                    node = int(over[0])
                    raise BudgetExceeded(
                        f"budget.edges_per_node allows {int(each[node])} flips at node {node}, "
                        f"the outcome has {int(count[node])}"
                    )

    def _check_features(self, outcome: Perturbation, graph: Graph) -> None:
        if outcome.x is None or graph.x is None:
            return
        changed = int((outcome.x.to_dense() != graph.x.to_dense()).sum())
        amount = self.budget.features or 0
        total = graph.num_nodes * graph.num_features
        limit = math.floor(amount * total) if isinstance(amount, float) else amount
        if changed > limit:
            raise BudgetExceeded(
                f"budget.features allows {limit} changes, the outcome has {changed}"
            )

    def _check_utility(
        self, outcome: Perturbation, graph: Graph, before: Predictor, after: Predictor
    ) -> None:
        from graphsec.metrics import accuracy

        nodes = self.target_nodes(graph)
        assert graph.y is not None
        assert self.budget.utility_drop is not None
        clean = accuracy(before.predict(graph, nodes), graph.y[nodes])
        attacked = accuracy(after.predict(outcome.apply(graph), nodes), graph.y[nodes])
        if clean - attacked > self.budget.utility_drop + 1e-9:
            raise BudgetExceeded(
                f"budget.utility_drop allows {self.budget.utility_drop:.3f}, "
                f"accuracy fell by {clean - attacked:.3f}"
            )

    def describe(self) -> str:
        """One line for tables and captions."""
        budget = ", ".join(
            f"{k} {v:g}" for k, v in self.budget.spec().items() if isinstance(v, int | float)
        )
        adaptive = "adaptive" if self.adaptive else "not adaptive"
        sees = "what the attack needs" if self.access is None else ", ".join(self.access)
        when = self.timing or "timing of the attack"
        return f"{when}; {adaptive}; sees {sees or 'nothing'}; budget: {budget or 'none'}"


def _known(fields: Mapping[str, Any], cls: type[Any], where: str) -> None:
    known = [f.name for f in dataclasses.fields(cls)]
    for field in fields:
        if field not in known:
            raise SpecError(f"{where} has no field {field!r}; {did_you_mean(field, known)}")


class View:
    """What one attacker sees of one victim; every look is checked and counted.

    Made by ``Threat.open``. Attributes: ``threat``, ``question`` (pairs or nodes that the game
    asks about, None if it asks nothing), ``queries`` and ``trainings`` (counts so far).
    """

    def __init__(
        self,
        threat: Threat,
        victim: Predictor | None,
        graph: Graph,
        rng: Rng,
        question: Tensor | None,
        origin: Origin | None,
        trained: dict[Any, Predictor] | None = None,
    ) -> None:
        self.threat = threat
        self.question = question
        self.queries = 0
        self.trainings = 0
        self._victim, self._graph, self._rng = victim, graph, rng
        self._origin = origin or (victim.origin if victim is not None else None)
        self._trained: dict[Any, Predictor] = {} if trained is None else trained

    def _require(self, access: Access, what: str) -> None:
        missing = access & ~self.threat.granted
        if missing:
            raise AccessDenied(
                f"{what} needs access to {', '.join(missing.names)}; the threat grants "
                f"{', '.join(self.threat.granted.names) or 'nothing'}"
            )

    @property
    def victim(self) -> Predictor:
        """The victim, for internal use."""
        if self._victim is None:
            raise AccessDenied("there is no trained victim yet: the attack poisons its training")
        return self._victim

    # -- the graph ----------------------------------------------------------------------------

    @cached_property
    def known(self) -> Graph:
        """The graph as far as the attacker sees it: what is not granted is left out."""
        has, graph = self.threat.granted, self._graph
        changes: dict[str, Any] = {}
        if Access.FEATURES not in has:
            changes["x"] = None
        if Access.TRUE_LABELS not in has and graph.y is not None:
            changes["y"] = self._train_labels() if Access.TRAIN_LABELS in has else None
        if Access.SPLIT not in has:
            changes["split"] = None
        if Access.SENSITIVE not in has:
            changes["sensitive"] = None
        if Access.EDGES not in has:
            changes.update(
                indptr=torch.zeros_like(graph.indptr), indices=graph.indices[:0],
                edge_weight=None, edge_y=None,
            )  # fmt: skip
        return graph.replace(**changes) if changes else graph

    def _train_labels(self) -> Tensor | None:
        if self._graph.y is None or self._graph.split is None:
            return None
        hidden = torch.full_like(self._graph.y, -1)
        train = self._graph.split.train
        hidden[train] = self._graph.y[train]
        return hidden

    @property
    def num_edges(self) -> int:
        """Number of edges of the true graph (EDGE_COUNT, or EDGES)."""
        if Access.EDGES not in self.threat.granted:
            self._require(Access.EDGE_COUNT, "view.num_edges")
        return self._graph.num_edges

    @cached_property
    def targets(self) -> Tensor:
        """Indices of the target nodes."""
        return self.threat.target_nodes(self._graph)

    @property
    def edge_budget(self) -> int:
        """Largest number of flips."""
        return self.threat.budget.edge_count(self._graph)

    @property
    def node_budget(self) -> Tensor | None:
        """(n,) largest number of flips at each node, None without a limit."""
        return self.threat.budget.node_count(self._graph)

    # -- the victim's answers -----------------------------------------------------------------

    def _count(self, queries: int) -> None:
        limit = self.threat.budget.queries
        if limit is not None and self.queries + queries > limit:
            raise BudgetExceeded(
                f"budget.queries allows {limit} answers, {self.queries + queries} were asked for"
            )
        self.queries += queries

    @torch.no_grad()
    def logits(
        self,
        nodes: Tensor | None = None,
        x: Tensor | Features | None = None,
        adj: Adj | None = None,
    ) -> Tensor:
        """The victim's logits (SCORES), on own features or edges too (QUERY_INPUT).

        Every node asked about counts as one query.
        """
        self._require(Access.SCORES, "view.logits")
        return self._answer(nodes, x, adj)

    @torch.no_grad()
    def labels(
        self,
        nodes: Tensor | None = None,
        x: Tensor | Features | None = None,
        adj: Adj | None = None,
    ) -> Tensor:
        """The victim's predicted classes (LABELS)."""
        self._require(Access.LABELS, "view.labels")
        return self._answer(nodes, x, adj).argmax(1)

    def _answer(self, nodes: Tensor | None, x: Tensor | Features | None, adj: Adj | None) -> Tensor:
        self._count(self._graph.num_nodes if nodes is None else len(nodes))
        if x is None and adj is None:
            return self.victim.logits(self._graph, nodes)
        self._require(Access.QUERY_INPUT, "a query with own features or edges")
        mine = self._graph.x if x is None else x
        assert mine is not None
        out = self.victim.forward(mine, self._graph.adj if adj is None else adj)
        return out if nodes is None else out[nodes]

    @torch.no_grad()
    def hidden(self, nodes: Tensor | None = None) -> list[Tensor]:
        """Hidden states of the layers, the logits last (HIDDEN)."""
        self._require(Access.HIDDEN, "view.hidden")
        self._count(self._graph.num_nodes if nodes is None else len(nodes))
        assert self._graph.x is not None
        states = self.victim.hidden(self._graph.x, self._graph.adj)
        return states if nodes is None else [state[nodes] for state in states]

    def release(self, index: int) -> Release:
        """The index-th thing that left training and that this position can see."""
        return self.releases()[index]

    def releases(self) -> list[Release]:
        """What left training: gradients (GRADIENTS) and messages (TRANSCRIPT) seen from here.

        The server sees what it sends and receives, a party likewise, the wire everything; an
        outsider sees only what the trainer releases.
        """
        kinds = {"gradient": Access.GRADIENTS, "message": Access.TRANSCRIPT}
        if not self.threat.granted & (Access.GRADIENTS | Access.TRANSCRIPT):
            self._require(Access.TRANSCRIPT, "view.releases")
        seat = self.threat.position
        return [
            release
            for release in self.victim.trace.releases
            if kinds[release.kind] in self.threat.granted
            and (
                seat == "wire"
                or seat in (release.sender, release.receiver)
                or (release.kind == "gradient" and seat == "outside")
            )
        ]

    # -- models to compute with ---------------------------------------------------------------

    def model(self) -> Predictor:
        """The predictor this attacker differentiates (WEIGHTS).

        An adaptive attacker gets the victim with its defense inside; one that is not adaptive
        attacks an undefended model trained the same way, and transfers. When poisoning there is
        no victim: a model trained on the known graph stands in for it.
        """
        if self.threat.timing == "poisoning" or self._victim is None:
            return self.train(self.known, self._rng["surrogate"])
        self._require(Access.WEIGHTS, "view.model")
        if not self.threat.adaptive:
            return self.transfer()
        return self.victim.relaxed("exact")

    @property
    def defended(self) -> bool:
        """Whether the attacker knows of a defense that a transfer attack would not know."""
        origin = self._origin
        known = self.threat.adaptive and self.threat.timing != "poisoning"
        return known and origin is not None and origin.defense.name != "none"

    def transfer(self) -> Predictor:
        """An undefended model trained with the victim's recipe on the known graph."""
        return self._train(self.known, self._rng["transfer"], "none")

    def train(self, graph: Graph, rng: Rng) -> Predictor:
        """A model trained as the victim was (RECIPE), with its defense if the threat is adaptive.

        Counted, and cached by graph and stream: shadow models are trained once.
        """
        self._require(Access.RECIPE, "view.train")
        return self._train(graph, rng, None if self.threat.adaptive else "none")

    def _train(self, graph: Graph, rng: Rng, defense: str | None) -> Predictor:
        if self._origin is None:
            raise AccessDenied("view.train: a wrapped model has no recipe to train by")
        made = self._origin.defense if defense is None else DEFENSES.build(defense)
        key = (graph.fingerprint, str(rng), str(made.spec()), str(self._origin.recipe.spec()))
        if key not in self._trained:
            self.trainings += 1
            self._trained[key] = made.fit(graph, self._origin.recipe, rng)
        return self._trained[key]
