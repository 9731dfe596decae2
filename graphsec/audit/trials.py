"""Trials of an audit: train with some canaries, and say of each how much it seems to be in."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from graphsec.audit.scores import gradient_scores
from graphsec.defenses.base import Defense
from graphsec.defenses.private.dp_gnn import DPGNN
from graphsec.dp.canaries import Planted, Shape, plant, tree_size
from graphsec.game import Membership
from graphsec.graph import Graph, Split
from graphsec.models.base import Sizes, inputs
from graphsec.predict import Origin, Predictor
from graphsec.registry import ATTACKS, Component, Registry, SpecError
from graphsec.rng import Rng
from graphsec.threat import Threat
from graphsec.train import Recipe

AUDITS: Registry[Any] = Registry("audit", "graphsec.audit.trials")

_MOST = 2_000_000  # planted nodes


@dataclass(frozen=True, eq=False)
class Trial:
    """What one training told.

    Attributes:
        scores: (m,) higher means more likely in.
        truth: (m,) the coins.
        predictor: What was trained.
    """

    scores: Tensor
    truth: Tensor
    predictor: Predictor


@dataclass(eq=False)
class Lab:
    """What the trainings of an audit share.

    Attributes:
        graph: The data set.
        recipe: Model and training.
        defense: Private training, its noise found.
        planted: Canaries, where the audit plants them.
        models: Shadow models.
    """

    graph: Graph
    recipe: Recipe
    defense: Defense
    planted: Planted | None = None
    models: dict[Any, Predictor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Trials(Component):
    """Base of audits.

    Attributes:
        trainings: How many; each with coins and noise of its own.
        bound: "one-run": all guesses of all trainings together, by the bound for canaries that
            are in by coins of their own; "many-runs": one canary a training, by error rates.
    """

    kind: ClassVar[str] = "audit"

    trainings: Annotated[int, Field(ge=1)] = 1
    bound: Literal["one-run", "many-runs"] = "one-run"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bound == "many-runs" and self.trainings < 20:
            raise SpecError(
                f"audit {self.name!r}: trainings must be ≥ 20 with bound = 'many-runs', "
                f"got {self.trainings}"
            )

    @property
    def thresholds(self) -> list[float] | None:
        """Thresholds of many runs that are natural for the scores; None takes half to find one."""
        return None

    def check(self, recipe: Recipe, defense: Defense) -> None:
        """Refuse what can't be audited so, before anything is trained.

        Raises:
            SpecError: Says which field, and the rule.
        """

    def lab(self, graph: Graph, recipe: Recipe, defense: Defense) -> Lab:
        """What all trainings need."""
        return Lab(graph, recipe, defense)

    def trial(self, lab: Lab, rng: Rng) -> Trial:
        """One training, and the scores of its canaries."""
        raise NotImplementedError


@AUDITS.register("canaries")
@dataclass(frozen=True, kw_only=True)
class Canaries(Trials):
    """Nodes planted beside the graph, each in the training by a fair coin, or not there at all.

    In or out is the whole node with its edges: the relation of the claim. See
    ``graphsec.dp.canaries`` for the shapes, and ``gradient_scores`` for what is made of what the
    training releases.

    Attributes:
        shape: "lone" node, "hub" at the public bound on degrees, or a "crowd" around a hub,
            against the published sampler.
        count: Canaries of a training; 1 with bound = "many-runs".
        sees: The noisy "gradients" and weights of all steps, or the "answer" about the canary,
            asked with all canaries in the graph, after the last.
        scale: Features of a canary over the clip norm; its gradient is about so many times too
            long for the clipping, unless features are scaled to norm 1 ("dp-gnn": ``unit``), which
            leaves a hub too little weight to turn its neighbours around.
    """

    shape: Shape = "lone"
    count: Annotated[int, Field(ge=1, le=1_000_000)] = 500
    sees: Literal["gradients", "answer"] = "gradients"
    scale: Annotated[float, Field(gt=0, le=1e6)] = 20.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bound == "many-runs" and self.count != 1:
            raise SpecError(
                f"audit 'canaries': count must be 1 with bound = 'many-runs', got {self.count}: "
                "its error rates are those of one canary"
            )
        if self.bound == "one-run" and self.count * self.trainings < 10:
            raise SpecError(
                "audit 'canaries': count · trainings must be ≥ 10 with bound = 'one-run', got "
                f"{self.count} · {self.trainings}"
            )

    @property
    def thresholds(self) -> list[float] | None:
        """0 for scores that are log-likelihood ratios."""
        return [0.0] if self.sees == "gradients" else None

    def check(self, recipe: Recipe, defense: Defense) -> None:
        """Private steps; a model that sees the edges; not too many nodes."""
        if not isinstance(defense, DPGNN):  # canaries are planted by its bound on degrees
            raise SpecError(
                "audit 'canaries' needs a defense of private steps, such as 'dp-gnn', got "
                f"{defense.name!r}"
            )
        made = defense
        edges = recipe.model.module.capabilities.uses_edges
        if self.shape != "lone" and not edges:
            raise SpecError(
                f"audit 'canaries': shape must be 'lone' with {recipe.model.name!r}, which uses no "
                f"edges, got {self.shape!r}"
            )
        if (self.shape == "crowd") != (made.sampler == "published") and self.shape != "lone":
            raise SpecError(
                "audit 'canaries': shape 'hub' is for dp-gnn's sampler 'bounded' and 'crowd' for "
                f"'published', got {self.shape!r} with {made.sampler!r}"
            )
        hops = int(getattr(recipe.model, "layers", getattr(recipe.model, "hops", 1)) or 1)
        nodes = self.count * tree_size(self.shape, made.max_degree, hops)
        if nodes > _MOST:
            raise SpecError(
                f"audit 'canaries': {self.count} canaries of shape {self.shape!r} are {nodes:,} "
                f"nodes with max_degree {made.max_degree}, more than {_MOST:,}; take fewer"
            )

    def lab(self, graph: Graph, recipe: Recipe, defense: Defense) -> Lab:
        """The planted graph, and noise that is the same with and without a canary."""
        made: Any = defense
        with Rng(0).scope():
            model = recipe.model.build(Sizes.of(graph))
        hops = (model.layers or 0) if model.capabilities.uses_edges else 0
        planted = plant(
            graph, self.count, self.shape,
            degree=made.max_degree, hops=hops, scale=self.scale * made.clip,
        )  # fmt: skip
        assert planted.graph.split is not None
        made = fixed(made, recipe, planted.graph)
        exposed = replace(recipe.training, expose=made.steps if self.sees == "gradients" else 0)
        return Lab(graph, replace(recipe, training=exposed), made, planted)

    def trial(self, lab: Lab, rng: Rng) -> Trial:
        """Coins, a training on what they leave, and the auditor's look at it."""
        from graphsec.attacks.membership._asking import logit_confidence

        planted, trainer = lab.planted, lab.defense
        assert planted is not None
        assert planted.graph.y is not None
        truth = torch.from_numpy(rng["coins"].numpy().random(len(planted.canaries)) < 0.5)
        predictor = trainer.fit(planted.drawn(truth), lab.recipe, rng["defense"])
        if self.sees == "gradients":
            known: Any = trainer
            releases = predictor.trace.releases
            scores = gradient_scores(planted, known, predictor.model, releases)
        else:
            logits = predictor.logits(planted.graph, planted.canaries)
            scores = logit_confidence(logits, planted.graph.y[planted.canaries])
        return Trial(scores, truth.long(), predictor)


