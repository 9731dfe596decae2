"""What defenses prove about themselves, beside what attacks do to them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from graphsec.report.data import Book, Row, same, scenarios, summary
from graphsec.report.labels import as_key
from graphsec.stats import Interval, mean_interval

PREFIX = "certified_"
_SHOWN = (0, 1, 2, 3, 5, 10, 20, 50, 100)  # radii in the terminal


def certified(rows: Sequence[Row]) -> dict[str, list[Interval]]:
    """Kind of change → mean certified accuracy at radius 0, 1, … over replicates.

    Args:
        rows: Of one defense and one choice of targets; replicates may occur several times.
    """
    found: dict[str, dict[tuple[int, int], list[float]]] = {}
    for row in rows:
        for name, curve in row.record.curves.items():
            if name.startswith(PREFIX):
                kind = found.setdefault(name.removeprefix(PREFIX), {})
                kind.setdefault(row.replicate, curve["y"])
    return {kind: _averages(found[kind]) for kind in sorted(found)}


def _averages(curves: dict[tuple[int, int], list[float]]) -> list[Interval]:
    """A curve that is shorter than others has reached 0."""
    clusters = [k[0] for k in curves], [k[1] for k in curves]
    most = max(map(len, curves.values()))
    columns = zip(*(y + [0.0] * (most - len(y)) for y in curves.values()), strict=True)
    return [mean_interval(column, clusters=clusters) for column in columns]


def groups(rows: Sequence[Row]) -> list[tuple[str, str, list[Row]]]:
    """(defense, targets in words, rows) of what is certified; words only where targets differ."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if any(name.startswith(PREFIX) for name in row.record.curves):
            targets = row.scenario.spec.get("targets", "test")
            found.setdefault((row.defense, as_key(targets)), []).append(row)
    several = len({targets for _, targets in found}) > 1
    return [
        (defense, _targets(targets) if several else "", mine)
        for (defense, targets), mine in found.items()
    ]


def _targets(key: str) -> str:
    targets = json.loads(key)
    return f"{targets} nodes" if isinstance(targets, str) else f"{len(targets)} given nodes"


def attacked(rows: Sequence[Row], most: float) -> dict[str, list[tuple[float, Interval]]]:
    """Attack → (flips, accuracy) from the clean graph on, up to ``most`` flips in the mean."""
    found: dict[str, list[tuple[float, Interval]]] = {}
    for scenario in scenarios(row for row in rows if not row.scenario.harmless):
        mine = [row for row in rows if same(row, scenario)]
        flips, accuracy = summary(mine, "flips"), summary(mine, "attacked_accuracy")
        if flips is not None and accuracy is not None and flips.mean <= most:
            name = scenario.attack if scenario.adaptive else f"{scenario.attack} (not adaptive)"
            found.setdefault(name, []).append((flips.mean, accuracy))
    clean = summary(rows, "accuracy")
    start = [] if clean is None else [(0.0, clean)]
    return {name: sorted([*start, *points], key=lambda p: p[0]) for name, points in found.items()}


def notes(made: Book) -> list[str]:
    """One line for the terminal for each certified defense, data set and model."""
    lines = []
    for (dataset, model), rows in made.groups.items():
        for defense, targets, mine in groups(rows):
            kinds = []
            for kind, curve in certified(mine).items():
                shown = [f"{r}: {curve[r].mean:.3f}" for r in _SHOWN if _positive(curve, r)]
                kinds.append(f"{kind} {', '.join(shown) or 'none'}")
            what = " · ".join(part for part in (dataset, model, defense, targets) if part)
            lines.append(f"Certified accuracy of {what}, by number of {'; '.join(kinds)}.")
    return lines


def _positive(curve: Sequence[Interval], radius: int) -> bool:
    return radius < len(curve) and curve[radius].mean > 0


def reach(curves: dict[str, list[Interval]]) -> int:
    """The largest radius at which any answer is certified."""
    return max((r for curve in curves.values() for r in range(len(curve)) if _positive(curve, r)),
               default=0)  # fmt: skip


def alpha(rows: Sequence[Row]) -> Any:
    """The chance that the certificate of a node is wrong, where the defense has such a field."""
    defense = rows[0].record.spec.get("defense")
    return defense.get("alpha") if isinstance(defense, dict) else None
