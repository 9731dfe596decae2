"""A matrix: data sets × models × defenses × attacks × budgets × seeds, and how to run it."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from graphsec.cell import Cell, Record, Runtime
from graphsec.defenses.base import build as build_defense
from graphsec.graph import Graph
from graphsec.registry import ATTACKS, DATASETS, MODELS, SpecError, did_you_mean, read_toml
from graphsec.results import Results
from graphsec.rng import Rng

Spec = str | Mapping[str, Any]
VARIED = ("edges", "queries")  # budgets that may be lists: a row of cells for each


@dataclass(frozen=True)
class Entry:
    """One place of the grid: a cell, or why there is none.

    Attributes:
        spec: What was asked for.
        cell: The cell; None if it can't be built.
        problems: Why it will be skipped; empty if it will run.
    """

    spec: dict[str, Any]
    cell: Cell | None
    problems: tuple[str, ...] = ()

    def skipped(self) -> Record:
        """The record of a cell that can't run."""
        if self.cell is not None:
            key, row, spec = self.cell.key, self.cell.row, self.cell.spec()
        else:
            text = json.dumps(self.spec, sort_keys=True, default=str)
            key = row = "invalid-" + hashlib.sha256(text.encode()).hexdigest()[:12]
            spec = self.spec
        return Record(
            key=key, row=row, status="skipped", spec=spec, reason="; ".join(self.problems)
        )


