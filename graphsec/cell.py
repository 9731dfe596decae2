"""One cell: dataset, model, defense, attack and threat; one cell gives one record."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
import traceback
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch

from graphsec.attacks.base import Attack
from graphsec.costs import peak_memory, reset_peak_memory, versions
from graphsec.defenses.base import Defense
from graphsec.defenses.base import build as build_defense
from graphsec.game import Game
from graphsec.graph import Graph
from graphsec.outcome import Perturbation, StolenModel
from graphsec.ownership import Verifier
from graphsec.pictures import pictures
from graphsec.predict import Origin, Predictor
from graphsec.registry import ATTACKS, DATASETS, GAMES, SpecError
from graphsec.rng import Rng
from graphsec.scoring import certified_curves, curves, ownership, score
from graphsec.threat import Threat
from graphsec.train import Recipe

Spec = str | Mapping[str, Any]

MOST_NOTES = 20


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """What changes only speed, never a result.

    Attributes:
        threads: Threads of torch in this process.
        keep: Number of trained rows kept in memory.
    """

    threads: int = 1
    keep: int = 4


@dataclass(frozen=True, eq=False, kw_only=True)
class Cell:
    """One experiment, fully specified; equal specs have equal keys.

    Attributes:
        dataset: Name or spec.
        model: Name or spec.
        defense: Name, spec, or a list of them, composed left to right.
        attack: Name or spec.
        threat: Fields of ``Threat``.
        game: Spec of the game; None is the attack's own.
        training: Fields of ``Training`` in which this cell differs from the model's recipe.
        seed: Seed of training, game and attack.
        data_seed: Seed of the dataset and its split.

    Raises:
        SpecError: A name or field is wrong.
    """

    dataset: Spec
    model: Spec = "gcn"
    defense: Any = "none"
    attack: Spec = "none"
    threat: Mapping[str, Any] | Threat = field(default_factory=dict)
    game: Spec | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    data_seed: int = 0

    def __post_init__(self) -> None:
        Rng(self.seed), Rng(self.data_seed)
        # Building every part checks every name and field before anything runs.
        _ = self.parts

    @cached_property
    def parts(self) -> Parts:
        """The components that the specs name."""
        attack: Attack = ATTACKS.build(self.attack)
        return Parts(
            dataset=DATASETS.build(self.dataset),
            recipe=Recipe.of(self.model, self.training),
            defense=build_defense(self.defense),
            attack=attack,
            threat=Threat.of(self.threat).resolve(attack),
            asked=Threat.of(self.threat),
            game=GAMES.build(self.game or attack.game),
        )

    def spec(self) -> dict[str, Any]:
        """The complete spec, defaults included; builds an equal cell."""
        p = self.parts
        return {
            "dataset": p.dataset.spec(),
            "model": p.recipe.model.spec(),
            "training": p.recipe.training.spec(),
            "defense": p.defense.spec(),
            "attack": p.attack.spec(),
            "threat": p.threat.spec(),
            "game": p.game.spec(),
            "seed": int(self.seed),
            "data_seed": int(self.data_seed),
        }

    @staticmethod
    def from_spec(spec: Mapping[str, Any]) -> Cell:
        """Cell from ``spec()``."""
        fields = {k: v for k, v in spec.items()}
        training = dict(fields.pop("training", {}))
        training.pop("name", None)
        return Cell(**fields, training=training)

    def _hash(self, names: tuple[str, ...]) -> str:
        spec, p = self.spec(), self.parts
        components = {
            "dataset": p.dataset, "model": p.recipe.model, "defense": p.defense,
            "attack": p.attack, "game": p.game,
        }  # fmt: skip
        versions = {name: components[name].version for name in names if name in components}
        content = {"versions": versions, **{name: spec[name] for name in names}}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    @cached_property
    def key(self) -> str:
        """Hash of everything that a result depends on."""
        return self._hash(tuple(self.spec()))

    @cached_property
    def row(self) -> str:
        """Hash of everything that the trained predictor depends on: a row trains once."""
        names = ("dataset", "model", "training", "defense", "seed", "data_seed")
        return self._hash(names if self.parts.game.keeps_graph else (*names, "game"))

    def problems(self) -> list[str]:
        """Why the parts don't fit together; empty if they do."""
        p = self.parts
        found = []
        missing = p.asked.missing(p.attack)
        if missing:
            found.append(
                f"attack {p.attack.name!r} needs access to {', '.join(missing)}, "
                f"the threat grants {', '.join(p.asked.access or ()) or 'nothing'}"
            )
        if p.attack.uses_edges and not p.recipe.model.module.capabilities.uses_edges:
            found.append(
                f"attack {p.attack.name!r} differentiates through edges, "
                f"model {p.recipe.model.name!r} ignores them"
            )
        if p.game.name != p.attack.game:
            found.append(
                f"attack {p.attack.name!r} plays the game {p.attack.game!r}, not {p.game.name!r}"
            )
        return found + self.misfits(p.dataset.task)

    def misfits(self, task: str) -> list[str]:
        """Which parts are for other tasks than the data set's, or refuse each other."""
        p, name = self.parts, self.parts.dataset.name
        if p.attack.federated and not p.defense.federation:
            return [
                f"attack {p.attack.name!r} takes over clients of a federation, "
                f"defense {p.defense.name!r} has none"
            ]
        # Models are asked first: one line is enough where nothing is for the task.
        for part, tasks in (
            (p.recipe.model, p.recipe.model.module.capabilities.tasks),
            (p.attack, p.attack.tasks),
            (p.defense, p.defense.tasks),
        ):
            if task not in tasks:
                suited = ", ".join(tasks)
                return [f"{part.kind} {part.name!r} is for {suited}, not for {task} ({name!r})"]
        reason = p.defense.refuses(p.recipe)
        return [f"defense {p.defense.name!r} {reason}"] if reason else []


