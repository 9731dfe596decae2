"""PR-BCD on a block model in a process of its own: ``scale_once.py EDGES BLOCK`` prints JSON.

Ten edges a node, five classes, 16 features, a GCN of 16 units after ten epochs.
"""

from __future__ import annotations

import json
import resource
import sys
import time

import numpy as np
import torch

import graphsec
from graphsec.outcome import Outcome

STEPS = 5


def block_model(edges: int) -> graphsec.Graph:
    """About ``edges`` edges, three in four of them within a class; noisy features of the class."""
    rng = np.random.default_rng(0)
    n, classes = edges // 10, 5
    u = rng.integers(0, n, edges)
    near = (u + classes * rng.integers(1, n // classes, edges)) % n
    v = np.where(rng.random(edges) < 0.7, near, rng.integers(0, n, edges))
    y = np.arange(n) % classes
    x = rng.normal(size=(n, 16)).astype(np.float32)
    x[np.arange(n), y] += 1
    pairs = np.stack([u, v])[:, u != v]
    order = rng.permutation(n)
    split = [torch.from_numpy(part) for part in np.split(order, [n // 10, n // 5])]
    return graphsec.Graph.from_edges(
        pairs, n, x=torch.from_numpy(x), y=torch.from_numpy(y), split=split, name="blocks"
    )


def main(edges: int, block: int) -> dict[str, float]:
    """Seconds a step and peak memory of the whole process, graph and training included."""
    graph = block_model(edges)
    victim = graphsec.fit(graph, {"name": "gcn", "hidden": 16}, training={"epochs": 10})
    clean = float(graphsec.score(Outcome(), graph, victim)["accuracy"])
    threat = {"budget": {"edges": 0.01}}
    attack = {"name": "prbcd", "block": block, "steps": STEPS, "samples": 0, "check_every": STEPS}
    graphsec.attack({**attack, "steps": 1}, victim, graph, threat=threat)  # loads the kernels
    start = time.perf_counter()
    outcome = graphsec.attack(attack, victim, graph, threat=threat)
    seconds = (time.perf_counter() - start) / STEPS
    attacked = float(graphsec.score(outcome, graph, victim)["attacked_accuracy"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "nodes": graph.num_nodes, "edges": graph.num_edges, "block": block, "clean": clean,
        "attacked": attacked, "seconds": seconds, "gib": peak,
    }  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.stdout.write(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]))))
