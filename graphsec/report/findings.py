"""What the records say in one line each: the best defense under the strongest attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from graphsec.report.data import (
    Book,
    Row,
    Scenario,
    distinct,
    main_metric,
    metric_entry,
    replicates,
    same,
    scenarios,
    summary,
)
from graphsec.stats import Interval, Paired, adjust, paired

LEVEL = 0.05  # a gain with a larger corrected p-value is said to be perhaps chance


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The defense that does best under the attack that is strongest against it.

    Attributes:
        dataset: Label of the dataset.
        model: Label of the model.
        metric: Name of the metric.
        metric_label: What the metric is called.
        defense: The best defense.
        attack: The scenario that is strongest against it.
        value: The metric under that attack.
        clean: Clean accuracy of the defense.
        gains: Each defense against none, both under their own strongest attack, by defense;
            positive is better. Empty where no defense was not run.
        adjusted: P-values of the gains, corrected over all ``comparisons``.
        comparisons: How many gains were tested in the whole report: those of defenses that are
            not best too, as the best was chosen among them.
        reference: Accuracy of the MLP, where the metric is an accuracy.
        caveats: What the reader must know: adaptivity, missing attacks, below the MLP.
    """

    dataset: str
    model: str
    metric: str
    metric_label: str
    defense: str
    attack: Scenario
    value: Interval
    clean: Interval | None
    gains: Mapping[str, Paired]
    adjusted: Mapping[str, float]
    comparisons: int
    reference: Interval | None
    caveats: tuple[str, ...]

    @property
    def gain(self) -> Paired | None:
        """Gain of the best defense; None where that is none, or none was not run."""
        return self.gains.get(self.defense)

    @property
    def p_value(self) -> float | None:
        """Corrected p-value of the best defense's gain."""
        return self.adjusted.get(self.defense)


@dataclass(frozen=True)
class Worst:
    """A defense under the attack that hurts it most, and how many attacks it met."""

    defense: str
    scenario: Scenario
    rows: list[Row]
    value: Interval
    attacks: int
    adaptive: bool


def findings(book: Book) -> list[Finding]:
    """One finding for each dataset, model and kind of attack."""
    found = []
    for (dataset, model), rows in book.groups.items():
        attacked = [row for row in rows if not row.scenario.harmless]
        by_metric: dict[str, list[Row]] = {}
        for scenario in scenarios(attacked):
            mine = [row for row in attacked if same(row, scenario)]
            metric = main_metric(mine)
            if metric is not None:
                by_metric.setdefault(metric, []).extend(mine)
        for metric, mine in by_metric.items():
            finding = _finding(book, dataset, model, metric, mine)
            if finding is not None:
                found.append(finding)
    return _corrected(found)


def _finding(
    book: Book, dataset: str, model: str, metric: str, rows: Sequence[Row]
) -> Finding | None:
    entry = metric_entry(rows, metric)
    sign = 1 if entry["higher_is_better"] else -1
    worst = [
        w for d in distinct(rows, lambda r: r.defense) if (w := strongest(rows, d, metric, sign))
    ]
    if not worst:
        return None
    numbers = {w.defense: replicates(w.rows, metric) for w in worst}
    # An unfinished run has not every seed of every defense: only shared ones compare fairly.
    common = sorted(set.intersection(*(set(found) for found in numbers.values())))
    uneven = any(len(found) > len(common) for found in numbers.values())

    def standing(w: Worst) -> float:
        values = [numbers[w.defense][k] for k in common] or list(numbers[w.defense].values())
        return sign * sum(values) / len(values)

    best = max(worst, key=standing)
    plain = next((w for w in worst if w.defense == "none"), None)
    gains = {}
    for w in worst if plain is not None else ():
        shared = [k for k in numbers[w.defense] if k in numbers["none"]]
        if w is not plain and shared:
            mine, theirs = ([sign * numbers[d][k] for k in shared] for d in (w.defense, "none"))
            gains[w.defense] = paired(mine, theirs, clusters=list(zip(*shared, strict=True)))
    reference = None
    if metric == "attacked_accuracy" and not model.startswith("mlp"):
        reference = book.reference(dataset)
    return Finding(
        dataset=dataset, model=model, metric=metric, metric_label=str(entry["label"]),
        defense=best.defense, attack=best.scenario, value=best.value,
        clean=summary([r for r in rows if r.defense == best.defense], "accuracy"),
        gains=gains, adjusted={}, comparisons=0, reference=reference,
        caveats=(*_caveats(best, worst, reference), *(_uneven(len(common)) if uneven else ())),
    )  # fmt: skip


def strongest(rows: Sequence[Row], defense: str, metric: str, sign: int) -> Worst | None:
    """A defense under the attack of ``rows`` that hurts it most; ``sign`` 1: higher is better."""
    mine = [row for row in rows if row.defense == defense]
    candidates = []
    for scenario in scenarios(mine):
        group = [row for row in mine if same(row, scenario)]
        value = summary(group, metric)
        if value is not None:
            candidates.append((scenario, group, value))
    if not candidates:
        return None
    scenario, group, value = min(candidates, key=lambda c: sign * c[2].mean)
    adaptive = any(c[0].adaptive for c in candidates)
    return Worst(defense, scenario, group, value, len(candidates), adaptive)


def _caveats(best: Worst, all_: Sequence[Worst], reference: Interval | None) -> tuple[str, ...]:
    said = []
    most = max(w.attacks for w in all_)
    if best.defense != "none" and not best.adaptive:
        said.append("no adaptive attack was run against it")
    if best.attacks < most:
        said.append(f"met {best.attacks} of {most} attacks")
    if reference is not None and best.value.mean < reference.mean:
        said.append(f"below an MLP that ignores the graph ({reference.text()})")
    if best.value.half_width is None:
        said.append("one replicate, so no interval")
    return tuple(said)


def _uneven(common: int) -> tuple[str, ...]:
    if not common:
        return ("the defenses share no replicate, so they are hard to compare",)
    return (f"chosen on the {common} replicate{'s' * (common > 1)} that all defenses share",)


def _corrected(found: list[Finding]) -> list[Finding]:
    """With p-values corrected for all defenses of all findings, and what they don't prove."""
    raw = [
        (i, defense, gain.p_value)
        for i, finding in enumerate(found)
        for defense, gain in finding.gains.items()
        if gain.p_value is not None
    ]
    adjusted: list[dict[str, float]] = [{} for _ in found]
    for (i, defense, _), p in zip(raw, adjust([p for _, _, p in raw]), strict=True):
        adjusted[i][defense] = p
    return [
        replace(f, adjusted=mine, comparisons=len(raw), caveats=(*f.caveats, *_chance(f, mine)))
        for f, mine in zip(found, adjusted, strict=True)
    ]


def _chance(finding: Finding, adjusted: Mapping[str, float]) -> tuple[str, ...]:
    p = adjusted.get(finding.defense)
    return () if p is None or p <= LEVEL else ("its gain over no defense may be chance",)


__all__ = ["Finding", "findings", "strongest"]
