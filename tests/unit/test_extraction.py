"""Theft of the model: what a thief may know, what it asks, and what its copy is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import graphsec
from graphsec import report
from graphsec.attacks.extraction._thief import nearest, spread
from graphsec.attacks.extraction.laundering import pruned
from graphsec.attacks.extraction.subgraphs import SubgraphExtraction
from graphsec.graph import Graph
from graphsec.matrix import Matrix
from graphsec.models.base import Sizes
from graphsec.models.gcn import GCN
from graphsec.outcome import StolenModel
from graphsec.predict import Predictor
from graphsec.registry import SpecError
from graphsec.rng import Rng
from graphsec.testing import tiny_graphs
from graphsec.threat import Access, AccessDenied, Threat
from graphsec.train import Training, fit

BLOCKS = tiny_graphs()["blocks"]
GCN16: Any = {"name": "gcn", "hidden": 16}
QUICK = {"epochs": 40}


@pytest.fixture(scope="module")
def victim() -> Predictor:
    return graphsec.fit(BLOCKS, GCN16, training={"epochs": 60})


def stolen(victim: Predictor, queries: int | None = None, **fields: Any) -> StolenModel:
    spec = {"name": "model-extraction", "training": QUICK, **fields}
    outcome = graphsec.attack(spec, victim, BLOCKS, threat={"budget": {"queries": queries}})
    assert isinstance(outcome, StolenModel)
    return outcome


def test_missing_features_are_the_mean_of_the_neighbours() -> None:
    """0–1–2–3 and 4 alone; 0 and 2 are known: 1 is their mean, 3 is 2's, 4 stays empty."""
    graph = Graph.from_edges([[0, 1, 2], [1, 2, 3]], 5, x=torch.arange(10.0).reshape(5, 2))
    known = torch.tensor([True, False, True, False, False])
    wanted = torch.tensor([[0.0, 1], [2, 3], [4, 5], [4, 5], [0, 0]])
    torch.testing.assert_close(spread(graph, known), wanted)
    alone = torch.tensor([True, False, False, False, False])
    assert spread(graph, alone)[:, 1].tolist() == [1, 1, 1, 0, 0]  # two rounds
    sparse = graph.replace(x=graph.x.to_sparse_csr() if graph.x is not None else None)
    assert torch.equal(spread(sparse, known).to_dense(), wanted)


def test_nearest_rows_by_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphsec.attacks.extraction import _thief

    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(20, 4)))
    monkeypatch.setattr(_thief, "_CHUNK", 7)
    like = F.cosine_similarity(rows[:, None], rows[None], dim=2).fill_diagonal_(-2)
    wanted = {
        (min(u, v), max(u, v)) for u in range(20) for v in like[u].topk(3).indices.tolist()
        if like[u, v] > 0
    }  # fmt: skip
    assert {tuple(pair) for pair in nearest(rows, 3).T.tolist()} == wanted
    assert nearest(torch.zeros(4, 3), 2).shape == (2, 0)


def test_training_on_soft_targets_reaches_them() -> None:
    """On one-hot targets it is training on labels; on others the answers tend to them."""
    assert BLOCKS.y is not None
    one_hot = F.one_hot(BLOCKS.y).float()
    models = []
    for targets in (None, one_hot, torch.full_like(one_hot, 1 / 3)):
        with Rng(0).scope():
            model = GCN(Sizes.of(BLOCKS), 16, 2, 0.0)
        fit(model, BLOCKS, Training(epochs=30), Rng(1), targets=targets)
        models.append(model(BLOCKS.x, BLOCKS.adj).detach())
    torch.testing.assert_close(models[0], models[1])
    assert BLOCKS.split is not None
    train = BLOCKS.split.train
    assert (
        models[2][train].softmax(1).max() < models[0][train].softmax(1).max(1).values.mean() - 0.2
    )


