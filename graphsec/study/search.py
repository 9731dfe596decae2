"""Running a sweep: an Optuna study whose trials are cells, chosen on validation data alone."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib import import_module
from multiprocessing import get_context
from statistics import fmean
from typing import TYPE_CHECKING, Any

from graphsec.cell import Cache, Cell, Record, Runtime
from graphsec.registry import SpecError, did_you_mean
from graphsec.runner import run_cells
from graphsec.store import Store
from graphsec.study.spec import Direction, Sweep
from graphsec.sweep import searched, variant

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tested:
    """What a chosen trial does on the test nodes.

    Attributes:
        number: Of the trial.
        cell: What was run, but for seeds.
        values: Metric → its value for each of the test seeds.
    """

    number: int
    cell: Cell
    values: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Swept:
    """A finished sweep.

    Attributes:
        sweep: The spec.
        study: Optuna's study; ``optuna-dashboard URL`` opens it.
        tested: What was chosen, on the test nodes.
    """

    sweep: Sweep
    study: optuna.Study
    tested: list[Tested]


class CellFailed(RuntimeError):
    """A cell of a trial failed; the trial does, and the study goes on."""


def run(sweep: Sweep, url: str, workers: int = 1, *, runtime: Runtime | None = None) -> Swept:
    """Finish the study in a store, and run what it chose on the test nodes.

    Trials and records are in the same database, and an interrupted study goes on; trials of
    workers that died are counted as failed, and others made in their place.

    Args:
        sweep: The spec.
        url: URL of the database, or the path of an SQLite file.
        workers: Processes.
        runtime: Threads, and rows kept in memory, of each.

    Raises:
        SpecError: A metric does not exist, or the study in the store is of another spec.
        StoreError: The database can't be read or written.
    """
    search = _Search(sweep, url, runtime or Runtime())
    study = search.create()
    while (left := sweep.trials - search.ended(study)) > 0:
        shares = [left // workers + (i < left % workers) for i in range(workers)]
        if workers == 1:
            search.optimise(left)
            continue
        try:
            with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
                work = partial(_work, sweep, url, search.runtime)
                list(pool.map(work, range(workers), shares))
        except BrokenProcessPool:
            if sweep.trials - search.ended(study) >= left:
                raise
            log.warning("a worker died; others go on in its place")
            search.forget_dead(study)
    return Swept(sweep, study, search.tested(study, workers))


class _Search:
    """One process that works on a study."""

    def __init__(self, sweep: Sweep, url: str, runtime: Runtime, index: int = 0) -> None:
        self.sweep, self.url, self.runtime, self.index = sweep, url, runtime, index
        self.cache = Cache(runtime.keep)  # attacks on one defense share its training

    @property
    def storage(self) -> Any:
        """Optuna's storage, in the records' database."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        address = self.url if "://" in self.url else f"sqlite:///{self.url}"
        with warnings.catch_warnings():  # heartbeats, without which dead trials run for ever
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.storages.RDBStorage(address, heartbeat_interval=30, grace_period=120)

    def create(self) -> optuna.Study:
        """The study, made where it is missing."""
        import optuna

        sweep = self.sweep
        Store(self.url).close()  # says what is wrong with the database, if anything is
        names = optuna.get_all_study_names(self.storage)
        if sweep.title in names:
            study = optuna.load_study(study_name=sweep.title, storage=self.storage)
            _check_same(study, sweep)
            self.forget_dead(study)
            return study
        goals = [goal.direction or self._good(goal.metric) for goal in sweep.objectives]
        study = optuna.create_study(study_name=sweep.title, storage=self.storage, directions=goals)
        study.set_user_attr("spec", _identity(sweep))
        study.enqueue_trial(searched(sweep.template, sweep.search))
        for parameters in sweep.start:
            study.enqueue_trial(dict(parameters))
        return study

    @staticmethod
    def forget_dead(study: optuna.Study) -> None:
        """Count trials whose process no longer gives a sign as failed."""
        import optuna

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            optuna.storages.fail_stale_trials(study)

    @staticmethod
    def ended(study: optuna.Study) -> int:
        """Number of trials that have ended, in whatever way."""
        return sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))

    def optimise(self, trials: int) -> None:
        """Run so many trials."""
        import optuna

        samplers = optuna.samplers
        kinds: dict[str, Any] = {
            "tpe": samplers.TPESampler, "nsga2": samplers.NSGAIISampler,
            "random": samplers.RandomSampler,
        }  # fmt: skip
        study = optuna.load_study(study_name=self.sweep.title, storage=self.storage)
        # Other draws in each process, and in each run that goes on.
        seed = self.sweep.seeds[0] + 7919 * self.index + 104_729 * len(study.trials)
        study.sampler = kinds[self.sweep.sampler](seed=seed)
        study.optimize(self.trial, n_trials=trials, catch=(CellFailed,))

    def trial(self, trial: optuna.Trial) -> tuple[float, ...]:
        """The objectives of one choice of the fields, under the attack that hurts it most."""
        sweep = self.sweep
        cell = variant(sweep.template, sweep.search, trial)
        if sweep.attacker is not None:
            cell = self.attacked(cell, trial.number)
        trial.set_user_attr("cell", cell.spec())
        records = self.records(cell, sweep.seeds)
        for i, limit in enumerate(sweep.limits):
            trial.set_constraint(f"{i}.{limit.metric}", limit.excess(_mean(records, limit.metric)))
        return tuple(_mean(records, goal.metric) for goal in sweep.objectives)

    def attacked(self, cell: Cell, number: int) -> Cell:
        """The cell with the attack that does it most harm, of those that the attacker tries."""
        import optuna

        attacker = self.sweep.attacker
        parts = {"attack": attacker.search}
        harm: Direction = "minimize" if self._good(attacker.metric) == "maximize" else "maximize"
        study = optuna.create_study(direction=harm, sampler=optuna.samplers.TPESampler(seed=number))
        study.enqueue_trial(searched(cell, parts))

        def tried(trial: optuna.Trial) -> float:
            attack = variant(cell, parts, trial)
            trial.set_user_attr("attack", attack.spec()["attack"])
            return _mean(self.records(attack, self.sweep.seeds), attacker.metric)

        study.optimize(tried, n_trials=attacker.trials, catch=(CellFailed,))
        found = [t for t in study.trials if t.state is optuna.trial.TrialState.COMPLETE]
        if not found:
            raise CellFailed("none of the attacker's attacks could be run")
        return replace(cell, attack=study.best_trial.user_attrs["attack"])

    @cached_property
    def _first(self) -> Record:
        try:
            return self.records(self.sweep.template, self.sweep.seeds[:1])[0]
        except Exception as error:
            raise SpecError(f"sweep: the cell itself can't be run: {error}") from error

    def _good(self, metric: str) -> Direction:
        """Which direction is good for the defender, as a record of the cell itself says."""
        _value(self._first, metric)
        metrics = self._first.metrics
        higher = metric in metrics and metrics[metric]["higher_is_better"]
        return "maximize" if higher else "minimize"

    def records(self, cell: Cell, seeds: Sequence[int], workers: int = 1) -> list[Record]:
        """Records of a cell for each seed, from the store where it has them.

        Raises:
            TrialPruned: The cell's parts don't fit.
            CellFailed: It failed.
        """
        import optuna

        cells = [replace(cell, seed=seed, data_seed=seed) for seed in seeds]
        found = run_cells(
            cells, self.url, workers, runtime=self.runtime, progress=False,
            plugins=tuple(self.sweep.plugins), cache=self.cache,
        )  # fmt: skip
        records = [found[each.key] for each in cells]
        for record in records:
            if record.status == "skipped":
                raise optuna.TrialPruned(record.reason)
            if record.status == "failed":
                raise CellFailed(record.reason)
        return records

    def tested(self, study: optuna.Study, workers: int) -> list[Tested]:
        """Each chosen trial on the test nodes, by the metrics of objectives and limits."""
        names = [each.metric for each in (*self.sweep.objectives, *self.sweep.limits)]
        tested = []
        for trial in chosen(study):
            spec = dict(trial.user_attrs["cell"])
            spec["threat"] = {**spec["threat"], "targets": "test"}
            cell = Cell.from_spec(spec)
            try:
                records = self.records(cell, self.sweep.test_seeds, workers)
            except CellFailed as error:
                log.warning("trial %d fails with test seeds: %s", trial.number, error)
                continue
            values = {name: tuple(_value(r, name) for r in records) for name in names}
            tested.append(Tested(trial.number, cell, values))
        return tested