@dataclass(frozen=True)
class Parts:
    """The components of a cell; ``asked`` is the threat before the attack's needs filled it."""

    dataset: Any
    recipe: Recipe
    defense: Defense
    attack: Attack
    threat: Threat
    asked: Threat
    game: Game


@dataclass(frozen=True, kw_only=True)
class Record:
    """What one cell gave.

    Attributes:
        key: The cell's key.
        row: The key of its row.
        status: "done", "skipped" (the parts don't fit) or "failed".
        spec: The cell's complete spec.
        metrics: Name → value, direction, range and label.
        curves: Name → points, for figures.
        threat: The threat in one line; every printed number carries it.
        privacy: The predictor's privacy statement, if it makes one.
        cost: Seconds of training and attack, peak memory (MB), queries, trainings.
        versions: What computed it.
        reason: Why it was skipped, or the traceback.
        notes: What went wrong without ending the training, the first of it.
        graph: Name and sizes of the graph.
        pictures: What was recovered beside what is true (``graphsec.pictures``); it holds the
            truth, and is written after scoring.
    """

    key: str
    row: str
    status: Literal["done", "skipped", "failed"]
    spec: dict[str, Any]
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    curves: dict[str, dict[str, Any]] = field(default_factory=dict)
    threat: str = ""
    privacy: dict[str, Any] | None = None
    cost: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    reason: str = ""
    graph: dict[str, Any] = field(default_factory=dict)
    pictures: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """One line of JSON with sorted keys."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> Record:
        """Record from ``to_json``."""
        return Record(**json.loads(text))

    def result(self) -> dict[str, Any]:
        """Everything but the cost: what the same spec and seed must give again."""
        content: dict[str, Any] = json.loads(self.to_json())
        content.pop("cost")
        return content

    def value(self, metric: str) -> float:
        """Value of a metric."""
        return float(self.metrics[metric]["value"])


@dataclass
class Trained:
    """A trained row: graph, known graph and predictor, and what its defense finds out once."""

    graph: Graph
    known: Graph
    predictor: Predictor
    seconds: float
    radii: torch.Tensor | None = None
    certify_seconds: float = 0.0
    verify: Verifier | None = None
    verify_seconds: float = 0.0

    def verifier(self, rng: Rng) -> Verifier:
        """The owner's verifier, prepared once a row."""
        if self.verify is None:
            start = time.perf_counter()
            self.verify = self.predictor.verifier(self.known, rng)
            self.verify_seconds = time.perf_counter() - start
        return self.verify

    def certify(self, rng: Rng) -> torch.Tensor:
        """(n, kinds) certified radii of all answers on the known graph, found once a row."""
        if self.radii is None:
            start = time.perf_counter()
            self.radii = self.predictor.certify(self.known, torch.arange(self.known.num_nodes), rng)
            self.certify_seconds = time.perf_counter() - start
        return self.radii


class Cache:
    """The last few trained rows of a process, and what attacks trained or made on them."""

    def __init__(self, size: int = 4) -> None:
        self.size = size
        self._rows: OrderedDict[str, Trained] = OrderedDict()
        self.models: dict[Any, Any] = {}

    def row(self, cell: Cell) -> Trained:
        """The trained row of a cell, trained now if it isn't there."""
        if cell.row not in self._rows:
            self._rows[cell.row] = _train(cell)
            while len(self._rows) > self.size:
                self._rows.popitem(last=False)
            while len(self.models) > self.size:  # the oldest surrogates of earlier rows
                self.models.pop(next(iter(self.models)))
        self._rows.move_to_end(cell.row)
        return self._rows[cell.row]


class Misfit(ValueError):
    """The parts of a cell don't fit its graph, which shows once it is loaded."""


