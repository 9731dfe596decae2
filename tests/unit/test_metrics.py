"""Metrics against scikit-learn, and against what they mean."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from graphsec.metrics import (
    accuracy,
    auc_by_degree,
    auc_interval,
    expected_calibration_error,
    macro_f1,
    r_squared,
    ranking_metrics,
    relative_area,
    roc_curve,
)


def drawn(seed: int, ties: bool) -> tuple[np.random.Generator, np.ndarray, np.ndarray]:
    """A generator, and 62 scores with the truth that they lean towards."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.r_[0, 1, rng.integers(0, 2, 60)])
    scores = rng.normal(size=62) + truth
    return rng, np.round(scores) if ties else scores, truth


@given(seed=st.integers(0, 10_000), ties=st.booleans())
@settings(max_examples=30, deadline=None)
def test_ranking_agrees_with_sklearn(seed: int, ties: bool) -> None:
    rng, scores, truth = drawn(seed, ties)
    numbers = ranking_metrics(torch.from_numpy(scores), torch.from_numpy(truth))
    assert float(numbers["auc"]) == pytest.approx(sk.roc_auc_score(truth, scores))
    average = sk.average_precision_score(truth, scores)
    assert float(numbers["average_precision"]) == pytest.approx(average)
    fpr, tpr, _ = sk.roc_curve(truth, scores, drop_intermediate=False)
    assert float(numbers["tpr_at_1%_fpr"]) == pytest.approx(tpr[fpr <= 0.01].max())
    order = rng.permutation(62)
    shuffled = ranking_metrics(torch.from_numpy(scores[order]), torch.from_numpy(truth[order]))
    assert {k: float(v) for k, v in shuffled.items()} == pytest.approx(
        {k: float(v) for k, v in numbers.items()}
    )
    assert not any(metric.higher_is_better for metric in numbers.values())


def test_precision_at_count_shares_ties() -> None:
    numbers = ranking_metrics(torch.tensor([3.0, 1, 1, 1]), torch.tensor([1, 1, 0, 0]))
    assert float(numbers["precision_at_count"]) == pytest.approx((1 + 1 / 3) / 2)


def test_truth_must_hold_both() -> None:
    with pytest.raises(ValueError, match="both 0 and 1, found 2 ones of 2"):
        ranking_metrics(torch.zeros(2), torch.ones(2))


def test_roc_curve_keeps_ends_and_area() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 5000)
    scores = torch.from_numpy(rng.normal(size=5000) + truth)
    curve = roc_curve(scores, torch.from_numpy(truth), points=100)
    assert len(curve.x) <= 101
    assert (curve.x[0], curve.y[0], curve.x[-1], curve.y[-1]) == (0, 0, 1, 1)
    assert list(curve.x) == sorted(curve.x)
    area = float(np.trapezoid(curve.y, curve.x))
    assert area == pytest.approx(sk.roc_auc_score(truth, scores), abs=0.003)


def test_utility_agrees_with_sklearn() -> None:
    rng = np.random.default_rng(1)
    y, predicted = rng.integers(0, 4, 80), rng.integers(0, 5, 80)
    a, b = torch.from_numpy(predicted), torch.from_numpy(y)
    assert accuracy(a, b) == pytest.approx(sk.accuracy_score(y, predicted))
    labels = np.unique(y)
    wanted = sk.f1_score(y, predicted, labels=labels, average="macro")
    assert macro_f1(a, b) == pytest.approx(wanted)
    values, guesses = rng.normal(size=30), rng.normal(size=30)
    assert r_squared(torch.from_numpy(guesses), torch.from_numpy(values)) == pytest.approx(
        sk.r2_score(values, guesses)
    )


def test_unknown_labels_are_left_out() -> None:
    assert accuracy(torch.tensor([0, 1, 1]), torch.tensor([0, 0, -1])) == 0.5
    with pytest.raises(ValueError, match="at least one labelled node"):
        accuracy(torch.tensor([0]), torch.tensor([-1]))


