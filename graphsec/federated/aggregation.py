"""How a server makes one update of many: the mean, and rules that a few liars can't steer far."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Aggregation = Literal[
    "mean", "krum", "multi-krum", "trimmed-mean", "median", "geometric-median"
]  # fmt: skip
AGGREGATIONS: tuple[str, ...] = get_args(Aggregation)


def aggregate(rule: Aggregation, updates: Tensor, weights: Tensor, liars: int) -> Tensor:
    """One update (d,) of those of k clients.

    Args:
        rule: Its name.
        updates: (k, d) one row a client.
        weights: (k,) what each counts in the mean, above 0: its training nodes. The other rules
            count clients alike, because who lies about an update lies about its weight too.
        liars: Clients that a rule must stand.

    Raises:
        ValueError: There are too few clients for the rule.
    """
    reason = too_few(rule, len(updates), liars)
    if reason:
        raise ValueError(f"aggregation {reason}")
    if rule == "mean":
        return weights.to(updates.dtype) @ updates / weights.sum()
    if rule == "trimmed-mean":
        return trimmed_mean(updates, liars)
    if rule == "median":
        return median(updates)
    if rule == "geometric-median":
        return geometric_median(updates)
    return krum(updates, liars, 1 if rule == "krum" else len(updates) - liars)


def too_few(rule: Aggregation, clients: int, liars: int) -> str | None:
    """Why a rule can't stand so many liars among so many clients; None if it can."""
    least = {"krum": 2 * liars + 3, "multi-krum": 2 * liars + 3}.get(rule, 2 * liars + 1)
    if clients >= (1 if rule in ("mean", "median", "geometric-median") else least):
        return None
    return f"{rule!r} needs ≥ {least} clients a round to stand {liars} liars, found {clients}"


def krum(updates: Tensor, liars: int, keep: int = 1) -> Tensor:
    """Mean of the ``keep`` rows with the least sum of squared distances to their nearest ones.

    A row's nearest ones are the k − f − 2 closest other rows.

    Source: Blanchard, El Mhamdi, Guerraoui & Stainer, Machine Learning with Adversaries: Byzantine
    Tolerant Gradient Descent, NeurIPS 2017, §4; ``keep`` > 1 is Multi-Krum.

    Args:
        updates: (k, d).
        liars: f.
        keep: Rows that are averaged, 1 … k.
    """
    score = krum_scores(updates, liars)
    kept = score.argsort(stable=True)[:keep]
    return updates[kept].mean(0)


def krum_scores(updates: Tensor, liars: int) -> Tensor:
    """(k,) sum of squared distances from each row to its k − f − 2 closest others (at least 1)."""
    rows, exact = updates.double(), "donot_use_mm_for_euclid_dist"
    far = torch.cdist(rows, rows, compute_mode=exact).square()
    near = max(1, len(updates) - liars - 2)
    return far.fill_diagonal_(torch.inf).sort(1).values[:, :near].sum(1)


def trimmed_mean(updates: Tensor, cut: int) -> Tensor:
    """Mean of each coordinate without its ``cut`` smallest and largest values.

    Source: Yin, Chen, Ramchandran & Bartlett, Byzantine-Robust Distributed Learning: Towards
    Optimal Statistical Rates, ICML 2018, definition 2.
    """
    ordered = updates.sort(0).values
    return ordered[cut : len(updates) - cut].mean(0)


def median(updates: Tensor) -> Tensor:
    """Median of each coordinate; of an even number of rows the mean of the two in the middle.

    Source: Yin et al., ICML 2018, definition 1.
    """
    return trimmed_mean(updates, (len(updates) - 1) // 2)


def geometric_median(updates: Tensor, steps: int = 100, tolerance: float = 1e-7) -> Tensor:
    """The point with the least sum of distances to all rows, by Weiszfeld's steps.

    Source: Pillutla, Kakade & Harchaoui, Robust Aggregation for Federated Learning, IEEE
    Transactions on Signal Processing 2022, algorithm 2 (smoothed Weiszfeld; from memory). All rows
    count alike.
    """
    rows = updates.double()
    point = rows.mean(0)
    size = float(torch.cdist(rows, point.unsqueeze(0)).mean())
    if size == 0:
        return point.to(updates.dtype)
    for _ in range(steps):
        distance = (rows - point).norm(dim=1).clamp(min=1e-6 * size)
        weight = 1 / distance
        moved = (weight / weight.sum()) @ rows
        step, point = float((moved - point).norm()), moved
        if step <= tolerance * size:
            break
    return point.to(updates.dtype)
