"""How well a model does its job."""

from __future__ import annotations

import torch
from torch import Tensor


def accuracy(predicted: Tensor, y: Tensor) -> float:
    """Fraction of labelled nodes (k,) whose predicted class (k,) is right; labels −1 are left out.

    Raises:
        ValueError: No node is labelled.
    """
    known = y >= 0
    if not known.any():
        raise ValueError("accuracy needs at least one labelled node, found none")
    return float((predicted[known] == y[known]).double().mean())


def macro_f1(predicted: Tensor, y: Tensor) -> float:
    """F1 averaged over the classes that occur in y (k,)."""
    known = y >= 0
    predicted, y = predicted[known], y[known]
    scores = []
    for label in torch.unique(y).tolist():
        hit = int(((predicted == label) & (y == label)).sum())
        total = int((predicted == label).sum() + (y == label).sum())
        scores.append(2 * hit / total)
    return float(torch.tensor(scores, dtype=torch.float64).mean())


def r_squared(predicted: Tensor, y: Tensor) -> float:
    """1 − squared error / variance around the mean of y (k,)."""
    residual = (y - predicted).double().square().sum()
    return float(1 - residual / (y - y.mean()).double().square().sum())


def rmse(predicted: Tensor, y: Tensor) -> float:
    """Root of the mean squared error of (k,) predictions of y (k,)."""
    return float((y - predicted).double().square().mean().sqrt())


def expected_calibration_error(probability: Tensor, y: Tensor, bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over equal-width bins (Guo et al. 2017, eq. 3).

    Args:
        probability: (k, classes).
        y: (k,) labels.
        bins: Number of bins.
    """
    confidence, predicted = probability.double().max(1)
    right = (predicted == y).double()
    index = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gap = torch.zeros(bins, dtype=torch.float64).index_add(0, index, right - confidence)
    return float(gap.abs().sum() / len(y))