@pytest.mark.parametrize("query", ["graph", "own"])
@pytest.mark.parametrize("answers", ["scores", "labels"])
def test_as_many_questions_as_the_budget_and_none_about_targets(
    victim: Predictor, answers: str, query: str
) -> None:
    spec = {"name": "model-extraction", "answers": answers, "query": query, "training": QUICK}
    attack = graphsec.registry.ATTACKS.build(spec)
    threat = Threat.of({"budget": {"queries": 12}}).resolve(attack)
    view = threat.open(victim, BLOCKS, Rng(0)["view"])
    outcome = attack.run(view, Rng(0)["attack"])
    assert view.queries == 12
    asked = outcome.info["asked"]
    assert len(asked.unique()) == 12
    assert BLOCKS.split is not None
    assert not torch.isin(asked, BLOCKS.split.test).any()


def test_more_questions_make_a_more_faithful_copy(victim: Predictor) -> None:
    few, many = (
        float(graphsec.score(stolen(victim, q, answers="labels"), BLOCKS, victim)["fidelity"])
        for q in (2, 45)
    )
    assert few < 0.75  # of three classes at most two are known
    assert many > 0.85


def test_true_labels_in_the_place_of_answers_ask_nothing(victim: Predictor) -> None:
    attack = graphsec.registry.ATTACKS.build({"name": "model-extraction", "answers": "truth"})
    assert not attack.needs & (Access.SCORES | Access.LABELS)
    view = Threat.of({"budget": {"queries": 20}}).resolve(attack).open(victim, BLOCKS, Rng(0))
    outcome = attack.run(view, Rng(0)["attack"])
    assert view.queries == 0
    assert len(outcome.info["asked"]) == 20


def test_a_victim_that_shows_labels_only_is_copied_from_them() -> None:
    shy = graphsec.fit(BLOCKS, GCN16, "label-only", training={"epochs": 60})
    plain, labels = (
        stolen(shy, 30, answers=answers).predictor.logits(BLOCKS)
        for answers in ("scores", "labels")
    )
    torch.testing.assert_close(plain, labels)


def test_what_is_not_known_is_not_used(victim: Predictor) -> None:
    """A share of the features: the copy is that of a graph whose other features are anything."""
    fields: dict[str, Any] = {"features": 0.5, "edges": 0.5}
    outcome = stolen(victim, 20, **fields)
    rng = Rng(0)["attack"]["held"]
    n = BLOCKS.num_nodes
    known = torch.randperm(n, generator=rng["features"].torch())[: n // 2]
    assert torch.isin(outcome.info["asked"], known).all()
    assert BLOCKS.x is not None
    x = torch.randn_like(BLOCKS.x)
    x[known] = BLOCKS.x[known]
    # The victim's answers are about the graph as it was.
    threat = Threat.of({"budget": {"queries": 20}}).resolve(
        attack := graphsec.registry.ATTACKS.build(
            {"name": "model-extraction", "training": QUICK, **fields}
        )
    )
    view = threat.open(victim, BLOCKS, Rng(0)["view"])
    view.known = BLOCKS.replace(x=x)
    again = attack.run(view, Rng(0)["attack"])
    assert torch.equal(again.predictor.logits(BLOCKS), outcome.predictor.logits(BLOCKS))


def test_without_features_nodes_are_known_by_number(victim: Predictor) -> None:
    copy = stolen(victim, features=0.0).predictor
    other = BLOCKS.replace(x=torch.zeros(90, 12))
    assert torch.equal(copy.logits(BLOCKS), copy.logits(other))
    smaller = BLOCKS.subgraph(torch.arange(10))
    assert copy.logits(smaller).shape == (10, 3)
    with pytest.raises(AccessDenied, match="edges"):
        graphsec.attack({"name": "model-extraction", "features": 0.0}, victim, BLOCKS,
                        threat={"access": ["scores"]})  # fmt: skip


def test_shadow_nodes_are_learned_and_never_asked_about(victim: Predictor) -> None:
    outcome = stolen(victim, 10, shadow=0.5)
    assert BLOCKS.split is not None
    count = BLOCKS.num_nodes - len(BLOCKS.split.test)
    assert len(outcome.info["asked"]) == 10
    alone = stolen(victim, 0, shadow=0.5)
    assert len(alone.info["asked"]) == 0
    right = graphsec.score(alone, BLOCKS, victim)["stolen_accuracy"]
    assert float(right) > 0.5
    with pytest.raises(ValueError, match="nothing to learn from"):
        stolen(victim, 0)
    assert count // 2 > 10


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"features": 0, "edges": 0}, "nothing is known"),
        ({"features": 0, "rebuild": "features"}, "without features"),
        ({"rebuild": "answers", "answers": "labels"}, "needs answers = 'scores'"),
        ({"rebuild": "answers", "query": "own"}, "needs query = 'graph'"),
        ({"query": "own", "features": 0}, "needs features"),
        ({"model": "gnc"}, "did you mean"),
        ({"training": {"epoch": 3}}, "no field 'epoch'"),
    ],
)
def test_knowledge_that_makes_no_sense_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        graphsec.registry.ATTACKS.build({"name": "model-extraction", **fields})


