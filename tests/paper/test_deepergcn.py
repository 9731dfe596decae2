"""Depth on Cora: DeeperGCN keeps its accuracy where GCN collapses (Li et al. 2020, §5)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphsec

pytestmark = pytest.mark.paper
TRAINING = {"epochs": 300, "select": "accuracy", "patience": 100, "lr": 2e-3}


def accuracies(lab: Any, model: str, layers: int, seeds: int) -> np.ndarray:
    """Test accuracy of each seed; the checkpoint of the highest validation accuracy."""
    graph, spec = graphsec.load("planetoid/cora"), {"name": model, "layers": layers}
    found = [
        lab.accuracy(graphsec.fit(graph, spec, training=TRAINING, seed=seed), graph)
        for seed in range(seeds)
    ]
    print(f"\n{model}, {layers} layers: {np.mean(found):.4f} ± {np.std(found, ddof=1):.4f}")  # noqa: T201
    return np.array(found)


def test_28_layers_are_as_good_as_3(lab: Any) -> None:
    shallow, deep = (accuracies(lab, "deepergcn", layers, 10).mean() for layers in (3, 28))
    assert shallow >= 0.76
    assert deep >= shallow - 0.02


def test_the_curves_over_depth(lab: Any) -> None:
    """With the same training, GCN at 28 layers is no better than a guess."""
    curve = {
        model: [accuracies(lab, model, layers, 3).mean() for layers in (2, 4, 8, 16, 28)]
        for model in ("gcn", "deepergcn")
    }
    assert curve["gcn"][-1] < 0.4
    assert min(curve["deepergcn"]) > 0.74