@AUDITS.register("membership")
@dataclass(frozen=True, kw_only=True)
class MembershipTrials(Trials):
    """Nodes of the graph itself, by an attack on membership that asks the trained model.

    The nodes in question are those of a game ``membership``, the same in all trainings, each in by
    a coin. They stay in the graph that is asked about, so this speaks of trainings that see nothing
    of a node that they don't train on ("dp-gnn": nor its edges): there, in or out is the whole
    node. With "many-runs" one of the nodes of each training counts.

    Attributes:
        attack: Name or spec of the attack; it gets the least access that it needs.
        members: Expected number of members, of twice as many nodes; None: as many as the graph
            trains on.
    """

    attack: Any = "lira"
    members: Annotated[int, Field(ge=5)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        made = ATTACKS.build(self.attack)
        if made.game != "membership":
            raise SpecError(
                f"audit 'membership': attack must be one on membership, got {made.name!r}"
            )
        object.__setattr__(self, "attack", made)

    def lab(self, graph: Graph, recipe: Recipe, defense: Defense) -> Lab:
        """The graph; where updates are scaled by a number of nodes, one that counts no coins."""
        made: Any = defense
        if getattr(made, "nodes", 0) is None and self.members is not None:
            made = replace(made, nodes=self.members)
        return Lab(graph, recipe, fixed(made, recipe, graph))

    def trial(self, lab: Lab, rng: Rng) -> Trial:
        """Coins for nodes that are the same in all trainings, a training, an attack."""
        game = Membership(members=self.members, draw="coin")
        _, secret = game.prepare(lab.graph, Rng(0)["audit"]["question"])
        assert secret is not None
        assert lab.graph.split is not None
        truth = torch.from_numpy(rng["coins"].numpy().random(len(secret.question)) < 0.5)
        split = Split.of(secret.question[truth], lab.graph.split.val, secret.question[~truth])
        known = lab.graph.replace(split=split)
        predictor = lab.defense.fit(known, lab.recipe, rng["defense"])
        threat = Threat().resolve(self.attack)
        with rng["scope"].scope():
            # One stream of the attack for all trainings: they share its shadow models.
            view = threat.open(
                predictor, known, Rng(0)["audit"]["view"], question=secret.question,
                origin=Origin(lab.recipe, lab.defense), trained=lab.models,
            )  # fmt: skip
            found = self.attack.run(view, Rng(0)["audit"]["attack"])
        scores = found.scores
        if self.bound == "many-runs":
            one = int(rng["canary"].numpy().integers(len(scores)))
            scores, truth = scores[one : one + 1], truth[one : one + 1]
        return Trial(scores, truth.long(), predictor)


def fixed(defense: Defense, recipe: Recipe, graph: Graph) -> Defense:
    """A defense whose noise is found, once, and whose updates' scale does not count the coins."""
    made: Any = defense
    assert graph.split is not None
    if not hasattr(made, "private_steps"):
        return defense
    made = replace(made, nodes=made.nodes or len(graph.split.train))
    if made.noise_multiplier is not None:
        return cast(Defense, made)
    from graphsec.dp.accountant import Ledger

    with Rng(0).scope():
        model = made.predictor(recipe, Sizes.of(graph)).model
    x, adj = made.sanitise(inputs(graph), graph.adj, "exact")
    steps = made.private_steps(model, graph, x, adj, np.random.default_rng(0), Ledger())
    return cast(Defense, replace(made, noise_multiplier=steps.noise_multiplier))


def claimed(predictor: Predictor, delta: float) -> float:
    """ε that a training says it cost: by its ledger, else by its statement; ∞ where none does."""
    if predictor.trace.spent:
        return _epsilon(tuple(predictor.trace.spent), delta)
    statement = predictor.privacy
    return statement.epsilon if statement and statement.delta <= delta else math.inf


@lru_cache(maxsize=256)
def _epsilon(spent: tuple[tuple[Any, int], ...], delta: float) -> float:
    from graphsec.dp.accountant import Ledger

    return Ledger.resumed(spent).epsilon(delta)
