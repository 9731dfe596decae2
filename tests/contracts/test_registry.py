"""Everything that can be registered is: a component nobody can name is lost."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import pytest

from graphsec.attacks import Attack
from graphsec.datasets import Dataset
from graphsec.defenses import Defense
from graphsec.game import Game
from graphsec.models import ModelSpec
from graphsec.registry import ATTACKS, DATASETS, DEFENSES, GAMES, MODELS, Registry

KINDS = [
    (ATTACKS, Attack), (DEFENSES, Defense), (MODELS, ModelSpec), (DATASETS, Dataset), (GAMES, Game)
]  # fmt: skip


def _leaves(cls: type[Any]) -> set[type[Any]]:
    below = {sub for sub in cls.__subclasses__() if sub.__module__.startswith("graphsec.")}
    return set().union(*map(_leaves, below)) if below else {cls}


@pytest.mark.parametrize(("registry", "base"), KINDS, ids=lambda x: getattr(x, "kind", ""))
def test_every_component_is_registered(registry: Registry[Any], base: type[Any]) -> None:
    package = importlib.import_module(registry.package)
    for module in pkgutil.walk_packages(getattr(package, "__path__", []), f"{registry.package}."):
        importlib.import_module(module.name)
    registered = {registry[name] for name in registry}
    assert len(registered) > 1
    assert all(issubclass(cls, base) for cls in registered)
    assert _leaves(base) - registered == set()


@pytest.mark.parametrize("registry", [kind for kind, _ in KINDS], ids=lambda x: x.kind)
def test_names_are_canonical(registry: Registry[Any]) -> None:
    for name in registry:
        assert registry[name].name == name
        assert registry.canonical(name) == name
        assert registry[name].kind == registry.kind
