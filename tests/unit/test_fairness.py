"""Gaps between groups: the metrics, what they refuse, and where records have them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.spatial.distance import cdist
from torch import Tensor

import graphsec
from graphsec.datasets.fairness import pairs, similar
from graphsec.graph import Graph
from graphsec.metrics import FairnessError, check_groups, fairness_metrics
from graphsec.ops import compiled
from graphsec.ops.flips import TwoHop, largest_sums


def scores(predicted: list[int]) -> Tensor:
    """Logits that say so."""
    return torch.nn.functional.one_hot(torch.tensor(predicted), 2).float()


Y = torch.tensor([1, 1, 0, 0, 1, 1, 0, 0])
GROUP = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])


def test_gaps_are_differences_of_rates() -> None:
    numbers = fairness_metrics(scores([1, 1, 1, 0, 1, 0, 0, 0]), Y, GROUP)
    assert numbers["delta_sp"].value == pytest.approx(3 / 4 - 1 / 4)
    assert numbers["delta_eo"].value == pytest.approx(1 - 1 / 2)
    assert numbers["delta_odds"].value == pytest.approx(1 / 2)
    assert numbers["accuracy_gap"].value == pytest.approx(0)
    assert numbers["worst_group_accuracy"].value == pytest.approx(3 / 4)
    assert numbers["positive_rate"].value == pytest.approx(1 / 2)
    assert numbers["f1"].value == pytest.approx(2 * 3 / 8)


def test_a_constant_answer_has_no_gap_and_says_so() -> None:
    numbers = fairness_metrics(scores([1] * 8), Y, GROUP)
    assert numbers["delta_sp"].value == numbers["delta_eo"].value == 0
    assert numbers["positive_rate"].value == 1
    assert numbers["class_auc"].value == 0.5


def test_several_groups_are_compared_by_their_extremes() -> None:
    y, group = torch.ones(6, dtype=torch.int64), torch.tensor([0, 0, 1, 1, 2, 2])
    numbers = fairness_metrics(scores([1, 1, 1, 0, 0, 0]), y, group)
    assert numbers["delta_sp"].value == numbers["delta_eo"].value == 1
    assert "class_auc" not in numbers  # one class alone has none


def test_nodes_without_labels_do_not_count() -> None:
    said = scores([1, 1, 1, 0, 1, 0, 0, 0, 1])
    more = fairness_metrics(said, torch.cat([Y, torch.tensor([-1])]), torch.cat([GROUP, GROUP[:1]]))
    assert {k: m.value for k, m in more.items()} == {
        k: m.value for k, m in fairness_metrics(said[:8], Y, GROUP).items()
    }


BAD = [
    (Y, None, "found none"),
    (Y, torch.zeros(8, dtype=torch.int64), r"found the sensitive attribute to be \[0\]"),
    (Y, Y, "other than the label"),
    (Y, 1 - Y, "found them equal"),
    (torch.tensor([0, 1, 2, 0, 1, 2, 0, 1]), GROUP, r"labels 0 and 1 among the nodes, found"),
    (torch.tensor([1, 1, 0, 0, 0, 0, 0, 0]), GROUP, "none in group 1"),
]


@pytest.mark.parametrize(("y", "group", "message"), BAD)
def test_refused(y: Tensor, group: Tensor | None, message: str) -> None:
    with pytest.raises(FairnessError, match=message):
        check_groups(y, group)


def test_records_have_gaps_where_there_are_groups() -> None:
    graph = graphsec.load("diabetes-knn", seed=0)
    predictor = graphsec.fit(graph, model="mlp", seed=0)
    flips = graphsec.attack("random", predictor, graph, threat={"budget": {"edges": 0.05}}, seed=0)
    numbers = graphsec.score(flips, graph, predictor)
    rise = numbers["attacked_delta_sp"].value - numbers["delta_sp"].value
    assert numbers["delta_sp_rise"].value == rise == 0  # an mlp ignores the edges
    assert "val_delta_sp" in numbers
    assert all(math.isfinite(metric.value) for metric in numbers.values())
    assert "delta_sp" not in graphsec.score(flips, graph.replace(sensitive=None), predictor)
    constant = graph.replace(sensitive=torch.zeros(graph.num_nodes, dtype=torch.int64))
    assert "delta_sp" not in graphsec.score(flips, constant, predictor)


# -- the data ---------------------------------------------------------------------------------


def test_similarity_rule_joins_rows_to_their_most_similar() -> None:
    table = np.random.default_rng(0).normal(size=(40, 3))
    found = set(map(tuple, similar(table, 0.8).T.tolist()))
    near = 1 / (1 + cdist(table, table))
    np.fill_diagonal(near, 0)
    wanted = {
        (i, j) for i in range(40) for j in range(40)
        if i != j and near[i, j] > 0.8 * near[i].max()
    }  # fmt: skip
    assert found == wanted


def test_similarity_rule_with_equal_rows() -> None:
    """Rows equal to another are joined to it alone, and never to themselves."""
    assert similar(np.array([[0.0], [0.0], [3.0]]), 0.9).tolist() == [[0, 1, 2, 2], [1, 0, 0, 1]]


def test_pairs_are_the_last_two_numbers_of_a_line() -> None:
    assert pairs(",a,b\n0,4,5\n1,6,7\n").tolist() == [[4, 6], [5, 7]]
    assert pairs("4.0e+00 5\n6 7.0\n").tolist() == [[4, 6], [5, 7]]


# -- the attacks ------------------------------------------------------------------------------


def two_hop(seed: int, n: int = 30, temperature: float = 0.0) -> tuple[TwoHop, np.ndarray]:
    """A random model with three groups, and its dense adjacency."""
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.random((n, n)) < 0.2, 1)
    dense = (upper | upper.T).astype(float)
    y = np.where(rng.random(n) < 0.5, rng.integers(0, 2, n), np.nan)
    group = np.r_[0, 1, 2, rng.integers(-1, 3, n - 3)]
    sent = 3 * rng.normal(size=n)
    return TwoHop(sp.csr_matrix(dense), sent, 0.1, y, group, 0.2, temperature), dense


def by_hand(model: TwoHop, dense: np.ndarray) -> tuple[float, float]:
    """(gap, loss) by two products with the whole matrix."""
    mean = dense + np.eye(len(dense))
    mean /= mean.sum(1, keepdims=True)
    z = mean @ mean @ model._s + 0.1
    trained = ~np.isnan(model._y)
    loss = (np.logaddexp(0, z) - model._y * z)[trained].mean()
    away = z - 0.2
    said = 1 / (1 + np.exp(-away / model._temperature)) if model._temperature else away >= 0
    return float(np.ptp([said[model._group == g].mean() for g in range(3)])), float(loss)


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("temperature", [0.0, 0.3])
def test_effects_of_flips_are_those_of_the_whole_graph(temperature: float, kernels: bool) -> None:
    for seed in range(3):
        model, dense = two_hop(seed, temperature=temperature)
        pairs = np.stack(np.triu_indices(30, 1))
        with compiled(kernels):
            gap, loss = model.effects(pairs)
        for k, (i, j) in enumerate(pairs.T):
            other = dense.copy()
            other[i, j] = other[j, i] = 1 - other[i, j]
            assert (gap[k], loss[k]) == pytest.approx(by_hand(model, other), abs=1e-10)


def test_flips_made_are_those_scored() -> None:
    model, dense = two_hop(0)
    rng = np.random.default_rng(1)
    for _ in range(40):
        pair = rng.choice(30, 2, replace=False)
        expected = model.effects(pair.reshape(2, 1))
        model.flip(pair)
        dense[pair[0], pair[1]] = dense[pair[1], pair[0]] = 1 - dense[pair[0], pair[1]]
        assert (model.gap, model.loss) == pytest.approx((expected[0][0], expected[1][0]))
        assert (model.gap, model.loss) == pytest.approx(by_hand(model, dense))


@pytest.mark.parametrize("count", [1, 7, 100, 435, 1000])
def test_largest_sums(count: int) -> None:
    values = np.random.default_rng(0).normal(size=30).round(1)  # with ties
    pairs = largest_sums(values, count)
    every = np.stack(np.triu_indices(30, 1))
    sums = np.sort(values[every].sum(0))[::-1][: pairs.shape[1]]
    assert pairs.shape[1] == min(count, 435)
    assert (pairs[0] < pairs[1]).all()
    assert len(np.unique(pairs, axis=1).T) == pairs.shape[1]
    np.testing.assert_allclose(np.sort(values[pairs].sum(0))[::-1], sums)


@pytest.fixture(scope="module")
def people() -> tuple[Graph, graphsec.Predictor]:
    """Two classes, and a group that mostly goes with them."""
    spec = {"name": "dc-sbm", "num_nodes": 200, "classes": 2, "signal": 0.5}
    graph = graphsec.load({**spec, "split": {"fractions": [0.5, 0, 0.5]}}, seed=0)
    assert graph.y is not None
    odd = torch.from_numpy(np.random.default_rng(0).random(200) < 0.3)
    graph = graph.replace(sensitive=((graph.y == 1) ^ odd).long())
    return graph, graphsec.fit(graph, {"name": "gcn", "hidden": 8}, training={"epochs": 30}, seed=0)


def attacked(people: tuple[Graph, graphsec.Predictor], attack: object, edges: float = 0.05) -> Any:
    graph, victim = people
    return graphsec.attack(attack, victim, graph, threat={"budget": {"edges": edges}}, seed=0)


def test_g_fairattack_widens_its_surrogates_gap(people: tuple[Graph, graphsec.Predictor]) -> None:
    outcome = attacked(people, {"name": "g-fairattack", "epochs": 200, "alpha": 0.1})
    gaps, (start, end) = outcome.info["gaps"], outcome.info["loss"]
    assert outcome.flips.shape[1] > 0
    assert max(gaps) > gaps[0] + 0.05
    assert gaps[outcome.flips.shape[1]] == max(gaps)
    assert abs(end - start) <= 0.05 * start


def test_prescreening_looks_at_fewer_pairs(people: tuple[Graph, graphsec.Predictor]) -> None:
    spec = {"name": "g-fairattack", "epochs": 200, "alpha": 0.1}
    whole, few = (attacked(people, {**spec, "candidates": k}) for k in (None, 300))
    assert max(few.info["gaps"]) > few.info["gaps"][0]
    assert max(whole.info["gaps"]) >= max(few.info["gaps"])


@pytest.mark.parametrize("links", ["DD", "DE", "ED", "EE"])
def test_fa_gnn_joins_the_kinds_it_says(
    links: str, people: tuple[Graph, graphsec.Predictor]
) -> None:
    graph = people[0]
    assert graph.y is not None
    assert graph.sensitive is not None
    assert graph.split is not None
    outcome = attacked(people, {"name": "fa-gnn", "links": links, "epochs": 100}, edges=0.2)
    assert not graph.has_edges(outcome.flips).any()
    known = torch.isin(outcome.flips, graph.split.train).all(0)  # labels of others are guesses
    u, v = outcome.flips[:, known]
    assert len(u) > 3
    assert ((graph.y[u] != graph.y[v]) == (links[0] == "D")).all()
    assert ((graph.sensitive[u] != graph.sensitive[v]) == (links[1] == "D")).all()


def test_fair_prbcd_keeps_accuracy_above_its_floor(
    people: tuple[Graph, graphsec.Predictor],
) -> None:
    graph, victim = people
    spec = {"name": "fair-prbcd", "steps": 30, "floor": 0.97}
    numbers = graphsec.score(attacked(people, spec, edges=0.2), graph, victim)
    assert numbers["delta_sp_rise"].value > 0.05
    assert numbers["attacked_accuracy"].value >= 0.97 * numbers["accuracy"].value


@pytest.mark.parametrize("name", ["g-fairattack", "fa-gnn", "fair-prbcd"])
def test_attacks_refuse_what_has_no_groups(
    name: str, people: tuple[Graph, graphsec.Predictor]
) -> None:
    graph, victim = people
    assert graph.y is not None
    cases = [
        (graph.replace(sensitive=None), "found none"),
        (graph.replace(sensitive=torch.zeros_like(graph.y)), "has 1, of which 1"),
        (graph.replace(y=graph.y + 1), r"labels 0 and 1, .* has \[1, 2\]"),
    ]
    for other, message in cases:
        with pytest.raises(FairnessError, match=message):
            graphsec.attack(name, victim, other, threat={"budget": {"edges": 3}})
