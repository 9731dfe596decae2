"""The content of the HTML report: plain values for the template."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from graphsec.report import figures
from graphsec.report.curves import certified, robustness, rocs, thefts, tradeoff
from graphsec.report.data import (
    AXES,
    CLEAN_METRICS,
    Book,
    Row,
    Scenario,
    book,
    costs,
    distinct,
    main_metric,
    metric_entry,
    same,
    scenarios,
    summary,
)
from graphsec.report.findings import findings
from graphsec.report.strips import drawings, strips

if TYPE_CHECKING:
    from graphsec.cell import Record

COSTS = {
    "train_seconds": ("training, s", 2),
    "attack_seconds": ("attack, s", 2),
    "certify_seconds": ("certificate, s", 2),
    "peak_memory_mb": ("peak memory, MB", 0),
    "queries": ("queries", 0),
    "trainings": ("trainings", 0),
}


def content(records: Iterable[Record]) -> dict[str, Any]:
    """Everything that the template prints, in a fixed order."""
    title, notes = getattr(records, "name", ""), tuple(getattr(records, "notes", ()))
    made = book(records)
    counts = {
        status: sum(row.record.status == status for row in made.rows)
        for status in ("done", "skipped", "failed")
    }
    return {
        "title": title or "graphsec report",
        "notes": notes,
        "counts": counts,
        "total": len(made.rows),
        "findings": findings(made),
        "sections": [
            _section(made, dataset, model, list(rows), f"s{i}")
            for i, ((dataset, model), rows) in enumerate(_groups(made), 1)
        ],
        "threats": made.threats,
        "problems": _problems(made),
        "versions": _versions(made),
        "graphs": _graphs(made),
        "privacy": _privacy(made),
        "spec": spec(made),
        **_records(made),
    }


def _groups(made: Book) -> list[tuple[tuple[str, str], tuple[Row, ...]]]:
    """Groups but those of a mere reference line, which stands in the other models' figures."""
    datasets = [dataset for dataset, _ in made.groups]
    return [
        (key, rows)
        for key, rows in made.groups.items()
        if not (
            key[1].startswith("mlp")
            and datasets.count(key[0]) > 1
            and all(row.scenario.harmless and row.defense == "none" for row in rows)
        )
    ]


def _section(made: Book, dataset: str, model: str, rows: list[Row], name: str) -> dict[str, Any]:
    return {
        "id": name, "dataset": dataset, "model": model,
        "maps": _heat_maps(rows),
        "reference": None if model.startswith("mlp") else made.reference(dataset),
        "figures": [
            *robustness(made, dataset, model, rows, name),
            *certified(made, dataset, model, rows, name),
            *thefts(dataset, model, rows, name),
            *tradeoff(dataset, model, rows, name),
            *rocs(made, rows, name),
        ],
        "strips": strips(rows),
        "drawings": drawings(dataset, model, rows, name),
        "costs": _costs(rows),
        "threats": {s.tag: s.threat for s in sorted(
            (row.scenario for row in rows), key=lambda s: int(s.tag[1:])
        )},
    }  # fmt: skip


# -- heat maps --------------------------------------------------------------------------------


def _heat_maps(rows: list[Row]) -> list[dict[str, Any]]:
    """Attack × defense tables, one for each main metric, clean accuracy last but one."""
    by_metric: dict[str, list[Scenario]] = {}
    for scenario in scenarios(rows):
        metric = main_metric(row for row in rows if same(row, scenario))
        if metric is not None:
            by_metric.setdefault(metric, []).append(scenario)
    maps = []
    for metric, found in by_metric.items():
        if metric in CLEAN_METRICS:
            continue
        lines = [(s.attack, s.note, s.tag, [r for r in rows if same(r, s)]) for s in found]
        maps.append(_heat_map(metric, lines, distinct(rows, lambda r: r.defense)))
    for metric in CLEAN_METRICS:
        if any(metric in row.record.metrics for row in rows):
            maps.append(_heat_map(metric, _clean(rows), distinct(rows, lambda r: r.defense)))
    return maps


def _clean(rows: list[Row]) -> list[tuple[str, str, str, list[Row]]]:
    """One line a game that changes what is trained on; games that share predictors share one."""
    first = {row.record.row: row.scenario.game for row in reversed(rows)}
    games: dict[str, list[Row]] = {}
    for row in rows:
        games.setdefault(first[row.record.row], []).append(row)
    lines = []
    for game, mine in games.items():
        asked = json.loads(game) or {}
        hidden = asked.get("name", "") if isinstance(asked, dict) else str(asked)
        note = "" if len(games) == 1 or hidden in ("", "open") else f"trained in the game {hidden}"
        lines.append(("no attack", note, "", mine))
    return lines


