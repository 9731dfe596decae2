"""Threat models: who the attacker is, and whether an outcome keeps to the rules."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from graphsec.graph import Graph
from graphsec.outcome import (
    Answers,
    AttributeScores,
    LinkScores,
    MemberScores,
    Outcome,
    Perturbation,
    PropertyGuess,
    Reconstruction,
    StolenModel,
    Takeover,
)
from graphsec.predict import Origin, Predictor
from graphsec.registry import Component, SpecError
from graphsec.rng import Rng
from graphsec.threat.access import Access, Budget, BudgetExceeded, known_fields, share
from graphsec.threat.features import check_features, check_injection
from graphsec.threat.view import View

if TYPE_CHECKING:
    from graphsec.game import Game

Timing = Literal["evasion", "poisoning", "inference"]


@dataclass(frozen=True, kw_only=True)
class Threat(Component):
    """Who the attacker is.

    Attributes:
        access: What is granted; None grants exactly what the attack needs.
        budget: How much may be changed or asked.
        targets: Nodes to be misclassified: "test", "val", "train", "all", or indices.
        timing: When the attack happens; None is the attack's own.
        position: Where an eavesdropper sits: "outside", "server", "wire", "party:3".
        adaptive: Whether the attacker knows the defense and attacks it as a whole.
    """

    name: ClassVar[str] = "threat"
    kind: ClassVar[str] = "threat"

    access: tuple[str, ...] | None = None
    budget: Budget = dataclasses.field(default_factory=Budget)
    targets: Literal["test", "val", "train", "all"] | tuple[int, ...] = "test"
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
        known_fields(fields, Threat, "threat")
        budget = fields.get("budget")
        if isinstance(budget, Mapping):
            plain = {k: v for k, v in budget.items() if k != "name"}
            known_fields(plain, Budget, "threat.budget")
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
        examples: tuple[Tensor, Tensor] | None = None,
        public: Graph | None = None,
        rules: Game | None = None,
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
            examples: What the game reveals: items that it does not ask about, and their answers.
            public: The graph that the attacker knows what is granted of; None: the known one.
            rules: The game, where attackers must know how worlds are drawn.
        """
        return View(
            self, victim, graph, rng, question, origin, trained, examples, public, rules
        )  # fmt: skip

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
            ValueError: Scores are not finite or not about the question, or a copy's answers.
        """
        if isinstance(outcome, Perturbation):
            self._check_flips(outcome, graph)
            check_features(self.budget, outcome, graph)
            check_injection(self.budget, outcome, graph)
            if self.budget.utility_drop is not None and before is not None:
                self._check_utility(outcome, graph, before, after or before)
        elif isinstance(outcome, Takeover):
            origin = None if before is None else before.origin
            allowed = share(self.budget.clients, 0 if origin is None else origin.defense.federation)
            if outcome.clients > allowed:
                raise BudgetExceeded(
                    f"budget.clients allows {allowed} clients, the outcome has {outcome.clients}"
                )
        elif isinstance(outcome, Answers):
            if not torch.isfinite(outcome.logits).all():
                raise ValueError("answers must be finite, found NaN or infinity")
            if outcome.logits.dim() != 2 or len(outcome.logits) != graph.num_nodes:
                raise ValueError(
                    f"answers must have one row for each of the {graph.num_nodes} nodes, "
                    f"found shape {tuple(outcome.logits.shape)}"
                )
        elif isinstance(outcome, PropertyGuess):
            if not math.isfinite(outcome.log_odds):
                raise ValueError(f"log_odds must be finite, found {outcome.log_odds}")
        elif isinstance(outcome, StolenModel):
            shown = outcome.predictor.logits(graph)
            if not torch.isfinite(shown).all():
                raise ValueError("the copy's answers must be finite, found NaN or infinity")
            if shown.dim() != 2 or len(shown) != graph.num_nodes:
                raise ValueError(
                    f"the copy must answer about each of the {graph.num_nodes} nodes, "
                    f"found shape {tuple(shown.shape)}"
                )
        elif isinstance(outcome, Reconstruction):
            _check_recovered(outcome, question)
        elif isinstance(outcome, LinkScores | MemberScores | AttributeScores):
            asked = outcome.pairs if isinstance(outcome, LinkScores) else outcome.nodes
            if not torch.isfinite(outcome.scores).all():
                raise ValueError("scores must be finite, found NaN or infinity")
            wide = isinstance(outcome, AttributeScores)
            if outcome.scores.dim() != 1 + wide or outcome.scores.shape[0] != asked.shape[-1]:
                one = "row" if wide else "value"
                raise ValueError(
                    f"scores must have one {one} for each asked item ({asked.shape[-1]}), "
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
        spec = self.budget.spec()
        budget = ", ".join(f"{k} {v:g}" for k, v in spec.items() if isinstance(v, int | float))
        if self.budget.feature_change is not None:
            budget += f" ({self.budget.feature_norm})"
        if self.budget.feature_range is not None:
            budget += ", features in {:g}…{:g}".format(*self.budget.feature_range)
        adaptive = "adaptive" if self.adaptive else "not adaptive"
        sees = "what the attack needs" if self.access is None else ", ".join(self.access)
        when = self.timing or "timing of the attack"
        return f"{when}; {adaptive}; sees {sees or 'nothing'}; budget: {budget or 'none'}"


def _check_recovered(outcome: Reconstruction, question: Tensor | None) -> None:
    """Recovered tensors are finite, one row for each node; labels one for each node asked about."""
    rows = {"x": outcome.x, "adj": outcome.adj, **outcome.inputs}
    for name, value in rows.items():
        if value is None:
            continue
        if not torch.isfinite(value).all():
            raise ValueError(f"recovered {name} must be finite, found NaN or infinity")
        if value.dim() != 2 or len(value) != len(outcome.nodes):
            raise ValueError(
                f"recovered {name} must have one row for each of the {len(outcome.nodes)} nodes, "
                f"found shape {tuple(value.shape)}"
            )
    if outcome.y is not None and question is not None and outcome.y.shape != question.shape:
        raise ValueError(
            f"recovered labels must be one for each node asked about ({len(question)}), "
            f"found shape {tuple(outcome.y.shape)}"
        )
