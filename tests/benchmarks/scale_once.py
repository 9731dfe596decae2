"""A block model under attack in a process of its own; prints JSON.

``scale_once.py EDGES BLOCK`` attacks a GCN of 16 units after ten epochs by PR-BCD;
``scale_once.py EDGES BLOCK DEFENSE`` a PPRGo that way ("none", or "soft-median": its robust form).
Ten edges a node, five classes, 16 features.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

import graphsec
from graphsec.outcome import Outcome, Perturbation

STEPS = 5
PPRGO = {"name": "pprgo", "hidden": 16, "topk": 32, "epsilon": 3e-4}
TARGETS, PPRGO_STEPS = 1_000, 2  # attacked together; the first of them also by itself


def peak() -> float:
    """Peak resident memory of this process in GiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20


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
    return {
        "nodes": graph.num_nodes, "edges": graph.num_edges, "block": block, "clean": clean,
        "attacked": attacked, "seconds": seconds, "gib": peak(),
    }  # fmt: skip


class Clock:
    """CPU seconds since the last look, and the peak of memory by then."""

    def __init__(self) -> None:
        self.last = time.process_time()
        self.seen: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """Note what ``name`` took."""
        now = time.process_time()
        self.seen[name], self.seen[f"{name} gib"] = now - self.last, peak()
        sys.stderr.write(f"{name}: {self.seen[name]:.1f} s, {peak():.2f} GiB\n")
        self.last = now


def pprgo(edges: int, block: int, defense: str) -> dict[str, float]:
    """Train on the labelled rows in batches, answer for all nodes, attack globally and locally."""
    graph = block_model(edges)
    assert graph.split is not None
    assert graph.y is not None
    training = {"epochs": 20, "batch_size": edges // 1_000}
    tiny = graph.subgraph(torch.arange(1_000))
    targets = graph.split.test[:TARGETS]
    threat = {"budget": {"edges": 0.05}, "targets": targets.tolist()}
    one = {"budget": {"edges": 10}, "targets": targets[:1].tolist()}
    local = {"name": "local-prbcd", "block": 10_000, "steps": PPRGO_STEPS}
    attack = {"name": "prbcd", "block": block, "steps": PPRGO_STEPS, "samples": 0}
    small = graphsec.fit(tiny, PPRGO, defense, training={"epochs": 1})  # loads the kernels
    few = {**threat, "targets": tiny.split.test[:1].tolist()} if tiny.split else threat
    graphsec.attack({**attack, "block": 1_000, "steps": 1}, small, tiny, threat=few)
    del small, tiny

    clock = Clock()
    victim = graphsec.fit(graph, PPRGO, defense, training=training)
    clock.lap("train")
    right = victim.predict(graph) == graph.y
    clock.lap("answer")
    outcome = graphsec.attack(attack, victim, graph, threat=threat)
    clock.lap("global")
    flipped = outcome.apply(graph)
    attacked = victim.logits(flipped, targets).argmax(1) == graph.y[targets]
    del flipped
    clock.lap("judge")
    world = graphsec.attack(local, victim, graph, threat=one)
    clock.lap("local")
    assert isinstance(world, Perturbation)
    ((target, broken),) = world.worlds(graph)
    margin = [
        float(victim.logits(g, torch.tensor([target])).softmax(1)[0, graph.y[target]])
        for g in (graph, broken)
    ]
    return {
        "nodes": graph.num_nodes, "edges": graph.num_edges, "block": block,
        "accuracy": float(right[graph.split.test].double().mean()),
        "clean": float(right[targets].double().mean()),
        "attacked": float(attacked.double().mean()),
        "probability": margin[0], "probability attacked": margin[1], **clock.seen, "gib": peak(),
    }  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    size, pairs, *defense = sys.argv[1:]
    result = pprgo(int(size), int(pairs), *defense) if defense else main(int(size), int(pairs))
    sys.stdout.write(json.dumps(result))
