"""The public verbs: one call for each step of a cell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from graphsec.cell import Cell, Record, Runtime, run_cell
from graphsec.defenses.base import build as build_defense
from graphsec.game import Game, Secret
from graphsec.graph import Graph
from graphsec.outcome import Outcome
from graphsec.predict import Predictor
from graphsec.registry import ATTACKS, DATASETS, GAMES
from graphsec.rng import Rng
from graphsec.threat import Threat
from graphsec.train import OnEpoch, Recipe

Spec = str | Mapping[str, Any]


def load(dataset: Spec, *, seed: int = 0) -> Graph:
    """Load a dataset by name or spec; the seed draws its split, and generators their graph."""
    graph: Graph = DATASETS.build(dataset).load(Rng(seed)["data"])
    return graph


def splits(graph: Graph, k: int, *, seed: int = 0, **strategy: Any) -> list[Graph]:
    """The graph with k splits, each from its own stream (see ``graphsec.datasets.splits``)."""
    from graphsec.datasets import splits as draw

    return list(draw.splits(graph, k, Rng(seed)["splits"], **strategy))


def play(game: Spec, graph: Graph, *, seed: int = 0) -> tuple[Graph, Secret | None]:
    """Draw a game's secret; train on the known graph, keep the secret for ``score``."""
    made = GAMES.build(game)
    known, secret = made.prepare(graph, Rng(seed)["game"])
    return known, secret


def fit(
    graph: Graph,
    model: Spec | Any = "gcn",
    defense: Any = "none",
    *,
    training: Mapping[str, Any] | None = None,
    seed: int = 0,
    on_epoch: OnEpoch | None = None,
) -> Predictor:
    """Train a model behind a defense.

    Args:
        graph: The known graph.
        model: Name or spec of a model.
        defense: Name or spec, or a list of them, composed left to right.
        training: Changes to the model's own recipe (epochs, lr, …).
        seed: Seed of initialisation, dropout and batches.
        on_epoch: Called with (epoch, figures); returning True stops the training.
    """
    recipe = Recipe.of(model, training)
    return build_defense(defense).fit(graph, recipe, Rng(seed)["defense"], on_epoch=on_epoch)


def attack(
    name: Spec | Any,
    predictor: Predictor,
    graph: Graph,
    *,
    threat: Mapping[str, Any] | Threat | None = None,
    question: Tensor | None = None,
    examples: tuple[Tensor, Tensor] | None = None,
    public: Graph | None = None,
    rules: Game | None = None,
    seed: int = 0,
) -> Outcome:
    """Attack a predictor, and check the outcome against the threat.

    Args:
        name: Name or spec of an attack.
        predictor: The victim.
        graph: The known graph.
        threat: Fields of ``Threat``; the attack's least access is granted unless it says.
        question: Pairs or nodes asked about, from ``secret.question``.
        examples: What the game reveals, from ``secret.examples``.
        public: The graph that the attacker knows, where it is another than the known one.
        rules: The game, where attackers must know how worlds are drawn; ``**secret.shown`` gives
            all four.
        seed: Seed of the attack.

    Raises:
        AccessDenied: The threat does not grant what the attack needs.
        BudgetExceeded: The outcome goes beyond the budget.
    """
    from graphsec.threat import AccessDenied

    made, rng = ATTACKS.build(name), Rng(seed)
    asked = Threat.of(threat)
    missing = asked.missing(made)
    if missing:
        raise AccessDenied(
            f"attack {made.name!r} needs access to {', '.join(missing)}, "
            f"the threat grants {', '.join(asked.access or ()) or 'nothing'}"
        )
    resolved = asked.resolve(made)
    resolved.budget.edge_count(graph)
    victim = None if resolved.timing == "poisoning" else predictor
    with rng["scope"].scope():
        view = resolved.open(
            victim, graph, rng["view"], question=question, origin=predictor.origin,
            examples=examples, public=public, rules=rules,
        )  # fmt: skip
        outcome: Outcome = made.run(view, rng["attack"])
    resolved.check(outcome, graph, predictor, predictor, question=question)
    return outcome


def run(cell: Cell, runtime: Runtime | None = None) -> Record:
    """Run one cell."""
    return run_cell(cell, runtime)