def test_all_nodes_as_targets_leave_nobody_to_ask(victim: Predictor) -> None:
    with pytest.raises(ValueError, match=r"threat\.targets must leave nodes"):
        graphsec.attack("model-extraction", victim, BLOCKS, threat={"targets": "all"})


def test_recipes_that_stop_by_validation_hold_answers_out(victim: Predictor) -> None:
    copy = stolen(victim, model="gat", training={"epochs": 10, "patience": 5, "select": "loss"})
    assert copy.predictor.logits(BLOCKS).shape == (90, 3)


def test_copies_can_be_saved(victim: Predictor, tmp_path: Any) -> None:
    copy = stolen(victim).predictor
    again = Predictor.load(copy.save(tmp_path / "copy.pt"))
    assert torch.equal(again.logits(BLOCKS), copy.logits(BLOCKS))


# -- subgraphs ----------------------------------------------------------------------------------


def test_the_first_copies_of_neighbourhoods_are_unchanged(victim: Predictor) -> None:
    """On 3 hops a GCN of 2 layers answers about the centre as in the whole graph."""
    attack = SubgraphExtraction(hops=3, change=0.4)
    roots = torch.tensor([3, 40, 77])
    centres, copies = attack.changed(BLOCKS, roots, 9, Rng(5))
    answers = victim.answer(copies.x, copies.adj)[centres]  # type: ignore[arg-type]
    torch.testing.assert_close(answers[:3], victim.logits(BLOCKS, roots))
    assert not torch.isclose(answers[3:], victim.logits(BLOCKS, roots.repeat(2))).all(1).any()
    assert copies.x is not None
    assert BLOCKS.x is not None
    assert torch.equal(copies.x[centres], BLOCKS.x[roots.repeat(3)])  # centres keep their features


def test_copies_exchange_as_many_edges_as_told() -> None:
    whole = SubgraphExtraction(change=0.0).changed(BLOCKS, torch.arange(10), 40, Rng(0))[1]
    changed = SubgraphExtraction(change=0.3).changed(BLOCKS, torch.arange(10), 40, Rng(0))[1]
    gone = 1 - whole.has_edges(changed.pairs).double().mean()
    assert changed.num_edges == pytest.approx(whole.num_edges, rel=0.1)
    assert 0.1 < float(gone) < 0.3  # a quarter of the copies are unchanged


def test_subgraphs_count_one_query_a_copy(victim: Predictor) -> None:
    attack = SubgraphExtraction(roots=5, copies=4, training=QUICK)
    for budget, wanted in ((None, 20), (7, 7)):
        threat = Threat.of({"budget": {"queries": budget}}).resolve(attack)
        view = threat.open(victim, BLOCKS, Rng(0)["view"])
        attack.run(view, Rng(0)["attack"])
        assert view.queries == wanted


