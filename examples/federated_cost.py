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
import statistics
import time

import graphsec
from graphsec.graph import Graph

MODEL = "rating-lightgcn"
GRID = [
    (1000, 1000, 3), (4000, 1000, 3), (16000, 1000, 3),
    (1000, 4000, 3), (1000, 16000, 3),
    (1000, 1000, 2), (1000, 1000, 5), (1000, 1000, 10),
]  # fmt: skip


def median(marks: list[float]) -> float:
    """Between two marks; what precedes the first (warming up) does not count."""
    return statistics.median(b - a for a, b in itertools.pairwise(marks))


def central(graph: Graph, epochs: int) -> float:
    """Seconds of an epoch in one place."""
    marks: list[float] = []

    def mark(epoch: int, figures: dict[str, float]) -> bool:
        marks.append(time.perf_counter())
        return False

    training = {"epochs": epochs + 1, "batch_size": None}
    graphsec.fit(graph, MODEL, training=training, on_epoch=mark)
    return median(marks)


def federated(graph: Graph, parties: int, transport: str, epochs: int) -> dict[str, float]:
    """Seconds of a round, and bytes a party and round."""
    marks: list[float] = []

    def mark(epoch: int, figures: dict[str, float]) -> bool:
        marks.append(time.perf_counter())
        return False

    defense = {"name": "verfedgnn", "parties": parties, "transport": transport, "keep": 0}
    training = {"epochs": epochs + 1, "batch_size": None}
    predictor = graphsec.fit(graph, MODEL, defense, training=training, on_epoch=mark)
    cost = predictor.trace.cost
    assert cost["absent"] == cost["refused"] == 0, predictor.trace.incidents
    return {**cost, "seconds": median(marks)}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--flower", action="store_true")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--largest", type=int, default=10, help="most parties over Flower")
    options = parser.parse_args()
    print("| users | items | parties | KB up | KB down | centralised, ms | one process, ms "
          "| Flower, ms |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|")
    for users, items, parties in GRID:
        dataset = {"name": "rating/factors", "users": users, "items": items, "each": 50}
        graph = graphsec.load(dataset)
        one = central(graph, options.epochs)
        here = federated(graph, parties, "process", options.epochs)
        there = "–"
        if options.flower and parties <= options.largest:
            found = federated(graph, parties, "flower", 5)
            there = f"{1e3 * found['seconds']:.0f}"
        print(
            f"| {users:,} | {items:,} | {parties} | {here['bytes_up'] / 1e3:.0f} "
            f"| {here['bytes_down'] / 1e3:.0f} | {1e3 * one:.0f} "
            f"| {1e3 * here['seconds']:.0f} | {there} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
