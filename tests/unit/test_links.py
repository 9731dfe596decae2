"""Link stealing: distances, ranks, and what happens without a question."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch
from scipy.spatial import distance as scipy_distance
from scipy.stats import rankdata

import graphsec
import graphsec.outcome
from graphsec.attacks.links import stealing
from graphsec.attacks.links.stealing import Distance, distances, pair_features, ranked
from graphsec.registry import ATTACKS, SpecError
from graphsec.rng import Rng
from graphsec.testing import tiny_graphs
from graphsec.threat import AccessDenied, Threat


@pytest.mark.parametrize("name", get_args(Distance))
def test_distances_are_scipys(name: Distance, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows = rng.dirichlet(np.ones(5) * 0.3, 20)
    rows[3, rows[3] < rows[3].max()] = 0  # canberra: zeros on both sides
    rows[4, 0] = 0
    pairs = torch.triu_indices(20, 20, 1)
    monkeypatch.setattr(stealing, "_CHUNK", 7)
    mine = distances(torch.from_numpy(rows), pairs, name)
    wanted = scipy_distance.pdist(rows, name)
    np.testing.assert_allclose(mine.numpy(), wanted, rtol=1e-9, atol=1e-12)


def test_rows_without_direction_are_unlike_all() -> None:
    flat = torch.full((2, 4), 0.25)
    assert distances(flat, torch.tensor([[0], [1]]), "correlation").tolist() == [1]


def test_ranks_are_scipys() -> None:
    values = torch.tensor([3.0, 1, 1, 2, 3, 3])
    np.testing.assert_allclose(ranked(values).numpy() * 6, rankdata(values.numpy()))


def test_all_pairs_without_a_question() -> None:
    graph = tiny_graphs()["karate"]
    victim = graphsec.fit(graph, {"name": "gcn", "hidden": 8}, training={"epochs": 30})
    outcome = graphsec.attack("link-stealing", victim, graph)
    assert isinstance(outcome, graphsec.outcome.LinkScores)
    assert outcome.pairs.shape == (2, 34 * 33 // 2)
    edge = graph.has_edges(outcome.pairs)
    assert outcome.scores[edge].mean() > outcome.scores[~edge].mean()


def test_queries_are_the_nodes_in_question() -> None:
    graph = tiny_graphs()["karate"]
    victim = graphsec.fit(graph, {"name": "gcn", "hidden": 8}, training={"epochs": 3})
    question = torch.tensor([[0, 0, 5], [1, 2, 1]])
    threat = {"budget": {"queries": 4}}
    outcome = graphsec.attack("link-stealing", victim, graph, threat=threat, question=question)
    assert isinstance(outcome, graphsec.outcome.LinkScores)
    assert torch.equal(outcome.pairs, question)
    with pytest.raises(ValueError, match="allows 3 answers"):
        graphsec.attack(
            "link-stealing", victim, graph, threat={"budget": {"queries": 3}}, question=question
        )


# -- more knowledge -----------------------------------------------------------------------------


def test_empty_rows_are_alike_in_braycurtis() -> None:
    rows = torch.tensor([[0.0, 0], [0, 0], [1, 0]])
    found = distances(rows, torch.tensor([[0, 0], [1, 2]]), "braycurtis")
    assert found.tolist() == [0, 1]


def test_pair_features_know_no_direction() -> None:
    rng = np.random.default_rng(0)
    p, x = torch.from_numpy(rng.dirichlet(np.ones(3), 6)), torch.from_numpy(rng.random((6, 4)))
    pairs = torch.triu_indices(6, 6, 1)
    for known in (None, x):
        seen = pair_features(p, known, pairs)
        assert seen.shape == (15, 4 * 3 + 4 + (8 if known is None else 16))
        assert torch.equal(seen, pair_features(p, known, pairs.flip(0)))
        of_any_classes = pair_features(p, known, pairs, classes=False)
        assert torch.equal(of_any_classes, seen[:, 4 * 3 :])
    u, v = pairs
    torch.testing.assert_close(seen[:, :3], (p[u] + p[v]) / 2)
    mean_entropy = (-torch.xlogy(p, p).sum(1))[pairs].mean(0)
    torch.testing.assert_close(seen[:, 12], mean_entropy)


@pytest.mark.parametrize(
    ("knows", "needs"),
    [
        ((), ["scores"]),
        (("features",), ["features", "scores"]),
        (("partial",), ["scores", "partial_edges"]),
        (("features", "partial"), ["features", "scores", "partial_edges"]),
        (("shadow",), ["scores", "recipe"]),
        (
            ("features", "partial", "shadow"),
            ["features", "scores", "recipe", "partial_edges"],
        ),
    ],
)
def test_knowledge_needs_access(knows: tuple[str, ...], needs: list[str]) -> None:
    shadow = "karate" if "shadow" in knows else None
    attack = ATTACKS.build({"name": "link-stealing", "knows": knows, "shadow": shadow})
    assert attack.needs.names == needs


def test_a_shadow_graph_is_known_or_not() -> None:
    for fields in ({"shadow": "karate"}, {"knows": ["shadow"]}):
        with pytest.raises(SpecError, match="just where knows holds 'shadow'"):
            ATTACKS.build({"name": "link-stealing", **fields})
    with pytest.raises(SpecError, match="no dataset 'karat'; did you mean 'karate'"):
        ATTACKS.build({"name": "link-stealing", "knows": ["shadow"], "shadow": "karat"})


def test_a_shadow_model_is_trained_once_as_the_victim_was() -> None:
    graph = tiny_graphs()["blocks"]
    known, secret = graphsec.play({"name": "links", "pairs": 40}, graph)
    assert secret is not None
    victim = graphsec.fit(known, {"name": "gcn", "hidden": 16}, training={"epochs": 20})
    shadow = {"name": "dc-sbm", "num_nodes": 120}
    attack = ATTACKS.build({"name": "link-stealing", "knows": ["shadow"], "shadow": shadow})
    trained: dict[Any, Any] = {}
    for trainings in (1, 0):
        view = Threat().resolve(attack).open(
            victim, known, Rng(0), question=secret.question, trained=trained
        )  # fmt: skip
        outcome = attack.run(view, Rng(0))
        assert view.trainings == trainings
        assert view.queries == len(
            set(secret.question.ravel().tolist())
        )  # of the victim, not of its shadow
    (model,) = trained.values()
    assert victim.origin is not None
    assert model.origin.recipe == victim.origin.recipe
    assert float(graphsec.score(outcome, known, victim, secret=secret)["auc"]) > 0.7


def test_examples_are_for_who_may_see_them() -> None:
    graph = tiny_graphs()["karate"]
    examples = torch.tensor([[0], [1]]), torch.tensor([1])
    seen = Threat(access=("partial_edges",)).open(None, graph, Rng(0), examples=examples)
    assert seen.examples is examples
    blind = Threat(access=("edges",)).open(None, graph, Rng(0), examples=examples)
    with pytest.raises(AccessDenied, match="partial_edges"):
        _ = blind.examples
    nothing = Threat(access=("partial_edges",)).open(None, graph, Rng(0))
    with pytest.raises(ValueError, match="reveals nothing"):
        _ = nothing.examples


def test_a_classifier_sees_all_distances() -> None:
    with pytest.raises(SpecError, match="got 'cosine'"):
        ATTACKS.build({"name": "link-stealing", "knows": ["partial"], "distance": "cosine"})


def test_a_score_depends_on_its_pair_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The classifier is scaled and trained on examples: other questions change no score."""
    graph = tiny_graphs()["karate"]
    victim = graphsec.fit(graph, {"name": "gcn", "hidden": 8}, training={"epochs": 20})
    _, secret = graphsec.play({"name": "links", "reveal": 0.3}, graph)
    assert secret is not None
    spec = {"name": "link-stealing", "knows": ["features", "partial"]}
    found = []
    for question in (secret.question, secret.question[:, :9]):
        outcome = graphsec.attack(spec, victim, graph, question=question, examples=secret.examples)
        assert isinstance(outcome, graphsec.outcome.LinkScores)
        found.append(outcome.scores)
        monkeypatch.setattr(stealing, "_TOGETHER", 4)
    torch.testing.assert_close(found[0][:9], found[1])


