"""One ROC analysis for every attack that scores pairs or nodes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from graphsec.metrics.base import Curve, Metric


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
