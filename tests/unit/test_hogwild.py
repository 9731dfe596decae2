"""Asynchronous inference: what is simulated, and who stands it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import graphsec
from graphsec.graph import Graph
from graphsec.hogwild import Hogwild, _Clock, change, sweep
from graphsec.models import GNN, build
from graphsec.outcome import Answers
from graphsec.rng import Rng
from graphsec.testing import tiny_graphs

IMPLICIT = ["energy", "ignn", "gsdgnn"]
LAYERED = ["gcn", "gat", "sage"]


@pytest.fixture(scope="module")
def graph() -> Graph:
    return tiny_graphs()["blocks"]


def made(spec: Any, graph: Graph) -> GNN:
    with Rng(0)["model"].scope():
        return build(spec, graph).eval()


@pytest.mark.parametrize("delay", [1, 3, 20])
def test_schedules_keep_their_bounds(delay: int) -> None:
    """Everyone updates in any B steps; nothing seen is B steps old, or from before the start."""
    loops = torch.zeros(40, dtype=torch.bool)
    loops[:5] = True
    clock = _Clock(Hogwild(delay=delay, steps=200), 30, loops, 10, Rng(1))
    updates, oldest = [], 0
    for t, due in clock:
        updates.append(due)
        ages = clock.ages()
        oldest = max(oldest, int(ages.max()))
        assert int(ages.max()) <= min(t, delay - 1)
        assert int(ages[:5].max()) == 0
    windows = torch.stack(updates).unfold(0, delay, 1).any(-1)
    assert windows.all()
    assert oldest == delay - 1


def test_late_and_failing_nodes() -> None:
    simulator = Hogwild(delay=4, fail=0.2, late=0.5, steps=200)
    clock = _Clock(simulator, 50, torch.zeros(9, dtype=torch.bool), 30, Rng(2))
    updates = torch.stack([due for _, due in clock])
    assert int(clock.alive.sum()) == 40
    assert int((clock.start > 0).sum()) == 25
    step = torch.arange(200).unsqueeze(1)
    assert not updates[step.expand(200, 50) < clock.start].any()
    assert not updates[100:, ~clock.alive].any()
    assert updates[100:, clock.alive].any(0).all()


@pytest.mark.parametrize("name", IMPLICIT + LAYERED)
def test_without_delay_all_is_synchronous(graph: Graph, name: str) -> None:
    model = made(name, graph)
    assert graph.x is not None
    answer = Hogwild(delay=1).run(model, graph.x, graph.adj, Rng(0))
    assert answer.converged
    torch.testing.assert_close(answer.logits, model(graph.x, graph.adj), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", IMPLICIT)
def test_implicit_models_stand_any_delay(graph: Graph, name: str) -> None:
    model = made(name, graph)
    assert graph.x is not None
    for row in sweep(model, graph.x, graph.adj, Rng(0), delays=(1, 2, 5, 10, 20), runs=1):
        assert row.converged
        assert row.largest < 1e-3


@pytest.mark.parametrize("name", ["gcn", "gat"])
def test_layered_models_do_not(graph: Graph, name: str) -> None:
    model = made(name, graph)
    assert graph.x is not None
    for row in sweep(model, graph.x, graph.adj, Rng(0), delays=(2, 5, 10, 20), runs=3):
        assert row.converged
        assert row.mean > 1e-2


def test_late_nodes_change_nothing_in_the_end_failing_ones_do(graph: Graph) -> None:
    model = made("gsdgnn", graph)
    assert graph.x is not None
    wanted = model(graph.x, graph.adj)
    late = Hogwild(delay=5, late=0.3).run(model, graph.x, graph.adj, Rng(0))
    assert change(late.logits, wanted) < 1e-3
    failed = Hogwild(delay=5, fail=0.3).run(model, graph.x, graph.adj, Rng(0))
    assert failed.converged
    assert change(failed.logits, wanted) > 1e-2


def test_a_layered_node_uses_what_it_has() -> None:
    """Two nodes, two layers of a GCN: worked out by hand for every order of updates."""
    graph = Graph.from_edges([[0], [1]], 2, x=torch.tensor([[1.0], [3.0]]), y=torch.tensor([0, 1]))
    model: Any = made({"name": "gcn", "hidden": 2}, graph)
    model.weight[0].data = torch.ones(1, 2)
    model.weight[1].data = torch.eye(2)
    assert graph.x is not None
    # Layer 1 gives (1 + 3) / 2 = 2 at both nodes. The second update adds half of the own state to
    # half of the newest state of width 2 that has arrived: none, 2, or the other's logits 1 or 2.
    found = set()
    for seed in range(40):
        answer = Hogwild(delay=6).run(model, graph.x, graph.adj, Rng(seed))
        found |= {round(float(value), 4) for value in answer.logits[:, 0]}
    assert found == {1.0, 1.5, 2.0}


def test_same_stream_same_answer(graph: Graph) -> None:
    model = made("gcn", graph)
    assert graph.x is not None
    one, two, three = (
        Hogwild(delay=5).run(model, graph.x, graph.adj, Rng(seed)).logits for seed in (1, 1, 2)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, three)


def test_foreign_models_and_candidate_pairs_are_refused(graph: Graph) -> None:
    assert graph.x is not None
    victim = graphsec.Predictor.wrap(torch.nn.Linear(12, 3), forward=lambda m, x, e, w: m(x))
    with pytest.raises(TypeError, match="no layers that nodes could run alone"):
        Hogwild().run(victim, graph.x, graph.adj, Rng(0))
    pairs = torch.tensor([[0], [50]])
    with pytest.raises(ValueError, match="without candidate pairs"):
        Hogwild().run(victim, graph.x, graph.adj.with_block(pairs, torch.ones(1)), Rng(0))


def test_as_a_condition_of_the_matrix() -> None:
    cell = graphsec.Cell(
        dataset={"name": "sbm", "num_nodes": 60, "p_in": 0.3}, model="gsdgnn", attack="hogwild",
        training={"epochs": 5},
    )  # fmt: skip
    record = graphsec.run(cell)
    assert record.status == "done", record.reason
    assert record.value("answer_change") < 1e-3
    assert record.value("attacked_accuracy") == record.value("accuracy")


def test_regression_is_scored_too() -> None:
    graph = graphsec.load({"name": "count", "chains": 10})
    victim = graphsec.fit(graph, {"name": "gcn", "layers": 4}, training={"epochs": 5})
    outcome = graphsec.attack("hogwild", victim, graph)
    assert isinstance(outcome, Answers)
    numbers = graphsec.score(outcome, graph, victim)
    assert {"r_squared", "attacked_r_squared", "answer_change"} <= set(numbers)
