"""PR-BCD, GR-BCD and Soft Median on cora_ml (Geisler et al. 2021), five splits, ε = 0.1."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

import graphsec

pytestmark = pytest.mark.paper
SPLITS = range(5)
BUDGET = {"budget": {"edges": 0.1}}
AT_SCALE = {"epochs": 3000, "patience": 100, "select": "loss", "lr": 0.01}


def report(title: str, values: object) -> None:
    """Print what was measured."""
    print(f"\n{title}: {values}")  # noqa: T201


@functools.cache
def attacked_by_loss(lab: Any) -> dict[str, np.ndarray]:
    """Attacked accuracy on ten splits by loss; victim and step size of At Scale's figure.

    That is row-normalised features, no weight decay, and a step size of 100, which is what the
    published rule gives for the published block of 10⁶ pairs.
    """
    values: dict[str, list[float]] = {"tanh_margin": [], "cw": [], "ce": []}
    for s in range(10):
        graph = graphsec.load({"name": "nettack/cora_ml", "normalize": True}, seed=s)
        victim = graphsec.fit(graph, "gcn", training={**AT_SCALE, "weight_decay": 0.0}, seed=s)
        for loss, found in values.items():
            spec = {"name": "prbcd", "loss": loss, "lr": 100.0}
            outcome = graphsec.attack(spec, victim, graph, threat=BUDGET, seed=s)
            found.append(lab.accuracy(victim, outcome.apply(graph)))
    report("attacked accuracy by loss", {k: np.round(v, 4).tolist() for k, v in values.items()})
    return {loss: np.array(found) for loss, found in values.items()}


def test_the_tanh_margin_is_the_strongest_loss(lab: Any) -> None:
    """On every split, by more than .03 on average (published: .587 against .660 and .674)."""
    by_loss = attacked_by_loss(lab)
    best_other = np.minimum(by_loss["cw"], by_loss["ce"])
    assert (by_loss["tanh_margin"] < best_other).all()
    assert (best_other - by_loss["tanh_margin"]).mean() > 0.03


def test_the_losses_are_ordered_as_published_in_the_mean_of_five_splits(lab: Any) -> None:
    """Tanh margin, then CW, then cross-entropy; the last two are a tie over all ten splits.

    Published on one victim: .587, .660, .674. The gap of CW and cross-entropy has the size of its
    standard error, and its sign differs from split to split, so that nothing is claimed of it.
    """
    by_loss = attacked_by_loss(lab)
    tanh, cw, ce = (by_loss[loss][: len(SPLITS)].mean() for loss in ("tanh_margin", "cw", "ce"))
    report("mean of five splits: tanh margin, CW, CE", (tanh, cw, ce))
    assert tanh < cw < ce
    gap = by_loss["cw"] - by_loss["ce"]
    error = gap.std(ddof=1) / len(gap) ** 0.5
    report("CW − CE over ten splits: mean, standard error", (gap.mean(), error))
    assert abs(gap.mean()) < 3 * error


def test_doubling_the_effort_changes_little(lab: Any) -> None:
    base = np.array([lab.attacked(s) for s in SPLITS])
    steps = np.array([lab.attacked(s, steps=250) for s in SPLITS])
    restarts = np.array([lab.attacked(s, restarts=2) for s in SPLITS])
    report("125 steps, 250 steps, 2 restarts", (base.mean(), steps.mean(), restarts.mean()))
    assert abs(base.mean() - steps.mean()) < 0.01
    assert abs(base.mean() - restarts.mean()) < 0.01


def test_greedy_flips_by_the_masked_cross_entropy(lab: Any) -> None:
    """GR-BCD in 125 steps (published with 5 steps: at most .75 from .80)."""
    clean = [lab.accuracy(lab.trained(s), lab.cora_ml(s)) for s in SPLITS]
    greedy = [lab.attacked(s, name="grbcd") for s in SPLITS]
    report("GR-BCD: clean, attacked, mean attacked", (clean, greedy, float(np.mean(greedy))))
    assert np.mean(greedy) <= 0.68


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


def soft_median_gdc(temperature: float) -> list[Any]:
    """Diffusion, then Soft Median."""
    return ["gdc", {"name": "soft-median", "temperature": temperature}]


def attacked_soft_median(
    lab: Any, split: int, temperature: float, threat: dict[str, Any], nodes: str, **attack: Any
) -> tuple[float, float, Any]:
    """(clean, attacked) accuracy of one part of the split, and the scores of the searches."""
    graph = lab.cora_ml(split)
    training = {**AT_SCALE, "weight_decay": 1e-3}
    victim = graphsec.fit(graph, "gcn", soft_median_gdc(temperature), training=training, seed=split)
    spec = {"name": "prbcd", **EFFORT, **attack}
    outcome = graphsec.attack(spec, victim, graph, threat=threat, seed=split)
    where = getattr(graph.split, nodes)

    def accuracy(other: graphsec.Graph) -> float:
        assert graph.y is not None
        return float((victim.predict(other, where) == graph.y[where]).double().mean())

    return accuracy(graph), accuracy(outcome.apply(graph)), outcome.info["scores"]


# The same for the plain GCN and the defense; a look at every fifth iterate saves dense inverses.
EFFORT = {"steps": 125, "block": 250_000, "samples": 20, "check_every": 5}


def test_soft_median_with_diffusion_keeps_more(lab: Any) -> None:
    """Against the best of adaptive from scratch, adaptive warm-started, and transfer.

    The temperature, out of the three of the published configuration, is the one that keeps most
    accuracy on the *validation* nodes of split 5, attacked there adaptively; splits 0 to 4, which
    are measured, have no say in it.
    """
    kept = {}
    for temperature in (0.2, 0.5, 1.0):
        threat = {**BUDGET, "targets": "val"}
        kept[temperature] = attacked_soft_median(
            lab, 5, temperature, threat, "val", warm_start=False
        )
        report(f"split 5, validation, T = {temperature}", kept[temperature])
    chosen = max(kept, key=lambda t: kept[t][1])
    report("chosen temperature", chosen)
    gains = []
    for s in SPLITS:
        plain = lab.attacked(s, **EFFORT)
        clean, robust, scores = attacked_soft_median(lab, s, chosen, BUDGET, "test")
        gains.append(robust - plain)
        report(f"split {s}: GCN, Soft Median + GDC, its clean", (plain, robust, clean))
        report("scores of scratch, transfer, warm", scores)
    report("gains, mean", (gains, float(np.mean(gains))))
    assert np.mean(gains) >= 0.03
