"""Registries of components, and the components themselves: named, validated, frozen."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, get_type_hints

T = TypeVar("T")


class SpecError(ValueError):
    """A component was named or configured wrongly."""


@dataclasses.dataclass(frozen=True)
class Range:
    """Where a sweep should look for a hyperparameter (validation is pydantic's ``Field``).

    Args:
        low: Smallest value worth trying.
        high: Largest value worth trying.
        log: Whether to search on a logarithmic scale.
    """

    low: float
    high: float
    log: bool = False


@dataclasses.dataclass(frozen=True)
class Unsearched:
    """Marks a field that no answer depends on: sweeps leave it as it is."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Component:
    """Base of everything a spec can name: its fields are its hyperparameters.

    Fields are validated and converted on construction, by their annotations
    (``Annotated[int, Field(ge=1), Range(1, 8)]``).

    Raises:
        SpecError: A value does not fit its field.
    """

    name: ClassVar[str] = ""
    kind: ClassVar[str] = "component"
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        for field, adapter in _adapters(type(self)).items():
            value = getattr(self, field)
            object.__setattr__(self, field, self._converted(field, value, adapter))

    def _converted(self, field: str, value: Any, adapter: Any) -> Any:
        from pydantic import ValidationError

        try:
            return adapter.validate_python(value)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join([field, *(str(part) for part in first["loc"])])
            rule = first["msg"][0].lower() + first["msg"][1:]
            raise SpecError(f"{self.kind} {self.name!r}: {where}: {rule}, got {value!r}") from None

    def spec(self) -> dict[str, Any]:
        """The dictionary that builds this component again."""
        fields = {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self) if f.init}
        return {"name": self.name, **fields}


def _plain(value: Any) -> Any:
    """Tuples become lists and components become specs, so that JSON round-trips."""
    if isinstance(value, Component):
        return value.spec()
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _adapters(cls: type[Component]) -> dict[str, Any]:
    """Pydantic adapters of a component's fields, made once a class."""
    from pydantic import TypeAdapter

    cached: dict[str, Any] | None = cls.__dict__.get("_field_adapters")
    if cached is None:
        hints = get_type_hints(cls, include_extras=True)
        cached = {f.name: TypeAdapter(hints[f.name]) for f in dataclasses.fields(cls) if f.init}
        cls._field_adapters = cached  # type: ignore[attr-defined]
    return cached


def did_you_mean(word: str, known: Iterator[str] | list[str]) -> str:
    """A hint that ends an error message: the closest names, or all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(repr(name) for name in close)}?"
    return f"known: {', '.join(names)}"


def read_toml(path: str | Path, known: list[str], needed: list[str]) -> dict[str, Any]:
    """The keys of a TOML file.

    Args:
        path: The file.
        known: Keys that it may have.
        needed: Those that it must have.

    Raises:
        SpecError: Not TOML, a key that is not known, or one that is missing.
        OSError: The file can't be read.
    """
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} is not valid TOML: {error}") from None
    for key in content:
        if key not in known:
            raise SpecError(f"{path}: no key {key!r}; {did_you_mean(key, known)}")
    for key in needed:
        if key not in content:
            raise SpecError(f"{path}: the key {key!r} is missing")
    return content


class Registry(Mapping[str, type[T]], Generic[T]):
    """Name → class, for one kind of component.

    Args:
        kind: What is registered, for error messages ("attack").
        package: Module whose import registers the built-in components; imported at the
            first look-up, so that naming a registry costs nothing.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._classes: dict[str, type[T]] = {}
        self._aliases: dict[str, str] = {}

    def register(self, name: str, *aliases: str) -> Callable[[type[T]], type[T]]:
        """Class decorator that registers under ``name`` (and aliases)."""

        def add(cls: type[T]) -> type[T]:
            for each in (name, *aliases):
                taken = self._classes.get(self._aliases.get(each, each))
                if taken is not None and taken.__qualname__ != cls.__qualname__:
                    raise ValueError(f"{self.kind} {each!r} is already {taken.__qualname__}")
            cls.name = name  # type: ignore[attr-defined]
            self._classes[name] = cls
            self._aliases.update(dict.fromkeys(aliases, name))
            return cls

        return add

    def _load(self) -> dict[str, type[T]]:
        importlib.import_module(self.package)
        return self._classes

    def canonical(self, name: str) -> str:
        """The registered name behind an alias."""
        self._load()
        return self._aliases.get(name, name)

    def __getitem__(self, name: str) -> type[T]:
        classes = self._load()
        try:
            return classes[self._aliases.get(name, name)]
        except (KeyError, TypeError):
            hint = did_you_mean(str(name), [*classes, *self._aliases])
            raise SpecError(f"no {self.kind} {name!r}; {hint}") from None

    def __contains__(self, name: object) -> bool:
        return self._aliases.get(str(name), name) in self._load()

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._load()))

    def __len__(self) -> int:
        return len(self._load())

    def build(self, spec: str | Mapping[str, Any] | T) -> T:
        """Make a component from a name, ``{"name": …, **fields}``, or return it as it is.

        Raises:
            SpecError: Unknown name, unknown field, or a value that does not fit.
        """
        if isinstance(spec, str):
            return self[spec]()
        if not isinstance(spec, Mapping):
            return spec
        fields = dict(spec)
        name = fields.pop("name", None)
        if name is None:
            raise SpecError(f"{self.kind}: the field 'name' is missing in {dict(spec)!r}")
        cls = self[name]
        known = [f.name for f in dataclasses.fields(cls) if f.init]  # type: ignore[arg-type]
        for field in fields:
            if field not in known:
                hint = did_you_mean(field, known) if known else "it has no fields"
                raise SpecError(f"{self.kind} {name!r} has no field {field!r}; {hint}")
        return cls(**fields)


ATTACKS: Registry[Any] = Registry("attack", "graphsec.attacks")
DEFENSES: Registry[Any] = Registry("defense", "graphsec.defenses")
DATASETS: Registry[Any] = Registry("dataset", "graphsec.datasets")
MODELS: Registry[Any] = Registry("model", "graphsec.models")
SAMPLERS: Registry[Any] = Registry("sampler", "graphsec.sampling")
GAMES: Registry[Any] = Registry("game", "graphsec.game")
