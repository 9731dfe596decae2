"""Airports joined by flights, with classes of activity: no features of their own.

The graphs are those of Ribeiro et al. (2017), "struc2vec: Learning node representations from
structural identity", in the files of MC-GRA (Zhou et al. 2023), which attacks them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphsec.datasets.base import About, Dataset, Structural, structural
from graphsec.datasets.cache import DataCorruptError, File, read
from graphsec.datasets.splits import Strategy
from graphsec.graph import Graph
from graphsec.registry import DATASETS
from graphsec.rng import Rng

_HOME = "https://github.com/tmlr-group/MC-GRA"
_AT = f"{_HOME}/raw/28481d18d3acfb6813239955be94045f9ca311e4/MC-GRA/dataset"


def _file(name: str, digest: str, size: int) -> File:
    return File(f"mc_gra/{name}", f"{_AT}/{name}", digest, size)


@dataclass(frozen=True, kw_only=True)
class Airports(Dataset):
    """An undirected graph of airports; the class is the quartile of their activity.

    Attributes:
        features: What stands in for features.
    """

    default_split: ClassVar[Strategy] = {"fractions": [0.1, 0.1, 0.8]}

    features: Structural = "identity"

    def read(self, rng: Rng) -> Graph:
        """Read a list of edges and a list of labels."""
        edges, labels = (self._numbers(file.name) for file in self.files)
        codes, y = labels[labels[:, 0].argsort()].T
        ends = np.searchsorted(codes, edges.T)
        known = np.array_equal(codes[ends.clip(max=len(codes) - 1)], edges.T)
        if not known or (np.diff(codes) == 0).any():
            raise DataCorruptError(f"{self.files[1].name}: every airport needs one label")
        graph = Graph.from_edges(ends, len(codes), y=y, name=self.name)
        return graph.replace(x=structural(self.features, graph.degree.numpy()))

    def _numbers(self, name: str) -> np.ndarray:
        try:
            table = np.array(read(self.files)[name].split(), dtype=np.int64).reshape(-1, 2)
        except ValueError as error:
            raise DataCorruptError(f"{name}: every line must hold two integers") from error
        return table


@DATASETS.register("airports/usa")
@dataclass(frozen=True, kw_only=True)
class USA(Airports):
    """Airports of the United States, 2016."""

    files: ClassVar[tuple[File, ...]] = (
        _file(
            "usair/usair_A.txt",
            "c73fec3eef27ed6d6ef4d8dfa7fd1604b959601a38d399eeaa1f87e8d8d58fc0",
            163188,
        ),
        _file(
            "usair/usair_lable.txt",
            "7cd561bb1c17eef422fe4772f2e1d4409aace18832c5e5e90a049f4554967a7b",
            9520,
        ),
    )
    about: ClassVar[About] = About(1190, 13599, 1190, 4, "", "MIT (repository)", _HOME)


@DATASETS.register("airports/brazil")
@dataclass(frozen=True, kw_only=True)
class Brazil(Airports):
    """Airports of Brazil, 2016."""

    files: ClassVar[tuple[File, ...]] = (
        _file(
            "brazil/brazil_A.txt",
            "896b7bd460ad2da9160888d99bc9099ffe8ed7de3e410833889ea393831bcaa7",
            6047,
        ),
        _file(
            "brazil/brazil_lable.txt",
            "354425ccaf8d993de6b03ef51939e0e50ec13d6416c9c59283c6ba3831482749",
            676,
        ),
    )
    about: ClassVar[About] = About(131, 1003, 131, 4, "", "MIT (repository)", _HOME)