def _train(cell: Cell) -> Trained:
    p, rng = cell.parts, Rng(cell.seed)
    graph = p.dataset.load(Rng(cell.data_seed)["data"])
    misfits = cell.misfits(graph.task)  # of data sets that don't say their task beforehand
    if misfits:
        raise Misfit("; ".join(misfits))
    known, _ = p.game.prepare(graph, rng["game"])
    p.threat.budget.edge_count(known)  # a budget beyond the graph is found before training
    start = time.perf_counter()
    predictor = p.defense.fit(known, p.recipe, rng["defense"])
    return Trained(graph, known, predictor, time.perf_counter() - start)


def run_cell(cell: Cell, runtime: Runtime | None = None, cache: Cache | None = None) -> Record:
    """Run one cell: dataset → game → defense.fit → view → attack.run → check → score → record.

    An exception becomes a failed record with its traceback; parts that don't fit become a
    skipped record with the reason.
    """
    runtime = runtime or Runtime()
    torch.set_num_threads(runtime.threads)
    problems = cell.problems()
    if problems:
        return _record(cell, "skipped", reason="; ".join(problems))
    try:
        return _run(cell, cache or Cache(1))
    except Misfit as misfit:
        return _record(cell, "skipped", reason=str(misfit))
    except Exception:
        return _record(cell, "failed", reason=traceback.format_exc())


def _run(cell: Cell, cache: Cache) -> Record:
    p, rng = cell.parts, Rng(cell.seed)
    reset_peak_memory()
    trained = cache.row(cell)
    graph, known, clean = trained.graph, trained.known, trained.predictor
    _, secret = p.game.prepare(graph, rng["game"])
    misfits = cell.misfits(graph.task)  # a cached row may have been trained for another attack
    if misfits:
        return _record(cell, "skipped", reason="; ".join(misfits))
    poisoning = p.threat.timing == "poisoning"
    origin = Origin(p.recipe, p.defense)
    shown = {} if secret is None else secret.shown
    start = time.perf_counter()
    with rng["scope"].scope():
        view = p.threat.open(
            None if poisoning else clean, known, rng["view"], origin=origin,
            trained=cache.models, **shown,
        )  # fmt: skip
        out = p.attack.run(view, rng["attack"])
    attacked = time.perf_counter() - start
    start = time.perf_counter()
    if poisoning:
        after = p.defense.among(out).fit(out.apply(known), p.recipe, rng["defense"])
    else:
        after = clean
    retrained = time.perf_counter() - start if poisoning else 0.0
    p.threat.check(out, known, clean, after, question=shown.get("question"))
    nodes = p.threat.target_nodes(known)
    metrics = score(out, known, clean, secret=secret, after=after, nodes=nodes)
    drawn = curves(out, secret)
    # A certificate speaks of changes to the graph that is asked about, not of poisoned training.
    if p.defense.certified and isinstance(out, Perturbation) and not poisoning:
        radii = trained.certify(rng["certify"])
        drawn |= certified_curves(radii, p.defense.certified, known, clean, nodes)
    if p.defense.verifies and isinstance(out, StolenModel):
        metrics |= ownership(trained.verifier(rng["verify"])(out.predictor))
    privacy = after.privacy
    return _record(
        cell,
        "done",
        metrics={name: metric.spec() for name, metric in metrics.items()},
        curves={name: curve.spec() for name, curve in drawn.items()},
        pictures=pictures(out, known, secret, p.dataset.grid),
        privacy=None if privacy is None else dataclasses.asdict(privacy),
        cost={
            "train_seconds": trained.seconds + retrained,
            "attack_seconds": attacked,
            **({"certify_seconds": trained.certify_seconds} if trained.certify_seconds else {}),
            **({"verify_seconds": trained.verify_seconds} if trained.verify_seconds else {}),
            "peak_memory_mb": peak_memory(),
            "queries": view.queries,
            "trainings": view.trainings,
            **after.trace.cost,
        },
        notes=after.trace.incidents[:MOST_NOTES],
        graph={
            "name": graph.name, "nodes": graph.num_nodes, "edges": graph.num_edges,
            "features": graph.num_features, "classes": graph.num_classes,
            "fingerprint": graph.fingerprint,
        },
    )  # fmt: skip


def _record(cell: Cell, status: Literal["done", "skipped", "failed"], **fields: Any) -> Record:
    return Record(
        key=cell.key, row=cell.row, status=status, spec=cell.spec(),
        threat=_threat_line(cell), versions=versions(), **fields,
    )  # fmt: skip


def _threat_line(cell: Cell) -> str:
    p = cell.parts
    text = p.threat.describe()
    if p.attack.uses_edges and p.recipe.training.sampler is not None:
        text += "; gradients of the whole-graph model where the victim answers on subgraphs"
    return text


__all__ = ["Cache", "Cell", "Record", "Runtime", "SpecError", "run_cell", "score"]
