"""Results: the records of a matrix, as a frame, a table and a report."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphsec.cell import Record
from graphsec.registry import ATTACKS, DATASETS, DEFENSES, MODELS, Registry, SpecError
from graphsec.stats import paired
from graphsec.store import Store

if TYPE_CHECKING:
    import pandas as pd

_KINDS: dict[str, Registry[Any]] = {
    "dataset": DATASETS,
    "model": MODELS,
    "defense": DEFENSES,
    "attack": ATTACKS,
}

_ROW = ("dataset", "model", "defense")


class Results(Sequence[Record]):
    """Records in the order of their matrix.

    Args:
        records: The records.
        name: Title for reports.
        notes: What a reader must know beside the records (data sets left out, say).
    """

    def __init__(
        self, records: Iterable[Record], name: str = "", notes: Iterable[str] = ()
    ) -> None:
        self.records = tuple(records)
        self.name = name
        self.notes = tuple(notes)

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __getitem__(self, index: Any) -> Any:
        return self.records[index]

    def __repr__(self) -> str:
        counts = ", ".join(f"{n} {status}" for status, n in self.counts().items() if n)
        return f"Results({self.name!r}: {counts or 'no records'})"

    def counts(self) -> dict[str, int]:
        """Number of records by status."""
        found = {"done": 0, "skipped": 0, "failed": 0}
        for record in self:
            found[record.status] += 1
        return found

    def frame(self) -> pd.DataFrame:
        """One line a record: what was run, its status, metrics, and cost (``cost_…``)."""
        import pandas as pd

        return pd.DataFrame([_line(record) for record in self])

    def advantage(self, baseline: str, metric: str = "auc") -> pd.DataFrame:
        """What every attack gains over the best variant of a baseline, in the attacker's favour.

        A variant is the baseline with other fields; of those with the same data set, model and
        defense the one with the best mean counts, which is to an attack's disadvantage. That both
        know equally much beside what is compared is for the spec to see to.

        Args:
            baseline: Name of an attack.
            metric: The number compared.

        Returns:
            A line for each data set, model, defense and attack (and its game): the means of both,
            the ``advantage`` over pairs of equal seeds with its 95 % interval ``low`` … ``high``
            (missing with one pair), the p-value, and the number of pairs.

        Raises:
            SpecError: No finished record of the baseline has the metric.
        """
        import pandas as pd

        sign = 1.0
        groups: dict[tuple[tuple[str, ...], str, str], dict[tuple[int, int], float]] = {}
        for record in self:
            if record.status == "done" and metric in record.metrics:
                sign = -1.0 if record.metrics[metric]["higher_is_better"] else 1.0
                spec = record.spec
                row = (*(label(kind, spec[kind]) for kind in _ROW), json.dumps(spec["training"]))
                key = (row, label("attack", spec["attack"]), json.dumps(spec["game"]))
                values = groups.setdefault(key, {})
                values[int(spec["data_seed"]), int(spec["seed"])] = sign * record.value(metric)
        rivals = {key: g for key, g in groups.items() if key[1].partition("(")[0] == baseline}
        if not rivals:
            raise SpecError(f"no finished record of the attack {baseline!r} has {metric!r}")
        lines = []
        for key, mine in groups.items():
            same = [
                g for other, g in rivals.items() if other[0] == key[0] and mine.keys() <= g.keys()
            ]
            if key in rivals or not same:
                continue
            best = max(same, key=lambda g: sum(g[seeds] for seeds in mine))
            theirs = [best[seeds] for seeds in mine]
            found = paired(list(mine.values()), theirs)
            gain, n = found.difference, len(mine)
            lines.append({
                **dict(zip(_ROW, key[0], strict=False)), "attack": key[1], "game": key[2],
                "metric": metric, "mean": sign * sum(mine.values()) / n,
                "baseline": sign * sum(theirs) / n, "advantage": gain.mean,
                "low": gain.low, "high": gain.high, "p_value": found.p_value, "pairs": n,
            })  # fmt: skip
        return pd.DataFrame(lines)

    def table(self, **options: Any) -> Any:
        """Table for the terminal (see ``graphsec.report.table``)."""
        return importlib.import_module("graphsec.report").table(self, **options)

    def report(self, path: str | Path, **options: Any) -> Path:
        """Write the one-file HTML report, and return its path."""
        importlib.import_module("graphsec.report").html(self, path, **options)
        return Path(path)

    def save(self, path: str | Path) -> Path:
        """Write one line of JSON a record."""
        text = "".join(record.to_json() + "\n" for record in self)
        Path(path).write_text(text, encoding="utf-8")
        return Path(path)

    @staticmethod
    def load(path: str | Path) -> Results:
        """Results from ``save``."""
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        return Results([Record.from_json(line) for line in lines if line], Path(path).stem)

    @staticmethod
    def from_store(url: str, keys: Sequence[str] | None = None) -> Results:
        """All finished cells of a store, in the order in which they were added.

        Raises:
            StoreError: There is no such store, or it can't be read.
        """
        with Store(url, create=False) as store:
            return Results(store.records(keys), Path(store.name).stem)


def _line(record: Record) -> dict[str, Any]:
    spec = record.spec
    threat = dict(spec.get("threat") or {})
    return {
        **{kind: label(kind, spec.get(kind)) for kind in _KINDS},
        "budget": dict(threat.get("budget") or {}).get("edges"),
        "timing": threat.get("timing"),
        "adaptive": threat.get("adaptive"),
        "seed": spec.get("seed"),
        "data_seed": spec.get("data_seed"),
        "status": record.status,
        **{name: metric["value"] for name, metric in record.metrics.items()},
        **{f"cost_{name}": value for name, value in record.cost.items()},
        "threat": record.threat,
        "key": record.key,
        "reason": record.reason.strip().rpartition("\n")[2],
    }


def label(kind: str, spec: Any) -> str:
    """Short name of a component: its name, and the fields that are not at their defaults.

    Args:
        kind: "dataset", "model", "defense" or "attack".
        spec: Name or spec; a list (of defenses) is joined by " + ".
    """
    if isinstance(spec, list | tuple):
        return " + ".join(label(kind, part) for part in spec)
    if not isinstance(spec, Mapping):
        return str(spec)
    name = str(spec.get("name"))
    if name == "compose" and "parts" in spec:
        return label(kind, spec["parts"])
    defaults = json.loads(_defaults(kind, name))
    changed = {
        field: value
        for field, value in spec.items()
        if field != "name" and (field not in defaults or defaults[field] != value)
    }
    if not changed:
        return name
    return f"{name}({', '.join(f'{field}={_short(value)}' for field, value in changed.items())})"


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


@cache
def _defaults(kind: str, name: str) -> str:
    """Spec of a component with its defaults, as JSON; empty if it can't be made."""
    try:
        return json.dumps(_KINDS[kind].build(name).spec())
    except (SpecError, TypeError, ImportError):
        return "{}"


__all__ = ["Results", "label"]
