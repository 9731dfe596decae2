"""Sweeps: Optuna fills components from the annotations of their fields."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from graphsec.registry import (
    ATTACKS,
    DATASETS,
    DEFENSES,
    GAMES,
    MODELS,
    SAMPLERS,
    Component,
    Range,
    Registry,
    SpecError,
    Unsearched,
    did_you_mean,
)

if TYPE_CHECKING:
    import optuna

    from graphsec.cell import Cell, Runtime

REGISTRIES: dict[str, Registry[Any]] = {
    "attack": ATTACKS,
    "defense": DEFENSES,
    "model": MODELS,
    "dataset": DATASETS,
    "game": GAMES,
    "sampler": SAMPLERS,
}


@dataclass(frozen=True)
class Hyperparameter:
    """What the annotation of a field says.

    Attributes:
        name: Name of the field.
        type: Its type in words.
        default: Its default.
        rule: Which values are valid, in words; empty if all.
        range: Where a sweep looks; None if it doesn't.
        choices: The values of a Literal or bool that may be searched; None otherwise.
        integer: Whether values of ``range`` are integers.
    """

    name: str
    type: str
    default: Any
    rule: str = ""
    range: Range | None = None
    choices: tuple[Any, ...] | None = None
    integer: bool = False


def hyperparameters(cls: type[Component]) -> list[Hyperparameter]:
    """The fields of a component, from their annotations."""
    hints = get_type_hints(cls, include_extras=True)
    return [_read(field, hints[field.name]) for field in dataclasses.fields(cls) if field.init]


def suggest(
    trial: optuna.Trial,
    cls: type[Component] | str,
    *,
    kind: str | None = None,
    only: Sequence[str] | None = None,
    fixed: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Let a trial choose a component's hyperparameters.

    Fields with a ``Range`` are searched in it, bools and Literals over their values unless marked
    ``Unsearched``; all others stay at their defaults. Parameters are called ``name.field``.

    Args:
        trial: The trial.
        cls: Class or name of the component.
        kind: "attack", "defense", … for a name that several registries have.
        only: Fields to search; default all that can be.
        fixed: Fields with values of their own, which are not searched.

    Returns:
        The component's spec.

    Raises:
        SpecError: Unknown name or field, or a field that can't be searched.
    """
    made = _find(cls, kind) if isinstance(cls, str) else cls
    known = {parameter.name: parameter for parameter in hyperparameters(made)}
    for field in [*(only or ()), *(fixed or {})]:
        if field not in known:
            raise SpecError(
                f"{made.name!r} has no field {field!r}; {did_you_mean(field, [*known])}"
            )
    spec: dict[str, Any] = {"name": made.name, **(fixed or {})}
    for field, parameter in known.items():
        if (only is not None and field not in only) or (only is None and field in spec):
            continue
        if parameter.range is None and parameter.choices is None:
            if only is not None:
                raise SpecError(f"{made.name!r}: {field} has no Range and no choices to search")
            continue
        spec[field] = _suggest(trial, f"{made.name}.{field}", parameter)
    return spec


