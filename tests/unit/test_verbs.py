"""The public verbs and the straight way through a cell."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

import graphsec
from graphsec.attacks import Attack
from graphsec.cell import Cache, Record, run_cell
from graphsec.outcome import LinkScores, Perturbation
from graphsec.rng import Rng
from graphsec.testing import disturb, tiny_graphs
from graphsec.threat import Access, BudgetExceeded, View

GRAPH = tiny_graphs()["blocks"]
CELL = {
    "dataset": "karate", "model": {"name": "gcn", "hidden": 8}, "training": {"epochs": 20},
    "threat": {"budget": {"edges": 0.1}},
}  # fmt: skip


def cell(**fields: object) -> graphsec.Cell:
    return graphsec.Cell(**{**CELL, **fields})  # type: ignore[arg-type]


def test_the_five_verbs() -> None:
    known, secret = graphsec.play("links", GRAPH, seed=1)
    assert secret is not None
    victim = graphsec.fit(known, "gcn", ["jaccard", "soft-median"], training={"epochs": 20}, seed=1)
    stolen = graphsec.attack("link-stealing", victim, known, question=secret.question)
    assert isinstance(stolen, LinkScores)
    numbers = graphsec.score(stolen, known, victim, secret=secret)
    assert 0.5 < float(numbers["auc"]) <= 1
    flips = graphsec.attack("dice", victim, GRAPH, threat={"budget": {"edges": 0.05}})
    assert isinstance(flips, Perturbation)
    numbers = graphsec.score(flips, GRAPH, victim)
    assert float(numbers["accuracy_drop"]) == pytest.approx(
        float(numbers["accuracy"]) - float(numbers["attacked_accuracy"])
    )
    assert float(numbers["flips"]) == int(0.05 * GRAPH.num_edges)


def test_every_public_name_is_there() -> None:
    for name in graphsec.__all__:
        assert getattr(graphsec, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        graphsec.nothing  # noqa: B018


def test_splits() -> None:
    several = graphsec.splits(GRAPH, 3, seed=0)
    tests = {tuple(graph.split.test.tolist()) for graph in several if graph.split is not None}
    assert len(several) == len(tests) == 3


@dataclass(frozen=True, kw_only=True)
class Cheat(Attack):
    """Flips more than it may. Source: none."""

    name: ClassVar[str] = "cheat"

    @property
    def needs(self) -> Access:
        return Access.EDGES

    def run(self, view: View, rng: Rng) -> Perturbation:
        return Perturbation(flips=torch.tensor([[0, 0, 0], [1, 2, 3]]))


def test_no_attack_grades_itself() -> None:
    victim = graphsec.fit(GRAPH, training={"epochs": 2})
    with pytest.raises(BudgetExceeded, match=r"budget\.edges allows 2 flips, the outcome has 3"):
        graphsec.attack(Cheat(), victim, GRAPH, threat={"budget": {"edges": 2}})


@pytest.mark.parametrize("attack", ["none", "random", "dice", "prbcd", "link-stealing"])
def test_same_cell_same_record(attack: str) -> None:
    disturb()
    first = graphsec.run(cell(attack=attack, defense="jaccard"))
    disturb()
    again = graphsec.run(cell(attack=attack, defense="jaccard"))
    assert first.status == "done", first.reason
    assert first.result() == again.result()
    assert Record.from_json(first.to_json()).to_json() == first.to_json()


def test_a_shared_row_changes_no_record() -> None:
    """Cells that share a trained row give what they give alone, in any order."""
    cells = [cell(attack=name) for name in ("link-stealing", "dice", "none")]
    alone = [graphsec.run(one).result() for one in cells]
    for order in ((0, 1, 2), (2, 1, 0)):
        cache = Cache(2)
        for i in order:
            assert run_cell(cells[i], cache=cache).result() == alone[i]


def test_verbs_and_cells_agree() -> None:
    record = graphsec.run(cell(attack="dice", seed=3))
    graph = graphsec.load("karate", seed=0)
    victim = graphsec.fit(graph, CELL["model"], training=CELL["training"], seed=3)  # type: ignore[arg-type]
    out = graphsec.attack("dice", victim, graph, threat=CELL["threat"], seed=3)  # type: ignore[arg-type]
    numbers = graphsec.score(out, graph, victim)
    assert {k: float(v) for k, v in numbers.items()} == {k: record.value(k) for k in record.metrics}


def test_keys() -> None:
    """Equal specs, however written, have equal keys; whatever changes a result changes the key."""
    base = cell(attack="prbcd")
    for same in (
        cell(attack={"name": "pr-bcd", "steps": 125}),
        graphsec.Cell.from_spec(json.loads(json.dumps(base.spec()))),
    ):
        assert (same.key, same.row) == (base.key, base.row)
    for other in (
        cell(attack={"name": "prbcd", "steps": 124}), cell(attack="prbcd", seed=1),
        cell(attack="prbcd", data_seed=1), cell(attack="prbcd", threat={"budget": {"edges": 5}}),
        cell(attack="prbcd", training={"epochs": 21}), cell(attack="prbcd", defense="jaccard"),
    ):  # fmt: skip
        assert other.key != base.key
    # The attack and its threat don't matter to the training.
    assert cell(attack="dice").row == cell(attack="random", threat={}).row == base.row
    assert cell(attack="link-stealing").row == base.row
    assert cell(game="membership").row != base.row
    assert cell(seed=1).row != base.row


def test_poisoning_retrains() -> None:
    spec = {"threat": {"budget": {"edges": 0.2}, "timing": "poisoning"}}
    record = graphsec.run(cell(attack={"name": "prbcd", "steps": 10}, **spec))
    assert record.status == "done", record.reason
    assert record.cost["trainings"] >= 1
    assert "poisoning" in record.threat
    assert record.metrics["flips"]["value"] > 0


def test_failures_are_records() -> None:
    """An error inside a cell is kept with its traceback, and nothing is raised."""
    record = graphsec.run(cell(attack="random", threat={"budget": {"edges": 9999}}))
    assert record.status == "failed"
    assert "threat.budget.edges must be at most" in record.reason
    assert not record.metrics