# -- laundering ---------------------------------------------------------------------------------


def test_laundering_that_does_nothing_is_the_victim(victim: Predictor) -> None:
    spec = {"name": "model-laundering", "prune": 0.0, "epochs": 0}
    copy = graphsec.attack(spec, victim, BLOCKS, threat={"access": ["weights"]})
    assert isinstance(copy, StolenModel)
    assert torch.equal(copy.predictor.logits(BLOCKS), victim.logits(BLOCKS))
    assert copy.predictor.model is not victim.model
    assert float(graphsec.score(copy, BLOCKS, victim)["fidelity"]) == 1


def test_the_smallest_weights_are_pruned() -> None:
    model = GCN(Sizes(5, 10, 4), 8, 2, 0.0)
    before = [weight.detach().clone() for weight in model.weight]
    pruned(model, 0.25)
    for old, new in zip(before, model.weight, strict=True):
        gone = new == 0
        assert int(gone.sum()) == old.numel() // 4
        assert old[gone].abs().max() <= old[~gone].abs().min()
        assert torch.equal(old[~gone], new.detach()[~gone])


def test_blurred_answers_are_posteriors_and_repeat(victim: Predictor) -> None:
    spec = {"name": "model-laundering", "prune": 0.0, "epochs": 0, "noise": 0.2}
    copy = graphsec.attack(spec, victim, BLOCKS)
    assert isinstance(copy, StolenModel)
    p = copy.predictor.logits(BLOCKS).exp()
    torch.testing.assert_close(p.sum(1), torch.ones(90))
    moved = p - victim.logits(BLOCKS).softmax(1)
    assert 0.05 < float(moved.std()) < 0.25
    again = copy.predictor.answer(BLOCKS.x, BLOCKS.adj)
    assert torch.equal(again.exp(), p)


def test_a_thief_of_weights_has_the_defense_too(victim: Predictor) -> None:
    with pytest.raises(ValueError, match=r"threat\.adaptive must be true"):
        graphsec.attack("model-laundering", victim, BLOCKS, threat={"adaptive": False})


# -- scores and grids ---------------------------------------------------------------------------


def test_a_copy_must_answer(victim: Predictor) -> None:
    broken = stolen(victim).predictor
    with torch.no_grad():
        next(broken.model.parameters()).fill_(torch.nan)
    broken._logits.clear()
    with pytest.raises(ValueError, match="copy's answers must be finite"):
        Threat().check(StolenModel(predictor=broken), BLOCKS)


def test_query_budgets_may_be_a_list() -> None:
    grid = Matrix(
        datasets=["karate"], attacks=["none", "random", "model-extraction"], mlp_line=False,
        threat={"budget": {"queries": [5, 10]}}, budgets=[0.1],
    )  # fmt: skip
    found = [
        (c.parts.attack.name, c.parts.threat.budget.edges, c.parts.threat.budget.queries)
        for c in grid.cells()
    ]
    assert found == [
        ("none", None, None), ("random", 0.1, 5), ("random", 0.1, 10),
        ("model-extraction", None, 5), ("model-extraction", None, 10),
    ]  # fmt: skip


def test_reports_draw_fidelity_over_queries() -> None:
    grid = Matrix(
        datasets=["karate"], models=[{"name": "gcn", "hidden": 4}], mlp_line=False,
        attacks=["none", "model-extraction", {"name": "model-extraction", "answers": "labels"}],
        threat={"budget": {"queries": [3, 9]}}, training={"epochs": 5},
    )  # fmt: skip
    results = grid.run(store=None, progress=False)
    page = report.render(results)
    assert "fidelity over queries, none, karate" in page
    assert "answers=labels" in page
    assert page.count("fidelity over the queries asked") == 1
