"""Progress of a matrix on stderr: cells done, time left, what is running, what failed."""

from __future__ import annotations

import json
import logging
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from graphsec.results import label
from graphsec.store import FINAL, Status, Store, StoreError

if TYPE_CHECKING:
    from graphsec.cell import Cell

log = logging.getLogger(__name__)

PLAIN_EVERY = 30.0
"""Seconds between two lines where stderr is not a terminal."""


class Estimate:
    """Seconds left, from the mean of what cells like these took.

    Args:
        kinds: Key → (model, attack) of every cell.
    """

    def __init__(self, kinds: Mapping[str, tuple[str, str]]) -> None:
        self.kinds = kinds

    def seconds(self, statuses: Sequence[Status], workers: int) -> float | None:
        """Seconds left for all workers together; None before the first cell is done."""
        taken: dict[tuple[str, str], list[float]] = defaultdict(list)
        for status in statuses:
            if status.state in FINAL and status.seconds is not None:
                taken[self.kinds[status.key]].append(status.seconds)
        if not taken:
            return None
        means = {kind: sum(times) / len(times) for kind, times in taken.items()}
        overall = sum(map(sum, taken.values())) / sum(map(len, taken.values()))
        left = 0.0
        now = time.time()
        for status in statuses:
            if status.state not in FINAL:
                spent = now - status.started_at if status.started_at else 0.0
                left += max(means.get(self.kinds[status.key], overall) - spent, 0.0)
        return left / max(workers, 1)


class Show:
    """Draws where a run stands; call ``update`` now and then.

    Args:
        cells: The cells of this run.
        store: Where they are.
        shown: Whether to write anything at all.
        console: Where to; default stderr.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        store: Store,
        *,
        shown: bool = True,
        console: Console | None = None,
    ) -> None:
        self.keys = [cell.key for cell in cells]
        self.names = {cell.key: describe(cell.spec()) for cell in cells}
        self.estimate = Estimate(
            {c.key: (c.parts.recipe.model.name, c.parts.attack.name) for c in cells}
        )
        self.store, self.shown = store, shown
        self.console = console or Console(stderr=True)
        self._told: set[str] = set()
        self._last = 0.0
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def __enter__(self) -> Show:
        statuses = self.store.statuses(self.keys)
        before = [s for s in statuses if s.state in FINAL]
        # Failures of an earlier run are in the table; only new ones are news.
        self._told.update(s.key for s in before)
        if not self.shown:
            return self
        if before:
            self.console.print(f"{len(before)} of {len(self.keys)} cells were done before")
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=30),
                MofNCompleteColumn(),
                TextColumn("{task.fields[left]}"),
                TextColumn("[dim]{task.fields[running]}"),
                console=self.console,
                transient=True,
            )
            self._task = self._bar.add_task(
                "cells", total=len(self.keys), completed=len(before), left="", running=""
            )
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.update(last=True)
        except StoreError as error:
            log.debug("no last look at the store: %s", error)
        if self._bar is not None:
            self._bar.stop()

    def update(self, *, last: bool = False) -> list[Status]:
        """Look at the store, print new failures, draw; returns what was seen."""
        statuses = self.store.statuses(self.keys)
        if not self.shown:
            return statuses
        self._tell_failures(statuses)
        running = [s for s in statuses if s.state == "running" and s.started_at]
        done = sum(s.state in FINAL for s in statuses)
        seconds = self.estimate.seconds(statuses, len({s.owner for s in running}))
        left = "" if seconds is None or done == len(statuses) else f"{clock(seconds)} left"
        if self._bar is not None:
            names = "; ".join(self.names[s.key] for s in running)
            self._bar.update(self._task, completed=done, left=left, running=escape(names))
        elif last or time.monotonic() - self._last > PLAIN_EVERY:
            if self._last or last:
                self.console.print(f"{done} of {len(statuses)} cells done{left and ', ' + left}")
            self._last = time.monotonic()
        return statuses

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if self.shown:
            self.console.print(escape(text), soft_wrap=True)

    def _tell_failures(self, statuses: Sequence[Status]) -> None:
        new = [s.key for s in statuses if s.state in FINAL and s.key not in self._told]
        self._told.update(new)
        failed = {s.key for s in statuses if s.state == "failed"}.intersection(new)
        for record in self.store.records(sorted(failed)) if failed else []:
            reason = record.reason.strip().rpartition("\n")[2]
            self.say(f"failed  {self.names[record.key]}  {record.key}: {reason}")


def describe(spec: Mapping[str, Any]) -> str:
    """A cell in a few words."""
    parts = [label(kind, spec[kind]) for kind in ("dataset", "model", "defense", "attack")]
    edges = dict(dict(spec.get("threat") or {}).get("budget") or {}).get("edges")
    budget = "" if edges is None else f" {json.dumps(edges)}"
    return f"{' · '.join(parts)}{budget} · seed {spec['seed']}"


def clock(seconds: float) -> str:
    """Seconds as 45 s, 3:20 or 2:05:00."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
