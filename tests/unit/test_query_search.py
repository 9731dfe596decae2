"""Random search by queries: what is asked, counted and kept."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

import graphsec
from graphsec.attacks.adversarial.query_search import Proposals
from graphsec.graph import Graph
from graphsec.outcome import Perturbation
from graphsec.registry import ATTACKS
from graphsec.rng import Rng
from graphsec.search import margins
from graphsec.testing import tiny_graphs
from graphsec.threat import AccessDenied, Threat, View

BLOCKS = tiny_graphs()["blocks"]
assert BLOCKS.split is not None
TARGETS = len(BLOCKS.split.test)


@pytest.fixture(scope="module")
def victim() -> graphsec.Predictor:
    return graphsec.fit(BLOCKS, {"name": "gcn", "hidden": 16}, training={"epochs": 60})


def searched(
    victim: graphsec.Predictor, seed: int = 0, *, spec: Any = None, **threat: Any
) -> tuple[View, Perturbation]:
    """The view after the attack, and what it returned; the threat grants only its needs."""
    attack = ATTACKS.build({"name": "query-search", "steps": 40, **(spec or {})})
    resolved = Threat.of({"budget": {"edges": 0.15}, **threat}).resolve(attack)
    view = resolved.open(victim, BLOCKS, Rng(seed)["view"])
    outcome = attack.run(view, Rng(seed)["attack"])
    resolved.check(outcome, BLOCKS)
    assert isinstance(outcome, Perturbation)
    return view, outcome


def accuracy(victim: graphsec.Predictor, outcome: Perturbation) -> float:
    return float(graphsec.score(outcome, BLOCKS, victim)["attacked_accuracy"])


@pytest.mark.parametrize("feedback", ["scores", "labels"])
def test_harm_exceeds_that_of_random_flips(victim: graphsec.Predictor, feedback: str) -> None:
    spec = {"feedback": feedback, "steps": 100}
    mine = [accuracy(victim, searched(victim, s, spec=spec)[1]) for s in range(3)]
    threat = {"budget": {"edges": 0.15}}
    blind = []
    for seed in range(3):
        outcome = graphsec.attack("random", victim, BLOCKS, threat=threat, seed=seed)
        assert isinstance(outcome, Perturbation)
        blind.append(accuracy(victim, outcome))
    assert max(mine) < min(blind)


@pytest.mark.parametrize("questions", [0, 1, 2, 7, 40, 100])
def test_queries_keep_to_their_budget(victim: graphsec.Predictor, questions: int) -> None:
    """No question is begun that the budget would cut; one alone would be wasted."""
    budget = {"edges": 10, "queries": questions * TARGETS + TARGETS - 1}
    view, outcome = searched(victim, budget=budget)
    asked = 0 if questions < 2 else min(questions, 40)
    assert view.queries == asked * TARGETS
    assert outcome.flips.shape[1] <= (10 if asked else 0)
    assert len(outcome.info.get("scores", [])) == asked


def test_more_queries_do_more_harm(victim: graphsec.Predictor) -> None:
    few, many = (searched(victim, spec={"steps": steps})[1].info["scores"] for steps in (10, 150))
    assert many[-1] < few[-1] - 0.05
    assert all(later <= earlier for earlier, later in itertools.pairwise(many))


def test_what_is_returned_is_what_was_found(victim: graphsec.Predictor) -> None:
    assert BLOCKS.y is not None
    assert BLOCKS.split is not None
    test = BLOCKS.split.test
    _, outcome = searched(victim)
    logits = victim.logits(outcome.apply(BLOCKS), test)
    wanted = float(torch.tanh(margins(logits, BLOCKS.y[test])).mean())
    assert outcome.info["scores"][-1] == pytest.approx(wanted, abs=1e-6)
    _, outcome = searched(victim, spec={"feedback": "labels"})
    assert outcome.info["scores"][-1] == pytest.approx(accuracy(victim, outcome))


def test_defenses_are_asked_too() -> None:
    victim = graphsec.fit(
        BLOCKS, {"name": "gcn", "hidden": 16}, "soft-median", training={"epochs": 40}
    )
    _, outcome = searched(victim, spec={"feedback": "labels"})
    assert outcome.info["scores"][-1] == pytest.approx(accuracy(victim, outcome))
    assert outcome.info["scores"][-1] < outcome.info["scores"][0]


def test_nothing_but_answers_is_needed() -> None:
    labels = ATTACKS.build({"name": "query-search", "feedback": "labels"})
    assert labels.needs.names == ["edges", "true_labels", "labels", "query_input"]
    poisoning = Threat.of({"budget": {"edges": 3}, "timing": "poisoning"}).resolve(labels)
    with pytest.raises(AccessDenied, match="no trained victim"):
        labels.run(poisoning.open(None, BLOCKS, Rng(0)), Rng(0))


def test_proposals_hold_every_budget() -> None:
    """Distinct pairs at targets, within the budgets; as many as asked for are exchanged."""
    targets = torch.arange(0, 90, 9)
    proposals = Proposals(BLOCKS, targets, 12, torch.full((90,), 2), 0.3, Rng(0))
    flips = torch.zeros((2, 0), dtype=torch.int64)
    deleted = 0
    for count in (12, 6, 3, 1, 1):
        before, flips = flips, proposals.exchanged(flips, count)
        assert flips.shape[1] <= 12
        assert flips.ravel().bincount().max() <= 2
        assert torch.isin(flips, targets).any(0).all()
        BLOCKS.flip(flips)  # refuses loops and pairs listed twice
        old = {tuple(pair) for pair in before.T.tolist()}
        assert len(old - {tuple(pair) for pair in flips.T.tolist()}) <= count
        deleted += int(BLOCKS.has_edges(flips).sum())
    assert deleted > 0


def test_directed_graphs_are_searched() -> None:
    arcs = Graph.from_edges(
        BLOCKS.edge_index[:, ::2], 90, directed=True, x=BLOCKS.x, y=BLOCKS.y, split=BLOCKS.split
    )
    victim = graphsec.fit(arcs, {"name": "gcn", "hidden": 16}, training={"epochs": 30})
    spec = {"name": "query-search", "steps": 30}
    outcome = graphsec.attack(spec, victim, arcs, threat={"budget": {"edges": 20}})
    assert isinstance(outcome, Perturbation)
    changed = np.asarray((arcs.to_scipy() != outcome.apply(arcs).to_scipy()).todense())
    assert 0 < changed.sum() == outcome.flips.shape[1] <= 20
