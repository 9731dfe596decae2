"""How a model stands attacks of growing budget."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from graphsec.metrics.base import Curve


def relative_area(budgets: Sequence[float], accuracies: Sequence[float], floor: float) -> float:
    """Area between the curve of accuracy over budget and a model without graph, relative.

    1 is a perfect model that no budget harms, 0 one that is never better than ``floor``. Between
    the given budgets the curve is straight; it never rises (a larger budget includes the smaller
    ones), and what lies below the floor counts nothing.

    Source: Mujkanovic et al., Are Defenses for Graph Neural Networks Robust?, NeurIPS 2022, §4.

    Args:
        budgets: Two or more, ascending from 0; the last one is the length of the axis.
        accuracies: Accuracy at each.
        floor: Accuracy of a model that ignores the edges, below 1.

    Raises:
        ValueError: Fewer than two budgets, not ascending from 0, lengths differ, or floor ≥ 1.
    """
    x, y = np.asarray(budgets, float), np.asarray(accuracies, float)
    if len(x) != len(y) or len(x) < 2 or x[0] != 0 or not (np.diff(x) > 0).all():
        raise ValueError(
            f"budgets must ascend from 0, with an accuracy each, got {list(budgets)} "
            f"for {len(y)} accuracies"
        )
    if floor >= 1:
        raise ValueError(f"floor must be below 1, got {floor}")
    x, height = x / x[-1], (np.minimum.accumulate(y) - floor) / (1 - floor)
    above = int((height > 0).sum())
    if above == 0:
        return 0.0
    if above < len(x):  # end where the curve crosses the floor
        before, after = height[above - 1], height[above]
        cross = x[above - 1] + (x[above] - x[above - 1]) * before / (before - after)
        x, height = np.r_[x[:above], cross], np.r_[height[:above], 0.0]
    return float(np.trapezoid(height, x))


def certified_ratio(radii: Tensor, correct: Tensor | None = None) -> Curve:
    """Share of nodes whose answer is certified up to each radius: no attack can change it there.

    With ``correct`` it is the certified accuracy, a lower bound of the accuracy under attack.

    Source: Bojchevski et al., Efficient Robustness Certificates for Discrete Data, ICML 2020.

    Args:
        radii: (k,) certified radii in flips, −1 where not even radius 0 is certified.
        correct: (k,) which answers are right.

    Returns:
        A curve over the radii 0, 1, … up to one past the largest, where it reaches 0.

    Raises:
        ValueError: No nodes, or shapes that differ.
    """
    if radii.dim() != 1 or not len(radii) or (correct is not None and correct.shape != radii.shape):
        raise ValueError(
            f"radii must be (k,) with k ≥ 1, and correct like it, got {tuple(radii.shape)} "
            f"and {None if correct is None else tuple(correct.shape)}"
        )
    reached = radii if correct is None else radii.where(correct, -1)
    steps = range(max(int(radii.max()), 0) + 2)
    return Curve(
        tuple(float(r) for r in steps),
        tuple(float((reached >= r).double().mean()) for r in steps),
        "certified radius (flips)",
        "certified ratio" if correct is None else "certified accuracy",
    )
