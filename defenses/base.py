"""What a defense is: hooks around one way of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from graphsec.graph import Graph
from graphsec.models.base import GNN, Sizes, inputs
from graphsec.ops import Adj, Features
from graphsec.outcome import Outcome
from graphsec.ownership import Verifier
from graphsec.predict import How, Origin, Predictor, PrivacyStatement
from graphsec.registry import DEFENSES, Component, SpecError
from graphsec.rng import Rng
from graphsec.train import OnEpoch, Recipe, Trace
from graphsec.train import fit as train_model

Named = dict[str, Tensor]
"""One tensor a parameter, by its name."""


@dataclass(frozen=True, kw_only=True)
class Defense(Component):
    """Base of all defenses; a method overrides one or two of the hooks.

    The hooks, in the order in which they run: what is ``drawn`` once, ``sanitise`` the graph,
    ``build`` the model, ``train`` it, ``release`` what leaves the trainer, ``present`` the answers.

    Attributes:
        draws: Whether ``drawn`` draws something that answers depend on and that is secret.
        keyed: Whether what it draws is shown to nobody, whatever else they see.
        filters: Whether ``allows`` can refuse pairs.
        certified: What each column of ``certify`` counts; empty where nothing is certified.
        verifies: Whether ``verifier`` can tell whose model a suspect is.
        tasks: Tasks whose graphs it can defend.
    """

    kind: ClassVar[str] = "defense"

    tasks: ClassVar[tuple[str, ...]] = ("classification", "regression")
    draws: ClassVar[bool] = False
    keyed: ClassVar[bool] = False
    filters: ClassVar[bool] = False
    certified: ClassVar[tuple[str, ...]] = ()
    verifies: ClassVar[bool] = False

    def refuses(self, recipe: Recipe) -> str | None:
        """Why a model or its training can't be behind this defense; None if it can."""
        return None

    # -- hooks --------------------------------------------------------------------------------

    def drawn(self, graph: Graph, rng: Rng) -> Defense:
        """This defense with what it draws once for a training on ``graph``; itself if nothing."""
        return self

    def public(self) -> Defense:
        """This defense as attackers know it: another key where one of its fields is a secret."""
        return self

    @property
    def federation(self) -> int:
        """Number of clients whose updates are aggregated; 0 where training is in one place."""
        return 0

    def among(self, outcome: Outcome) -> Defense:
        """This defense as it trains beside what an attack took over; itself unless federated."""
        return self

    def sanitise(
        self, x: Tensor | Features, adj: Adj, how: How = "exact"
    ) -> tuple[Tensor | Features, Adj]:
        """Features and adjacency as the model shall see them; the same code cleans attacked
        graphs and is differentiated by adaptive attackers (relaxed or bypassed on demand)."""  # noqa: D205, D209
        return x, adj

    def build(self, recipe: Recipe, sizes: Sizes) -> GNN:
        """A freshly initialised model."""
        return recipe.model.build(sizes)

    def harden(self, model: GNN) -> GNN:
        """The built model with parts replaced (an aggregation, say)."""
        return model

    def release(self, gradients: list[Tensor]) -> list[Tensor]:
        """Gradients as they leave the trainer, and as they are used."""
        return gradients

    def present(self, logits: Tensor) -> Tensor:
        """Logits (k, classes) as they are shown to who asks; hidden states and weights are not."""
        return logits

    def allows(self, graph: Graph, pairs: Tensor) -> Tensor | None:
        """(k,) which pairs sanitising could keep as edges; None allows all."""
        return None

    def statement(self, graph: Graph, recipe: Recipe, trace: Trace) -> PrivacyStatement | None:
        """What is promised about privacy after this training; None promises nothing."""
        return None

    def suspicion(self, graph: Graph) -> Tensor | None:
        """(users,) how likely each user of a ranking graph is a fake, higher for more likely; None
        where nobody is looked for."""  # noqa: D205, D209
        return None

    def certify(self, predictor: Predictor, graph: Graph, nodes: Tensor, rng: Rng) -> Tensor:
        """Certified radii of the answers about ``nodes`` (k,): (k, …), −1 where nothing holds.

        Raises:
            TypeError: This defense certifies nothing.
        """
        raise TypeError(f"{self.name} certifies nothing")

    def verifier(self, predictor: Predictor, graph: Graph, rng: Rng) -> Verifier:
        """What gives a verdict on any suspect: is it a copy of ``predictor``?

        Args:
            predictor: The owner's model, trained behind this defense.
            graph: The graph that it was trained on.
            rng: Stream of what the owner trains to compare with.

        Raises:
            TypeError: This defense verifies nothing.
        """
        raise TypeError(f"{self.name} verifies nothing")

    # -- what adaptive attackers of gradients go by -------------------------------------------

    def own_steps(self) -> str | None:
        """How a step differs from one on all training nodes at once; None if it does not."""
        mine = type(self).train is not Defense.train or type(self).fit is not Defense.fit
        return "trains in a way of its own" if mine else None

    def within(self, adj: Adj, roots: Tensor) -> Adj:
        """What a step on ``roots``, the training nodes, sees of the sanitised adjacency."""
        return adj

    def apart(self, roots: Tensor) -> list[Tensor] | None:
        """Places of the roots whose mean gradient is changed apart before it enters the mean that
        is released, group by group; None: that of all roots is changed."""  # noqa: D205, D209
        return None

    def expectation(
        self, gradients: dict[str, Tensor], seen: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """What is expected to be released of gradients (by parameter), differentiably, for who has
        ``seen`` what was released."""  # noqa: D205, D209
        return gradients

    def estimate(self, found: Tensor, known: Tensor) -> Tensor:
        """Features (k, d) of which training saw ``found``, by the ``known`` (m, d) of others."""
        return found

    # -- the way through ----------------------------------------------------------------------

    def predictor(self, recipe: Recipe, sizes: Sizes) -> Predictor:
        """An untrained predictor with this defense around it."""
        made = self.around(self.harden(self.build(recipe, sizes)), recipe)
        made.sizes = (sizes.nodes, sizes.features, sizes.outputs, sizes.users)
        return made

    def around(self, model: GNN, recipe: Recipe) -> Predictor:
        """A predictor of a hardened model, with the sanitising before it."""
        return Predictor(
            model,
            sanitise=self.sanitise,
            present=self.present,
            origin=Origin(recipe, self),
            allowed=self._allowed if self.filters else None,
        )

    def _allowed(self, graph: Graph, pairs: Tensor) -> Tensor:
        allowed = self.allows(graph, pairs)
        return pairs.new_ones(pairs.shape[1]).bool() if allowed is None else allowed

    def fit(
        self,
        graph: Graph,
        recipe: Recipe,
        rng: Rng,
        *,
        runtime: Any = None,
        on_epoch: OnEpoch | None = None,
    ) -> Predictor:
        """Train a predictor on ``graph``.

        Args:
            graph: The known graph, with labels and split.
            recipe: Model and training.
            rng: Stream of this training.
            runtime: Where and how fast to compute; never what.
            on_epoch: Called after each epoch; returning True stops (pruners).
        """
        reason = self.refuses(recipe)
        if reason:
            raise SpecError(f"defense {self.name!r} {reason}")
        ready = self.drawn(graph, rng["drawn"])
        with rng["init"].scope():
            predictor = ready.predictor(recipe, Sizes.of(graph))
        predictor.model.to(graph.indptr.device)  # drawn on the CPU: the same start everywhere
        x, adj = ready.sanitise(inputs(graph), graph.adj, "exact")
        trace = ready.train(predictor.model, graph, recipe, rng["train"], x, adj, on_epoch)
        predictor.trace = trace
        predictor.privacy = ready.statement(graph, recipe, trace)
        return predictor

    def train(
        self,
        model: GNN,
        graph: Graph,
        recipe: Recipe,
        rng: Rng,
        x: Tensor | Features,
        adj: Adj,
        on_epoch: OnEpoch | None = None,
        whole: Defense | None = None,
    ) -> Trace:
        """Train ``model`` in place on the sanitised features and adjacency.

        ``whole`` is the composition that this defense is a part of, None if it stands alone:
        training runs through the sanitising and the release of all parts.
        """
        return train_model(
            model, graph, recipe.training, rng,
            x=x, adj=adj.pruned(), release=(whole or self).release, on_epoch=on_epoch,
        )  # fmt: skip


@DEFENSES.register("compose")
@dataclass(frozen=True, kw_only=True)
class Compose(Defense):
    """Several defenses, applied left to right; at most one may train in a way of its own.

    One that draws a noisy graph must come first: the others work on what it gives. A composition
    makes no privacy statement.

    Source: a convenience of this project, not a method of the literature.

    Attributes:
        parts: Specs of the defenses.
    """

    parts: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "parts", tuple(DEFENSES.build(part) for part in self.parts))
        if len(self._trainers) > 1:
            names = ", ".join(repr(part.name) for part in self._trainers)
            raise SpecError(f"defense 'compose': one part may train its own way, got {names}")
        if len(self._builders) > 1:
            names = ", ".join(repr(part.name) for part in self._builders)
            raise SpecError(f"defense 'compose': one part may build the model, got {names}")
        for part in self.parts[1:]:
            if part.draws:
                raise SpecError(f"defense 'compose': {part.name!r} must be the first part")
        owners = [part for part in self.parts if part.verifies]
        if len(owners) > 1:
            names = ", ".join(repr(part.name) for part in owners)
            raise SpecError(f"defense 'compose': one part may verify ownership, got {names}")

    @property
    def _trainers(self) -> list[Defense]:
        return [part for part in self.parts if type(part).train is not Defense.train]

    @property
    def _builders(self) -> list[Defense]:
        return [part for part in self.parts if type(part).build is not Defense.build]

    @property
    def draws(self) -> bool:  # type: ignore[override]
        """Whether the first part does."""
        return any(part.draws for part in self.parts)

    def refuses(self, recipe: Recipe) -> str | None:
        """The first reason that a part has."""
        reasons = (part.refuses(recipe) for part in self.parts)
        return next((reason for reason in reasons if reason), None)

    @property
    def verifies(self) -> bool:  # type: ignore[override]
        """Whether any part does."""
        return any(part.verifies for part in self.parts)

    def verifier(self, predictor: Predictor, graph: Graph, rng: Rng) -> Verifier:
        """The verifier of the part that has one."""
        for part in self.parts:
            if part.verifies:
                made: Verifier = part.verifier(predictor, graph, rng)
                return made
        return super().verifier(predictor, graph, rng)

    def drawn(self, graph: Graph, rng: Rng) -> Defense:
        """With the first part drawn, which is the only one that may."""
        parts = tuple(part.drawn(graph, rng) for part in self.parts)
        return replace(self, parts=parts)

    def public(self) -> Defense:
        """With every part as attackers know it."""
        return replace(self, parts=tuple(part.public() for part in self.parts))

    def suspicion(self, graph: Graph) -> Tensor | None:
        """Those of the first part that looks for fakes."""
        found = (part.suspicion(graph) for part in self.parts)
        return next((each for each in found if each is not None), None)

    @property
    def federation(self) -> int:
        """That of the part that has clients."""
        return max((part.federation for part in self.parts), default=0)

    def among(self, outcome: Outcome) -> Defense:
        """With every part beside what an attack took over."""
        return replace(self, parts=tuple(part.among(outcome) for part in self.parts))

    def present(self, logits: Tensor) -> Tensor:
        """Every part's presentation in turn."""
        for part in self.parts:
            logits = part.present(logits)
        return logits

    def build(self, recipe: Recipe, sizes: Sizes) -> GNN:
        """As the part builds that builds in a way of its own, else plainly."""
        way = self._builders[0].build if self._builders else super().build
        return way(recipe, sizes)

    def sanitise(
        self, x: Tensor | Features, adj: Adj, how: How = "exact"
    ) -> tuple[Tensor | Features, Adj]:
        """Every part's cleaning in turn."""
        for part in self.parts:
            x, adj = part.sanitise(x, adj, how)
        return x, adj

    def harden(self, model: GNN) -> GNN:
        """Every part's replacement in turn."""
        for part in self.parts:
            model = part.harden(model)
        return model

    def release(self, gradients: list[Tensor]) -> list[Tensor]:
        """Every part's release step in turn."""
        for part in self.parts:
            gradients = part.release(gradients)
        return gradients

    def train(
        self, model: GNN, graph: Graph, recipe: Recipe, rng: Rng, x: Tensor | Features, adj: Adj,
        on_epoch: OnEpoch | None = None, whole: Defense | None = None,
    ) -> Trace:  # fmt: skip
        """As the part trains that has a way of its own, else plainly."""
        way = self._trainers[0].train if self._trainers else super().train
        return way(model, graph, recipe, rng, x, adj, on_epoch, whole or self)

    @property
    def tasks(self) -> tuple[str, ...]:  # type: ignore[override]
        """What every part can defend."""
        known = (*Defense.tasks, "ranking", "rating", "graph")
        return tuple(task for task in known if all(task in part.tasks for part in self.parts))

    @property
    def keyed(self) -> bool:  # type: ignore[override]
        """Whether any part is."""
        return any(part.keyed for part in self.parts)

    def own_steps(self) -> str | None:
        """The first reason that a part has."""
        reasons = ((part.name, part.own_steps()) for part in self.parts)
        return next(
            (f"has a part {name!r} that {reason}" for name, reason in reasons if reason), None
        )

    def within(self, adj: Adj, roots: Tensor) -> Adj:
        """What every part lets through."""
        for part in self.parts:
            adj = part.within(adj, roots)
        return adj

    def apart(self, roots: Tensor) -> list[Tensor] | None:
        """Those of the part that makes any."""
        found = (part.apart(roots) for part in self.parts)
        return next((groups for groups in found if groups is not None), None)

    def expectation(
        self, gradients: dict[str, Tensor], seen: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Every part's expectation in turn."""
        for part in self.parts:
            gradients = part.expectation(gradients, seen)
        return gradients

    def estimate(self, found: Tensor, known: Tensor) -> Tensor:
        """Every part's estimate, the last part first."""
        for part in reversed(self.parts):
            found = part.estimate(found, known)
        return found

    @property
    def filters(self) -> bool:  # type: ignore[override]
        """Whether any part refuses pairs."""
        return any(part.filters for part in self.parts)

    def allows(self, graph: Graph, pairs: Tensor) -> Tensor | None:
        """Pairs that every part allows."""
        allowed: Tensor | None = None
        for part in self.parts:
            mine = part.allows(graph, pairs)
            if mine is not None:
                allowed = mine if allowed is None else allowed & mine
        return allowed


def build(spec: str | Mapping[str, Any] | Sequence[Any] | Defense) -> Defense:
    """A defense from a name, a mapping, or a list of either, composed left to right."""
    if isinstance(spec, Sequence) and not isinstance(spec, str):
        parts = [DEFENSES.build(part) for part in spec]
        return parts[0] if len(parts) == 1 else Compose(parts=tuple(parts))
    made: Defense = DEFENSES.build(spec)
    return made