@dataclass(frozen=True)
class Part:
    """A named part of the grid, built once.

    Attributes:
        spec: Its spec, with defaults if it could be built.
        made: The component; None if it can't be built.
        problem: Why it can't.
        own: A model's own table ``training``; an attack's own tables ``threat`` and ``game``.
    """

    spec: dict[str, Any]
    made: Any = None
    problem: str = ""
    own: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def threat(self) -> Mapping[str, Any]:
        """An attack's own fields of ``Threat``."""
        return self.own.get("threat", {})


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """A grid of cells. Every entry is a name, or a mapping with ``name`` and fields.

    Attributes:
        name: Title of reports.
        datasets: Data sets.
        models: Models; an entry may have a field ``training`` of its own.
        defenses: Defenses; a list inside the list is composed left to right.
        attacks: Attacks; an entry may have a field ``threat`` of its own, whose fields replace
            those of the matrix (its ``budget`` as a whole, ``budgets`` included), and a field
            ``game``: fields of the attack's game.
        seeds: Seeds of training, game and attack. Data sets whose graph or split is drawn get
            the same seed, so that intervals are over splits too; a published split stays.
        splits: Split strategy for data sets that can be split and don't say how.
        threat: Fields of ``Threat`` for all attacks; its ``budget.queries``, and that of an attack,
            may be a list, and each number makes a cell.
        budgets: Values of ``threat.budget.edges``; attacks that change no edges are run once.
        training: Fields of ``Training`` in which all cells differ from the models' recipes.
        optional: Data sets to leave out where they can't be loaded.
        mlp_line: Whether to add a cell without graph, defense or attack for each data set and
            seed: the reference line of robustness figures. For ranking it is popularity.
        plugins: Modules to import first, which register more components.

    Raises:
        SpecError: A field is missing, or not of its form. Names and hyperparameters are checked
            by ``problems``.
    """

    name: str = "matrix"
    datasets: Sequence[Spec]
    models: Sequence[Spec] = ("gcn",)
    defenses: Sequence[Any] = ("none",)
    attacks: Sequence[Spec] = ("none",)
    seeds: Sequence[int] = (0,)
    splits: Any = None
    threat: Mapping[str, Any] = field(default_factory=dict)
    budgets: Sequence[float] = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    optional: Sequence[str] = ()
    mlp_line: bool = True
    plugins: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in ("datasets", "models", "defenses", "attacks", "seeds"):
            _check_list(name, getattr(self, name), empty=False)
        for name in ("budgets", "optional", "plugins"):
            _check_list(name, getattr(self, name))
        for name in ("threat", "training"):
            if not isinstance(getattr(self, name), Mapping):
                raise SpecError(f"matrix: {name} must be a table, got {getattr(self, name)!r}")
        for seed in self.seeds:
            if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
                raise SpecError(f"matrix: seeds must be integers ≥ 0, got {seed!r}")
        for budget in self.budgets:
            if isinstance(budget, bool) or not isinstance(budget, int | float):
                raise SpecError(f"matrix: budgets must be numbers, got {budget!r}")
        names = [spec if isinstance(spec, str) else spec.get("name") for spec in self.datasets]
        for name in self.optional:
            if name not in names:
                hint = did_you_mean(name, [str(known) for known in names])
                raise SpecError(f"matrix: optional data set {name!r} is not in datasets; {hint}")

    @staticmethod
    def from_toml(path: str | Path) -> Matrix:
        """Matrix from a TOML file whose keys are the fields.

        Raises:
            SpecError: Not TOML, an unknown key, or a field that is not of its form.
            OSError: The file can't be read.
        """
        fields = read_toml(path, [f.name for f in dataclasses.fields(Matrix)], ["datasets"])
        return Matrix(**{"name": Path(path).stem, **fields})

    # -- the grid -----------------------------------------------------------------------------

    def cells(self) -> list[Cell]:
        """The cells that can be built, in row order."""
        return [e.cell for e in self.entries if e.cell is not None and not e.problems]

    def problems(self) -> list[str]:
        """Everything wrong with the spec, each thing once with the number of cells it costs."""
        found: Counter[str] = Counter()
        for entry in self.entries:
            misfits = [] if entry.cell is None else entry.cell.problems()
            found.update(entry.problems or misfits)
        return [f"{text} ({n} cell{'s' * (n > 1)} skipped)" for text, n in found.items()]

    @cached_property
    def notes(self) -> list[str]:
        """Optional data sets that are left out, and why."""
        return [f"{name} is left out: {why}" for name, why in self._unavailable.items()]

    @cached_property
    def entries(self) -> list[Entry]:
        """The whole grid, in row order, each cell once."""
        found: dict[str, Entry] = {}
        for place in self._grid():
            entry = self._entry(*place)
            key = entry.cell.key if entry.cell else json.dumps(entry.spec, sort_keys=True)
            found.setdefault(key, entry)
        return list(found.values())

    def _grid(self) -> Iterator[tuple[Part, int, Part, Part, Part, dict[str, Any]]]:
        for plugin in self.plugins:
            try:
                importlib.import_module(plugin)
            except ImportError as error:
                raise SpecError(f"matrix: can't import the plugin {plugin!r}: {error}") from None
        models = [_with_own(("training",), MODELS.build, spec) for spec in self.models]
        defenses = [_part(build_defense, spec) for spec in self.defenses]
        attacks = [_with_own(("threat", "game"), ATTACKS.build, spec) for spec in self.attacks]
        plain = _part(build_defense, "none"), _part(ATTACKS.build, "none")
        for spec in self.datasets:
            dataset = self._dataset(spec)
            if dataset.spec["name"] in self._unavailable:
                continue
            for seed in self.seeds:
                if self.mlp_line:
                    yield (dataset, seed, _part(MODELS.build, _line_model(dataset)), *plain, {})
                for model in models:
                    for defense in defenses:
                        for attack in attacks:
                            for budget in self._budgets(attack):
                                yield dataset, seed, model, defense, attack, budget

    def _dataset(self, spec: Spec) -> Part:
        part = _part(DATASETS.build, spec)
        named = isinstance(spec, Mapping) and "split" in spec
        if self.splits is None or part.made is None or named:
            return part
        fields = {f.name for f in dataclasses.fields(part.made)}
        if "split" not in fields or getattr(part.made, "task", "") in ("ranking", "rating"):
            return part
        return _part(DATASETS.build, {**part.spec, "split": self.splits})

    def _budgets(self, attack: Part) -> Sequence[dict[str, Any]]:
        """Numbers of edges and of queries of an attack, each pair once; edges where it spends any.

        A list of queries is for attacks: the clean row asks nothing, and is run once.
        """
        budget = _budget({**self.threat, **attack.threat})
        edges, queries = _listed(budget.get("edges")), _listed(budget.get("queries"))
        if "budget" not in attack.threat and self.budgets:
            edges = list(self.budgets)
        if attack.made is None or not spends_edges(attack.made):
            edges = [None]
        if attack.made is None or (attack.made.name == "none" and len(queries) > 1):
            queries = [None]
        pairs = [{"edges": most, "queries": asked} for most in edges for asked in queries]
        return [{k: v for k, v in pair.items() if v is not None} for pair in pairs]

    def _entry(
        self, dataset: Part, seed: int, model: Part, defense: Part, attack: Part,
        amounts: Mapping[str, Any],
    ) -> Entry:  # fmt: skip
        threat = {**self.threat, **attack.threat}
        others = {k: v for k, v in _budget(threat).items() if k not in (*VARIED, "name")}
        threat["budget"] = {**others, **amounts}
        training = {**self.training, **model.own.get("training", {})}
        drawn = dataset.made is None or seeded(dataset.made)
        rest: dict[str, Any] = {"threat": threat, "training": training, "seed": seed}
        rest["data_seed"] = seed if drawn else 0
        if "game" in attack.own and attack.made is not None:
            rest["game"] = {"name": attack.made.game, **attack.own["game"]}
        parts = {"dataset": dataset, "model": model, "defense": defense, "attack": attack}
        spec = {**{name: part.spec for name, part in parts.items()}, **rest}
        wrong = tuple(part.problem for part in parts.values() if part.problem)
        if wrong:
            return Entry(spec, None, wrong)
        try:
            cell = Cell(**{name: part.made for name, part in parts.items()}, **rest)
        except ValueError as error:
            return Entry(spec, None, (str(error),))
        return Entry(spec, cell, tuple(self._beyond(cell)))

    # -- what needs the graph -----------------------------------------------------------------

    def _beyond(self, cell: Cell) -> list[str]:
        """What the graph does not allow: more flips than pairs, targets that don't exist."""
        threat = cell.parts.threat
        if not isinstance(threat.budget.edges, int) and isinstance(threat.targets, str):
            return []
        try:
            graph = self._load(cell.parts.dataset, cell.data_seed)
        except Exception:  # the cell will fail, and say why
            return []
        try:
            threat.budget.edge_count(graph)
            threat.target_nodes(graph)
        except ValueError as error:
            return [str(error)]
        return []

    def _load(self, dataset: Any, seed: int) -> Graph:
        key = json.dumps([dataset.spec(), seed], sort_keys=True)
        if key not in self._graphs:
            self._graphs[key] = dataset.load(Rng(seed)["data"])
        return self._graphs[key]

    @cached_property
    def _graphs(self) -> dict[str, Graph]:
        return {}

    @cached_property
    def _unavailable(self) -> dict[str, str]:
        """Optional data sets that can't be loaded, and why."""
        optional = {DATASETS.canonical(name) for name in self.optional}
        found = {}
        for spec in self.datasets:
            part = self._dataset(spec)
            if part.made is None or part.spec["name"] not in optional:
                continue
            try:
                self._load(part.made, 0)
            except Exception as error:
                found[part.spec["name"]] = str(error).strip().split("\n")[0]
        return found

    # -- running ------------------------------------------------------------------------------

    def run(
        self,
        store: str | None = "sqlite:///runs.db",
        workers: int = 1,
        *,
        executor: Executor | None = None,
        retry_failed: bool = False,
        runtime: Runtime | None = None,
        progress: Callable[..., Any] | bool = True,
    ) -> Results:
        """Run what the store does not have yet, and return the records of the whole grid.

        Interrupted at any moment, the same call goes on; several may run at once on one store.

        Args:
            store: URL of the store, or path of an SQLite file; None keeps nothing.
            workers: Processes; 1 runs in this one.
            executor: Runs the workers instead of a process pool (any concurrent.futures one).
            retry_failed: Whether cells that failed before are run again.
            runtime: Threads, and rows kept in memory, of each worker.
            progress: Whether to show progress on stderr.

        Raises:
            SpecError: Nothing of the spec can be built.
            StoreError: The store can't be read or written.
        """
        from graphsec.runner import run_cells

        cells = self.cells()
        if not cells:
            raise SpecError("\n".join(["no cell can be run:", *self.problems(), *self.notes]))
        self._graphs.clear()
        records = run_cells(
            cells, store, workers, executor=executor, retry_failed=retry_failed,
            runtime=runtime or Runtime(), progress=bool(progress), plugins=tuple(self.plugins),
        )  # fmt: skip
        ordered = []
        for entry in self.entries:
            if entry.problems:
                ordered.append(entry.skipped())
            elif entry.cell is not None and entry.cell.key in records:
                ordered.append(records[entry.cell.key])
        return Results(ordered, self.name, self.notes)


