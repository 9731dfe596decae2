"""Gaps between groups: the metrics, what they refuse, and where records have them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from torch import Tensor

import graphsec
from graphsec.datasets.fairness import pairs, similar
from graphsec.metrics import FairnessError, check_groups, fairness_metrics


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
