"""The table for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from io import StringIO
from typing import TYPE_CHECKING

from graphsec.report import certificates
from graphsec.report.data import (
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
from graphsec.stats import Interval

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from graphsec.cell import Record

WIDTH = 118  # columns that a table with a column for each attack may fill
_COSTS = {"train_seconds": "train s", "attack_seconds": "attack s", "peak_memory_mb": "MB"}


def table(results: Iterable[Record], cost: bool = False) -> Table:
    """Mean ± half a 95 % interval for each data set, model, defense and attack.

    A column an attack, or, where that gets too wide, a line an attack. The notes under the
    table give the threat of every number.

    Args:
        results: Records.
        cost: Whether to add median seconds and peak memory.
    """
    from rich import box
    from rich.table import Table

    made = book(results)
    complete = Book(tuple(row for row in made.rows if row.scenario.spec))
    found = scenarios(complete.rows)
    shown = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True,
        caption=_notes(made, found), caption_justify="left", caption_style="",
    )  # fmt: skip
    for head in ("data set", "model", "defense"):
        shown.add_column(_text(head), overflow="fold")
    if _width(complete, found, cost) <= WIDTH:
        _wide(shown, complete, found, cost)
    else:
        _long(shown, complete, cost)
    return shown


def text(results: Iterable[Record], width: int = 120) -> str:
    """The table as plain text: the same records give the same text, whatever they cost.

    Args:
        results: Records, in any order.
        width: Columns of text.
    """
    from rich.console import Console

    console = Console(
        file=StringIO(), width=width, color_system=None, force_terminal=False,
        legacy_windows=False, emoji=False, highlight=False, _environ={},
    )  # fmt: skip
    with console.capture() as captured:
        console.print(table(results))
    return "\n".join(line.rstrip() for line in captured.get().splitlines()).strip("\n") + "\n"


def _wide(shown: Table, made: Book, found: Sequence[Scenario], cost: bool) -> None:
    for scenario in found:
        shown.add_column(_text(_head(made, scenario)), justify="right", overflow="fold")
    _cost_columns(shown, cost)
    previous: tuple[str, str] | None = None
    for (dataset, model), rows in _blocks(made).items():
        for defense in distinct(rows, lambda r: r.defense):
            mine = [row for row in rows if row.defense == defense]
            cells = [_number([r for r in mine if same(r, s)]) for s in found]
            names = _names(previous, dataset, model)
            previous = (dataset, model)
            shown.add_row(*_row(*names, defense, *cells, *_spent(mine, cost)))


def _head(made: Book, scenario: Scenario) -> str:
    metric = main_metric(row for row in made.done if same(row, scenario)) or ""
    note = "".join(f"\n{part}" for part in scenario.note.split(", ") if part)
    return f"{scenario.attack}{note}\n{_metric_label(made, metric)} [{scenario.tag}]"


def _width(made: Book, found: Sequence[Scenario], cost: bool) -> int:
    """Columns of text that a column for each attack would need."""
    number = len("0.123 ±0.012")
    attacks = [max(number, *map(len, _head(made, s).splitlines())) for s in found]
    parts = ([r.dataset for r in made.rows], [r.model for r in made.rows], made.defenses)
    names = [max(map(len, ["data set", *part])) for part in parts]
    costs_ = [len(head) for head in _COSTS.values()] if cost else []
    return sum(width + 2 for width in (*names, *attacks, *costs_))


def _long(shown: Table, made: Book, cost: bool) -> None:
    shown.add_column("attack", overflow="fold")
    shown.add_column("number")
    shown.add_column("mean", justify="right")
    shown.add_column("n", justify="right")
    _cost_columns(shown, cost)
    previous: tuple[str, str] | None = None
    for (dataset, model), rows in _blocks(made).items():
        for defense in distinct(rows, lambda r: r.defense):
            first = True
            for scenario in scenarios(row for row in rows if row.defense == defense):
                mine = [r for r in rows if r.defense == defense and same(r, scenario)]
                metric = main_metric(mine) or ""
                value = summary([r for r in mine if r.record.status == "done"], metric)
                names = _names(previous, dataset, model)
                previous = (dataset, model)
                shown.add_row(
                    *_row(
                        *names,
                        defense if first else "",
                        f"{scenario.label} [{scenario.tag}]",
                        _metric_label(made, metric),
                        _number(mine),
                        str(value.n) if value else "",
                        *_spent(mine, cost),
                    )
                )
                first = False


def _blocks(made: Book) -> dict[tuple[str, str], list[Row]]:
    """All rows by (data set, model): what was skipped shows as such."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in made.rows:
        found.setdefault((row.dataset, row.model), []).append(row)
    return found


