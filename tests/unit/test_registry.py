"""Registries and components."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from pydantic import Field

from graphsec.registry import ATTACKS, DEFENSES, MODELS, Component, Registry, SpecError


@dataclass(frozen=True, kw_only=True)
class Toy(Component):
    """A component."""

    size: Annotated[int, Field(ge=1)] = 3
    pair: tuple[int, ...] = (1, 2)
    inner: Any = None


def toys() -> Registry[Toy]:
    return Registry("toy", "graphsec.registry")


def test_build_from_name_mapping_and_instance() -> None:
    registry = toys()
    registry.register("toy", "alias")(Toy)
    made = registry.build({"name": "alias", "size": 5})
    assert made == Toy(size=5)
    assert registry.build(made) is made
    assert registry.build("toy") == Toy()
    assert registry.canonical("alias") == "toy"
    assert "alias" in registry
    assert list(registry) == ["toy"]


def test_values_are_converted_and_spec_is_plain() -> None:
    toys().register("toy")(Toy)
    made = Toy(size=4, pair=[3, 4], inner=Toy(size=1))  # type: ignore[arg-type]
    assert made.pair == (3, 4)
    assert hash(made.pair)
    plain = json.loads(json.dumps(made.spec()))
    assert plain == {
        "name": "toy", "size": 4, "pair": [3, 4],
        "inner": {"name": "toy", "size": 1, "pair": [1, 2], "inner": None},
    }  # fmt: skip


def test_values_are_checked_when_replaced_too() -> None:
    with pytest.raises(SpecError, match="size"):
        dataclasses.replace(Toy(), size=0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Toy().size = 2  # type: ignore[misc]


def test_names_are_taken_once() -> None:
    registry = toys()
    registry.register("toy", "alias")(Toy)

    @dataclass(frozen=True, kw_only=True)
    class Other(Toy):
        """Another."""

    for name in ("toy", "alias"):
        with pytest.raises(ValueError, match="already"):
            registry.register(name)(Other)


def test_hints() -> None:
    with pytest.raises(SpecError, match="did you mean 'soft-median'"):
        DEFENSES["soft-medain"]
    with pytest.raises(SpecError, match="known: "):
        DEFENSES["xyz"]
    with pytest.raises(SpecError, match="it has no fields"):
        ATTACKS.build({"name": "none", "steps": 3})


def test_aliases_name_the_same_class() -> None:
    assert MODELS["graphsage"] is MODELS["sage"]
    assert ATTACKS.build("pr-bcd").spec()["name"] == "prbcd"


def test_naming_registries_imports_no_torch() -> None:
    """The command line answers fast because of this."""
    program = "import sys, graphsec, graphsec.registry; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
