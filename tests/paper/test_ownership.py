"""Watermark and fingerprint on Cora: whom an owner recognises, and whom one accuses wrongly."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

import graphsec
from graphsec.graph import Graph
from graphsec.metrics import accuracy
from graphsec.metrics.privacy import auc
from graphsec.outcome import StolenModel
from graphsec.ownership import Verdict
from graphsec.predict import Predictor
from graphsec.rng import Rng
from graphsec.stats import mean_interval

pytestmark = pytest.mark.paper

SEEDS = range(3)
# Each key marks one victim. The independent models are other trainings of the victim's recipe.
OWNERS: dict[str, Callable[[int], Any]] = {
    "watermark": lambda seed: {"name": "watermark", "key": seed},
    "fingerprint": lambda seed: "fingerprint",
    "fingerprint of labels": lambda seed: {"name": "fingerprint", "compared": "labels"},
    "fingerprint of embeddings": lambda seed: {"name": "fingerprint", "compared": "embeddings"},
}
ASKED = {"name": "model-extraction"}
TAKEN = {"name": "model-laundering", "prune": 0.0, "epochs": 0}
THEFTS: dict[str, tuple[int | None, dict[str, Any]]] = {
    "the victim itself": (None, TAKEN),
    "stolen, 200 scores": (200, ASKED),
    "stolen, 500 scores": (500, ASKED),
    "stolen, 1000 scores": (1000, ASKED),
    "stolen, 1000 labels": (1000, {**ASKED, "answers": "labels"}),
    "stolen, 1000 scores, no edges": (1000, {**ASKED, "edges": 0.0, "rebuild": "features"}),
    "stolen, 1000 scores, as SAGE": (1000, {**ASKED, "model": "sage"}),
    "fine-tuned, 20 epochs": (None, {**TAKEN, "epochs": 20}),
    "fine-tuned, 100 epochs": (None, {**TAKEN, "epochs": 100}),
    "pruned, 30 %": (None, {**TAKEN, "prune": 0.3}),
    "pruned, 60 %": (None, {**TAKEN, "prune": 0.6}),
    "pruned 30 %, fine-tuned 50": (None, {**TAKEN, "prune": 0.3, "epochs": 50}),
    "noise .1": (None, {**TAKEN, "noise": 0.1}),
    "noise .3": (None, {**TAKEN, "noise": 0.3}),
}
INDEPENDENT = 12
INNOCENT = ("independent", "other architecture", "other labels")
OTHERS: tuple[Any, ...] = ({"name": "gcn", "hidden": 16}, "sage", "gat", "appnp", "mlp")


def report(*parts: object) -> None:
    """Print what was measured."""
    print("\n", *parts, end="", flush=True)  # noqa: T201


@functools.cache
def cora() -> Graph:
    torch.set_num_threads(1)
    return graphsec.load("planetoid/cora")


@functools.cache
def innocents() -> list[tuple[str, Predictor]]:
    """Trained on the same data: by the victim's recipe, by others, and on other nodes' labels."""
    graph = cora()
    found = [("independent", graphsec.fit(graph, "gcn", seed=100 + i)) for i in range(INDEPENDENT)]
    found += [("other architecture", graphsec.fit(graph, m, seed=200)) for m in OTHERS]
    for seed in range(5):
        spec, threat = {**ASKED, "answers": "truth"}, {"budget": {"queries": 500}}
        outcome = graphsec.attack(spec, found[0][1], graph, threat=threat, seed=300 + seed)
        assert isinstance(outcome, StolenModel)
        found.append(("other labels", outcome.predictor))
    return found


def suspects(victim: Predictor, seed: int) -> Iterator[tuple[str, Predictor]]:
    for name, (queries, spec) in THEFTS.items():
        threat = {"budget": {"queries": queries}}
        outcome = graphsec.attack(spec, victim, cora(), threat=threat, seed=seed)
        assert isinstance(outcome, StolenModel)
        yield name, outcome.predictor
    yield from innocents()


def right(model: Predictor) -> float:
    graph = cora()
    assert graph.split is not None
    assert graph.y is not None
    test = graph.split.test
    return accuracy(model.predict(graph, test), graph.y[test])


@functools.cache
def measured(owner: str) -> dict[str, list[tuple[Verdict, float]]]:
    """Verdict and accuracy of each suspect of each victim."""
    table: dict[str, list[tuple[Verdict, float]]] = {}
    for seed in SEEDS:
        victim = graphsec.fit(cora(), "gcn", OWNERS[owner](seed), seed=seed)
        verify = victim.verifier(cora(), Rng(seed)["verify"])
        for name, suspect in suspects(victim, seed):
            table.setdefault(name, []).append((verify(suspect), right(suspect)))
    innocent = [verdict.score for name in INNOCENT for verdict, _ in table[name]]
    for name, rows in table.items():
        accused = sum(verdict.accuses() for verdict, _ in rows)
        limits = binomtest(accused, len(rows)).proportion_ci()
        score = mean_interval([verdict.score for verdict, _ in rows])
        apart = auc(np.asarray([verdict.score for verdict, _ in rows]), np.asarray(innocent))
        correct = mean_interval([value for _, value in rows])
        report(
            f"{owner:26} {name:30} score {score.text()} accused {accused}/{len(rows)} "
            f"({limits.low:.2f}–{limits.high:.2f}) AUC {apart:.3f} accuracy {correct.text()}"
        )
    return table


def accused(owner: str, name: str) -> float:
    rows = measured(owner)[name]
    return sum(verdict.accuses() for verdict, _ in rows) / len(rows)


def test_the_watermark_is_in_the_model_and_in_nobody_elses() -> None:
    assert accused("watermark", "the victim itself") == 1
    assert accused("watermark", "noise .1") == 1
    for name in INNOCENT:
        assert accused("watermark", name) <= 0.15  # 36, 15 and 15 at a level of .05


@pytest.mark.parametrize("owner", [name for name in OWNERS if name != "watermark"])
def test_the_fingerprint_knows_the_model_itself(owner: str) -> None:
    assert accused(owner, "the victim itself") == 1
    assert accused(owner, "independent") <= 0.15


def test_the_fingerprint_survives_extraction_and_the_watermark_does_not() -> None:
    stolen = "stolen, 1000 scores"
    assert accused("fingerprint", stolen) > accused("watermark", stolen)