def objective(
    template: Cell,
    metrics: str | Sequence[str],
    *,
    search: Mapping[str, Sequence[str] | None] | Sequence[str] = ("attack",),
    seeds: Sequence[int] | None = None,
    store: str | None = None,
    runtime: Runtime | None = None,
) -> Callable[[optuna.Trial], float | tuple[float, ...]]:
    """An Optuna objective that runs variants of one cell.

    What is chosen by a sweep must not be chosen on the test nodes or the secret: maximise
    "val_accuracy".

    Args:
        template: The cell to vary.
        metrics: Metric to return, or several for a study of several directions.
        search: Parts to vary ("model", "training", "defense", "attack"), or part → fields.
        seeds: Seeds of cell and data set that metrics are means over; None: the template's own.
        store: URL of a store, so that a variant is run once and resumes; None keeps nothing.
        runtime: Threads, and rows kept in memory.

    Returns:
        The objective. A cell whose parts don't fit is pruned; one that fails raises.

    Raises:
        SpecError: A part can't be searched.
    """
    from graphsec.cell import Cache, Runtime

    runtime = runtime or Runtime()
    cache = Cache(runtime.keep)
    parts = dict(search) if isinstance(search, Mapping) else dict.fromkeys(search)
    for part in parts:
        if part not in SEARCHED:
            raise SpecError(f"can't search {part!r}; {did_you_mean(part, [*SEARCHED])}")

    def run(trial: optuna.Trial) -> float | tuple[float, ...]:
        import optuna

        cell = variant(template, parts, trial)
        cells = [replace(cell, seed=s, data_seed=s) for s in seeds] if seeds else [cell]
        names = [metrics] if isinstance(metrics, str) else list(metrics)
        found = []
        trial.set_user_attr("key", cells[0].key)
        for each in cells:
            record = _run(each, store, runtime, cache)
            if record.status == "skipped":
                raise optuna.TrialPruned(record.reason)
            if record.status == "failed":
                raise RuntimeError(record.reason)
            for name in names:
                if name not in record.metrics:
                    raise SpecError(f"no metric {name!r}; {did_you_mean(name, [*record.metrics])}")
            found.append([record.value(name) for name in names])
        values = tuple(fmean(column) for column in zip(*found, strict=True))
        return values[0] if isinstance(metrics, str) else values

    return run


SEARCHED = ("model", "training", "defense", "attack")


def variant(template: Cell, parts: Mapping[str, Sequence[str] | None], trial: optuna.Trial) -> Cell:
    """The cell with fields of some parts as a trial chooses them; None is all that can be."""
    from graphsec.cell import Cell

    spec = template.spec()
    for part, only in parts.items():
        cls = _part(spec, part)
        found = suggest(trial, cls, only=only)
        spec[part] = {**spec[part], **{k: v for k, v in found.items() if k in _chosen(cls, only)}}
    return Cell.from_spec(spec)


def parameters(template: Cell, parts: Mapping[str, Sequence[str] | None]) -> list[str]:
    """Names of the parameters that ``variant`` searches."""
    classes = {part: _part(template.spec(), part) for part in parts}
    return [f"{classes[p].name}.{name}" for p in parts for name in _fields(classes[p], parts[p])]


def searched(template: Cell, parts: Mapping[str, Sequence[str] | None]) -> dict[str, Any]:
    """The cell's own values of the parameters that ``variant`` searches, where they are in range.

    Raises:
        SpecError: A field does not exist or can't be searched.
    """
    spec, found = template.spec(), {}
    for part, only in parts.items():
        cls = _part(spec, part)
        known = {parameter.name: parameter for parameter in hyperparameters(cls)}
        for name in _fields(cls, only):
            value, span, choices = spec[part][name], known[name].range, known[name].choices
            inside = span is not None and isinstance(value, int | float)
            if value in (choices or ()) or (inside and span.low <= value <= span.high):  # type: ignore[union-attr]
                found[f"{cls.name}.{name}"] = value
    return found


def _part(spec: Mapping[str, Any], part: str) -> type[Component]:
    from graphsec.train import Training

    if part not in SEARCHED:
        raise SpecError(f"can't search {part!r}; {did_you_mean(part, [*SEARCHED])}")
    if part == "training":
        return Training
    name = spec[part]["name"]
    if name == "compose":
        raise SpecError(f"can't search {part!r}: it is a composition of several")
    return _find(str(name), part)


def _fields(cls: type[Component], only: Sequence[str] | None) -> list[str]:
    """Fields that a search chooses.

    Raises:
        SpecError: One does not exist or can't be searched.
    """
    known = {parameter.name: parameter for parameter in hyperparameters(cls)}
    for name in only or ():
        if name not in known:
            raise SpecError(f"{cls.name!r} has no field {name!r}; {did_you_mean(name, [*known])}")
        if known[name].range is None and known[name].choices is None:
            raise SpecError(f"{cls.name!r}: {name} has no Range and no choices to search")
    return [p.name for p in known.values() if p.name in _chosen(cls, only)]


