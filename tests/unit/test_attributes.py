"""Private attributes of nodes: what is hidden from whom, what is learned, and what it is worth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, roc_auc_score

import graphsec
from graphsec.attacks._classifier import learned
from graphsec.attacks.attributes._asked import columns
from graphsec.attacks.reconstruction._knowledge import Knowledge
from graphsec.cell import Cell
from graphsec.game import Attributes
from graphsec.graph import Graph
from graphsec.metrics import attribute_metrics, margin
from graphsec.outcome import AttributeScores
from graphsec.registry import SpecError
from graphsec.results import Results
from graphsec.rng import Rng
from graphsec.testing import tiny_graphs
from graphsec.threat import Access, AccessDenied, Threat

GRAPHS = pytest.mark.parametrize("graph", tiny_graphs().values(), ids=list(tiny_graphs()))
SHORT = {"epochs": 40}
SMALL = {"name": "gcn", "hidden": 8}


def dense(graph: Graph) -> torch.Tensor:
    assert graph.x is not None
    return graph.x.to_dense()


# -- the game -----------------------------------------------------------------------------------


@GRAPHS
@pytest.mark.parametrize("reveal", [0.01, 0.3, 0.8])
def test_every_known_value_is_shown_or_asked_for(graph: Graph, reveal: float) -> None:
    known, secret = graphsec.play({"name": "attributes", "reveal": reveal}, graph, seed=2)
    assert secret is not None
    assert secret.examples is not None
    assert graph.sensitive is not None
    shown, values = secret.examples
    both = torch.cat([shown, secret.question]).sort().values
    assert torch.equal(both, (graph.sensitive >= 0).nonzero().ravel())
    assert len(shown) == max(1, round(reveal * len(both)))
    assert torch.equal(graph.sensitive[shown], values)
    assert torch.equal(graph.sensitive[secret.question], secret.answer)
    assert known is graph


def test_few_are_asked_about_where_it_is_said() -> None:
    graph = tiny_graphs()["blocks"]
    secret = graphsec.play({"name": "attributes", "nodes": 7}, graph)[1]
    assert secret is not None
    assert len(secret.question) == 7
    assert (secret.question.diff() > 0).all()


@GRAPHS
@pytest.mark.parametrize("trained", [False, True])
def test_the_sensitive_attribute_is_trained_on_if_so_said(graph: Graph, trained: bool) -> None:
    game = Attributes(trained=trained)
    known, secret = game.prepare(graph, Rng(0))
    assert secret is not None
    assert game.keeps_graph == (known is graph) == (not trained)
    width = graph.num_features
    assert known.num_features == width + trained
    assert torch.equal(dense(known)[:, :width], dense(graph))
    if trained:
        assert graph.sensitive is not None
        assert torch.equal(dense(known)[:, width] > 0, graph.sensitive == 1)
    assert secret.public is not None
    assert torch.equal(dense(secret.public), dense(graph))


@pytest.mark.parametrize("name", ["signs", "karate"])
@pytest.mark.parametrize("trained", [False, True])
def test_a_column_of_features_can_be_private(name: str, trained: bool) -> None:
    graph = tiny_graphs()["blocks" if name == "signs" else name]
    graph = graph.replace(x=dense(graph).sign()) if name == "signs" else graph
    game = Attributes(attribute=3, trained=trained)
    known, secret = game.prepare(graph, Rng(0))
    assert secret is not None
    assert secret.public is not None
    keep = torch.arange(graph.num_features) != 3
    assert torch.equal(dense(secret.public), dense(graph)[:, keep])
    assert torch.equal(dense(known), dense(graph) if trained else dense(graph)[:, keep])
    assert game.keeps_graph == (known is graph) == trained
    low = dense(graph)[:, 3].min()
    assert torch.equal(dense(graph)[secret.question, 3] > low, secret.answer == 1)


def test_several_values_become_several_columns() -> None:
    graph = tiny_graphs()["blocks"]
    assert graph.y is not None
    known, _ = Attributes(trained=True).prepare(graph.replace(sensitive=graph.y), Rng(0))
    added = dense(known)[:, graph.num_features :]
    assert torch.equal(added, torch.nn.functional.one_hot(graph.y)[:, 1:].float())


@pytest.mark.parametrize(
    ("game", "change", "message"),
    [
        ({}, {"sensitive": None}, "needs a sensitive attribute, found none in 'blocks'"),
        ({}, {"sensitive": torch.zeros(90)}, "must have 2 to 32 values, found 1"),
        ({"attribute": 12}, {}, "column of the 12 features of 'blocks', got 12"),
        ({"attribute": 0}, {}, "must have 2 to 10 values, found 90"),
        ({"reveal": 0.999}, {}, "leaves none of the 90 nodes"),
    ],
)
def test_what_can_not_be_played_is_said(
    game: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        graphsec.play({"name": "attributes", **game}, tiny_graphs()["blocks"].replace(**change))


# -- who sees what ------------------------------------------------------------------------------


@GRAPHS
@pytest.mark.parametrize("trained", [False, True])
def test_no_grant_shows_the_attribute(graph: Graph, trained: bool) -> None:
    known, secret = Attributes(trained=trained).prepare(graph, Rng(0))
    assert secret is not None
    victim = graphsec.fit(known, SMALL, training={"epochs": 2})
    everything = Access.NONE
    for flag in Access:
        everything |= flag
    view = Threat(access=tuple(everything.names)).open(victim, known, Rng(0), **secret.shown)
    assert view.known.sensitive is None
    assert torch.equal(dense(view.known), dense(graph))
    assert view.logits().shape[0] == graph.num_nodes  # the victim answers with what it knows


def test_examples_are_for_who_may_see_them() -> None:
    graph = tiny_graphs()["blocks"]
    _, secret = graphsec.play("attributes", graph)
    assert secret is not None
    granted = Threat(access=("partial_attributes",)).open(None, graph, Rng(0), **secret.shown)
    assert granted.examples is secret.examples
    for access in ((), ("partial_edges", "sensitive", "features")):
        view = Threat(access=access).open(None, graph, Rng(0), **secret.shown)
        with pytest.raises(AccessDenied, match="partial_attributes"):
            _ = view.examples


def test_the_baseline_asks_nothing_of_the_victim() -> None:
    graph = tiny_graphs()["blocks"]
    known, secret = graphsec.play("attributes", graph)
    assert secret is not None
    threat = {"access": ["features", "partial_attributes"], "budget": {"queries": 0}}
    scores = []
    for seed in (0, 1):
        victim = graphsec.fit(known, SMALL, training=SHORT, seed=seed)
        out = graphsec.attack("attribute-features", victim, known, threat=threat, **secret.shown)
        assert isinstance(out, AttributeScores)
        scores.append(out.scores)
    assert torch.equal(*scores)


def test_an_attack_on_outputs_needs_outputs() -> None:
    with pytest.raises(SpecError, match="knows must hold hidden or outputs"):
        graphsec.Cell(dataset="karate", attack={"name": "attribute-inference", "knows": ["labels"]})


# -- learning -----------------------------------------------------------------------------------


def test_columns_are_all_that_is_known() -> None:
    known = Knowledge(
        x=torch.eye(3).to_sparse_csr(), hidden=(torch.ones(3, 2),),
        logits=torch.zeros(3, 4), y=torch.tensor([1, -1, 0]),
    )  # fmt: skip
    found = columns(known)
    assert found.shape == (3, 3 + 2 + 4 + 2)
    assert torch.equal(found[:, 5:9], torch.full((3, 4), 0.25).double())
    assert found[:, 9:].tolist() == [[0, 1], [0, 0], [1, 0]]


@pytest.mark.parametrize("kind", ["logistic", "mlp", "boosting"])
def test_classifiers_learn_and_repeat(kind: Any) -> None:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(300, 4)))
    y = (x[:, 0] > 0).long() * 2  # value 1 has no row
    again = [learned(kind, x[:200], y[:200], Rng(1), asked=x[200:]) for _ in range(2)]
    assert torch.equal(*again)
    assert again[0].shape == (100, 3)
    assert torch.allclose(again[0].exp().sum(1), torch.ones(100).double())
    assert float((again[0].argmax(1) == y[200:]).double().mean()) > 0.85
    assert bool((again[0][:, 1] < -20).all())


def test_one_value_alone_is_what_is_answered() -> None:
    found = learned(
        "logistic", torch.ones(3, 2), torch.ones(3).long(), Rng(0), asked=torch.ones(2, 2)
    )
    assert found.argmax(1).tolist() == [1, 1]
    assert torch.isfinite(found).all()


def leak() -> Graph:
    """Labels are the attribute; features tell nothing, so that only a victim of labels can."""
    rng = np.random.default_rng(0)
    blocks = tiny_graphs()["blocks"]
    group = torch.arange(90) % 3 == 0
    noise = torch.from_numpy(rng.normal(size=(90, 5))).float()
    return blocks.replace(x=noise, y=group.long(), sensitive=group.long(), name="leak")


def test_what_the_victim_tells_is_found_and_what_nobody_tells_is_not() -> None:
    graph = leak()
    known, secret = graphsec.play({"name": "attributes", "trained": True}, graph)
    assert secret is not None
    victim = graphsec.fit(known, SMALL, training={"epochs": 200})
    areas = {}
    for spec in (
        "attribute-features",
        {"name": "attribute-inference", "knows": ["outputs"]},
        {"name": "attribute-inference", "knows": ["hidden"]},
    ):
        out = graphsec.attack(spec, victim, known, **secret.shown)
        areas[str(spec)] = float(graphsec.score(out, known, victim, secret=secret)["auc"])
    baseline, outputs, hidden = areas.values()
    assert abs(baseline - 0.5) < 0.2
    assert min(outputs, hidden) > baseline + 0.2


# -- scores -------------------------------------------------------------------------------------


def test_metrics_of_two_values_by_hand() -> None:
    rng = np.random.default_rng(0)
    scores, truth = torch.from_numpy(rng.normal(size=(60, 2))), torch.arange(60) % 3 // 2
    found = attribute_metrics(scores, truth)
    guess = scores.argmax(1)
    assert float(found["auc"]) == pytest.approx(roc_auc_score(truth, scores[:, 1] - scores[:, 0]))
    right = float((guess == truth).double().mean())
    assert float(found["attribute_accuracy"]) == pytest.approx(right)
    assert float(found["attribute_gain"]) == pytest.approx(right - 40 / 60)
    f1 = f1_score(truth, guess, average="macro")
    assert float(found["attribute_macro_f1"]) == pytest.approx(f1)
    assert not any(metric.higher_is_better for metric in found.values())


def test_metrics_of_several_values_by_hand() -> None:
    rng = np.random.default_rng(1)
    scores, truth = torch.from_numpy(rng.normal(size=(60, 3))), torch.arange(60) % 4
    found = attribute_metrics(scores, truth)  # nobody saw value 3
    wide = torch.cat([scores, torch.zeros(60, 1)], 1)
    areas = [roc_auc_score(truth == value, wide[:, value]) for value in range(4)]
    assert areas[3] == 0.5
    assert float(found["auc"]) == pytest.approx(np.mean(areas))
    assert "average_precision" not in found


def test_a_value_nobody_saw_scores_nothing() -> None:
    assert margin(torch.tensor([[-1.0], [-2.0]])).tolist() == [1, 2]
    with pytest.raises(ValueError, match="two values or more"):
        attribute_metrics(torch.zeros(3, 2), torch.ones(3).long())


def test_guesses_say_nothing() -> None:
    graph = tiny_graphs()["blocks"]
    known, secret = graphsec.play({"name": "attributes", "reveal": 0.01}, graph)
    assert secret is not None
    victim = graphsec.fit(known, SMALL, training={"epochs": 1})
    areas = []
    for seed in range(40):
        random = torch.from_numpy(np.random.default_rng(seed).normal(size=(89, 2)))
        out = AttributeScores(nodes=secret.question, scores=random)
        areas.append(float(graphsec.score(out, known, victim, secret=secret)["auc"]))
    assert abs(np.mean(areas) - 0.5) < 0.04


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (torch.zeros(3), "one row for each asked item"),
        (torch.zeros(2, 2), "one row for each asked item"),
        (torch.full((3, 2), torch.nan), "finite"),
    ],
)
def test_scores_are_checked(scores: torch.Tensor, message: str) -> None:
    out = AttributeScores(nodes=torch.arange(3), scores=scores)
    with pytest.raises(ValueError, match=message):
        Threat().check(out, tiny_graphs()["blocks"], question=torch.arange(3))
    other = AttributeScores(nodes=torch.arange(3), scores=torch.zeros(3, 2))
    with pytest.raises(ValueError, match="the question asked"):
        Threat().check(other, tiny_graphs()["blocks"], question=torch.arange(1, 4))


# -- cells and their advantage --------------------------------------------------------------------


def test_advantage_is_paired_with_the_best_baseline() -> None:
    attacks: list[dict[str, Any]] = [
        {"name": "attribute-features"},
        {"name": "attribute-features", "knows": ["labels"]},
        {"name": "attribute-inference", "knows": ["outputs"]},
    ]
    results = Results(
        graphsec.run(
            Cell(
                dataset="diabetes-knn", model=SMALL, training={"epochs": 5}, attack=attack,
                seed=seed, data_seed=seed,
            )
        )
        for seed in range(3) for attack in attacks
    )  # fmt: skip
    assert results.counts() == {"done": 9, "skipped": 0, "failed": 0}
    values = [[results[3 * s + i].value("auc") for s in range(3)] for i in range(3)]
    best = max(values[:2], key=sum)
    frame = results.advantage("attribute-features")
    (line,) = frame.to_dict("records")
    assert line["attack"] == "attribute-inference(knows=['outputs'])"
    assert line["advantage"] == pytest.approx(np.mean(values[2]) - np.mean(best))
    assert line["low"] < line["advantage"] < line["high"]
    assert line["baseline"] == pytest.approx(np.mean(best))
    assert line["pairs"] == 3
    with pytest.raises(SpecError, match="no finished record of the attack 'lira'"):
        results.advantage("lira")
