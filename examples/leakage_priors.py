"""The tables of docs/leakage_priors.md: `python examples/leakage_priors.py runs.jsonl`.

GIFD beside Inverting Gradients on the digits, behind noise and pruning, with equal knowledge,
iterations and restarts. What either may choose (weight of total variation, radius of the balls) is
chosen for each defense by the mean PSNR on other seeds, whose roots and splits are others too. Runs
are kept in the file and not made again.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

from graphsec import Cell
from graphsec.cell import Cache, Record, run_cell
from graphsec.results import Results
from graphsec.stats import paired

STEPS, LONG = 900, 24_000
CHOOSING, SEEDS = (100, 101), range(5)
DEFENSES: list[dict[str, Any]] = [
    *({"name": "noisy-gradients", "std": std} for std in (3e-3, 1e-2, 3e-2)),
    *({"name": "prune-gradients", "keep": keep} for keep in (0.1, 0.03, 0.01)),
]
INVERTING = {
    "name": "gradient-matching", "loss": "cosine", "optimizer": "adam", "signed": True,
    "boxed": True, "grid": (8, 8),
}  # fmt: skip
METHODS: dict[str, list[dict[str, Any]]] = {
    "zeros": [{"name": "gradient-guess", "guess": "zero"}],
    "class mean": [{"name": "gradient-guess"}],
    "neighbours' mean": [{"name": "gradient-guess", "guess": "neighbours"}],
    "DLG": [{"name": "gradient-matching"}],
    "Inverting Gradients": [{**INVERTING, "tv": tv} for tv in (0.0, 1e-4, 1e-3)],
    "GIFD, VAE": [{"name": "gifd", "radius": radius} for radius in (0.2, 1.0)],
    "GIFD, VGAE": [{"name": "gifd", "prior": "vgae", "radius": radius} for radius in (0.2, 1.0)],
}
BASE = "Inverting Gradients"


class Runs:
    """Records by key, in a file."""

    def __init__(self, path: str) -> None:
        self.path, self.cache = Path(path), Cache(8)
        old = Results.load(path) if self.path.exists() else ()
        self.made: dict[str, Record] = {record.key: record for record in old}

    def psnr(self, attack: dict[str, Any], defense: dict[str, Any], seed: int, steps: int) -> float:
        """PSNR of one run."""
        if attack["name"] != "gradient-guess":
            pruned = defense["name"] == "prune-gradients"
            attack = {**attack, "steps": steps, "skip_zeros": pruned}
        cell = Cell(
            dataset="digits-pixels", model={"name": "gcn", "dropout": 0.0}, defense=defense,
            attack=attack, game={"name": "gradients"}, training={"epochs": 1, "expose": 1},
            seed=seed, data_seed=seed,
        )  # fmt: skip
        if cell.key not in self.made:
            record = run_cell(cell, cache=self.cache)
            if record.status != "done":
                raise SystemExit(record.reason)
            self.made[cell.key] = record
            with self.path.open("a", encoding="utf-8") as file:
                file.write(record.to_json() + "\n")
        return self.made[cell.key].value("psnr")


def main(path: str) -> None:
    """Choose, measure, print."""
    runs = Runs(path)
    for seeds in (CHOOSING, SEEDS):  # a seed's prior serves all of its defenses
        for seed in seeds:
            for name, options in METHODS.items():
                for option in options:
                    for defense in DEFENSES:
                        if seeds is CHOOSING and len(options) == 1:
                            continue
                        if seeds is CHOOSING or option == chosen(runs, name, defense):
                            runs.psnr(option, defense, seed, STEPS)
    table(runs)
    print(f"\nInverting Gradients on seed 0, {STEPS} and {LONG:,} steps:\n")
    for defense in DEFENSES[1:6:3]:
        option = chosen(runs, BASE, defense)
        values = [runs.psnr(option, defense, 0, steps) for steps in (STEPS, LONG)]
        print(f"| {label(defense)} | {values[0]:.1f} | {values[1]:.1f} |")


def chosen(runs: Runs, name: str, defense: dict[str, Any]) -> dict[str, Any]:
    """The option with the best mean PSNR on the seeds to choose by."""
    options = METHODS[name]
    if len(options) == 1:
        return options[0]
    means = [statistics.fmean(runs.psnr(o, defense, s, STEPS) for s in CHOOSING) for o in options]
    return options[means.index(max(means))]


def label(defense: dict[str, Any]) -> str:
    """Name and level."""
    return " ".join(f"{value:g}" if isinstance(value, float) else value
                    for value in defense.values())  # fmt: skip


def table(runs: Runs) -> None:
    """Mean PSNR, and what GIFD gains over Inverting Gradients, paired by seed."""
    print(f"| defense | {' | '.join(METHODS)} | gain, VAE | gain, VGAE |")
    print("|---" * (len(METHODS) + 3) + "|")
    for defense in DEFENSES:
        values, notes = {}, {}
        for name in METHODS:
            option = chosen(runs, name, defense)
            values[name] = [runs.psnr(option, defense, seed, STEPS) for seed in SEEDS]
            field = next((field for field in ("tv", "radius") if field in option), "")
            notes[name] = f" ({option[field]:g})" if field else ""
        cells = [f"{statistics.fmean(found):.1f}{notes[name]}" for name, found in values.items()]
        for name in ("GIFD, VAE", "GIFD, VGAE"):
            gain = paired(values[name], values[BASE]).difference
            cells.append(f"{gain.mean:+.1f} ({gain.low:+.1f} … {gain.high:+.1f})")
        print(f"| {label(defense)} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main(sys.argv[1])