def spends_edges(attack: Any) -> bool:
    """Whether an attack flips edges, so that budgets make a difference to it."""
    changes = attack.game == "open" and attack.timing != "inference"
    return bool(changes and attack.name != "none")


def _line_model(dataset: Part) -> str:
    """The model of the reference line: what needs no graph, or knows nobody's taste."""
    lines = {"ranking": "popularity", "rating": "rating-bias"}
    return lines.get(getattr(dataset.made, "task", ""), "mlp")


def seeded(dataset: Any) -> bool:
    """Whether a data set's graph or split depends on the seed."""
    return bool(getattr(dataset, "seeded", True))


def _budget(threat: Mapping[str, Any]) -> dict[str, Any]:
    budget = threat.get("budget") or {}
    if not isinstance(budget, Mapping):
        raise SpecError(f"matrix: threat.budget must be a table, got {budget!r}")
    return dict(budget)


def _listed(amount: Any) -> list[Any]:
    return list(amount) if isinstance(amount, list | tuple) else [amount]


def _check_list(name: str, value: Any, *, empty: bool = True) -> None:
    if isinstance(value, str | Mapping) or not isinstance(value, Sequence):
        raise SpecError(f"matrix: {name} must be a list, got {value!r}")
    if not value and not empty:
        raise SpecError(f"matrix: {name} must not be empty")