def _number(rows: Sequence[Row]) -> str:
    """One number; otherwise what became of the cells."""
    done = [row for row in rows if row.record.status == "done"]
    value = summary(done, main_metric(done) or "")
    if value is not None:
        return value.text() + ("" if len(done) == len(rows) else f" ({len(done)}/{len(rows)})")
    states = {row.record.status for row in rows}
    return "failed" if "failed" in states else "skipped" if states else "–"


def _metric_label(made: Book, metric: str) -> str:
    short = {
        "attacked_accuracy": "accuracy", "accuracy": "accuracy", "auc": "AUC", "r_squared": "R²"
    }  # fmt: skip
    if metric in short or not metric:
        return short.get(metric, "")
    return str(metric_entry(made.done, metric)["label"])


def _names(previous: tuple[str, str] | None, dataset: str, model: str) -> tuple[str, str]:
    if previous == (dataset, model):
        return "", ""
    return ("" if previous and previous[0] == dataset else dataset), model


def _cost_columns(shown: Table, cost: bool) -> None:
    for head in _COSTS.values() if cost else ():
        shown.add_column(head, justify="right")


def _spent(rows: Sequence[Row], cost: bool) -> list[str]:
    if not cost:
        return []
    spent = costs(rows)
    return [f"{spent[name]:.{0 if name == 'peak_memory_mb' else 2}f}" if name in spent else "–"
            for name in _COSTS]  # fmt: skip


def _notes(made: Book, found: Sequence[Scenario]) -> Text:
    ns = sorted(
        {
            value.n
            for rows in made.groups.values()
            for defense in distinct(rows, lambda r: r.defense)
            for scenario in found
            if (value := _value([r for r in rows if r.defense == defense and same(r, scenario)]))
        }
    )
    lines = []
    if ns:
        n = f"{ns[0]}" if len(ns) == 1 else f"{ns[0]} to {ns[-1]}"
        spread = ", ± half a 95 % interval" if ns[-1] > 1 else ", no interval from one"
        lines.append(f"Mean over {n} replicate{'s' if ns[-1] > 1 else ''} (split, seed){spread}.")
    lines += certificates.notes(made)
    reasons: dict[tuple[str, str], int] = {}
    for row in made.rows:
        if row.record.status != "done":
            reason = row.record.reason.strip().rpartition("\n")[2]
            key = (row.record.status, reason)
            reasons[key] = reasons.get(key, 0) + 1
    for (status, reason), count in sorted(reasons.items(), key=lambda item: (-item[1], item[0])):
        lines.append(f"{count} of {len(made.rows)} cells {status}: {reason}")
    for scenario in sorted(found, key=lambda s: int(s.tag[1:])):
        line = f"[{scenario.tag}] {scenario.threat}"
        if line not in lines:
            lines.append(line)
    return _text("\n".join(lines))


def _value(rows: Sequence[Row]) -> Interval | None:
    return summary(rows, main_metric(rows) or "")


def _row(*cells: str) -> list[Text]:
    return [_text(cell) for cell in cells]


def _text(plain: str) -> Text:
    """Text without markup: names may contain brackets, but no control characters."""
    from rich.text import Text

    return Text("".join(c if c.isprintable() or c == "\n" else "�" for c in plain))


__all__ = ["table", "text"]
