"""Metattack on Nettack's cora (2,485 nodes, 5,069 edges), 10/10/80 splits, 5 % of the edges."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch

import graphsec

pytestmark = pytest.mark.paper
CORA = {"name": "nettack/cora", "split": {"fractions": [0.1, 0.1, 0.8]}}
STOPPED = {"epochs": 3000, "patience": 100, "select": "loss", "weight_decay": 1e-3}
SEEDS = range(3)


@pytest.mark.timeout(3600)
def test_metattack_poisons_a_gcn(lab: Any) -> None:
    """A GCN trained on the poisoned graph with its own recipe falls to .78 or lower, in minutes.

    One that is stopped by the validation loss keeps more; it is printed beside, nothing is
    claimed of it.
    """
    torch.set_num_threads(1)
    for seed in SEEDS:
        graph = graphsec.load(CORA, seed=seed)
        clean = graphsec.fit(graph, seed=seed)
        start = time.perf_counter()
        threat = {"budget": {"edges": 0.05}}
        outcome = graphsec.attack("metattack", clean, graph, threat=threat, seed=seed)
        seconds = time.perf_counter() - start
        poisoned = outcome.apply(graph)
        after, stopped = (
            lab.accuracy(graphsec.fit(poisoned, training=training, seed=seed), poisoned)
            for training in ({}, STOPPED)
        )
        found = np.round([lab.accuracy(clean, graph), after, stopped, seconds], 4)
        print(f"\nseed {seed}: clean, poisoned, poisoned and stopped, seconds {found}")  # noqa: T201
        assert outcome.flips.shape[1] == 253  # type: ignore[attr-defined]
        assert after <= 0.78
        assert seconds < 600
