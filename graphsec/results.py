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
from graphsec.store import Store

if TYPE_CHECKING:
    import pandas as pd

_KINDS: dict[str, Registry[Any]] = {
    "dataset": DATASETS,
    "model": MODELS,
    "defense": DEFENSES,
    "attack": ATTACKS,
}


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