# -- LinkTeller ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("layers", "hops"), [(1, 1), (2, 2)])
def test_linkteller_feels_nothing_beyond_the_layers(layers: int, hops: int) -> None:
    graph = tiny_graphs()["karate"]
    victim = graphsec.fit(graph, {"name": "gcn", "layers": layers}, training={"epochs": 20})
    outcome = graphsec.attack("linkteller", victim, graph)
    assert isinstance(outcome, graphsec.outcome.LinkScores)
    reach = torch.linalg.matrix_power(
        torch.from_numpy(graph.to_scipy().toarray()) + torch.eye(34), hops
    )
    near = reach[outcome.pairs[0], outcome.pairs[1]] > 0
    assert not outcome.scores[~near].any()
    assert (outcome.scores[near] > 0).float().mean() > 0.9


def test_linkteller_counts_its_queries_and_ranks_edges_first() -> None:
    graph = tiny_graphs()["blocks"]
    known, secret = graphsec.play({"name": "links", "pairs": 40}, graph, seed=0)
    assert secret is not None
    victim = graphsec.fit(known, {"name": "gcn", "hidden": 16}, training={"epochs": 20})
    threat = Threat.of({}).resolve(ATTACKS.build("linkteller"))
    view = threat.open(victim, known, Rng(0)["view"], question=secret.question)
    outcome = ATTACKS.build("linkteller").run(view, Rng(0))
    asked = len(set(secret.question.ravel().tolist()))
    assert view.queries == asked * (asked + 1)
    numbers = graphsec.score(outcome, known, victim, secret=secret)
    plain = graphsec.attack("link-stealing", victim, known, question=secret.question)
    assert float(numbers["auc"]) > 0.9
    assert float(numbers["auc"]) > float(graphsec.score(plain, known, victim, secret=secret)["auc"])
