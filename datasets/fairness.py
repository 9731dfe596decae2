"""Tables of people with a sensitive attribute, joined to people like them: German, Bail, Credit.

The graphs are those of Agarwal et al. (2021), "Towards a unified framework for fair and stable
graph representation learning" (NIFTY), as published: edges join rows that are alike. The
sensitive attribute is kept out of the features unless asked for; NIFTY has it among them.
"""

from __future__ import annotations

import csv
import io
import zipfile
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field
from scipy.spatial.distance import cdist

from graphsec.datasets.base import About, Dataset
from graphsec.datasets.cache import DataCorruptError, File, read
from graphsec.datasets.splits import Strategy
from graphsec.graph import Graph
from graphsec.registry import DATASETS
from graphsec.rng import Rng

_HOME = "https://github.com/chirag126/nifty"
_AT = f"{_HOME}/raw/6c270c5ec736c5138d455609112cf6dfcc63dcca/dataset"
_BAIL = "https://github.com/YuWVandy/FairVGNN/raw/938f2e8d8da8c4bfc73b92c7953493a91f89244a/dataset"
_CREDIT = (
    "https://github.com/ziyizhang9/GRAFair/raw/28382bbbdf330760ce1fbac02c1774eef04b45dd/dataset"
)
_BLOCK = 512  # rows whose distances to all others are held at a time


@dataclass(frozen=True, kw_only=True)
class People(Dataset):
    """Rows of a table and the edges published with it; features are scaled to −1…1 by column.

    Attributes:
        edges: Those "published" with the table, or joined by "similarity": NIFTY's rule, with which
            the published edges of Bail and Credit come out of their tables again, to the last one
            (not so those of German). It measures all columns as they are, the sensitive attribute
            among them.
        threshold: How near the similarity to a row's most similar other must come for an edge, by
            that rule.
        group_in_features: Put the sensitive attribute among the features (last column).
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

    edges: Literal["published", "similarity"] = "published"
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.7
    group_in_features: bool = False

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
            published = pairs(edges)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise DataCorruptError(f"{self.files[0].name}: not the table expected: {error}") from (
                error
            )
        whole = np.column_stack([x, sensitive])
        found = published if self.edges == "published" else similar(whole, self.threshold)
        features = scaled(whole if self.group_in_features else x)
        fields: dict[str, Any] = {"y": y, "sensitive": sensitive, "name": self.name}
        return Graph.from_edges(found, len(y), x=features, **fields)

    def texts(self) -> tuple[str, str]:
        """(table in CSV, lines of which the last two numbers are a pair of rows)."""
        content = read(self.files)
        table, edges = (content[file.name].decode() for file in self.files)
        return table, edges


def pairs(text: str) -> np.ndarray:
    """(2, m) pairs of row numbers: the last two numbers of each line; a header is left out."""
    lines = [line.replace(",", " ").split()[-2:] for line in text.splitlines() if line.strip()]
    if lines and not lines[0][0][0].isdigit():
        lines = lines[1:]
    return np.array(lines, np.float64).astype(np.int64).reshape(-1, 2).T


def similar(table: np.ndarray, threshold: float) -> np.ndarray:
    """(2, m) each row with those nearly as similar to it as its most similar other.

    The similarity of two rows is 1 / (1 + their Euclidean distance); an edge needs more than
    ``threshold`` times the largest. Rows are compared in blocks: memory is linear in them.

    Source: Agarwal et al. (2021), §5 and the published code's rule.

    Args:
        table: (n, d) rows.
        threshold: Share of the largest similarity, 0 to 1.
    """
    found = []
    for start in range(0, len(table), _BLOCK):
        near = 1 / (1 + cdist(table[start : start + _BLOCK], table))
        # A row is as similar to itself as can be: the second largest is that of another.
        largest = np.partition(near, -2, axis=1)[:, -2:-1]
        row, other = np.nonzero(near > threshold * largest)
        found.append(np.stack([row + start, other]))
    joined = np.concatenate(found, axis=1)
    return joined[:, joined[0] != joined[1]]


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
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.8
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
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.6
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


@DATASETS.register("credit")
@dataclass(frozen=True, kw_only=True)
class Credit(People):
    """Holders of credit cards: no default next month (1) or one; 1 is older (Yeh & Lien 2009, UCI).

    The edges published by NIFTY are read from the three parts in which GRAFair (Zhang et al. 2024)
    republishes them.
    """

    label: ClassVar[str] = "NoDefaultNextMonth"
    group: ClassVar[str] = "Age"
    one: ClassVar[str] = "1"
    unused: ClassVar[tuple[str, ...]] = ("Single",)
    files: ClassVar[tuple[File, ...]] = (
        File(
            "credit/credit.csv",
            f"{_AT}/credit/credit.csv",
            "5d7a93f25a09dd1648c78b5e0c6a883ca832ee88259d89dfe1062e8c848bfe5d",
            1152844,
        ),
        File(
            "credit/train_edges.csv",
            f"{_CREDIT}/credit/train_edges.csv",
            "1b19c560dfe376c52bb8bbe53fa843bc02ec8e6a6b3a1d6dcaaeceecc74068b5",
            2811439,
        ),
        File(
            "credit/val_edges.csv",
            f"{_CREDIT}/credit/val_edges.csv",
            "54cfe4d0ccfd7e86a77a99df6dd5f6187b2512dd4855d8e72c90af2c9fc2e608",
            365171,
        ),
        File(
            "credit/test_edges.csv",
            f"{_CREDIT}/credit/test_edges.csv",
            "f5cf4011b1b306987f51b9b560a242eb5e65e2153aa9c5f19abc91235354b1b9",
            365533,
        ),
    )
    about: ClassVar[About] = About(30000, 137377, 12, 2, "age", "MIT (repository)", _HOME)

    def texts(self) -> tuple[str, str]:
        """The edges are in three parts, each with a header."""
        content = read(self.files)
        table, *parts = (content[file.name].decode() for file in self.files)
        return table, "\n".join(line for part in parts for line in part.splitlines()[1:])