def _chosen(cls: type[Component], only: Sequence[str] | None) -> set[str]:
    """Fields that a trial chooses; the others keep the template's values."""
    if only is not None:
        return set(only)
    return {p.name for p in hyperparameters(cls) if p.range is not None or p.choices is not None}


def _run(cell: Cell, store: str | None, runtime: Runtime, cache: Any) -> Any:
    from graphsec.cell import run_cell

    if store is None:
        return run_cell(cell, runtime, cache)
    from graphsec.runner import run_cells

    return run_cells([cell], store, runtime=runtime, progress=False)[cell.key]


def _find(name: str, kind: str | None) -> type[Component]:
    if kind is not None:
        if kind not in REGISTRIES:
            raise SpecError(f"no kind {kind!r}; {did_you_mean(kind, [*REGISTRIES])}")
        return REGISTRIES[kind][name]
    found = {kind: registry for kind, registry in REGISTRIES.items() if name in registry}
    if len(found) > 1:
        raise SpecError(f"{name!r} is a name of several kinds ({', '.join(found)}); give kind=…")
    if not found:
        everything = [name for registry in REGISTRIES.values() for name in registry]
        raise SpecError(f"no component {name!r}; {did_you_mean(name, everything)}")
    return next(iter(found.values()))[name]


def _suggest(trial: optuna.Trial, name: str, parameter: Hyperparameter) -> Any:
    if parameter.choices is not None:
        return trial.suggest_categorical(name, parameter.choices)
    span = parameter.range
    assert span is not None
    if parameter.integer:
        return trial.suggest_int(name, int(span.low), int(span.high), log=span.log)
    return trial.suggest_float(name, float(span.low), float(span.high), log=span.log)


# -- annotations ------------------------------------------------------------------------------


def _read(field: dataclasses.Field[Any], hint: Any) -> Hyperparameter:
    default = field.default
    if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    plain, notes = _unwrapped(hint)
    options = [option for option in _options(plain) if option is not type(None)]
    for option in options:  # a Range may stand inside a union with None
        inner, more = _unwrapped(option)
        notes = [*notes, *more]
        plain = inner if len(options) == 1 else plain
    choices: tuple[Any, ...] | None = None
    if plain is bool:
        choices = (False, True)
    elif get_origin(plain) is Literal:
        choices = get_args(plain)
    span = next((note for note in notes if isinstance(note, Range)), None)
    rule = " or ".join(str(c) for c in choices) if choices else _rule(notes)
    return Hyperparameter(
        field.name, _name(hint), None if default is dataclasses.MISSING else default,
        rule, span, None if Unsearched() in notes else choices, plain is int,
    )  # fmt: skip


def _unwrapped(hint: Any) -> tuple[Any, list[Any]]:
    """A type without ``Annotated``, and the notes in it."""
    if hasattr(hint, "__metadata__"):
        return hint.__origin__, list(hint.__metadata__)
    return hint, []


def _options(hint: Any) -> tuple[Any, ...]:
    if get_origin(hint) in (Union, types.UnionType):
        return get_args(hint)
    return (hint,)


def _rule(notes: Sequence[Any]) -> str:
    """Bounds of pydantic's ``Field`` in words."""
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    found = []
    for note in notes:
        for bound in getattr(note, "metadata", ()):
            for name, sign in signs.items():
                if hasattr(bound, name):
                    found.append(f"{sign} {getattr(bound, name):g}")
    return ", ".join(dict.fromkeys(found))


def _name(hint: Any) -> str:
    plain, _ = _unwrapped(hint)
    options = _options(plain)
    if len(options) > 1:
        return " or ".join(dict.fromkeys(_name(option) for option in options))
    if plain is type(None):
        return "none"
    if get_origin(plain) is Literal:
        return "choice"
    return getattr(plain, "__name__", str(plain)) if get_origin(plain) is None else str(plain)
