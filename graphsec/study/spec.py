"""What a sweep is: a cell, what varies in it, and what is to be good."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from graphsec.cell import Cell
from graphsec.registry import Component, SpecError, did_you_mean, read_toml
from graphsec.sweep import SEARCHED, parameters, searched
from graphsec.threat import Threat

Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True, kw_only=True)
class Goal(Component):
    """A number to be good at.

    Attributes:
        metric: A metric of records, "epsilon", or a cost ("train_seconds", "queries", …).
        direction: None is the defender's: what the metric says is better.
    """

    name: ClassVar[str] = "goal"
    kind: ClassVar[str] = "sweep"

    metric: str
    direction: Direction | None = None


@dataclass(frozen=True, kw_only=True)
class Limit(Component):
    """A number that must not be crossed: trials that do are kept, and not chosen.

    Attributes:
        metric: As in ``Goal``.
        at_least: Smallest value allowed.
        at_most: Largest value allowed.
    """

    name: ClassVar[str] = "limit"
    kind: ClassVar[str] = "sweep"

    metric: str
    at_least: float | None = None
    at_most: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.at_least is None) == (self.at_most is None):
            raise SpecError(
                f"sweep: limit of {self.metric!r} needs at_least or at_most, one of the two"
            )

    def excess(self, value: float) -> float:
        """By how much a value crosses the limit; at most 0 where it does not."""
        return self.at_least - value if self.at_least is not None else value - (self.at_most or 0)


@dataclass(frozen=True, kw_only=True)
class Attacker(Component):
    """Tunes its attack against each defense that is tried: the inner half of a min-max search.

    Attributes:
        search: Fields of the attack; None searches all that can be.
        metric: What it is after, against the direction that is good for the defender.
        trials: Attacks tried against each defense, the cell's own first.
    """

    name: ClassVar[str] = "attacker"
    kind: ClassVar[str] = "sweep"

    search: Sequence[str] | None = None
    metric: str = "attacked_accuracy"
    trials: Annotated[int, Field(ge=1)] = 8


@dataclass(frozen=True, kw_only=True)
class Sweep(Component):
    """A study over the fields of one cell.

    While it searches, attacks have the validation nodes for targets and ``seeds`` for seeds. What
    it chose is then run once with the test nodes and ``test_seeds``, which the search never saw:
    where a game draws a secret, that is another secret.

    Attributes:
        title: Name of the study.
        cell: Fields of the cell that is varied.
        search: Part ("model", "training", "defense", "attack") → fields, or true for all that can
            be searched.
        objectives: What is optimised: names of metrics, or ``Goal``s; of several the front is kept.
        limits: What must not be crossed.
        attacker: Tunes the attack anew in every trial; None takes the cell's.
        trials: How many, those of an interrupted study included.
        seeds: Seeds that values are means over while it searches.
        test_seeds: Seeds of what was chosen.
        sampler: Optuna's: "tpe", "nsga2" (several objectives), or "random".
        start: Parameters to try first ("gcn.hidden" = 64); the cell's own values come before.
        plugins: Modules to import first, which register more components.

    Raises:
        SpecError: A field is missing or wrong, or the search would look at test nodes.
    """

    name: ClassVar[str] = "sweep"
    kind: ClassVar[str] = "sweep"

    title: str = "sweep"
    cell: Mapping[str, Any]
    search: Mapping[str, Any]
    objectives: Sequence[Any]
    limits: Sequence[Any] = ()
    attacker: Any = None
    trials: Annotated[int, Field(ge=1)] = 30
    seeds: Sequence[int] = (0,)
    test_seeds: Sequence[int] = (1000, 1001, 1002)
    sampler: Literal["tpe", "nsga2", "random"] = "tpe"
    start: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    plugins: Sequence[str] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        for plugin in self.plugins:
            import_module(plugin)
        goals = tuple(_of(Goal, each, "objectives") for each in self.objectives)
        limits = tuple(_of(Limit, each, "limits") for each in self.limits)
        attacker = None if self.attacker is None else _of(Attacker, self.attacker, "attacker")
        for name, made in (("objectives", goals), ("limits", limits), ("attacker", attacker)):
            object.__setattr__(self, name, made)
        if not goals:
            raise SpecError("sweep: objectives must not be empty")
        if set(self.seeds) & set(self.test_seeds):
            raise SpecError(
                f"sweep: test_seeds must differ from seeds, both have "
                f"{sorted(set(self.seeds) & set(self.test_seeds))}"
            )
        if not self.seeds or not self.test_seeds:
            raise SpecError("sweep: seeds and test_seeds must not be empty")
        targets = Threat.of(self.template.threat).targets
        if targets not in ("val", "train"):
            raise SpecError(
                f"sweep: cell.threat.targets must be 'val' while it searches, got {targets!r}"
            )
        parts = {part: _fields(part, only) for part, only in self.search.items()}
        if attacker is not None:
            if "attack" in parts:
                raise SpecError("sweep: search.attack must be absent where an attacker searches it")
            searched(self.template, {"attack": attacker.search})
        if not parts:
            raise SpecError(f"sweep: search must name a part: {', '.join(SEARCHED)}")
        searched(self.template, parts)
        object.__setattr__(self, "search", parts)
        names = parameters(self.template, parts)
        for name in (name for each in self.start for name in each):
            if name not in names:
                raise SpecError(
                    f"sweep: start has no parameter {name!r}; {did_you_mean(name, names)}"
                )

    @property
    def template(self) -> Cell:
        """The cell that is varied, with the validation nodes for targets."""
        fields = {**self.cell}
        threat = {"targets": "val", **dict(fields.pop("threat", {}))}
        known = [f.name for f in dataclasses.fields(Cell)]
        for name in fields:
            if name not in known or name in ("seed", "data_seed"):
                raise SpecError(f"sweep: cell has no field {name!r}; {did_you_mean(name, known)}")
        return Cell(**fields, threat=threat)

    @staticmethod
    def from_toml(path: str | Path) -> Sweep:
        """A sweep from a TOML file whose keys are the fields.

        Raises:
            SpecError: Not TOML, or not such a spec.
            OSError: The file can't be read.
        """
        known = [f.name for f in dataclasses.fields(Sweep)]
        content = read_toml(path, known, ["cell", "search", "objectives"])
        return Sweep(**{"title": Path(path).stem, **content})


def _of(cls: type[Any], spec: Any, field_: str) -> Any:
    if isinstance(spec, cls):
        return spec
    if isinstance(spec, str):
        spec = {"metric": spec}
    if not isinstance(spec, Mapping):
        raise SpecError(f"sweep: {field_} must be a table, got {spec!r}")
    return cls(**{key: value for key, value in spec.items() if key != "name"})


def _fields(part: str, only: Any) -> tuple[str, ...] | None:
    if part not in SEARCHED:
        raise SpecError(f"sweep: can't search {part!r}; {did_you_mean(part, [*SEARCHED])}")
    if only is True:
        return None
    if not isinstance(only, Sequence) or isinstance(only, str) or not only:
        raise SpecError(f"sweep: search.{part} must be true or a list of fields, got {only!r}")
    return tuple(only)
