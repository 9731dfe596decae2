"""Fair defenses on the data sets of docs/fairness.md: gaps and utility, and both under attack.

    python examples/fairness_table.py defenses german --splits 20
    python examples/fairness_table.py attacks facebook --splits 2

Each split is another draw of training, validation and test nodes (50, 25 and 25 %), with its own
seed of the training. Of each defense the setting is taken, split by split, whose ΔSP + ΔEO on the
validation nodes is least among those that cost at most .02 AUC there against the plain model and
give the rarer answer at least a quarter as often as it is right; if there is none, the one with the
highest AUC there. Rows are written as JSON lines to ``--out``, and read again from there.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch

import graphsec
from graphsec.graph import Graph
from graphsec.outcome import Outcome, Perturbation
from graphsec.predict import Predictor

SELECTION = "epoch chosen alone"  # plain training, with the epoch of fair defenses
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "none": [{}],
    SELECTION: [{"name": "fair-regularizer", "weight": 0}],
    "fair-regularizer": [{}, {"weight": 0.5}],
    "fair-reweighting": [{}],
    "fair-resampling": [{}],
    "fairgnn": [{}, {"alpha": 3}],
    "nifty": [{}],
    "edits": [{}, {"keep": 1.0}],
    "fair-purify": [{}],
}
ATTACKS: dict[str, dict[str, Any]] = {
    "random": {},
    "fa-gnn": {},
    "g-fairattack": {"candidates": 20_000},
    "fair-prbcd": {"steps": 20, "block": 50_000, "fine_tune": 0.5},
}
SHOWN = ("class_auc", "f1", "positive_rate", "accuracy", "delta_sp", "delta_eo")


def load(data: str, seed: int) -> Graph:
    """The data set with the group among its features, as NIFTY has it; Facebook as it is."""
    spec: dict[str, Any] = {"name": data}
    if data != "facebook":
        spec["group_in_features"] = True
    return graphsec.load(spec, seed=seed)


def spec_of(name: str, fields: dict[str, Any], data: str) -> dict[str, Any]:
    """A defense's spec; Facebook's features don't say the group."""
    more = {"flip": False} if name == "nifty" and data == "facebook" else {}
    return {"name": name, **fields, **more}


def measured(graph: Graph, predictor: Predictor) -> dict[str, float]:
    """All numbers on test and validation nodes."""
    return {name: float(m) for name, m in graphsec.score(Outcome(), graph, predictor).items()}


def chosen(
    graph: Graph, found: list[tuple[Predictor, dict[str, float]]], plain: dict[str, float]
) -> int:
    """Which setting the validation nodes prefer."""
    assert graph.y is not None
    assert graph.split is not None
    label = float(graph.y[graph.split.val].double().mean())

    def able(n: dict[str, float]) -> bool:
        rate = n["val_positive_rate"]
        enough = min(rate, 1 - rate) >= 0.25 * min(label, 1 - label)
        return enough and n["val_class_auc"] >= plain["val_class_auc"] - 0.02

    good = [i for i, (_, n) in enumerate(found) if able(n)]
    if good:
        return min(good, key=lambda i: found[i][1]["val_delta_sp"] + found[i][1]["val_delta_eo"])
    return max(range(len(found)), key=lambda i: found[i][1]["val_class_auc"])


def defended(graph: Graph, data: str, seed: int, most: int) -> Any:
    """(name, settings, predictor, numbers) of each defense, as chosen on validation nodes."""
    plain: dict[str, float] = {}
    for name in SETTINGS:
        found = []
        for fields in SETTINGS[name][:most]:
            spec = spec_of(name, fields, data)
            predictor = graphsec.fit(graph, model="gcn", defense=spec, seed=seed)
            found.append((predictor, measured(graph, predictor)))
        plain = plain or found[0][1]
        best = chosen(graph, found, plain)
        yield name, SETTINGS[name][best], *found[best]


def defenses(data: str, seed: int, most: int) -> Any:
    """Rows of the first table."""
    graph = load(data, seed)
    for name, fields, _, numbers in defended(graph, data, seed, most):
        yield {"defense": name, "fields": fields, **{k: numbers[k] for k in SHOWN}}


def attacks(data: str, seed: int, most: int) -> Any:
    """Rows of the second table: attacks that never ask the victim are run once a split."""
    graph, threat = load(data, seed), {"budget": {"edges": 0.05}}
    flips: dict[str, Perturbation] = {}
    for name, fields, predictor, numbers in defended(graph, data, seed, most):
        for attack, more in ATTACKS.items():
            if attack not in flips or attack == "fair-prbcd":
                spec = {"name": attack, **more}
                found = graphsec.attack(spec, predictor, graph, threat=threat, seed=seed)
                assert isinstance(found, Perturbation)
                flips[attack] = found
            made = graphsec.score(flips[attack], graph, predictor)
            row = {k: float(made[k]) for k in ("delta_sp_rise", "delta_eo_rise", "accuracy_drop")}
            row |= {"delta_sp": numbers["delta_sp"], "delta_eo": numbers["delta_eo"]}
            yield {"defense": name, "fields": fields, "attack": attack, **row}


def table(rows: list[dict[str, Any]]) -> str:
    """Means over the splits ± half the width of a 95 % t interval."""
    from scipy.stats import t

    keys = [k for k in rows[0] if k not in ("data", "split", "defense", "fields", "attack")]
    lines = ["| defense | attack | splits | " + " | ".join(keys) + " |"]
    lines.append("|---" * (len(keys) + 3) + "|")
    cells = dict.fromkeys((r["defense"], r.get("attack", "")) for r in rows)
    for defense, attack in cells:
        mine = [r for r in rows if (r["defense"], r.get("attack", "")) == (defense, attack)]
        said = []
        for key in keys:
            values = [r[key] for r in mine]
            half = 0.0
            if len(values) > 1:
                error = statistics.stdev(values) / len(values) ** 0.5
                half = float(t.ppf(0.975, len(values) - 1)) * error
            said.append(f"{statistics.fmean(values):.3f} ± {half:.3f}")
        lines.append(f"| {defense} | {attack} | {len(mine)} | " + " | ".join(said) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure what is not in the file yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("defenses", "attacks"))
    parser.add_argument("data")
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--settings", type=int, default=2, help="most settings tried of a defense")
    parser.add_argument("--out", type=Path, default=Path("runs/fairness"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / f"{given.part}-{given.data}.jsonl"
    torch.set_num_threads(1)
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {row["split"] for row in rows}
    for split in range(given.splits):
        if split in done:
            continue
        made = defenses if given.part == "defenses" else attacks
        new = [
            {"data": given.data, "split": split, **row}
            for row in made(given.data, split, given.settings)
        ]
        with path.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in new)
        rows += new
    print(table(rows))


if __name__ == "__main__":
    main()
