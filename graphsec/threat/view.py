"""The only door an attack has to its victim."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from graphsec.graph import Graph
from graphsec.models.base import inputs
from graphsec.ops import Adj, Features
from graphsec.predict import Origin, Predictor
from graphsec.registry import DEFENSES
from graphsec.rng import Rng
from graphsec.threat.access import Access, AccessDenied, BudgetExceeded, share
from graphsec.threat.features import FeatureLimits
from graphsec.train import Release

if TYPE_CHECKING:
    from graphsec.game import Game
    from graphsec.threat.model import Threat

T = TypeVar("T")


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
        trained: dict[Any, Any] | None = None,
        examples: tuple[Tensor, Tensor] | None = None,
        public: Graph | None = None,
        rules: Game | None = None,
    ) -> None:
        self.threat = threat
        self.question = question
        self.queries = 0
        self.trainings = 0
        self._victim, self._graph, self._rng = victim, graph, rng
        self._public = graph if public is None else public
        self._examples, self._rules = examples, rules
        self._origin = origin or (victim.origin if victim is not None else None)
        self._trained: dict[Any, Any] = {} if trained is None else trained

    def _require(self, access: Access, what: str) -> None:
        missing = access & ~self.threat.granted
        if missing:
            raise AccessDenied(
                f"{what} needs access to {', '.join(missing.names)}; the threat grants "
                f"{', '.join(self.threat.granted.names) or 'nothing'}"
            )

    @property
    def _trained_victim(self) -> Predictor:
        if self._victim is None:
            raise AccessDenied("there is no trained victim yet: the attack poisons its training")
        return self._victim

    # -- the graph ----------------------------------------------------------------------------

    @cached_property
    def known(self) -> Graph:
        """The graph as far as the attacker sees it: what is not granted is left out.

        It is the victim's, without what the game keeps private, or one of the attacker's own.
        """
        has, graph = self.threat.granted, self._public
        changes: dict[str, Any] = {}
        if Access.FEATURES not in has:
            changes["x"] = None
        if Access.TRUE_LABELS not in has and graph.y is not None:
            changes["y"] = self._train_labels() if Access.TRAIN_LABELS in has else None
        if Access.SPLIT not in has:
            changes.update(split=None, holdout=None)
        if Access.SENSITIVE not in has:
            changes["sensitive"] = None
        if Access.EDGES not in has:
            changes.update(
                indptr=torch.zeros_like(graph.indptr), indices=graph.indices[:0],
                edge_weight=None, edge_y=None,
            )  # fmt: skip
        return graph.replace(**changes) if changes else graph

    def _train_labels(self) -> Tensor | None:
        y, split = self._public.y, self._public.split
        if y is None or split is None:
            return None
        hidden = torch.full_like(y, -1)
        hidden[split.train] = y[split.train]
        return hidden

    @property
    def num_edges(self) -> int:
        """Number of edges of the true graph (EDGE_COUNT, or EDGES)."""
        if Access.EDGES not in self.threat.granted:
            self._require(Access.EDGE_COUNT, "view.num_edges")
        return self._graph.num_edges

    @property
    def examples(self) -> tuple[Tensor, Tensor]:
        """What the game reveals and never asks about.

        Pairs (2, k) and whether each is an edge, 0 or 1 (PARTIAL_EDGES), or nodes (k,) and the
        value that each has of the private attribute (PARTIAL_ATTRIBUTES).

        Raises:
            ValueError: The game reveals nothing.
        """
        nodes = self._examples is not None and self._examples[0].dim() == 1
        flag = Access.PARTIAL_ATTRIBUTES if nodes else Access.PARTIAL_EDGES
        self._require(flag, "view.examples")
        if self._examples is None:
            raise ValueError(
                "view.examples: the game reveals nothing; set the game's reveal above 0, and "
                "pass examples=secret.examples"
            )
        return self._examples

    @property
    def rules(self) -> Game:
        """The game, where it is played with graphs that attackers must draw too.

        Raises:
            ValueError: It is played without.
        """
        if self._rules is None:
            raise ValueError("view.rules: the game's rules are missing; pass rules=secret.rules")
        return self._rules

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

    @property
    def target_budget(self) -> Tensor:
        """(targets,) largest number of flips in the world of each target, for local attacks."""
        limit, each = torch.full((len(self.targets),), self.edge_budget), self.node_budget
        return limit if each is None else torch.minimum(limit, each[self.targets])

    @property
    def injection_budget(self) -> tuple[int, int]:
        """Largest number of injected nodes, and of edges at each of them."""
        return self.threat.budget.injection(self._graph)

    @property
    def client_budget(self) -> int:
        """Largest number of a federation's clients that may be the attacker's."""
        clients = 0 if self._origin is None else self._origin.defense.federation
        return share(self.threat.budget.clients, clients)

    @cached_property
    def feature_limits(self) -> FeatureLimits:
        """What may be done to features, and what those of injected nodes may be (FEATURES)."""
        self._require(Access.FEATURES, "view.feature_limits")
        return FeatureLimits.of(self.threat.budget, self._public)

    @property
    def queries_left(self) -> int | None:
        """Answers that may still be asked for, None without a limit."""
        limit = self.threat.budget.queries
        return None if limit is None else limit - self.queries

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
            return self._trained_victim.logits(self._graph, nodes)
        self._require(Access.QUERY_INPUT, "a query with own features or edges")
        mine = inputs(self._graph) if x is None else x
        out = self._trained_victim.answer(mine, self._graph.adj if adj is None else adj)
        return out if nodes is None else out[nodes]

    @torch.no_grad()
    def hidden(self, nodes: Tensor | None = None) -> list[Tensor]:
        """Hidden states of the layers, the logits last (HIDDEN)."""
        self._require(Access.HIDDEN, "view.hidden")
        self._count(self._graph.num_nodes if nodes is None else len(nodes))
        states = self._trained_victim.hidden(inputs(self._graph), self._graph.adj)
        return states if nodes is None else [state[nodes] for state in states]

    def release(self, index: int) -> Release:
        """The index-th thing that left training and that this position can see."""
        return self.releases()[index]

    def releases(self) -> list[Release]:
        """Gradients, updates (GRADIENTS) and messages (TRANSCRIPT) of training, as seen from here.

        The server sees what it sends and receives, a party likewise, the wire everything; an
        outsider sees only what the trainer releases.
        """
        kinds = {
            "gradient": Access.GRADIENTS, "update": Access.GRADIENTS, "message": Access.TRANSCRIPT
        }  # fmt: skip
        if not self.threat.granted & (Access.GRADIENTS | Access.TRANSCRIPT):
            self._require(Access.TRANSCRIPT, "view.releases")
        seat = self.threat.position
        return [
            release
            for release in self._trained_victim.trace.releases
            if kinds[release.kind] in self.threat.granted
            and (
                seat == "wire"
                or seat in (release.sender, release.receiver)
                or (release.kind != "message" and seat == "outside")
            )
        ]

    @property
    def agreed(self) -> dict[str, Any]:
        """What the parties of the victim's training agreed on (TRANSCRIPT), as a plain mapping.

        The server and parties know all of it; on the wire and outside the seed of the
        projection, which is never sent, is not known.
        """
        self._require(Access.TRANSCRIPT, "view.agreed")
        known = dict(self._trained_victim.trace.agreed)
        if self.threat.position in ("wire", "outside"):
            known.pop("seed", None)
        return known

    # -- models to compute with ---------------------------------------------------------------

    def moment(self, release: Release) -> Predictor:
        """The model at the moment when a gradient was released (GRADIENTS).

        Who sees gradients sees the parameters that they are sent for. An adaptive attacker has the
        defense's sanitising before it; what it drew in secret only who sees the edges.
        """
        self._require(Access.GRADIENTS, "view.moment")
        victim = self._trained_victim
        if not self.threat.adaptive and not self._keyed:
            known = victim.relaxed("bypass")
        elif Access.EDGES in self.threat.granted and not self._keyed:
            known = victim.relaxed("exact")
        else:
            known = victim.public()
        moment = known.at(release)
        moment.sizes = victim.sizes
        return moment

    def model(self) -> Predictor:
        """The predictor this attacker differentiates (WEIGHTS).

        An adaptive attacker gets the victim with its defense inside; one that is not adaptive
        attacks an undefended model trained the same way, and transfers. When poisoning there is
        no victim: a model trained on the known graph stands in for it. Noise that the defense drew
        for its graph comes along only for who sees the edges (EDGES): it would give them away.
        """
        if self.threat.timing == "poisoning" or self._victim is None:
            return self.train(self.known, self._rng["surrogate"])
        self._require(Access.WEIGHTS, "view.model")
        if not self.threat.adaptive:
            return self.transfer()
        if Access.EDGES not in self.threat.granted or self._keyed:
            return self._trained_victim.public()
        return self._trained_victim.relaxed("exact")

    @property
    def _keyed(self) -> bool:
        """Whether the victim's defense drew something that nobody sees, whatever is granted."""
        return self._origin is not None and self._origin.defense.keyed

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

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What an attacker made of the known graph before, or makes now.

        It is kept with the models trained, for the attacks that know the same: of other cells of
        the row, or behind other defenses.

        Args:
            key: All that it depends on beside the known graph: fields and stream.
            make: Makes it, from nothing but those.
        """
        whole = (self.known.fingerprint, key)
        if whole not in self._trained:
            self._trained[whole] = make()
        made: T = self._trained[whole]
        return made

    def _train(self, graph: Graph, rng: Rng, defense: str | None) -> Predictor:
        if self._origin is None:
            raise AccessDenied("view.train: a wrapped model has no recipe to train by")
        made = self._origin.defense.public() if defense is None else DEFENSES.build(defense)
        key = (graph.fingerprint, str(rng), str(made.spec()), str(self._origin.recipe.spec()))
        if key not in self._trained:
            self.trainings += 1
            self._trained[key] = made.fit(graph, self._origin.recipe, rng)
        fitted: Predictor = self._trained[key]
        return fitted
