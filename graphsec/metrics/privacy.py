"""One ROC analysis for every attack that scores pairs or nodes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from graphsec.metrics.base import Curve, Metric
from graphsec.metrics.utility import accuracy, macro_f1
from graphsec.stats import Interval


def _rates(scores: Tensor, truth: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(thresholds high to low, true positives, false positives) at distinct scores."""
    order = torch.argsort(scores.double(), descending=True, stable=True)
    ranked, hit = scores.double()[order].numpy(), truth[order].numpy().astype(np.float64)
    last = np.r_[np.nonzero(np.diff(ranked))[0], len(ranked) - 1]
    true = np.cumsum(hit)[last]
    return ranked[last], true, 1.0 + last - true


def roc_curve(scores: Tensor, truth: Tensor, points: int = 200) -> Curve:
    """ROC curve, thinned to at most about ``points`` points.

    Args:
        scores: (k,) higher means more likely positive.
        truth: (k,) 0 or 1.
        points: Most points kept.
    """
    _, true, false = _rates(scores, truth)
    x, y = np.r_[0, false / false[-1]], np.r_[0, true / true[-1]]
    if len(x) > points:
        # Half evenly spaced, half logarithmic, because low false-positive rates matter most.
        wanted = np.r_[np.linspace(0, 1, points // 2), np.geomspace(1e-4, 1, points // 2)]
        keep = np.unique(np.r_[0, np.searchsorted(x, wanted).clip(max=len(x) - 1), len(x) - 1])
        x, y = x[keep], y[keep]
    across, up = (tuple(round(float(v), 6) for v in axis) for axis in (x, y))
    return Curve(across, up, "false positive rate", "true positive rate")


def ranking_metrics(scores: Tensor, truth: Tensor) -> dict[str, Metric]:
    """AUC, average precision, TPR at 0.1 % and 1 % FPR, and precision at the true count.

    Ties share a threshold, so that the order of the input never matters. From the defender's
    side lower is better.

    Args:
        scores: (k,) higher means more likely positive.
        truth: (k,) 0 or 1, both present.
    """
    positives = int(truth.sum())
    if positives in (0, len(truth)):
        raise ValueError(f"truth must hold both 0 and 1, found {positives} ones of {len(truth)}")
    _, true, false = _rates(scores, truth)
    tpr, fpr = np.r_[0, true / true[-1]], np.r_[0, false / false[-1]]
    auc = float(np.trapezoid(tpr, fpr))
    precision = true / (true + false)
    average = float(np.sum(np.diff(np.r_[0, true]) * precision) / true[-1])
    found = true + false
    cut = int(np.searchsorted(found, positives))
    before_true, before = (true[cut - 1], found[cut - 1]) if cut else (0.0, 0.0)
    share = (positives - before) / (found[cut] - before)
    at_count = float((before_true + share * (true[cut] - before_true)) / positives)

    def at(rate: float) -> float:
        return float(tpr[fpr <= rate + 1e-12].max())

    return {
        "auc": Metric(auc, False, 0, 1, "attack AUC"),
        "average_precision": Metric(average, False, 0, 1, "attack average precision"),
        "tpr_at_0.1%_fpr": Metric(at(1e-3), False, 0, 1, "TPR at 0.1 % FPR"),
        "tpr_at_1%_fpr": Metric(at(1e-2), False, 0, 1, "TPR at 1 % FPR"),
        "precision_at_count": Metric(at_count, False, 0, 1, "precision at the true count"),
    }


def per_user_metrics(scores: Tensor, truth: Tensor, users: Tensor) -> dict[str, Metric]:
    """Mean over users of AUC and precision within the user's own pairs; lower is better.

    Precision is at the user's own number of true pairs: a perfect attacker has 1, a guess the
    share of true pairs. Ties count half, and share a place. Users with pairs of one kind only
    don't count.

    Args:
        scores: (k,) higher means more likely positive.
        truth: (k,) 0 or 1.
        users: (k,) whose pair it is.

    Raises:
        ValueError: No user has pairs of both kinds.
    """
    areas, precisions = [], []
    order = torch.argsort(users, stable=True)
    ends = torch.unique(users[order], return_counts=True)[1].tolist()
    for mine in torch.split(order, ends):
        values, hit = scores[mine].double().numpy(), truth[mine].bool().numpy()
        if hit.all() or not hit.any():
            continue
        areas.append(auc(values[hit], values[~hit]))
        cut = np.sort(values)[::-1][hit.sum() - 1]
        above, level = values > cut, values == cut
        left = (hit.sum() - above.sum()) / level.sum()
        precisions.append((hit[above].sum() + left * hit[level].sum()) / hit.sum())
    if not areas:
        raise ValueError("no user has pairs that are true and pairs that are not")
    label = "precision at a user's true count, mean over users"
    return {
        "user_auc": Metric(float(np.mean(areas)), False, 0, 1, "attack AUC, mean over users"),
        "user_precision": Metric(float(np.mean(precisions)), False, 0, 1, label),
    }


def margin(scores: Tensor) -> Tensor:
    """(k,) how far the score of value 1 is above that of value 0, of two values (k, 2 or 1)."""
    wide = torch.nn.functional.pad(scores, (0, max(0, 2 - scores.shape[1])))
    return wide[:, 1] - wide[:, 0]


def attribute_metrics(scores: Tensor, truth: Tensor) -> dict[str, Metric]:
    """Accuracy, macro F1 and AUC of guesses at a private attribute; lower is better to a defender.

    With two values the AUC and its companions are those of ``ranking_metrics``, value 1 against
    value 0; with more it is the mean over the values that occur of one value against the rest.

    Args:
        scores: (k, values) higher means more likely; columns beyond the last are 0.
        truth: (k,) the values, two different ones or more.

    Raises:
        ValueError: All nodes have one value.
    """
    values, counts = torch.unique(truth, return_counts=True)
    if len(values) < 2:
        raise ValueError(f"truth must hold two values or more, found {values.tolist()}")
    guess, most = scores.argmax(1), float(counts.max()) / len(truth)
    right = accuracy(guess, truth)
    label = "accuracy on the attribute above that of its most frequent value"
    found = {
        "attribute_accuracy": Metric(right, False, 0, 1, "accuracy on the attribute"),
        "attribute_gain": Metric(right - most, False, -1, 1, label),
        "attribute_macro_f1": Metric(macro_f1(guess, truth), False, 0, 1, "its macro F1"),
    }
    if int(values.max()) == 1:
        return found | ranking_metrics(margin(scores), truth)
    wide = torch.nn.functional.pad(scores, (0, max(0, int(values.max()) + 1 - scores.shape[1])))
    areas = []
    for value in values:
        mine = wide[:, value].double().numpy()
        is_it = (truth == value).numpy()
        areas.append(auc(mine[is_it], mine[~is_it]))
    mean = float(np.mean(areas))
    return found | {"auc": Metric(mean, False, 0, 1, "attack AUC, one value against the rest")}


def property_metrics(log_odds: float, holds: bool) -> dict[str, Metric]:
    """Whether one bit was found, and how surely; lower is better to a defender but for the loss.

    One game is one bit: average ``property_right`` over games, and take the AUC over games
    (``auc_interval``) of ``property_log_odds`` against ``property_holds``.

    Args:
        log_odds: The attacker's, that the property holds at its second level.
        holds: Whether it does.
    """
    right = 0.5 if log_odds == 0 else float((log_odds > 0) == holds)
    loss = float(np.logaddexp(0, -log_odds if holds else log_odds))
    far = float("inf")
    return {
        "property_right": Metric(right, False, 0, 1, "property guessed right"),
        "property_loss": Metric(loss, True, 0, far, "log loss of the guess at the property"),
        "property_log_odds": Metric(log_odds, False, -far, far, "log-odds that it holds"),
        "property_holds": Metric(float(holds), False, 0, 1, "whether the property holds"),
    }


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Chance that a positive scores above a negative, ties counting half (Mann and Whitney)."""
    ranked = np.sort(negative)
    below = np.searchsorted(ranked, positive, "left") + np.searchsorted(ranked, positive, "right")
    return float(below.mean() / (2 * len(negative)))


def auc_interval(
    scores: Tensor,
    truth: Tensor,
    rng: np.random.Generator | None,
    *,
    resamples: int = 1000,
    level: float = 0.95,
) -> Interval:
    """AUC with a percentile bootstrap interval; positives and negatives are drawn apart.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, §13.3.

    Args:
        scores: (k,) higher means more likely positive.
        truth: (k,) 0 or 1, both present.
        rng: Generator of the resamples; None leaves the interval out.
        resamples: Their number.
        level: Confidence level.
    """
    values, hit = scores.double().numpy(), truth.bool().numpy()
    positive, negative = values[hit], values[~hit]
    if not len(positive) or not len(negative):
        raise ValueError(f"truth must hold both 0 and 1, found {int(hit.sum())} ones of {len(hit)}")
    mean, low, high = auc(positive, negative), None, None
    if rng is not None:
        drawn = [
            auc(rng.choice(positive, len(positive)), rng.choice(negative, len(negative)))
            for _ in range(resamples)
        ]
        low, high = (float(v) for v in np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]))
    return Interval(mean=mean, low=low, high=high, n=len(hit), level=level)


@dataclass(frozen=True, kw_only=True)
class DegreeGroup:
    """AUC among nodes of like degree.

    Attributes:
        low: Smallest degree among them.
        high: Largest degree among them.
        positives: Number of members.
        negatives: Number of others.
        auc: AUC among them.
    """

    low: int
    high: int
    positives: int
    negatives: int
    auc: Interval


def auc_by_degree(
    scores: Tensor,
    truth: Tensor,
    degree: Tensor,
    rng: np.random.Generator | None = None,
    *,
    groups: int = 10,
    least: int = 20,
    resamples: int = 1000,
    level: float = 0.95,
) -> list[DegreeGroup]:
    """AUC within groups of rising degree, deciles by default, with bootstrap intervals.

    Nodes of one degree are never parted, so that groups differ in size, and may be fewer. Scores
    are compared within a group only: that members have other degrees than others does not count.

    Args:
        scores: (k,) higher means more likely positive.
        truth: (k,) 0 or 1.
        degree: (k,) degrees of the nodes scored.
        rng: Generator of the bootstrap; None leaves the intervals out.
        groups: Most groups.
        least: Members, and others, that a group must hold: smaller ones are joined to the next
            (what is left at the end to the one before).
        resamples: Bootstrap resamples of each group.
        level: Confidence level of each interval (not of all jointly).

    Returns:
        The groups; none where there are fewer than ``least`` members or others.
    """
    d, hit = degree.numpy(), truth.bool().numpy()
    edges = np.unique(np.quantile(d, np.arange(1, groups) / groups, method="inverted_cdf"))
    group = np.searchsorted(edges, d, "left")  # degrees up to an edge stand before it
    parts: list[np.ndarray] = []
    open_ = np.zeros(len(d), bool)
    for g in range(len(edges) + 1):
        open_ = open_ | (group == g)
        if min(hit[open_].sum(), (~hit)[open_].sum()) >= least:
            parts.append(open_)
            open_ = np.zeros(len(d), bool)
    if open_.any() and parts:
        parts[-1] = parts[-1] | open_
    found = []
    for part in parts:
        mine = torch.from_numpy(part)
        interval = auc_interval(scores[mine], truth[mine], rng, resamples=resamples, level=level)
        found.append(
            DegreeGroup(
                low=int(d[part].min()),
                high=int(d[part].max()),
                positives=int(hit[part].sum()),
                negatives=int((~hit)[part].sum()),
                auc=interval,
            )
        )
    return found
