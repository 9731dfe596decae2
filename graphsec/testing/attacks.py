"""The contract of attacks."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar
from unittest import SkipTest

import numpy as np
import torch
from torch import Tensor

from graphsec.cell import Cell, score
from graphsec.defenses import build as build_defense
from graphsec.game import Secret
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
)
from graphsec.predict import Predictor
from graphsec.registry import ATTACKS, GAMES
from graphsec.rng import Rng
from graphsec.testing.common import (
    TRAINING,
    Contract,
    any_dataset,
    content,
    disturb,
    global_state,
    same,
    x_of,
)
from graphsec.threat import Access, AccessDenied, Threat
from graphsec.train import Recipe
from graphsec.verbs import attack as attack_verb


@cache
def _victim(
    name: str, seed: int, model: str, training: str, defense: str, graph: Graph
) -> Predictor:
    recipe = Recipe.of(json.loads(model), json.loads(training))
    return build_defense(json.loads(defense)).fit(graph, recipe, Rng(seed)["defense"])


def _worlds(outcome: Perturbation, graph: Graph) -> list[tuple[Tensor, Graph]]:
    """(flips, attacked graph) of every world: the one of all, and those of single targets."""
    worlds = [(outcome.flips, outcome.apply(graph))]
    return worlds + [(outcome.per_target[t], world) for t, world in outcome.worlds(graph)]


def _at_random(outcome: Perturbation, graph: Graph, seed: int) -> Perturbation:
    """As many flips in the world of each target, of pairs at the target drawn uniformly."""
    rng, nodes = np.random.default_rng(seed), np.arange(graph.num_nodes)
    worlds = {}
    for target, flips in outcome.per_target.items():
        ends = rng.choice(nodes[nodes != target], flips.shape[1], replace=False)
        worlds[target] = torch.from_numpy(np.stack([ends, np.full_like(ends, target)]))
    return Perturbation(per_target=worlds)


class AttackContract(Contract):
    """What every attack must do.

    Attributes:
        threat: Threat it runs under; its own needs are granted. A local attack wants one that
            leaves targets standing: few flips a target (``edges_per_node``), few targets.
        model: Model of the victim.
        training: Training of the victim.
        defense: Defense of the victim.
        trivial: The attack that does the same at random.
        harm: The metric that says how much harm flips do.
        game: Spec of the game; None is the attack's own.
        beats_random: Whether it must do more harm than the trivial one with the same budget (turn
            it off for a baseline, and for a poisoner that is tested elsewhere).
    """

    threat: ClassVar[Mapping[str, Any]] = {"budget": {"edges": 0.15}}
    model: ClassVar[Mapping[str, Any]] = {"name": "gcn", "hidden": 16}
    training: ClassVar[Mapping[str, Any]] = TRAINING
    defense: ClassVar[Any] = "none"
    trivial: ClassVar[Any] = "random"
    harm: ClassVar[str] = "attacked_accuracy"
    game: ClassVar[Any] = None
    beats_random: ClassVar[bool] = True

    @property
    def component(self) -> Any:
        """The attack."""
        return ATTACKS.build(self.spec)

    def _cell(self) -> Cell:
        return Cell(dataset=any_dataset(), attack=self.component.spec(), threat=self.threat)

    def _play(self, graph: Graph, seed: int = 0) -> tuple[Graph, Secret | None]:
        played: tuple[Graph, Secret | None] = GAMES.build(self.game or self.component.game).prepare(
            graph, Rng(seed)["game"]
        )
        return played

    def _victim(self, known: Graph, seed: int = 0) -> Predictor:
        parts = json.dumps(self.model), json.dumps(self.training), json.dumps(self.defense)
        return _victim(known.name, seed, *parts, known)

    def _run(self, graph: Graph, seed: int = 0, spec: Any = None, **threat: Any) -> Any:
        known, secret = self._play(graph)
        return attack_verb(
            self.component if spec is None else spec, self._victim(known), known,
            threat={**self.threat, **threat}, seed=seed,
            **({} if secret is None else secret.shown),
        )  # fmt: skip

    def test_runs_under_its_declared_needs(self, graph: Graph) -> None:
        """Nothing more than ``needs`` is granted, and the outcome passes the threat's check."""
        known, secret = self._play(graph)
        outcome = self._run(graph, access=tuple(self.component.needs.names))
        assert isinstance(outcome, Outcome)
        if isinstance(outcome, LinkScores | MemberScores | AttributeScores):
            assert secret is not None
            asked = outcome.pairs if isinstance(outcome, LinkScores) else outcome.nodes
            assert torch.equal(asked, secret.question)
            assert torch.isfinite(outcome.scores).all()
        assert score(outcome, known, self._victim(known), secret=secret)

    def test_is_denied_what_the_threat_withholds(self, graph: Graph) -> None:
        """Without any one of its needs it does not run."""
        for flag in self.component.needs:
            rest = tuple((self.component.needs & ~flag).names)
            message = ""
            try:
                self._run(graph, access=rest)
            except AccessDenied as error:
                message = str(error)
            assert str(flag.name).lower() in message, f"ran without access to {flag.name}"

    def test_declares_no_more_than_it_uses_of_the_graph(self, graph: Graph) -> None:
        """Without a part of the graph that it declares, it fails or gives another outcome."""
        known, secret = self._play(graph)
        full = self._run(graph)
        parts = (
            Access.FEATURES | Access.EDGES | Access.TRUE_LABELS | Access.TRAIN_LABELS
            | Access.PARTIAL_EDGES | Access.PARTIAL_ATTRIBUTES | Access.SENSITIVE
        )  # fmt: skip
        for flag in self.component.needs & parts:
            access = tuple((self.component.needs & ~flag).names)
            threat = Threat.of({**self.threat, "access": access}).resolve(self.component)
            view = threat.open(
                self._victim(known), known, Rng(0)["view"],
                **({} if secret is None else secret.shown),
            )  # fmt: skip
            try:
                outcome = self.component.run(view, Rng(0)["attack"])
            except Exception:
                continue
            assert not same(outcome, full), f"declares {flag.name} but does without"

    def test_holds_the_budget(self, graph: Graph) -> None:
        """Edges are recounted on every attacked graph: no more change than allowed, anywhere."""
        for edges, each in ((0, None), (3, None), (0.1, None), (0.2, 1), (5, 2), (None, 2)):
            budget = {"edges": edges, "edges_per_node": each}
            outcome = self._run(graph, budget=budget)
            if not isinstance(outcome, Perturbation):
                assert content(outcome.apply(graph)) == content(graph)
                continue
            limit = int(edges * graph.num_edges + 1e-9) if isinstance(edges, float) else edges
            for flips, world in _worlds(outcome, graph):
                before, after = (np.asarray(g.to_scipy().todense()) != 0 for g in (graph, world))
                change = before != after
                assert change.sum() == flips.shape[1] * (1 if graph.directed else 2)
                assert graph.directed or (change == change.T).all()
                assert limit is None or flips.shape[1] <= limit
                if each is not None:
                    assert change.sum(1).max() <= each

    def test_holds_the_budget_of_features_and_nodes(self, graph: Graph) -> None:
        """Entries and new nodes are recounted on every attacked graph; without a budget none."""
        if graph.x is None:
            raise SkipTest("the graph has no features")
        n, clean = graph.num_nodes, graph.x.to_dense().numpy()
        for budget in (
            {}, {"features": 3}, {"features_per_node": 1}, {"features": 0.02, "feature_change": 1},
            {"features": 0, "feature_change": 1}, {"nodes": 0},
            {"nodes": 2, "edges_per_injected": 3},
        ):  # fmt: skip
            outcome = self._run(graph, budget=budget)
            entries = budget.get("features", 0 if "nodes" in budget or not budget else clean.size)
            entries = int(entries * clean.size) if isinstance(entries, float) else entries
            worlds = [outcome.apply(graph)]
            if isinstance(outcome, Perturbation):
                worlds = [world for _, world in _worlds(outcome, graph)]
            for world in worlds:
                assert world.x is not None
                x, links = world.x.to_dense().numpy(), np.asarray(world.to_scipy().todense()) != 0
                change = x[:n] - clean
                assert (change != 0).sum() <= entries
                assert (change != 0).sum(1).max() <= budget.get("features_per_node", len(clean.T))
                assert np.abs(change).max() <= budget.get("feature_change", np.inf) + 1e-5
                assert len(x) - n <= budget.get("nodes", 0)
                assert links[n:].sum(1).max(initial=0) <= budget.get("edges_per_injected", 0)
                assert (links[:n, :n] == (np.asarray(graph.to_scipy().todense()) != 0)).all()
                assert not links.diagonal().any()
                assert ((x >= clean.min(0).clip(max=0)) & (x <= clean.max(0).clip(min=0))).all()
                assert world.split is graph.split

    def test_same_seed_same_outcome(self, graph: Graph) -> None:
        """Whatever the global generators hold, which are left as they were."""
        disturb()
        first = self._run(graph, seed=3)
        disturb()
        before = global_state()
        again = self._run(graph, seed=3)
        assert same(first, again)
        assert same(before, global_state())

    def test_leaves_its_inputs_alone(self, graph: Graph) -> None:
        """Neither the graph nor the victim nor the question changes."""
        known, secret = self._play(graph)
        victim = self._victim(known)
        state = {k: v.clone() for k, v in victim.model.state_dict().items()}
        asked = torch.zeros(0) if secret is None else secret.question.clone()
        before, logits = content(graph), victim.logits(known).clone()
        self._run(graph)
        assert content(graph) == before
        assert same(state, dict(victim.model.state_dict()))
        again = victim.forward(x_of(known), known.adj).detach()
        assert torch.equal(logits, victim.read(known, again))
        assert secret is None or torch.equal(secret.question, asked)

    def test_beats_the_trivial_attacker(self, graph: Graph) -> None:
        """Flips do more harm than as many random ones at the same place; scores beat guessing."""
        if not self.beats_random:
            raise SkipTest(
                "beats_random is off: a baseline, or harm that only training on the flips does"
            )
        known, secret = self._play(graph)
        if GAMES.build(self.game or self.component.game).name == "property":
            assert statistics.mean(self._right(graph, seed) for seed in range(6)) > 0.5
            return
        seeds = range(3)
        mine = [self._run(graph, seed) for seed in seeds]
        if isinstance(mine[0], Perturbation):
            flips = (
                [_at_random(one, graph, seed) for one, seed in zip(mine, seeds, strict=True)]
                if mine[0].per_target
                else [self._run(graph, seed, self.trivial) for seed in seeds]
            )
            harm, chance = (
                statistics.median(self._good(one, known) for one in outcomes)
                for outcomes in (mine, flips)
            )
            assert harm < chance
        elif isinstance(mine[0], Answers):  # the trivial one leaves the answers as they are
            scored = [score(one, known, self._victim(known)) for one in mine]
            assert statistics.median(float(each["answer_change"]) for each in scored) > 1e-3
        elif isinstance(mine[0], StolenModel):  # the trivial one always gives the commonest answer
            assert known.split is not None
            answers = self._victim(known).predict(known, known.split.test)
            commonest = float(torch.bincount(answers).max()) / len(answers)
            scored = [score(one, known, self._victim(known)) for one in mine]
            assert statistics.median(float(each["fidelity"]) for each in scored) > commonest
        elif isinstance(mine[0], Reconstruction):  # the trivial one finds zeros, and one label
            assert secret is not None
            assert known.y is not None
            scored = [score(one, known, self._victim(known), secret=secret) for one in mine]
            limits = {
                "reconstruction_error": 1.0, "input_error": 1.0,
                "label_accuracy": -float(torch.bincount(known.y[known.y >= 0]).max())
                / int((known.y >= 0).sum()),
            }  # fmt: skip
            found = [name for name in limits if name in scored[0]]
            assert found
            for name in found:
                sign = 1 if scored[0][name].higher_is_better else -1
                assert statistics.median(sign * float(s[name]) for s in scored) < limits[name]
        elif secret is not None:
            numbers = [score(one, known, self._victim(known), secret=secret) for one in mine]
            assert statistics.median(float(each["auc"]) for each in numbers) > 0.5

    def _good(self, flips: Perturbation, known: Graph) -> float:
        """How well the victim stands flips, by the metric that counts."""
        metric = score(flips, known, self._victim(known))[self.harm]
        return metric.value if metric.higher_is_better else -metric.value

    def _right(self, graph: Graph, seed: int) -> float:
        """Whether the bit of one game about a property is found."""
        known, secret = self._play(graph, seed)
        assert secret is not None
        victim = self._victim(known, seed)
        guess = attack_verb(
            self.component, victim, known, threat=self.threat, seed=seed, **secret.shown
        )
        assert isinstance(guess, PropertyGuess)
        return float(score(guess, known, victim, secret=secret)["property_right"])