def _heat_map(
    metric: str, lines: Sequence[tuple[str, str, str, list[Row]]], defenses: list[str]
) -> dict[str, Any]:
    entry = metric_entry((r for line in lines for r in line[3]), metric)
    grid = [
        [summary([r for r in mine if r.defense == d], metric) for d in defenses]
        for _, _, _, mine in lines
    ]
    means = [v.mean for line in grid for v in line if v is not None]
    low, high = min(means), max(means)
    # At least 0.05 from end to end, so that noise is not painted as a difference.
    slack = max(0.0, 0.05 - (high - low)) / 2
    better = bool(entry["higher_is_better"])
    painted = iter(
        figures.shades(
            means if better else [-m for m in means],
            low=low - slack if better else -high - slack,
            high=high + slack if better else -low + slack,
        )
    )
    sizes = sorted({v.n for line in grid for v in line if v is not None})
    return {
        "metric": metric, "label": str(entry["label"]), "better": better,
        "low": low, "high": high, "defenses": defenses,
        "n": sizes[0] if len(sizes) == 1 else None,
        "rows": [
            {
                "attack": attack, "note": note, "tag": tag,
                "cells": [
                    None if v is None else {"value": v, "shade": next(painted)} for v in line
                ],
            }
            for (attack, note, tag, _), line in zip(lines, grid, strict=True)
        ],
    }  # fmt: skip


# -- tables -----------------------------------------------------------------------------------


def _costs(rows: list[Row]) -> dict[str, Any] | None:
    names = [n for n in COSTS if any(n in row.record.cost for row in rows)]
    if not names:
        return None
    lines = []
    for defense in distinct(rows, lambda r: r.defense):
        mine = [row for row in rows if row.defense == defense]
        for scenario in scenarios(mine):
            spent = costs([row for row in mine if same(row, scenario)])
            numbers = [f"{spent[n]:,.{COSTS[n][1]}f}" if n in spent else "–" for n in names]
            lines.append({"defense": defense, "scenario": scenario, "numbers": numbers})
    return {"heads": [COSTS[n][0] for n in names], "rows": lines}


def _problems(made: Book) -> list[dict[str, Any]]:
    """Skipped and failed cells, those with one reason together."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in made.rows:
        if row.record.status != "done":
            found.setdefault((row.record.status, row.record.reason.strip()), []).append(row)
    return [
        {
            "status": status,
            "short": (reason.splitlines() or ["no reason given"])[-1],
            "full": reason if "\n" in reason else "",
            "cells": distinct(
                rows, lambda r: f"{r.dataset} · {r.model} · {r.defense} · {r.scenario.label}"
            ),
            "count": len(rows),
        }
        for (status, reason), rows in sorted(found.items(), key=lambda item: item[0])
    ]


def _records(made: Book) -> dict[str, Any]:
    """The full table: one line a record."""
    metrics = [
        m for m in sorted({m for row in made.rows for m in row.record.metrics})
        if m != "flips"
    ]  # fmt: skip
    order = ["accuracy", "attacked_accuracy", "auc"]
    metrics.sort(key=lambda m: (order.index(m) if m in order else len(order), m))
    spent = [n for n in COSTS if any(n in row.record.cost for row in made.rows)]
    labels = {m: metric_entry(made.rows, m)["label"] for m in metrics}
    rows = []
    for row in made.rows:
        values = [row.record.metrics.get(m, {}).get("value") for m in metrics]
        amounts = [row.record.cost.get(n) for n in spent]
        rows.append({
            "row": row,
            "values": ["–" if v is None else f"{v:.4f}" for v in values],
            "costs": ["–" if v is None else f"{v:.{COSTS[n][1]}f}"
                      for n, v in zip(spent, amounts, strict=True)],
        })  # fmt: skip
    heads = [str(labels[m]) for m in metrics]
    return {"records": rows, "metric_heads": heads, "cost_heads": [COSTS[n][0] for n in spent]}


def _versions(made: Book) -> list[dict[str, str]]:
    return distinct_dicts(row.record.versions for row in made.rows if row.record.versions)


def distinct_dicts(items: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Dictionaries once each, in a fixed order."""
    found = {json.dumps(item, sort_keys=True): item for item in items}
    return [dict(sorted(found[key].items())) for key in sorted(found)]


def _graphs(made: Book) -> list[dict[str, Any]]:
    graphs = ({"dataset": r.dataset, **r.record.graph} for r in made.rows if r.record.graph)
    return distinct_dicts(graphs)


def _privacy(made: Book) -> list[dict[str, Any]]:
    return distinct_dicts(
        {"dataset": r.dataset, "model": r.model, "defense": r.defense, **r.record.privacy}
        for r in made.rows
        if r.record.privacy
    )


def spec(made: Book) -> str:
    """Every cell exactly: the distinct parts, and for each cell the numbers of its parts."""
    axes = (*AXES, "threat")
    parts: dict[str, list[str]] = {
        axis: sorted({json.dumps(r.record.spec.get(axis), sort_keys=True) for r in made.rows})
        for axis in axes
    }
    cells = []
    for row in made.rows:
        mine = [json.dumps(row.record.spec.get(axis), sort_keys=True) for axis in axes]
        numbers = [parts[axis].index(text) for axis, text in zip(axes, mine, strict=True)]
        seeds = [row.record.spec.get("seed", 0), row.record.spec.get("data_seed", 0)]
        cells.append(json.dumps([*numbers, *seeds]))
    lines = ["{"]
    for axis in axes:
        inner = ",\n".join(f"    {text}" for text in parts[axis])
        lines.append(f'  "{axis}": [\n{inner}\n  ],')
    columns = json.dumps([*axes, "seed", "data_seed"])
    lines.append(f'  "columns": {columns},')
    lines.append('  "cells": [\n    ' + ",\n    ".join(cells) + "\n  ]\n}")
    return "\n".join(lines)


__all__ = ["content"]
