"""What a matrix would still run, and for how long: learned from what the store has finished."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from graphsec.matrix import Matrix
from graphsec.store import Store

Kind = tuple[str, str, str, str]


@dataclass(frozen=True)
class Forecast:
    """What is left of a matrix.

    Attributes:
        cells: Cells that can be built.
        misfits: Of these, those that will be skipped.
        done: Finished in the store.
        left: To be run.
        seconds: Expected time of the rest in one process; None where nothing like it was run.
        guessed: Of the rest, cells of which no like was run: taken for average.
        workers: Processes that share it.
    """

    cells: int
    misfits: int
    done: int
    left: int
    seconds: float | None
    guessed: int
    workers: int

    def text(self) -> str:
        """One or two lines."""
        line = f"{self.cells} cells: {self.done} finished, {self.left} to run"
        if self.misfits:
            line += f", {self.misfits} of them skipped for parts that don't fit"
        if self.left == 0:
            return line
        if self.seconds is None:
            return f"{line}; the store has nothing to tell the time by"
        share = self.seconds / min(self.workers, self.left)
        line += f"; about {_spoken(share)} with {self.workers} worker{'s' * (self.workers > 1)}"
        return f"{line} ({self.guessed} taken for average)" if self.guessed else line


def forecast(matrix: Matrix, url: str, workers: int = 1, *, retry_failed: bool = False) -> Forecast:
    """What a run of ``matrix`` would do.

    The time of a cell is the median of those in the store with the same data set, model, defense
    and attack by name. Cells of a row share one training, which is why a cell may take longer or
    shorter than its kind.

    Args:
        matrix: The matrix.
        url: URL of the store, or its path; it need not exist.
        workers: Processes.
        retry_failed: Whether failed cells are run again.

    Raises:
        StoreError: There is a store that can't be read.
    """
    cells = matrix.cells()
    states: dict[str, str] = {}
    taken: dict[Kind, list[float]] = defaultdict(list)
    if _exists(url):
        with Store(url, create=False) as store:
            statuses = store.statuses()
            states = {status.key: status.state for status in statuses}
            times = {s.key: s.seconds for s in statuses if s.seconds and s.state == "done"}
            for record in store.records(list(times)):
                taken[_kind(record.spec)].append(float(times[record.key] or 0.0))
    again = ("pending", "running", *(("failed",) if retry_failed else ()))
    left = [cell for cell in cells if states.get(cell.key, "pending") in again]
    misfits = sum(bool(cell.problems()) for cell in left)
    known = {kind: median(seconds) for kind, seconds in taken.items()}
    real = [_kind(cell.spec()) for cell in left if not cell.problems()]
    guessed = sum(kind not in known for kind in real)
    seconds = None
    if known or not real:
        average = fmean(known.values()) if known else 0.0
        seconds = sum(known.get(kind, average) for kind in real)
    return Forecast(
        len(cells), misfits, len(cells) - len(left), len(left), seconds, guessed, workers
    )


def _kind(spec: Mapping[str, Any]) -> Kind:
    def named(part: str) -> str:
        inner = spec[part].get("parts")
        names = [str(each["name"]) for each in inner] if inner else [str(spec[part]["name"])]
        return " + ".join(names)

    return named("dataset"), named("model"), named("defense"), named("attack")


def _exists(url: str) -> bool:
    if url.startswith("sqlite:///"):
        url = url.removeprefix("sqlite:///")
    return "://" in url or Path(url).is_file()


def _spoken(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
