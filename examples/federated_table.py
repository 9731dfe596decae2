"""Runs ``examples/federated.toml`` with any backbones, and prints RMSE, bytes and seconds a round.

    python examples/federated_table.py --store sqlite:///runs.db --models rating-gcn --seeds 0 1

Penalties of each backbone and method were chosen by the validation ratings of seed 0 at five
parties. Finished cells are not run again.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

from graphsec.cell import Record
from graphsec.matrix import Matrix

SPEC = Path(__file__).with_name("federated.toml")
# Those of LightGCN, and its training, stand in the spec.
PENALTY = {
    "rating-gcn": {"local-only": 30.0, "fedgnn": 2.0, "verfedgnn": 2.0},
    "rating-gat": {"local-only": 30.0, "fedgnn": 2.0, "verfedgnn": 2.0},
    "rating-ggnn": {"local-only": 16.0, "fedgnn": 1.0, "verfedgnn": 0.3},
}


def matrix(
    model: str, parties: list[int], methods: list[str], seeds: list[int], mechanisms: bool
) -> Matrix:
    """The spec's matrix with one backbone, and some of its rows."""
    base, defenses = Matrix.from_toml(SPEC), []
    for spec in base.defenses:
        fields = {"name": spec} if isinstance(spec, str) else dict(spec)
        if fields["name"] not in methods or fields.get("parties", parties[0]) not in parties:
            continue
        if not mechanisms and fields.keys() & {"projection", "quantise"}:
            continue
        if fields["name"] in PENALTY.get(model, {}):
            fields["weight_decay"] = PENALTY[model][fields["name"]]
        defenses.append(fields)
    own = [spec for spec in base.models if not isinstance(spec, str) and spec["name"] == model]
    models: list[Any] = [*own] or [model]
    return replace(base, models=models, defenses=defenses, seeds=seeds)


def row(record: Record) -> tuple[Any, ...]:
    """What a line of the table is about."""
    model, defense = record.spec["model"], record.spec["defense"]
    changed = [
        words
        for words, off in (
            ("no projection", defense.get("projection") == 0),
            ("no quantisation", defense.get("quantise") is False),
        )
        if off
    ]
    name = ", ".join([defense["name"], *changed])
    return model["name"], name, defense.get("parties", "")


def main() -> None:
    """Run what is missing, print the table."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--store", default="sqlite:///runs.db")
    asked.add_argument("--models", nargs="+", default=["rating-lightgcn", *PENALTY])
    asked.add_argument("--parties", nargs="+", type=int, default=[2, 5, 10])
    methods = ["none", "local-only", "fedgnn", "verfedgnn"]
    asked.add_argument("--methods", nargs="+", default=methods)
    asked.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    asked.add_argument("--mechanisms", action="store_true", help="each mechanism alone, too")
    given = asked.parse_args()
    lines: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    for model in given.models:
        made = matrix(model, given.parties, given.methods, given.seeds, given.mechanisms)
        for record in made.run(store=given.store):
            if record.status == "done":
                lines[row(record)].append(record)
    out = ["| backbone | method | parties | seeds | RMSE | bytes up | bytes down | s / round |"]
    out.append("|---|---|---|---|---|---|---|---|")
    for key, records in lines.items():
        values = [record.value("rmse") for record in records]
        mean = sum(values) / len(values)
        spread = max(values) - min(values)
        cost = records[0].cost
        costs = [
            f"{cost[name]:{form}}" if name in cost else ""
            for name, form in (("bytes_up", ",.0f"), ("bytes_down", ",.0f"),
                               ("seconds_per_round", ".3f"))
        ]  # fmt: skip
        words = [*key, len(values), f"{mean:.4f} (range {spread:.4f})", *costs]
        out.append("| " + " | ".join(str(word) for word in words) + " |")
    sys.stdout.write("\n".join(out) + "\n")


if __name__ == "__main__":
    main()
