"""Similarity graphs built from the tables that scikit-learn ships; no download.

They are not real networks: a node is a row of a table, and an edge says that one of two rows is
among the k nearest of the other. They serve demos and tests, and make explicit what a graph adds
to a table that a classifier could read without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from graphsec.datasets.base import About, Dataset
from graphsec.graph import Graph
from graphsec.registry import DATASETS, Range
from graphsec.rng import Rng

_LICENCE = "BSD-3-Clause (with scikit-learn)"


def standardized(table: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and standard deviation 1; constant columns become 0."""
    centred = table - table.mean(axis=0)
    spread = centred.std(axis=0)
    made: np.ndarray = np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 1e-12)
    return made


def nearest(points: np.ndarray, k: int) -> np.ndarray:
    """(2, n·k) each row with its k nearest others in Euclidean distance."""
    from sklearn.neighbors import NearestNeighbors

    k = min(k, len(points) - 1)
    found = NearestNeighbors(n_neighbors=k).fit(points).kneighbors(return_distance=False)
    return np.stack([np.repeat(np.arange(len(points)), k), found.ravel()])


@dataclass(frozen=True, kw_only=True)
class Table(Dataset):
    """Rows of a table, joined to their nearest rows in standardised features.

    Attributes:
        k: Neighbours each row chooses; an edge needs the choice of one of its ends.
    """

    k: Annotated[int, Field(ge=1, le=100), Range(3, 20)] = 8

    def read(self, rng: Rng) -> Graph:
        """Build the graph."""
        table, fields = self.table()
        edges = nearest(standardized(table), self.k)
        x = self.features(table).astype(np.float32)
        return Graph.from_edges(edges, len(x), x=x, name=self.name, **fields)

    def features(self, table: np.ndarray) -> np.ndarray:
        """(n, d) features, from the table."""
        return standardized(table)

    def table(self) -> tuple[np.ndarray, dict[str, Any]]:
        """(n, d) float64 table, and the other fields of the graph."""
        raise NotImplementedError


@DATASETS.register("digits-knn")
@dataclass(frozen=True, kw_only=True)
class Digits(Table):
    """Handwritten digits of 8 × 8 pixels, joined to look-alikes (Alpaydin & Kaynak 1998, UCI)."""

    about: ClassVar[About] = About(
        1797, 10129, 64, 10, "", _LICENCE, "https://archive.ics.uci.edu/dataset/80"
    )

    def table(self) -> tuple[np.ndarray, dict[str, Any]]:
        """Pixels and digit."""
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        return x, {"y": y}


@DATASETS.register("digits-pixels")
@dataclass(frozen=True, kw_only=True)
class DigitsPixels(Digits):
    """The graph of ``digits-knn`` whose features are the pixels themselves, in 0…1.

    A reconstruction of them is a picture, which the report shows.
    """

    grid: ClassVar[tuple[int, int] | None] = (8, 8)

    def features(self, table: np.ndarray) -> np.ndarray:
        """Pixels, which are whole numbers up to 16, as shares of that."""
        return table / 16


@DATASETS.register("breast-cancer-knn")
@dataclass(frozen=True, kw_only=True)
class BreastCancer(Table):
    """Breast tumours by 30 measurements, malignant (0) or benign (1) (Wolberg et al. 1995, UCI)."""

    about: ClassVar[About] = About(
        569, 3440, 30, 2, "", _LICENCE, "https://archive.ics.uci.edu/dataset/17"
    )

    def table(self) -> tuple[np.ndarray, dict[str, Any]]:
        """Measurements and diagnosis."""
        from sklearn.datasets import load_breast_cancer

        x, y = load_breast_cancer(return_X_y=True)
        return x, {"y": y}


@DATASETS.register("diabetes-knn")
@dataclass(frozen=True, kw_only=True)
class Diabetes(Table):
    """Diabetes patients by age, build and blood; progression after a year (Efron et al. 2004).

    The sensitive attribute is sex (0 and 1, as coded 1 and 2 in the table). It is kept out of the
    features, and so out of the edges, unless asked for.

    Attributes:
        target: ``above-median`` progression as two classes, or ``progression`` itself, as a
            regression on values with mean 0 and standard deviation 1.
        sex_in_features: Put sex among the features (last column), and so into the distances.
    """

    about: ClassVar[About] = About(
        442,
        2499,
        9,
        2,
        "sex",
        _LICENCE,
        "https://www4.stat.ncsu.edu/~boos/var.select/diabetes.html",
    )

    target: Literal["above-median", "progression"] = "above-median"
    sex_in_features: bool = False

    @property
    def task(self) -> str:
        """Regression on the progression itself."""
        return "regression" if self.target == "progression" else "classification"

    def __post_init__(self) -> None:
        if self.split is None and self.target == "progression":
            object.__setattr__(self, "split", {"fractions": [0.2, 0.2, 0.6]})
        super().__post_init__()

    def table(self) -> tuple[np.ndarray, dict[str, Any]]:
        """Nine measurements (and sex), the target and sex."""
        from sklearn.datasets import load_diabetes

        x, y = load_diabetes(return_X_y=True, scaled=False)
        sex = x[:, 1].astype(np.int64) - 1
        x = np.delete(x, 1, axis=1)
        if self.sex_in_features:
            x = np.column_stack([x, sex])
        if self.target == "progression":
            return x, {"y": standardized(y), "sensitive": sex, "task": "regression"}
        return x, {"y": (y > np.median(y)).astype(np.int64), "sensitive": sex}
