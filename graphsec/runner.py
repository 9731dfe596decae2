"""Running cells: workers that claim rows from a store, and what starts and watches them.

A worker needs nothing but the store: any number of them, started by any number of runners, share
the work. A runner only starts workers, starts them again when they die, and shows progress.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from graphsec.cell import Cache, Cell, Record, Runtime, run_cell
from graphsec.owners import new_owner
from graphsec.progress import Show
from graphsec.store import Claim, Store, StoreError

log = logging.getLogger(__name__)

BEAT = 5.0
POLL = 0.5
RESTARTS = 5
"""How often workers may die one after the other with no cell finished in between."""
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)


class WorkersDied(RuntimeError):
    """Workers die as fast as they are started."""


# -- a worker ---------------------------------------------------------------------------------


def worker(
    url: str,
    keys: Sequence[str],
    runtime: Runtime,
    plugins: Sequence[str] = (),
    cache: Cache | None = None,
) -> int:
    """Claim and run cells until all of ``keys`` are finished, by this worker or another.

    Args:
        url: URL of the store.
        keys: Keys of the cells, in the order in which rows are taken.
        runtime: Threads, and rows kept in memory.
        plugins: Modules to import first.
        cache: Rows trained before, to be used and added to; None begins without any.

    Returns:
        Number of cells that this worker finished.

    Raises:
        StoreError: A record can't be written. The worker stops rather than compute for nothing.
    """
    for plugin in plugins:
        importlib.import_module(plugin)
    owner, cache, finished = new_owner(), cache or Cache(runtime.keep), 0
    with Store(url) as store, _beating(store, owner):
        try:
            while True:
                store.release_dead()
                claims = store.claim(owner, keys)
                if not claims:
                    counts = store.counts(keys)
                    if not counts["pending"] and not counts["running"]:
                        return finished
                    # Others run the last cells: they may die, and leave them to this worker.
                    time.sleep(POLL)
                for claim in claims:
                    # False: this worker was taken for dead, and the cell given to another.
                    if store.start(claim.key, owner):
                        finished += store.finish(_run(claim, runtime, cache), owner)
        finally:
            _give_back(store, owner)


def _run(claim: Claim, runtime: Runtime, cache: Cache) -> Record:
    problem = ""
    try:
        cell = Cell.from_spec(claim.spec)
        if cell.key == claim.key:
            return run_cell(cell, runtime, cache)
        problem = f"the spec has key {cell.key} here: graphsec or a plugin has another version"
    except (ValueError, TypeError) as error:
        problem = f"the spec can't be built here: {error}"
    return Record(key=claim.key, row=claim.row, status="failed", spec=claim.spec, reason=problem)


def _give_back(store: Store, owner: str) -> None:
    try:
        store.release(owner)
    except StoreError as error:
        log.debug("claims of %s stay until it is dead: %s", owner, error)


@contextmanager
def _beating(store: Store, owner: str) -> Iterator[None]:
    """Heartbeats from a thread while the block runs."""
    stopped = threading.Event()

    def beat() -> None:
        while not stopped.wait(BEAT):
            try:
                store.beat(owner)
            except StoreError as error:  # the worker itself will meet it, and stop
                log.warning("no heartbeat: %s", error)

    thread = threading.Thread(target=beat, name="graphsec-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join(timeout=1.0)


def prepare_process(parent: int, lifeline: Connection) -> None:
    """Tie a worker's process to its runner: it ends when the runner ends, however that ends.

    Args:
        parent: Process id of the runner.
        lifeline: Reading end of a pipe whose other end only the runner holds; it is never
            written to, and reads as closed when the runner closes it or is gone.
    """
    # The runner decides what Ctrl-C means for its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        death_signal = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None, use_errno=True).prctl(death_signal, signal.SIGKILL, 0, 0, 0)

    def watch() -> None:
        while not lifeline.poll(1.0) and os.getppid() == parent:
            pass
        os._exit(1)

    threading.Thread(target=watch, name="graphsec-parent", daemon=True).start()


# -- the runner -------------------------------------------------------------------------------


def run_cells(
    cells: Sequence[Cell],
    url: str | None,
    workers: int = 1,
    *,
    executor: Executor | None = None,
    retry_failed: bool = False,
    runtime: Runtime | None = None,
    progress: bool = True,
    plugins: Sequence[str] = (),
    cache: Cache | None = None,
) -> dict[str, Record]:
    """Finish all cells, and return their records by key.

    Args:
        cells: What to run; those that the store has finished are not run again.
        url: URL of the store; None makes a temporary one.
        workers: Processes; 1 runs in this one.
        executor: Runs the workers instead of processes of this runner's own.
        retry_failed: Whether failed cells are run again.
        runtime: Threads, and rows kept in memory, of each worker.
        progress: Whether to show progress on stderr.
        plugins: Modules that workers import first.
        cache: Rows trained before in this process, for one worker without an executor.

    Raises:
        StoreError: The store can't be read or written.
        WorkersDied: Workers die as fast as they are started.
    """
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise ValueError(f"workers must be an integer ≥ 1, got {workers!r}")
    if url is None:
        with tempfile.TemporaryDirectory(prefix="graphsec-") as folder:
            return run_cells(
                cells, str(Path(folder) / "runs.db"), workers, executor=executor,
                runtime=runtime, progress=progress, plugins=plugins, cache=cache,
            )  # fmt: skip
    keys = [cell.key for cell in cells]
    with Store(url) as store:
        store.add(cells)
        store.release_dead()
        if retry_failed:
            store.retry(keys)
        counts = store.counts(keys)
        if counts["pending"] or counts["running"]:
            arguments = (store.url, keys, runtime or Runtime(), tuple(plugins))
            with Show(cells, store, shown=progress) as show:
                if executor is not None:
                    _watch([executor.submit(worker, *arguments) for _ in range(workers)], show)
                elif workers == 1:
                    with _watching(show):
                        worker(*arguments, cache)
                else:
                    _Crew(workers, arguments, show).run()
        return {record.key: record for record in store.records(keys)}


@contextmanager
def _watching(show: Show) -> Iterator[None]:
    """Draw progress from a thread while this one works."""
    stopped = threading.Event()

    def watch() -> None:
        while not stopped.wait(POLL):
            try:
                show.update()
            except StoreError as error:
                log.debug("no progress to show: %s", error)

    thread = threading.Thread(target=watch, name="graphsec-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def _watch(futures: Sequence[Future[int]], show: Show) -> None:
    """Wait for workers of a foreign executor."""
    pending = set(futures)
    try:
        while pending:
            done, pending = wait(pending, timeout=POLL, return_when=FIRST_COMPLETED)
            show.update()
            for future in done:
                future.result()
    finally:
        for future in pending:
            future.cancel()


class _Crew:
    """The processes of one runner: each its own pool, so that one death does not kill others."""

    def __init__(self, workers: int, arguments: tuple[Any, ...], show: Show) -> None:
        self.workers, self.arguments, self.show = workers, arguments, show
        self.context = multiprocessing.get_context("spawn")
        # Not an Event: setting one waits for every sleeper, even for those that have died.
        self.lifeline, self.grip = self.context.Pipe(duplex=False)
        self.pools: dict[Future[int], ProcessPoolExecutor] = {}
        self.errors: list[StoreError] = []
        self.deaths, self.finished = 0, 0

    def run(self) -> None:
        """Start workers, and see the matrix to its end."""
        try:
            for _ in range(self.workers):
                self._start()
            while self.pools:
                done, _ = wait(self.pools, timeout=POLL, return_when=FIRST_COMPLETED)
                self._look()
                for future in done:
                    self._ended(future)
        finally:
            self.grip.close()  # ends at once what an error or Ctrl-C leaves running
            for pool in self.pools.values():
                pool.shutdown(wait=True, cancel_futures=True)
            self.lifeline.close()
            if self.pools:
                self._give_back()
        if self.errors:
            raise self.errors[0]

    def _start(self) -> None:
        pool = ProcessPoolExecutor(
            1, mp_context=self.context, initializer=prepare_process,
            initargs=(os.getpid(), self.lifeline),
        )  # fmt: skip
        with _threads(self.arguments[2].threads):
            self.pools[pool.submit(worker, *self.arguments)] = pool

    def _give_back(self) -> None:
        """What this runner itself ended is no cell's fault."""
        try:
            self.show.store.release_dead(blame=False)
        except StoreError as error:
            log.debug("claims stay until the next run: %s", error)

    def _look(self) -> None:
        try:
            statuses = self.show.update()
        except StoreError as error:
            log.debug("no progress to show: %s", error)
            return
        finished = sum(s.finished_at is not None for s in statuses)
        if finished > self.finished:
            self.finished, self.deaths = finished, 0

    def _ended(self, future: Future[int]) -> None:
        pool = self.pools.pop(future)
        try:
            future.result()
        except BrokenProcessPool:
            self.deaths += 1
            if self.deaths > RESTARTS:
                raise WorkersDied(
                    f"{self.deaths} workers died one after the other without finishing a cell "
                    "(killed, or out of memory?); a script that starts workers must do so "
                    "under if __name__ == '__main__':"
                ) from None
            self.show.say("a worker died; starting another")
            self._start()
        except StoreError as error:
            self.show.say(f"a worker stopped: {error}")
            self.errors.append(error)
        finally:
            pool.shutdown(wait=False)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Numbers of threads in the environment, for processes started in the block."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(count)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
