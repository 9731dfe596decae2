"""Link stealing: distances, ranks, and what happens without a question."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from scipy.spatial import distance as scipy_distance
from scipy.stats import rankdata

import graphsec
import graphsec.outcome
from graphsec.attacks.links import stealing
from graphsec.attacks.links.stealing import Distance, distances, ranked
from graphsec.registry import ATTACKS
from graphsec.rng import Rng
from graphsec.testing import tiny_graphs
from graphsec.threat import Threat


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
