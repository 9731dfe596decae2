"""GCN and GAT on Planetoid splits (table 2 of Kipf & Welling 2017, Veličković et al. 2018)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphsec

pytestmark = pytest.mark.paper

GCN = {"model": {"name": "gcn", "hidden": 16}, "training": {"epochs": 200, "decay": "first"}}
GAT = {"model": "gat", "training": {"epochs": 1000, "patience": 100, "select": "joint"}}


@pytest.mark.parametrize(
    ("dataset", "recipe", "floor", "published"),
    [
        ("planetoid/cora", GCN, 0.808, 0.815),
        ("planetoid/citeseer", GCN, 0.698, 0.703),
        ("planetoid/cora", GAT, 0.823, 0.830),
        ("planetoid/citeseer", GAT, 0.718, 0.725),
    ],
)
def test_published_accuracy(
    lab: Any, dataset: str, recipe: dict[str, Any], floor: float, published: float
) -> None:
    graph = graphsec.load(dataset)
    scores = [lab.accuracy(graphsec.fit(graph, **recipe, seed=seed), graph) for seed in range(10)]
    mean, deviation = float(np.mean(scores)), float(np.std(scores, ddof=1))
    print(f"\n{dataset} {recipe['model']}: {mean:.4f} ± {deviation:.4f}, published {published}")  # noqa: T201
    assert mean >= floor
