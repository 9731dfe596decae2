"""Audits: figures by others, and bounds that hold as often as they say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from graphsec.audit import (
    Audit,
    many_runs,
    many_runs_epsilon,
    one_run,
    one_run_epsilon,
)
from graphsec.predict import PrivacyStatement


def test_one_run_has_the_figures_of_the_reference() -> None:
    assert one_run_epsilon(1000, 100, 95, 1e-5) == pytest.approx(2.1652, abs=5e-5)
    assert one_run_epsilon(1000, 1000, 500, 1e-5) == 0
    assert one_run_epsilon(10, 10, 0, 0.0) == 0


def test_one_run_without_delta_is_a_binomial_tail() -> None:
    """All of r right: (e^ε / (1 + e^ε))^r = .05."""
    right = 0.05 ** (1 / 50)
    assert one_run_epsilon(50, 50, 50, 0.0) == pytest.approx(np.log(right / (1 - right)))


def test_one_run_moves_the_right_way() -> None:
    bounds = [one_run_epsilon(500, 100, v, 1e-5) for v in range(50, 101, 10)]
    assert bounds == sorted(bounds)
    base = one_run_epsilon(500, 100, 90, 1e-5)
    assert one_run_epsilon(500, 100, 90, 1e-3) < base
    assert one_run_epsilon(5000, 100, 90, 1e-4) < one_run_epsilon(500, 100, 90, 1e-4)
    assert one_run_epsilon(500, 100, 90, 1e-5, confidence=0.99) < base


def _randomised_response(epsilon: float, m: int, rng: np.random.Generator) -> tuple[Any, Any]:
    """Scores of the best attack on the mechanism for which one-run audits are tight."""
    truth = rng.random(m) < 0.5
    told = np.where(rng.random(m) < 1 / (1 + np.exp(-epsilon)), truth, ~truth)
    return torch.from_numpy(told * 1.0), torch.from_numpy(truth.astype(int))


@pytest.mark.parametrize("correction", ["bonferroni", "split"])
def test_one_run_holds_and_is_not_empty(correction: Any) -> None:
    rng = np.random.default_rng(0)
    found = [
        one_run(*_randomised_response(1.5, 400, rng), 1e-6, rng, correction=correction).epsilon
        for _ in range(60)
    ]
    assert np.mean(np.array(found) <= 1.5) >= 0.9
    assert np.median(found) > (1.0 if correction == "bonferroni" else 0.7)


def test_the_order_of_canaries_tells_nothing() -> None:
    rng = np.random.default_rng(0)
    truth = torch.tensor([1] * 200 + [0] * 200)
    assert one_run(torch.zeros(400), truth, 0.0, rng).epsilon < 0.2
    best = one_run(truth.double(), truth, 0.0, rng)
    assert best.epsilon > 4
    assert (best.method, best.tests) == ("one run", 5)


def test_many_runs_by_hand() -> None:
    """Never wrong in n trainings each: the bounds of an all-right rate are error^(1/n)."""
    low = (0.05 / 4) ** (1 / 500)
    wanted = np.log((low - 1e-5) / (1 - low))
    assert many_runs_epsilon(500, 500, 0, 500, 1e-5) == pytest.approx(wanted)
    assert many_runs_epsilon(250, 500, 250, 500, 0.0) == 0
    assert many_runs_epsilon(0, 500, 0, 500, 0.0) == 0
    # Sure outs bound as well as sure ins do.
    there = many_runs_epsilon(200, 500, 0, 500, 0.0)
    assert many_runs_epsilon(500, 500, 300, 500, 0.0) == pytest.approx(there)


@pytest.mark.parametrize("thresholds", [None, [0.5], [0.25, 0.5, 1.0]])
def test_many_runs_hold_and_are_not_empty(thresholds: Any) -> None:
    """A Gaussian mechanism of sensitivity 1: its ε at δ = .01 and σ = 1 is 3.35 at least."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(25):
        inside, outside = rng.normal(1, 1, 2000), rng.normal(0, 1, 2000)
        audit = many_runs(
            torch.from_numpy(inside), torch.from_numpy(outside), 0.01, thresholds=thresholds
        )
        found.append(audit.epsilon)
    # δ(ε) = Φ(1/2 − ε) − e^ε Φ(−1/2 − ε)
    from scipy.optimize import brentq
    from scipy.stats import norm

    true = brentq(lambda e: norm.cdf(0.5 - e) - np.exp(e) * norm.cdf(-0.5 - e) - 0.01, 0.1, 10)
    assert np.mean(np.array(found) <= true) >= 0.9
    assert np.median(found) > 0.5


def test_a_claim_is_refuted_only_at_its_delta() -> None:
    def claim(epsilon: float, delta: float) -> PrivacyStatement:
        return PrivacyStatement(
            epsilon=epsilon, delta=delta, relation="a label", family="all", release="answers",
            argument="",
        )  # fmt: skip

    audit = Audit(epsilon=2.0, delta=1e-5, confidence=0.95, method="one run", tests=1, threshold=10)
    assert audit.refutes(claim(1.0, 1e-5))
    assert audit.refutes(claim(1.0, 1e-6))
    assert not audit.refutes(claim(1.0, 1e-4))
    assert not audit.refutes(claim(2.0, 1e-5))


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: one_run_epsilon(10, 5, 6, 0.0), "correct ≤ guesses"),
        (lambda: one_run_epsilon(10, 5, 3, 1.0), "delta"),
        (lambda: one_run_epsilon(10, 5, 3, 0.0, confidence=1.0), "confidence"),
        (lambda: many_runs_epsilon(3, 2, 0, 2, 0.0), "3 of 2"),
        (lambda: many_runs_epsilon(0, 0, 0, 2, 0.0), "both kinds"),
        (lambda: many_runs(torch.zeros(1), torch.zeros(5), 0.0), "2 runs"),
        (
            lambda: one_run(
                torch.zeros(4), torch.ones(4), 0.0, np.random.default_rng(0), guesses=[5]
            ),
            r"1…4, got \[5\]",
        ),
    ],
)
def test_audits_refuse(call: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        call()
