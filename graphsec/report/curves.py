"""Which figures a data set and a model get, and the points in them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from graphsec.metrics import relative_area
from graphsec.report import certificates, figures
from graphsec.report.data import Book, Row, Scenario, distinct, same, scenarios, summary
from graphsec.report.findings import strongest
from graphsec.report.labels import name_of
from graphsec.stats import Interval

AMOUNTS = ("edges", "edges_per_node", "nodes", "features", "features_per_node")


def robustness(
    made: Book, dataset: str, model: str, rows: list[Row], name: str
) -> list[dict[str, Any]]:
    """One figure for each attack with a budget: accuracy from 0 to the largest budget."""
    series: dict[str, list[Row]] = {}
    for row in rows:
        key = _amount(row.scenario)
        if not row.scenario.harmless and key and "attacked_accuracy" in row.record.metrics:
            series.setdefault(_without(row.scenario, key[0]), []).append(row)
    reference = made.reference(dataset)
    drawn = [
        (mine, [_line(made, d, mine) for d in distinct(mine, lambda r: r.defense)])
        for mine in series.values()
    ]
    limits = _limits([v for _, lines in drawn for line in lines for v in line.y], reference)
    found = []
    for i, (mine, lines) in enumerate(drawn, 1):
        first = mine[0].scenario
        kind, value = _amount(first) or ("edges", 0.0)
        adaptive = "" if first.adaptive else " (not adaptive)"
        title = f"{first.attack}{adaptive}: accuracy over budget, {dataset}, {model}"
        words = kind.replace("_", " ")
        svg = figures.robustness(
            lines, reference, limits=limits, title=title, name=f"{name}-b{i}",
            x_label=f"budget: {words}{', %' if isinstance(value, float) else ''}",
        )  # fmt: skip
        tags = sorted({r.scenario.tag for r in mine}, key=lambda t: int(t[1:]))
        what = "accuracy over the budget; 0 is the clean graph" + _areas(lines, reference)
        found.append({"svg": svg, "title": f"{first.attack}{adaptive}", "tags": tags, "what": what})
    return found


def _areas(lines: Sequence[figures.Line], floor: Interval | None) -> str:
    """Relative areas under the curves, where there is an MLP to measure them from."""
    if floor is None or floor.mean >= 1:
        return ""
    areas = [
        f"{line.label} {relative_area(line.x, [v.mean for v in line.y], floor.mean):.3f}"
        for line in lines
        if len(line.x) > 1 and line.x[0] == 0
    ]
    return f"; relative area above the MLP: {', '.join(areas)}" if areas else ""


def _limits(values: Sequence[Interval], reference: Interval | None) -> tuple[float, float]:
    """One range of accuracy for all figures of a section, intervals included."""
    shown = [*values, *([reference] if reference is not None else [])]
    ends = [end for v in shown for end in (v.mean, v.low, v.high) if end is not None]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    margin = max(0.02, 0.05 * (high - low))
    return max(0.0, low - margin), min(1.01, high + margin)


def _amount(scenario: Scenario) -> tuple[str, float] | None:
    budget = scenario.spec.get("budget") or {}
    return next(((k, budget[k]) for k in AMOUNTS if budget.get(k)), None)


def _without(scenario: Scenario, kind: str) -> str:
    """The scenario without the size of its budget: what a curve keeps fixed."""
    budget = dict(scenario.spec.get("budget") or {})
    fraction = isinstance(budget.pop(kind), float)
    rest = {**scenario.spec, "budget": budget}
    return json.dumps([scenario.attack, scenario.game, kind, fraction, rest], sort_keys=True)


def _line(made: Book, defense: str, rows: list[Row]) -> figures.Line:
    rows = [row for row in rows if row.defense == defense]
    points: dict[float, Interval] = {}
    clean = summary(rows, "accuracy")
    if clean is not None:
        points[0.0] = clean
    for scenario in scenarios(rows):
        value = summary([r for r in rows if same(r, scenario)], "attacked_accuracy")
        amount = _amount(scenario)
        if value is not None and amount is not None:
            points[amount[1] * (100 if isinstance(amount[1], float) else 1)] = value
    x = tuple(sorted(points))
    y = tuple(points[each] for each in x)
    return figures.Line(label=defense, x=x, y=y, place=made.defenses.index(defense))


def thefts(dataset: str, model: str, rows: list[Row], name: str) -> list[dict[str, Any]]:
    """One figure for each defense: fidelity of the copies over the queries, a line an attack."""
    counted = [
        row
        for row in rows
        if "fidelity" in row.record.metrics
        and (row.scenario.spec.get("budget") or {}).get("queries")
    ]
    found = []
    for i, defense in enumerate(distinct(counted, lambda r: r.defense), 1):
        mine = [row for row in counted if row.defense == defense]
        if len({row.scenario.spec["budget"]["queries"] for row in mine}) < 2:
            continue
        lines = []
        for place, attack in enumerate(distinct(mine, lambda r: r.scenario.attack)):
            points = {
                float(scenario.spec["budget"]["queries"]): value
                for scenario in scenarios([r for r in mine if r.scenario.attack == attack])
                if (value := summary([r for r in mine if same(r, scenario)], "fidelity"))
            }
            x = tuple(sorted(points))
            y = tuple(points[each] for each in x)
            lines.append(figures.Line(label=attack, x=x, y=y, place=place))
        svg = figures.robustness(
            lines, None, limits=_limits([v for line in lines for v in line.y], None),
            title=f"fidelity over queries, {defense}, {dataset}, {model}", name=f"{name}-q{i}",
            x_label="queries", y_label="fidelity of the copy",
        )  # fmt: skip
        tags = sorted({r.scenario.tag for r in mine}, key=lambda t: int(t[1:]))
        found.append({"svg": svg, "title": f"theft of the model, defense: {defense}", "tags": tags,
                      "what": "fidelity over the queries asked"})  # fmt: skip
    return found


def rocs(made: Book, rows: list[Row], name: str) -> list[dict[str, Any]]:
    """ROC curves of every attack that scores, linear and logarithmic, averaged."""
    scoring = [row for row in rows if "roc" in row.record.curves]
    found = []
    for i, scenario in enumerate(scenarios(scoring), 1):
        lines = []
        mine = [row for row in scoring if same(row, scenario)]
        for defense in distinct(mine, lambda r: r.defense):
            group = [row for row in mine if row.defense == defense]
            x, y = figures.average_roc(
                [r.record.curves["roc"] for r in group], [r.replicate for r in group]
            )
            place = made.defenses.index(defense)
            lines.append(figures.Line(label=defense, x=x, y=y, place=place))
        for log in (False, True):
            scale = ", logarithmic" if log else ""
            title = f"{scenario.label}: ROC{scale}, {mine[0].dataset}, {mine[0].model}"
            svg = figures.roc(lines, log=log, title=title, name=f"{name}-r{i}{'l' if log else ''}")
            found.append({"svg": svg, "title": scenario.label, "tags": [scenario.tag],
                          "what": f"ROC averaged over replicates{scale}"})  # fmt: skip
    return found


def certified(
    made: Book, dataset: str, model: str, rows: list[Row], name: str
) -> list[dict[str, Any]]:
    """What is proven, by number of flips, beside the attacks with no more of them."""
    found = []
    for i, (defense, targets, mine) in enumerate(certificates.groups(rows), 1):
        curves = certificates.certified(mine)
        reach = certificates.reach(curves)
        # Up to where nothing is proven any more, but far enough to see attacks with a few flips.
        most = max(reach + 1, 5)
        points = {
            f"certified {kind}": [(float(r), v) for r, v in enumerate(curve) if r <= reach + 1]
            for kind, curve in curves.items()
        } | certificates.attacked(mine, most)
        lines = [
            figures.Line(
                label=label, x=tuple(x for x, _ in line), y=tuple(y for _, y in line), place=place
            )
            for place, (label, line) in enumerate(points.items())
        ]
        reference = made.reference(dataset)
        limits = _limits([v for line in lines for v in line.y], reference)
        title = " ".join(part for part in (defense, targets) if part)
        svg = figures.robustness(
            lines, reference, limits=limits, name=f"{name}-c{i}", x_label="edges changed",
            y_label="accuracy", title=f"{title}: certified accuracy, {dataset}, {model}",
        )  # fmt: skip
        wrong = certificates.alpha(mine)
        sure = "" if wrong is None else f", each node's with confidence {1 - wrong:g}"
        what = (
            f"accuracy that no attack can take away, by the number of edges it changes{sure}; it "
            f"speaks of the limit of many votes. Attacks of up to {most} changes stand beside it"
        )
        tags = sorted({r.scenario.tag for r in mine if not r.scenario.harmless},
                      key=lambda t: int(t[1:]))  # fmt: skip
        found.append({"svg": svg, "title": title, "tags": tags, "what": what})
    return found


def tradeoff(
    dataset: str, model: str, rows: list[Row], name: str, metric: str = "auc"
) -> list[dict[str, Any]]:
    """What defenses let out over what they keep, where three or more met attacks that score."""
    scored = [row for row in rows if metric in row.record.metrics]
    points = []
    for defense in distinct(scored, lambda r: r.defense):
        mine = [row for row in scored if row.defense == defense]
        worst, clean = strongest(mine, defense, metric, -1), summary(mine, "accuracy")
        if worst is not None and clean is not None:
            kind = name_of(mine[0].record.spec.get("defense"))
            points.append(figures.Point(label=defense, kind=kind, x=clean, y=worst.value))
    if len(points) < 3:
        return []
    title = f"utility and leakage, {dataset}, {model}"
    svg = figures.tradeoff(
        points, x_label="clean accuracy", y_label="AUC of the strongest attack", title=title,
        name=f"{name}-t",
    )  # fmt: skip
    best = "; ".join(f"{p.label} {p.x.mean:.3f}, {p.y.mean:.3f}" for p in figures.front(points))
    what = (
        "AUC of the attack that is strongest against a defense, over its clean accuracy on test "
        f"nodes; lower and to the right is better. None is better in both than the front: {best}"
    )
    tags = sorted({r.scenario.tag for r in scored}, key=lambda t: int(t[1:]))
    return [{"svg": svg, "title": "Utility and leakage", "tags": tags, "what": what}]
