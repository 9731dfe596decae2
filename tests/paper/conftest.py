"""Published numbers: real data, many seeds, minutes each (``make paper``)."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

import graphsec

# Geisler et al. 2021, §5: 64 hidden units, dropout .5; patience 100 for 300, to save hours.
AT_SCALE = {"epochs": 3000, "patience": 100, "select": "loss", "lr": 0.01, "weight_decay": 1e-3}


@pytest.fixture(autouse=True)
def _needs_data(data_dir: object) -> None:
    """All of these need real data."""


class Lab:
    """Victims trained once a session, and their accuracy."""

    @staticmethod
    def accuracy(predictor: graphsec.Predictor, graph: graphsec.Graph) -> float:
        """Accuracy on the test nodes."""
        assert graph.split is not None
        assert graph.y is not None
        test = graph.split.test
        return float((predictor.predict(graph, test) == graph.y[test]).double().mean())

    @functools.cache  # noqa: B019 - one lab a session
    def cora_ml(self, split: int) -> graphsec.Graph:
        """cora_ml, largest component, 20 + 20 per class, the given split."""
        return graphsec.load("nettack/cora_ml", seed=split)

    @functools.cache  # noqa: B019
    def trained(self, split: int, defense: str = "none", model: str = "gcn") -> graphsec.Predictor:
        """A predictor trained with the recipe above; parts of ``defense`` are joined by "+"."""
        torch.set_num_threads(1)
        parts = defense.split("+")
        return graphsec.fit(self.cora_ml(split), model, parts, training=AT_SCALE, seed=split)

    def attacked(
        self, split: int, defense: str = "none", threat: Any = None, **attack: Any
    ) -> float:
        """Accuracy under PR-BCD at ε = 0.1 unless the threat says otherwise."""
        graph, victim = self.cora_ml(split), self.trained(split, defense)
        threat = threat or {"budget": {"edges": 0.1}}
        outcome = graphsec.attack(
            {"name": "prbcd", **attack}, victim, graph, threat=threat, seed=split
        )
        return self.accuracy(victim, outcome.apply(graph))


@pytest.fixture(scope="session")
def lab() -> Lab:
    """One lab for all tests."""
    return Lab()
