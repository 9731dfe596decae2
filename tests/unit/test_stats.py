"""Intervals, paired tests and corrections."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats as reference

from graphsec.stats import adjust, mean_interval, paired


def test_t_interval_equals_scipys() -> None:
    values = [0.71, 0.74, 0.69, 0.73]
    found = mean_interval(values)
    low, high = reference.t.interval(0.95, 3, loc=np.mean(values), scale=reference.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.text() == f"{np.mean(values):.3f} ±{(high - low) / 2:.3f}"


def test_one_value_has_no_interval() -> None:
    found = mean_interval([0.7])
    assert (found.low, found.high, found.half_width) == (None, None, None)
    assert found.text() == "0.700"


def test_own_labels_and_single_labels_change_nothing() -> None:
    values = [0.71, 0.74, 0.69, 0.73]
    plain = mean_interval(values)
    assert mean_interval(values, clusters=[range(4), range(4)]).high == pytest.approx(plain.high)
    assert mean_interval(values, clusters=[range(4), [0] * 4]).high == pytest.approx(plain.high)


def test_repeated_seeds_do_not_narrow_the_interval() -> None:
    # Copying each split's number five times adds no evidence about splits.
    splits = [0.70, 0.74, 0.66]
    copied = [v for v in splits for _ in range(5)]
    labels = [s for s in range(3) for _ in range(5)]
    once, many = mean_interval(splits), mean_interval(copied, clusters=[labels])
    assert many.half_width == pytest.approx(once.half_width)
    assert mean_interval(copied).half_width < 0.5 * once.half_width  # type: ignore[operator]


def test_crossed_intervals_cover_where_plain_ones_do_not() -> None:
    rng = np.random.default_rng(0)
    cells = list(itertools.product(range(5), range(5)))
    clusters = [[a for a, _ in cells], [b for _, b in cells]]
    crossed = plain = 0
    for _ in range(200):
        split, seed = rng.normal(size=5), 0.3 * rng.normal(size=5)
        values = [split[a] + seed[b] + 0.3 * rng.normal() for a, b in cells]
        both = mean_interval(values, clusters=clusters)
        naive = mean_interval(values)
        assert both.low is not None
        assert both.high is not None
        assert naive.low is not None
        assert naive.high is not None
        crossed += both.low <= 0 <= both.high
        plain += naive.low <= 0 <= naive.high
    assert crossed >= 0.9 * 200
    assert plain < 0.8 * 200


def test_bca_follows_its_generator_and_the_skew() -> None:
    values = np.random.default_rng(1).exponential(size=30).tolist()
    first = mean_interval(values, method="bca", rng=np.random.default_rng(2))
    again = mean_interval(values, method="bca", rng=np.random.default_rng(2))
    assert first == again
    assert first.high is not None
    assert first.low is not None
    assert first.high - first.mean > first.mean - first.low
    same = mean_interval([0.5] * 8, method="bca", rng=np.random.default_rng(2))
    assert (same.low, same.high) == (0.5, 0.5)


@pytest.mark.parametrize("test", ["t", "wilcoxon"])
def test_paired_equals_scipys(test: str) -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=12)
    b = a - 0.2 + 0.1 * rng.normal(size=12)
    found = paired(a.tolist(), b.tolist(), test=test)  # type: ignore[arg-type]
    expected = reference.ttest_rel(a, b) if test == "t" else reference.wilcoxon(a, b)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.difference.mean == pytest.approx(np.mean(a - b))


def test_paired_at_its_edges() -> None:
    assert paired([0.5], [0.4]).p_value is None
    assert paired([0.5, 0.4], [0.5, 0.4]).p_value == 1
    assert paired([0.75, 0.5], [0.5, 0.25]).p_value == 0


def test_paired_takes_replicates_of_one_split_as_dependent() -> None:
    """Five seeds on each of three splits tell no more than the three splits."""
    d, splits = np.repeat([0.02, 0.05, 0.06], 5), np.repeat([0, 1, 2], 5).tolist()
    zero = [0.0] * 15
    found = paired(d.tolist(), zero, clusters=[splits, list(range(5)) * 3])
    once = reference.ttest_1samp([0.02, 0.05, 0.06], 0.0)
    assert found.p_value == pytest.approx(once.pvalue)
    assert paired(d.tolist(), zero).p_value == pytest.approx(reference.ttest_1samp(d, 0.0).pvalue)
    own = list(range(15))
    assert paired(d.tolist(), zero, clusters=[own, own]) == paired(d.tolist(), zero)


def closed(p: list[float]) -> list[float]:
    """Holm by what it is: the closed test whose intersections are tested by Bonferroni."""
    every = range(len(p))
    sets = [s for k in every for s in itertools.combinations(every, k + 1)]
    return [max(min(1.0, len(s) * min(p[j] for j in s)) for s in sets if i in s) for i in every]


def test_adjust_equals_the_textbook() -> None:
    assert adjust([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    for seed in range(20):
        p = (np.random.default_rng(seed).random(6) ** 3).round(2).tolist()  # some are tied
        assert adjust(p) == pytest.approx(closed(p))
    assert adjust([0.3]) == [0.3]
    assert adjust([0.01, 0.02, 0.03, 0.5], "bh") == pytest.approx([0.04, 0.04, 0.04, 0.5])
    assert adjust([0.01, 0.5], "by") == pytest.approx([0.03, 0.75])
    assert adjust([]) == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_interval([]), "non-empty"),
        (lambda: mean_interval([1.0, float("nan")]), "finite, got nan at 1"),
        (lambda: mean_interval([1.0], level=95), "level must lie"),
        (lambda: mean_interval([1.0] * 7, method="bca", rng=np.random.default_rng()), "8 values"),
        (lambda: mean_interval([1.0] * 9, method="bca"), "give it rng"),
        (lambda: mean_interval([1.0], method="z"), "'t' or 'bca', got 'z'"),  # type: ignore[arg-type]
        (lambda: mean_interval([1.0, 2.0], clusters=[[1]]), "2 labels each, got 1"),
        (lambda: paired([1.0], [1.0, 2.0]), "equal lengths, got 1 and 2"),
        (lambda: paired([1.0], [1.0], test="u"), "'t' or 'wilcoxon'"),  # type: ignore[arg-type]
        (lambda: adjust([1.5]), "0…1"),
        (lambda: adjust([0.5], "sidak"), "'bh' or 'by'"),  # type: ignore[arg-type]
        (lambda: paired([1.0], [1.0], test="wilcoxon", clusters=[[0]]), "clusters need test 't'"),
    ],
)
def test_bad_input_is_named(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
