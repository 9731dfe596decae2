"""What a round of a vertical federation costs, beside an epoch of training in one place.

    python examples/federated_cost.py                 # in one process
    python examples/federated_cost.py --flower        # each party in a process of its own as well

A round is a whole batch, so that it is an epoch: seconds and bytes of both are for one pass over
the ratings (``rating/factors``, 50 for each user); medians of ten, over Flower of five. See
docs/federated.md, "What a round costs".
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import time
from pathlib import Path

import graphsec
from graphsec.graph import Graph

MODEL = "rating-lightgcn"
GRID = [
    (1000, 1000, 3), (4000, 1000, 3), (16000, 1000, 3),
    (1000, 4000, 3), (1000, 16000, 3),
    (1000, 1000, 2), (1000, 1000, 5), (1000, 1000, 10),
]  # fmt: skip


class Marks:
    """Wall-clock and processor time at the end of each epoch, the latter of child processes too."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.busy: list[float] = []

    def __call__(self, epoch: int, figures: dict[str, float]) -> bool:
        """Note them down."""
        self.wall.append(1e3 * time.perf_counter())
        self.busy.append(1e3 * (time.process_time() + sum(map(processor_time, children()))))
        return False

    @property
    def epoch(self) -> tuple[float, float]:
        """Median of both, ms; what precedes the first mark (warming up) does not count."""
        median = statistics.median
        wall, busy = ([b - a for a, b in itertools.pairwise(t)] for t in (self.wall, self.busy))
        return median(wall), median(busy)


def children() -> list[int]:
    """Processes that this one has started (Linux)."""
    found = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return [int(pid) for path in found for pid in path.read_text().split()]


def processor_time(pid: int) -> float:
    """Seconds that a process has computed."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def central(graph: Graph, epochs: int) -> tuple[float, float]:
    """Milliseconds of an epoch in one place."""
    marks = Marks()
    training = {"epochs": epochs + 1, "batch_size": None}
    graphsec.fit(graph, MODEL, training=training, on_epoch=marks)
    return marks.epoch


def federated(
    graph: Graph, parties: int, transport: str, epochs: int
) -> tuple[tuple[float, float], dict[str, float]]:
    """Milliseconds of a round, and what the trace says it cost."""
    marks = Marks()
    defense = {"name": "verfedgnn", "parties": parties, "transport": transport, "keep": 0}
    training = {"epochs": epochs + 1, "batch_size": None}
    predictor = graphsec.fit(graph, MODEL, defense, training=training, on_epoch=marks)
    cost = predictor.trace.cost
    assert cost["absent"] == cost["refused"] == 0, predictor.trace.incidents
    return marks.epoch, cost


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--flower", action="store_true")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--largest", type=int, default=10, help="most parties over Flower")
    options = parser.parse_args()
    print("Milliseconds of processor / on the clock.\n")
    print("| users | items | parties | KB up | KB down | one place | one process | Flower |")
    print("|---|---|---|---|---|---|---|---|")
    for users, items, parties in GRID:
        dataset = {"name": "rating/factors", "users": users, "items": items, "each": 50}
        graph = graphsec.load(dataset)
        here, cost = federated(graph, parties, "process", options.epochs)
        times = [central(graph, options.epochs), here]
        if options.flower and parties <= options.largest:
            times.append(federated(graph, parties, "flower", 5)[0])
        shown = [f"{busy:.0f} / {wall:.0f}" for wall, busy in times]
        print(
            f"| {users:,} | {items:,} | {parties} | {cost['bytes_up'] / 1e3:.0f} "
            f"| {cost['bytes_down'] / 1e3:.0f} | {' | '.join((*shown, '–')[:3])} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