def _part(build: Callable[[Any], Any], spec: Any) -> Part:
    """Build a component from a name, a mapping, or a list of defenses."""
    if isinstance(spec, list | tuple) and spec:
        asked: dict[str, Any] = {"name": "compose", "parts": list(spec)}
    elif isinstance(spec, str | Mapping):
        asked = {"name": spec} if isinstance(spec, str) else {"name": "", **spec}
    else:
        problem = f"matrix: need a name or a table with a name, got {spec!r}"
        return Part({"name": str(spec)}, problem=problem)
    try:
        made = build(spec)
    except ValueError as error:
        return Part(asked, problem=str(error))
    return Part(made.spec(), made)


def _with_own(keys: Sequence[str], build: Callable[[Any], Any], spec: Any) -> Part:
    """A component whose entry may hold some tables beside the component's own fields."""
    own = {key: spec[key] for key in keys if key in spec} if isinstance(spec, Mapping) else {}
    if not own:
        return _part(build, spec)
    rest = {name: value for name, value in spec.items() if name not in own}
    for key, table in own.items():
        if not isinstance(table, Mapping):
            return Part({"name": "", **rest}, problem=f"{key} must be a table, got {table!r}")
    return dataclasses.replace(_part(build, rest), own=own)


__all__ = ["Entry", "Matrix", "Results"]
