"""Tables of people with a sensitive attribute, joined to people like them: German and Bail.

The graphs are those of Agarwal et al. (2021), "Towards a unified framework for fair and stable
graph representation learning" (NIFTY), as published: edges join rows that are alike. The
sensitive attribute is kept out of the features, where NIFTY has it among them.
"""

from __future__ import annotations

import csv
import io
import zipfile
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphsec.datasets.base import About, Dataset
from graphsec.datasets.cache import DataCorruptError, File, read
from graphsec.datasets.splits import Strategy
from graphsec.graph import Graph
from graphsec.registry import DATASETS
from graphsec.rng import Rng

_HOME = "https://github.com/chirag126/nifty"
_AT = f"{_HOME}/raw/6c270c5ec736c5138d455609112cf6dfcc63dcca/dataset"
_BAIL = "https://github.com/YuWVandy/FairVGNN/raw/938f2e8d8da8c4bfc73b92c7953493a91f89244a/dataset"


@dataclass(frozen=True, kw_only=True)
class People(Dataset):
    """Rows of a table and the edges published with it; features are scaled to −1…1 by column.

    Attributes:
        label: Column of the label.
        group: Column of the sensitive attribute.
        one: What that column says for 1; everything else is 0.
        unused: Columns that published loaders leave out too.
    """

    label: ClassVar[str]
    group: ClassVar[str]
    one: ClassVar[str]
    unused: ClassVar[tuple[str, ...]] = ()
    default_split: ClassVar[Strategy] = {"fractions": [0.5, 0.25, 0.25]}

    def read(self, rng: Rng) -> Graph:
        """Parse the table and the list of edges."""
        table, edges = self.texts()
        rows = list(csv.DictReader(io.StringIO(table)))
        try:
            y = np.array([float(row[self.label]) > 0 for row in rows], np.int64)
            sensitive = np.array([row[self.group] == self.one for row in rows], np.int64)
            left_out = {self.label, self.group, *self.unused}
            names = [name for name in rows[0] if name not in left_out]
            x = np.array([[float(row[name]) for name in names] for row in rows])
            pairs = np.array(edges.split(), np.float64).astype(np.int64).reshape(-1, 2).T
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise DataCorruptError(f"{self.files[0].name}: not the table expected: {error}") from (
                error
            )
        fields: dict[str, Any] = {"y": y, "sensitive": sensitive, "name": self.name}
        return Graph.from_edges(pairs, len(y), x=scaled(x), **fields)

    def texts(self) -> tuple[str, str]:
        """(table in CSV, pairs of row numbers)."""
        content = read(self.files)
        table, edges = (content[file.name].decode() for file in self.files)
        return table, edges


def scaled(x: np.ndarray) -> np.ndarray:
    """Columns moved and stretched to −1…1; constant columns become 0."""
    low, high = x.min(0), x.max(0)
    spread = np.where(high > low, high - low, 1)
    made: np.ndarray = np.where(high > low, 2 * (x - low) / spread - 1, 0).astype(np.float32)
    return made


@DATASETS.register("german")
@dataclass(frozen=True, kw_only=True)
class German(People):
    """Clients of a German bank: good credit (1) or bad; 1 is a woman (Hofmann 1994, UCI)."""

    label: ClassVar[str] = "GoodCustomer"
    group: ClassVar[str] = "Gender"
    one: ClassVar[str] = "Female"
    unused: ClassVar[tuple[str, ...]] = ("OtherLoansAtStore", "PurposeOfLoan")
    files: ClassVar[tuple[File, ...]] = (
        File(
            "german/german.csv",
            f"{_AT}/german/german.csv",
            "49cc549b1ca3f1650e3bdcd8cfce62313c763abfbcbf785d32b07fb76ae078ca",
            77765,
        ),
        File(
            "german/german_edges.txt",
            f"{_AT}/german/german_edges.txt",
            "404d107384e05a14ce9befe04a710d7df0a7492095569dc35ffb5d47742ee300",
            1248500,
        ),
    )
    about: ClassVar[About] = About(1000, 21742, 26, 2, "gender", "MIT (repository)", _HOME)


@DATASETS.register("bail")
@dataclass(frozen=True, kw_only=True)
class Bail(People):
    """Defendants on bail: arrested again (1) or not; 1 is white (Jordan & Freiburger 2015).

    Table and edges are read from one archive, which FairVGNN (Wang et al. 2022) republishes.
    """

    label: ClassVar[str] = "RECID"
    group: ClassVar[str] = "WHITE"
    one: ClassVar[str] = "1"
    files: ClassVar[tuple[File, ...]] = (
        File(
            "bail/bail.zip",
            f"{_BAIL}/bail.zip",
            "8b72929bbb2bcdeed16098120fcf995b66eeff6ac172c159d91f0b449265f062",
            2112180,
        ),
    )
    about: ClassVar[About] = About(18876, 311870, 17, 2, "race", "not stated", _HOME)

    def texts(self) -> tuple[str, str]:
        """Both are in one archive."""
        name = self.files[0].name
        try:
            with zipfile.ZipFile(io.BytesIO(read(self.files)[name])) as archive:
                table, edges = (
                    archive.read(f"bail/bail{end}").decode() for end in (".csv", "_edges.txt")
                )
        except (zipfile.BadZipFile, KeyError) as error:
            raise DataCorruptError(f"{name}: {error}") from error
        return table, edges
