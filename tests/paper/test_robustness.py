"""PR-BCD and Soft Median on cora_ml (Geisler et al. 2021), five splits, ε = 0.1."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.paper
SPLITS = range(5)
BUDGET = {"budget": {"edges": 0.1}}


def report(title: str, values: object) -> None:
    """Print what was measured."""
    print(f"\n{title}: {values}")  # noqa: T201


def test_losses_are_ordered_as_published(lab: Any) -> None:
    """Attacked accuracy tanh < CW < CE (At Scale, figure 2), at the paper's step size."""
    means = {
        loss: float(np.mean([lab.attacked(s, loss=loss, lr=100.0) for s in SPLITS]))
        for loss in ("tanh_margin", "cw", "ce")
    }
    report("attacked accuracy by loss", means)
    assert means["tanh_margin"] < means["cw"] < means["ce"]


def test_doubling_the_effort_changes_little(lab: Any) -> None:
    base = np.array([lab.attacked(s) for s in SPLITS])
    steps = np.array([lab.attacked(s, steps=250) for s in SPLITS])
    restarts = np.array([lab.attacked(s, restarts=2) for s in SPLITS])
    report("125 steps, 250 steps, 2 restarts", (base.mean(), steps.mean(), restarts.mean()))
    assert abs(base.mean() - steps.mean()) < 0.01
    assert abs(base.mean() - restarts.mean()) < 0.01


def test_a_very_large_budget_collapses_the_model(lab: Any) -> None:
    value = lab.attacked(0, threat={"budget": {"edges": 1.0}})
    mlp = lab.accuracy(lab.trained(0, model="mlp"), lab.cora_ml(0))
    report("attacked accuracy at ε = 1, MLP", (value, mlp))
    assert value < 0.25
    assert value < mlp


@pytest.mark.parametrize("defense", ["jaccard", "soft-median"])
def test_adaptive_is_never_weaker_than_transfer(lab: Any, defense: str) -> None:
    effort = {"steps": 80, "block": 50_000, "samples": 5}
    blind = {**BUDGET, "adaptive": False}
    adaptive = [lab.attacked(s, defense, **effort) for s in SPLITS]
    transfer = [lab.attacked(s, defense, blind, **effort) for s in SPLITS]
    report(f"{defense}: adaptive, transfer", (np.mean(adaptive), np.mean(transfer)))
    assert all(a <= t + 0.001 for a, t in zip(adaptive, transfer, strict=True))


def test_soft_median_with_diffusion_keeps_more(lab: Any) -> None:
    """Against the best of adaptive from scratch, adaptive warm-started, and transfer."""
    effort = {"steps": 80, "block": 100_000, "samples": 5}
    plain, robust, clean = np.zeros(5), np.zeros(5), np.zeros(5)
    for s in SPLITS:
        plain[s] = lab.attacked(s)
        robust[s] = lab.attacked(s, "gdc+soft-median", **effort)
        clean[s] = lab.accuracy(lab.trained(s, "gdc+soft-median"), lab.cora_ml(s))
        report(f"split {s}: GCN, Soft Median + GDC, its clean", (plain[s], robust[s], clean[s]))
    gain = robust - plain
    report(
        "GCN, Soft Median + GDC, clean of the latter", (plain.mean(), robust.mean(), clean.mean())
    )
    report("gain by split", gain)
    assert gain.mean() >= 0.03
