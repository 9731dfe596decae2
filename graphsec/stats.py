"""Intervals, paired tests and corrections; pure functions of numbers."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean and its confidence interval.

    Attributes:
        mean: Mean of the values.
        low: Lower end; None when one value tells nothing about the spread.
        high: Upper end; None likewise.
        n: Number of values.
        level: Confidence level.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    level: float = 0.95

    @property
    def half_width(self) -> float | None:
        """Half the interval's length, None without an interval."""
        if self.low is None or self.high is None:
            return None
        return (self.high - self.low) / 2

    def text(self, digits: int = 3) -> str:
        """Such as "0.713 ±0.021"; a single value stands alone, never with ±0."""
        half = self.half_width
        mean = f"{self.mean:.{digits}f}"
        return mean if half is None else f"{mean} ±{half:.{digits}f}"


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Comparison of two methods on the same replicates.

    Attributes:
        difference: Mean of first − second with its interval.
        p_value: Two-sided; None below two pairs.
        test: Name of the test.
    """

    difference: Interval
    p_value: float | None
    test: str


def mean_interval(
    values: Sequence[float],
    *,
    clusters: Sequence[Sequence[Hashable]] = (),
    level: float = 0.95,
    method: Literal["t", "bca"] = "t",
    rng: np.random.Generator | None = None,
) -> Interval:
    """Mean over replicates with a confidence interval.

    ``"t"`` is Student's interval. With ``clusters`` (one sequence of labels per factor, such as
    the seeds and the splits) values that share a label count as dependent: the variance is the
    two-way cluster-robust one, with as many degrees of freedom as the smallest factor has labels
    less one. Where every value has labels of its own, or a factor has one label only, this is
    Student's interval again. ``"bca"`` is the bias-corrected accelerated bootstrap.

    Source: Student 1908; Cameron, Gelbach and Miller 2011, "Robust inference with multiway
    clustering", eq. 2.9; Efron 1987, "Better bootstrap confidence intervals".

    Args:
        values: (n,) one number per replicate.
        clusters: At most two sequences of n labels.
        level: Confidence level, between 0 and 1.
        method: "t", or "bca" for at least 8 values.
        rng: Generator of the bootstrap; ``"bca"`` needs one.

    Raises:
        ValueError: No values, a value that is not finite, or a method that does not fit.
    """
    x = _values("values", values)
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    mean, n = float(x.mean()), len(x)
    if method == "bca":
        if rng is None:
            raise ValueError("method 'bca' draws at random: give it rng")
        if n < 8:
            raise ValueError(f"method 'bca' needs at least 8 values, got {n}")
        low, high = _bca(x, level, rng)
        return Interval(mean=mean, low=low, high=high, n=n, level=level)
    if method != "t":
        raise ValueError(f"method must be 't' or 'bca', got {method!r}")
    if n < 2:
        return Interval(mean=mean, low=None, high=None, n=n, level=level)
    error, freedom = _standard_error(x, clusters)
    half = _t_quantile(level, freedom) * error
    return Interval(mean=mean, low=mean - half, high=mean + half, n=n, level=level)


def paired(
    first: Sequence[float],
    second: Sequence[float],
    *,
    test: Literal["t", "wilcoxon"] = "t",
    clusters: Sequence[Sequence[Hashable]] = (),
    level: float = 0.95,
) -> Paired:
    """Compare two methods measured on the same replicates, in the same order.

    Source: Student's paired t-test, with ``clusters`` on the standard error and the degrees of
    freedom of ``mean_interval``; Wilcoxon 1945, "Individual comparisons by ranking methods"
    (signed ranks; distribution-free, and with 5 pairs or fewer never below p = 0.05).

    Args:
        first: (n,) numbers of the first method.
        second: (n,) numbers of the second.
        test: Which test gives the p-value; the interval is Student's in both cases.
        clusters: At most two sequences of n labels, as for ``mean_interval``; "t" alone.
        level: Confidence level of the interval.

    Raises:
        ValueError: Lengths differ, a value is missing or not finite, or the test knows no clusters.
    """
    from scipy import stats

    a, b = _values("first", first), _values("second", second)
    if len(a) != len(b):
        raise ValueError(f"first and second must have equal lengths, got {len(a)} and {len(b)}")
    if test not in ("t", "wilcoxon"):
        raise ValueError(f"test must be 't' or 'wilcoxon', got {test!r}")
    if clusters and test != "t":
        raise ValueError(f"clusters need test 't', got {test!r}")
    d = a - b
    difference = mean_interval(d.tolist(), clusters=clusters, level=level)
    p: float | None
    if len(d) < 2:
        p = None
    elif not d.any():
        p = 1.0
    elif test == "wilcoxon":
        p = float(stats.wilcoxon(d).pvalue)
    elif np.ptp(d) == 0:
        p = 0.0  # the limit of the t-test as the spread goes to 0
    else:
        error, freedom = _standard_error(d, clusters)
        p = float(2 * stats.t.sf(abs(d.mean()) / error, freedom))
    return Paired(difference=difference, p_value=p, test=test)


def adjust(p_values: Sequence[float], method: Literal["holm", "bh", "by"] = "holm") -> list[float]:
    """P-values corrected for how many there are.

    "holm" bounds the chance of one wrong rejection or more, under any dependence: the i-th
    smallest of k is multiplied by k − i + 1, and none falls below a smaller one's. The others
    bound the expected share of wrong rejections, the false discovery rate: "bh" for independent or
    positively dependent tests, "by" for any.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure"; Benjamini and
    Hochberg 1995; Benjamini and Yekutieli 2001.

    Args:
        p_values: (k,) from 0 to 1, of every test that was looked at, not of the best alone.
        method: Which procedure.

    Raises:
        ValueError: A p-value outside 0…1, or an unknown method.
    """
    from scipy import stats

    if method not in ("holm", "bh", "by"):
        raise ValueError(f"method must be 'holm', 'bh' or 'by', got {method!r}")
    if not len(p_values):
        return []
    p = _values("p_values", p_values)
    if p.min() < 0 or p.max() > 1:
        raise ValueError(f"p_values must lie in 0…1, got {p.min():g} to {p.max():g}")
    if method == "holm":
        order = np.argsort(p)
        raised = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
        corrected = np.empty_like(p)
        corrected[order] = np.minimum(raised, 1.0)
        return [float(v) for v in corrected]
    return [float(v) for v in stats.false_discovery_control(p, method=method)]


def _values(name: str, values: Sequence[float]) -> Array:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or not len(x):
        raise ValueError(f"{name} must be a non-empty sequence of numbers, got shape {x.shape}")
    if not np.isfinite(x).all():
        where = int(np.flatnonzero(~np.isfinite(x))[0])
        raise ValueError(f"{name} must be finite, got {x[where]} at {where}")
    return x


def _t_quantile(level: float, freedom: int) -> float:
    from scipy import stats

    return float(stats.t.ppf((1 + level) / 2, freedom))


def _standard_error(x: Array, clusters: Sequence[Sequence[Hashable]]) -> tuple[float, int]:
    """Standard error of the mean and its degrees of freedom."""
    if len(clusters) > 2:
        raise ValueError(f"clusters must be at most two sequences, got {len(clusters)}")
    n = len(x)
    deviation = x - x.mean()
    plain = float(deviation @ deviation) / (n * (n - 1))
    factors = []
    for labels in clusters:
        if len(labels) != n:
            raise ValueError(f"clusters must have {n} labels each, got {len(labels)}")
        sums: dict[Hashable, float] = {}
        for label, value in zip(labels, deviation, strict=True):
            sums[label] = sums.get(label, 0.0) + float(value)
        groups = len(sums)
        if groups > 1:
            variance = groups / (groups - 1) * sum(s * s for s in sums.values()) / n**2
            factors.append((variance, groups))
    if not factors:
        return plain**0.5, n - 1
    total = sum(v for v, _ in factors) - plain if len(factors) == 2 else factors[0][0]
    # The difference of estimates can fall below any of them; the widest is the honest one.
    variance = max(total, plain, *(v for v, _ in factors))
    return variance**0.5, min(groups for _, groups in factors) - 1


def _bca(x: Array, level: float, rng: np.random.Generator) -> tuple[float, float]:
    from scipy import stats

    if np.ptp(x) == 0:
        return float(x[0]), float(x[0])  # the bootstrap has nothing to vary
    found = stats.bootstrap(
        (x,), np.mean, confidence_level=level, n_resamples=9999, method="BCa", rng=rng
    ).confidence_interval
    return float(found.low), float(found.high)


__all__ = ["Interval", "Paired", "adjust", "mean_interval", "paired"]
