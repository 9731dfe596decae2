"""Datasets: one file a family, one import line here; the cache of published files.

``load`` gives a graph; ``listing``, ``fetch``, ``available`` and ``where`` serve
``graphsec data``.
"""

from __future__ import annotations

if __name__ != "graphsec.datasets":
    raise ImportError("import graphsec.datasets, not datasets")

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from graphsec.datasets import (
    airports,
    cache,
    fairness,
    graphdata,
    heterophilous,
    molecules,
    nettack,
    planetoid,
    profiles,
    ranking,
    ratings,
    social,
    splits,
    synthetic,
    tables,
    tasks,
)
from graphsec.datasets.base import Dataset
from graphsec.datasets.cache import (
    CacheError,
    DataCorruptError,
    DataError,
    DataMissingError,
    where,
)
from graphsec.graph import Graph
from graphsec.registry import DATASETS
from graphsec.rng import Rng

__all__ = [
    "CacheError",
    "DataCorruptError",
    "DataError",
    "DataMissingError",
    "Dataset",
    "Entry",
    "airports",
    "available",
    "fairness",
    "fetch",
    "graphdata",
    "heterophilous",
    "listing",
    "load",
    "molecules",
    "nettack",
    "planetoid",
    "profiles",
    "ranking",
    "ratings",
    "social",
    "splits",
    "synthetic",
    "tables",
    "tasks",
    "where",
]


class Entry(NamedTuple):
    """One dataset in a list; counts are None where a generator's fields decide."""

    name: str
    family: str
    nodes: int | None
    edges: int | None
    features: int | None
    classes: int | None
    sensitive: str
    needs_files: bool
    present: bool
    licence: str
    source: str
    description: str


def load(spec: str | Mapping[str, Any] | Dataset, rng: Rng) -> Graph:
    """Load a dataset by name or spec.

    Raises:
        SpecError: Unknown name or field.
        DataError: Files are missing or damaged.
    """
    made: Dataset = DATASETS.build(spec)
    return made.load(rng)


def available(name: str) -> bool:
    """Whether a dataset can be loaded without a download."""
    return cache.present(DATASETS[name].files)


def fetch(name: str) -> list[Path]:
    """Download what a dataset lacks, check all its files, and return their paths.

    Raises:
        DataError: As in ``load``.
    """
    files = DATASETS[name].files
    cache.read(files)
    return [cache.path_of(file) for file in files]


def listing() -> list[Entry]:
    """Every dataset, in order of names."""
    rows = []
    for name in DATASETS:
        made: type[Dataset] = DATASETS[name]
        family = name.partition("/")[0] if "/" in name else made.__module__.rpartition(".")[2]
        description = (inspect.getdoc(made) or "").partition("\n")[0]
        a = made.about
        rows.append(
            Entry(
                name, family, a.nodes, a.edges, a.features, a.classes, a.sensitive,
                bool(made.files), cache.present(made.files), a.licence, a.source, description,
            )
        )  # fmt: skip
    return rows