def test_calibration_error() -> None:
    sure = torch.tensor([[0.9, 0.1]] * 10)
    right = expected_calibration_error(sure, torch.tensor([0] * 9 + [1]))
    assert right == pytest.approx(0, abs=1e-6)
    assert expected_calibration_error(sure, torch.tensor([1] * 10)) == pytest.approx(0.9)


def test_relative_area_of_the_published_curve() -> None:
    """GCN of Are Defenses for GNNs Robust?, table values: published area .210, MLP .65."""
    budgets = [0, 0.01, 0.02, 0.05, 0.1, 0.15]
    area = relative_area(budgets, [0.848, 0.820, 0.798, 0.749, 0.687, 0.637], 0.65)
    assert abs(area - 0.210) < 0.01


def test_relative_area_by_hand() -> None:
    assert relative_area([0, 1, 2], [1, 1, 1], 0.5) == 1
    assert relative_area([0, 0.1], [0.6, 0.1], 0.6) == 0
    assert relative_area([0, 0.1], [0.5, 0.4], 0.6) == 0
    assert abs(relative_area([0, 10], [1, 0], 0.5) - 0.25) < 1e-12  # a triangle, cut half way
    # A larger budget includes the smaller ones: what rises again does not count.
    assert relative_area([0, 1, 2], [0.9, 0.7, 0.8], 0) == relative_area(
        [0, 1, 2], [0.9, 0.7, 0.7], 0
    )


@pytest.mark.parametrize(
    ("budgets", "accuracies", "floor", "named"),
    [([0], [1], 0, "ascend"), ([0.1, 0.2], [1, 1], 0, "from 0"), ([0, 1], [1], 0, "1 accuracies"),
     ([0, 1], [1, 1], 1, "floor")],
)  # fmt: skip
def test_relative_area_refuses(
    budgets: list[float], accuracies: list[float], floor: float, named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        relative_area(budgets, accuracies, floor)


@given(seed=st.integers(0, 10_000), ties=st.booleans())
@settings(max_examples=30, deadline=None)
def test_auc_interval_is_around_sklearns(seed: int, ties: bool) -> None:
    rng, scores, truth = drawn(seed, ties)
    pair = torch.from_numpy(scores), torch.from_numpy(truth)
    found = auc_interval(*pair, rng, resamples=100)
    assert found.mean == pytest.approx(sk.roc_auc_score(truth, scores))
    assert found.low is not None
    assert found.high is not None
    assert 0 <= found.low <= found.mean <= found.high <= 1
    assert auc_interval(*pair, None).low is None


def test_auc_by_degree_finds_where_it_leaks() -> None:
    rng = np.random.default_rng(0)
    degree = rng.permutation(np.repeat(np.arange(1, 101), 20))
    truth = rng.integers(0, 2, 2000)
    scores = rng.normal(size=2000) + 2.0 * truth * (degree <= 10)
    numbers = torch.from_numpy(scores), torch.from_numpy(truth), torch.from_numpy(degree)
    groups = auc_by_degree(*numbers, rng, resamples=100)
    assert len(groups) == 10
    assert sum(group.positives + group.negatives for group in groups) == 2000
    assert (groups[0].low, groups[-1].high) == (1, 100)
    for before, after in pairwise(groups):
        assert before.high < after.low
    first, *rest = (group.auc for group in groups)
    assert first.low is not None
    assert first.low > 0.8
    assert all(interval.mean < 0.65 for interval in rest)
    same = (torch.from_numpy(degree) >= groups[3].low) & (
        torch.from_numpy(degree) <= groups[3].high
    )
    wanted = sk.roc_auc_score(truth[same.numpy()], scores[same.numpy()])
    assert groups[3].auc.mean == pytest.approx(wanted)


def test_groups_of_degree_are_never_too_small() -> None:
    truth = torch.tensor([0, 1] * 60)
    degree = torch.tensor([1] * 70 + [2] * 30 + [9] * 20)
    groups = auc_by_degree(torch.rand(120), truth, degree)
    assert [(g.low, g.high, g.positives) for g in groups] == [(1, 1, 35), (2, 9, 25)]
    assert all(group.auc.low is None for group in groups)
    assert auc_by_degree(torch.rand(30), truth[:30], degree[:30]) == []
