"""The table of docs/reconstruction.md: `python examples/reconstruction_table.py sqlite:///recon.db`.

Prints AUC / average precision of every attack and set of knowledge under every defense, means over
the seeds that are finished, from the store that `graphsec run examples/reconstruction.toml` fills.
"""

from __future__ import annotations

import statistics
import sys
from collections import defaultdict

from graphsec import Results

LETTERS = {"features": "X", "hidden": "H", "outputs": "Ŷ", "labels": "Y"}
DEFENSES = ["none", "mc-gpb", "edge-rand", "lap-graph"]


def main(url: str) -> None:
    """One table a data set."""
    values: dict[tuple[str, str, str], dict[int, tuple[float, float]]] = defaultdict(dict)
    utility: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    for record in Results.from_store(url):
        if record.status != "done":
            continue
        spec = record.spec
        dataset, defense = spec["dataset"]["name"], spec["defense"]["name"]
        row = f"{', '.join(LETTERS[k] for k in spec['attack']['knows'])} | {spec['attack']['name']}"
        found = record.value("auc"), record.value("average_precision")
        values[dataset, row, defense][spec["seed"]] = found
        utility[dataset, defense][spec["seed"]] = record.value("accuracy")
    for dataset in dict.fromkeys(key[0] for key in values):
        rows = sorted(
            {row for d, row, _ in values if d == dataset}, key=lambda r: (len(r.split(",")), r)
        )
        seeds = [len(utility[dataset, defense]) for defense in DEFENSES]
        print(f"\n## {dataset}\n\nSeeds: {', '.join(map(str, seeds))}.\n")
        print(f"| knows | attack | {' | '.join(DEFENSES)} |\n|---|---|{'---|' * len(DEFENSES)}")
        accuracy = [mean(list(utility[dataset, d].values())) for d in DEFENSES]
        print(f"| | accuracy | {' | '.join(accuracy)} |")
        for row in rows:
            cells = []
            for defense in DEFENSES:
                pairs = list(values[dataset, row, defense].values())
                cells.append(" / ".join(mean(list(c)) for c in zip(*pairs, strict=True)) or "–")
            print(f"| {row} | {' | '.join(cells)} |")


def mean(numbers: list[float]) -> str:
    """Three digits, without the zero."""
    return f"{statistics.fmean(numbers):.3f}".lstrip("0") if numbers else "–"


if __name__ == "__main__":
    main(sys.argv[1])
