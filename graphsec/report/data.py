"""Records, grouped for printing: names, threats, replicates and their intervals."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import TYPE_CHECKING, Any

from graphsec.report.labels import (
    as_key,
    attacks_with_several_games,
    budget_text,
    labels,
    name_of,
    threat_texts,
    training_labels,
    weight,
)
from graphsec.stats import Interval, mean_interval

if TYPE_CHECKING:
    from graphsec.cell import Record

AXES = ("dataset", "model", "training", "defense", "attack", "game")
# The number that a model is judged by on clean data, whatever its task.
CLEAN_METRICS = ("accuracy", "r_squared", "recall_at_20")
# The number that an attack is judged by, most specific first.
MAIN_METRICS = (
    "attacked_accuracy", "auc", "property_right", "fidelity", "psnr", "reconstruction_error",
    "input_error", *CLEAN_METRICS,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """An attack under one threat: a row of every table.

    Attributes:
        attack: Label of the attack.
        threat: The threat in one line.
        spec: The threat's spec.
        tag: Short reference to the threat, "T1".
        adaptive: Whether the attacker knows the defense.
        budget: The budget in words, empty without one.
        game: Spec of the game, as text.
    """

    attack: str
    threat: str
    spec: Mapping[str, Any]
    tag: str
    adaptive: bool
    budget: str
    game: str

    @property
    def harmless(self) -> bool:
        """Whether this is the clean row."""
        return self.attack.split(" ")[0] == "none"

    @property
    def note(self) -> str:
        """What must stand beside the attack's name: budget, timing, adaptivity."""
        timing = "poisoning" if self.spec.get("timing") == "poisoning" else ""
        adaptive = "" if self.adaptive else "not adaptive"
        return ", ".join(part for part in (self.budget, timing, adaptive) if part)

    @property
    def label(self) -> str:
        """Name and note in one line."""
        return f"{self.attack} ({self.note})" if self.note else self.attack


@dataclass(frozen=True, kw_only=True)
class Row:
    """One record with the labels of its parts."""

    record: Record
    dataset: str
    model: str
    defense: str
    scenario: Scenario

    @property
    def replicate(self) -> tuple[int, int]:
        """Seed of the data, seed of everything else."""
        spec = self.record.spec
        return int(spec.get("data_seed", 0)), int(spec.get("seed", 0))


@dataclass(frozen=True)
class Book:
    """All rows of a report in a fixed order, whatever the order of the records."""

    rows: tuple[Row, ...]

    @cached_property
    def done(self) -> tuple[Row, ...]:
        """Rows with results."""
        return tuple(row for row in self.rows if row.record.status == "done")

    @cached_property
    def groups(self) -> dict[tuple[str, str], tuple[Row, ...]]:
        """Rows with results by (dataset, model)."""
        found: dict[tuple[str, str], list[Row]] = {}
        for row in self.done:
            found.setdefault((row.dataset, row.model), []).append(row)
        return {key: tuple(rows) for key, rows in found.items()}

    @cached_property
    def defenses(self) -> list[str]:
        """Labels of all defenses, none first: a defense has one colour in all figures."""
        names = {row.defense for row in self.rows}
        return sorted(names, key=lambda name: (name != "none", name))

    @cached_property
    def threats(self) -> dict[str, str]:
        """Tag → threat in one line."""
        found = {row.scenario.tag: row.scenario.threat for row in self.rows}
        return dict(sorted(found.items(), key=lambda item: int(item[0][1:])))

    def reference(self, dataset: str, metric: str = "accuracy") -> Interval | None:
        """Accuracy of an undefended MLP, which ignores the graph; None without such records."""
        rows = [
            row
            for row in self.done
            if row.dataset == dataset
            and name_of(row.record.spec.get("model")) == "mlp"
            and name_of(row.record.spec.get("defense")) == "none"
            and row.scenario.harmless
        ]
        first = {row.model: 0 for row in rows}
        # Several MLPs (sizes, say): the first by name, so that the line has one meaning.
        return summary([row for row in rows if row.model == next(iter(first))], metric)