def chosen(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """The best trial that crosses no limit, or the front of several objectives; none if all do.

    Of trials with the same values the first counts.
    """
    if len(study.directions) == 1:
        try:
            return [study.best_trial]
        except ValueError:
            return []
    first: dict[tuple[float, ...], optuna.trial.FrozenTrial] = {}
    for trial in sorted(study.best_trials, key=lambda trial: trial.number):
        first.setdefault(tuple(trial.values), trial)
    return list(first.values())


def _value(record: Record, name: str) -> float:
    """A metric, the ε of the record's statement, or a cost.

    Raises:
        SpecError: The record has none of that name.
    """
    if name in record.metrics:
        return record.value(name)
    if name == "epsilon" and record.privacy is not None:
        return float(record.privacy["epsilon"])
    if name in record.cost:
        return float(record.cost[name])
    known = [*record.metrics, *record.cost, *(["epsilon"] if record.privacy else [])]
    raise SpecError(f"no metric {name!r}; {did_you_mean(name, known)}")


def _mean(records: Sequence[Record], name: str) -> float:
    return fmean(_value(record, name) for record in records)


def _identity(sweep: Sweep) -> dict[str, Any]:
    """What makes a study another one; more trials, or other tests of what was chosen, do not."""
    found: dict[str, Any] = json.loads(json.dumps(sweep.spec()))
    return {k: v for k, v in found.items() if k not in ("trials", "test_seeds")}


def _check_same(study: optuna.Study, sweep: Sweep) -> None:
    kept, spec = study.user_attrs.get("spec"), _identity(sweep)
    if kept != spec:
        differs = sorted(k for k in {*(kept or {}), *spec} if (kept or {}).get(k) != spec.get(k))
        raise SpecError(
            f"sweep: the store has a study {sweep.title!r} of another spec (it differs in "
            f"{', '.join(differs)}): give another title or store"
        )


def _work(sweep: Sweep, url: str, runtime: Runtime, index: int, trials: int) -> None:
    """One process's share of a study."""
    import torch

    torch.set_num_threads(runtime.threads)
    for plugin in sweep.plugins:
        import_module(plugin)
    _Search(sweep, url, runtime, index).optimise(trials)