def book(records: Iterable[Record]) -> Book:
    """Label and order records; of several with one key the last that is done counts."""
    unique: dict[str, Record] = {}
    for record in records:
        if record.key not in unique or record.status == "done":
            unique[record.key] = record
    kept = [unique[key] for key in sorted(unique)]
    names = {axis: labels([r.spec.get(axis) for r in kept]) for axis in AXES}
    training = training_labels(kept)
    texts = threat_texts(kept)
    ordered = sorted(texts, key=lambda key: (weight(json.loads(key)), texts[key], key))
    tags = {key: f"T{i}" for i, key in enumerate(ordered, 1)}
    several_games = attacks_with_several_games(kept)
    rows = []
    for r in kept:
        threat, identity = r.spec.get("threat") or {}, as_key(r.spec.get("threat"))
        text = texts[identity]
        attack = names["attack"][as_key(r.spec.get("attack"))]
        if name_of(r.spec.get("attack")) in several_games:
            attack += f" {names['game'][as_key(r.spec.get('game'))]}"
        scenario = Scenario(
            attack=attack, threat=text, spec=threat,
            tag=tags[identity],
            adaptive=bool(threat.get("adaptive", "not adaptive" not in text)),
            budget=budget_text(threat.get("budget") or {}),
            game=as_key(r.spec.get("game")),
        )  # fmt: skip
        model = names["model"][as_key(r.spec.get("model"))] + training[r.key]
        rows.append(
            Row(
                record=r,
                dataset=names["dataset"][as_key(r.spec.get("dataset"))],
                model=model,
                defense=names["defense"][as_key(r.spec.get("defense"))],
                scenario=scenario,
            )
        )
    return Book(tuple(sorted(rows, key=_order)))


def _order(row: Row) -> tuple[Any, ...]:
    return (
        row.dataset, row.model, row.defense != "none", row.defense,
        *scenario_order(row.scenario), row.replicate, row.record.key,
    )  # fmt: skip


def scenario_order(scenario: Scenario) -> tuple[Any, ...]:
    """Clean first, then by attack, growing budget, adaptive before not adaptive."""
    number = int(scenario.tag[1:])
    return not scenario.harmless, scenario.attack, weight(scenario.spec), number


def summary(rows: Sequence[Row], metric: str) -> Interval | None:
    """Mean and interval of a metric over the (split, seed) replicates of ``rows``."""
    values = replicates(rows, metric)
    if not values:
        return None
    splits, seeds = [k[0] for k in values], [k[1] for k in values]
    return mean_interval(list(values.values()), clusters=(splits, seeds))


def replicates(rows: Sequence[Row], metric: str) -> dict[tuple[int, int], float]:
    """(split, seed) → value; rows that share both (one training) count once."""
    values: dict[tuple[int, int], float] = {}
    for row in rows:
        entry = row.record.metrics.get(metric)
        if entry is not None and entry["value"] is not None:
            values.setdefault(row.replicate, float(entry["value"]))
    finite = {k: v for k, v in values.items() if v == v and abs(v) != float("inf")}
    return dict(sorted(finite.items()))


def main_metric(rows: Iterable[Row]) -> str | None:
    """The metric that these rows are judged by."""
    names = {name for row in rows for name in row.record.metrics}
    return next((m for m in MAIN_METRICS if m in names), min(names, default=None))


def metric_entry(rows: Iterable[Row], metric: str) -> dict[str, Any]:
    """Label, direction and range of a metric."""
    for row in rows:
        if metric in row.record.metrics:
            return row.record.metrics[metric]
    raise KeyError(metric)


def costs(rows: Sequence[Row]) -> dict[str, float]:
    """Median of every cost over rows."""
    names = sorted({name for row in rows for name in row.record.cost})
    return {n: median(r.record.cost[n] for r in rows if n in r.record.cost) for n in names}


def distinct(rows: Iterable[Row], part: Callable[[Row], Any]) -> list[Any]:
    """Values of ``part`` in the order of the rows, once each."""
    return list(dict.fromkeys(part(row) for row in rows))


def scenarios(rows: Iterable[Row]) -> list[Scenario]:
    """Scenarios of rows in their order."""
    found = {(s.attack, s.tag, s.game): s for s in (row.scenario for row in rows)}
    return sorted(found.values(), key=scenario_order)


def same(row: Row, scenario: Scenario) -> bool:
    """Whether a row belongs to a scenario."""
    mine = row.scenario
    return (mine.attack, mine.tag, mine.game) == (scenario.attack, scenario.tag, scenario.game)
