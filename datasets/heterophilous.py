"""Heterophilous graphs and WebKB, with ten stored splits each (Platonov et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.sparse as sp

from graphsec.datasets.base import About, Dataset, masks_split, row_normalized
from graphsec.datasets.cache import DataCorruptError, File, read
from graphsec.datasets.pickles import load_npz
from graphsec.datasets.splits import Strategy
from graphsec.graph import Graph
from graphsec.registry import DATASETS
from graphsec.rng import Rng

_HOME = "https://github.com/yandex-research/heterophilous-graphs"
_AT = f"{_HOME}/raw/a431395582e929d88271309716bea4fe24ce6318/data"
_KEYS = ["node_features", "node_labels", "edges", "train_masks", "val_masks", "test_masks"]


def _file(name: str, digest: str, size: int) -> File:
    return File(f"heterophilous/{name}", f"{_AT}/{name}", digest, size)


@dataclass(frozen=True, kw_only=True)
class Stored(Dataset):
    """A graph whose file holds ten splits; the first is the default.

    Features of which fewer than a tenth are non-zero are kept sparse.

    Attributes:
        normalize: Divide each row of the features by its sum.
    """

    default_split: ClassVar[Strategy] = {"stored": 0}
    stored: ClassVar[int] = 10
    directed: ClassVar[bool] = False

    normalize: bool = False

    def read(self, rng: Rng) -> Graph:
        """Read the one file."""
        name = self.files[0].name
        z = load_npz(read(self.files)[name], name, _KEYS)
        x, y, edges = z["node_features"], z["node_labels"], z["edges"]
        if x.ndim != 2 or x.dtype.kind not in "biuf" or edges.ndim != 2 or edges.shape[1] != 2:
            raise DataCorruptError(f"{name}: features must be (n, d) numbers and edges (m, 2)")
        matrix = sp.csr_matrix(x, dtype=np.float32)
        if self.normalize:
            matrix = row_normalized(matrix)
        sparse = matrix.nnz < 0.1 * x.size
        split = None
        if isinstance(self.strategy, dict) and "stored" in self.strategy:
            masks = (z["train_masks"], z["val_masks"], z["test_masks"])
            split = masks_split(*masks, which=self.strategy["stored"], name=name)
        return Graph.from_edges(
            edges.T,
            len(x),
            x=matrix if sparse else matrix.toarray(),
            y=y,
            split=split,
            directed=self.directed,
            name=self.name,
        )


@DATASETS.register("heterophilous/actor")
@dataclass(frozen=True, kw_only=True)
class Actor(Stored):
    """Actor: co-occurrence of actors on Wikipedia pages (Tang et al. 2009; Pei et al. 2020)."""

    files: ClassVar[tuple[File, ...]] = (
        _file(
            "actor.npz",
            "c350eef06b2c2a9bf8218be2b57cac6d4003d0922eb597a039e9123f75817816",
            252956,
        ),
    )
    about: ClassVar[About] = About(7600, 26659, 932, 5, "", "MIT (repository)", _HOME)


@DATASETS.register("heterophilous/chameleon")
@dataclass(frozen=True, kw_only=True)
class Chameleon(Stored):
    """Chameleon: links between Wikipedia pages, traffic as class (Rozemberczki et al. 2021).

    Many nodes are duplicates that lie in both training and test parts (Platonov et al. 2023):
    prefer ``heterophilous/chameleon-filtered``.
    """

    files: ClassVar[tuple[File, ...]] = (
        _file(
            "chameleon.npz",
            "4c640bd2877fc4f9f101531e2f977bc16445a54e09a5cb01178df608e552f3fd",
            177840,
        ),
    )
    about: ClassVar[About] = About(2277, 31371, 2325, 5, "", "MIT (repository)", _HOME)


@DATASETS.register("heterophilous/chameleon-directed")
@dataclass(frozen=True, kw_only=True)
class ChameleonDirected(Stored):
    """Chameleon with the direction of its links."""

    files: ClassVar[tuple[File, ...]] = (
        _file(
            "chameleon_directed.npz",
            "34aea6b6888063544232100d53d4aa7e87e37953ec8dd3a7092afb25bb2f0328",
            191520,
        ),
    )
    about: ClassVar[About] = About(2277, 36051, 2325, 5, "", "MIT (repository)", _HOME)
    directed: ClassVar[bool] = True


@DATASETS.register("heterophilous/chameleon-filtered")
@dataclass(frozen=True, kw_only=True)
class ChameleonFiltered(Stored):
    """Chameleon without duplicate nodes (Platonov et al. 2023)."""

    files: ClassVar[tuple[File, ...]] = (
        _file(
            "chameleon_filtered.npz",
            "bf46f07e1fb5249280447e5fe3100f3e82fc4b93ad1e13ffcfdec924b6ac0bb5",
            58924,
        ),
    )
    about: ClassVar[About] = About(890, 8854, 2325, 5, "", "MIT (repository)", _HOME)


@DATASETS.register("heterophilous/squirrel")
@dataclass(frozen=True, kw_only=True)
class Squirrel(Stored):
    """Squirrel: links between Wikipedia pages, traffic as class (Rozemberczki et al. 2021).

    Has the duplicates that Chameleon has: prefer ``heterophilous/squirrel-filtered``.
    """

    files: ClassVar[tuple[File, ...]] = (
        _file(
            "squirrel.npz",
            "d436e3b42c0546b105241c0ab0766097074e68e55f67b133eeb9b0162e55cbd9",
            704277,
        ),
    )
    about: ClassVar[About] = About(5201, 198353, 2089, 5, "", "MIT (repository)", _HOME)


@DATASETS.register("heterophilous/squirrel-directed")
@dataclass(frozen=True, kw_only=True)
class SquirrelDirected(Stored):
    """Squirrel with the direction of its links."""

    files: ClassVar[tuple[File, ...]] = (
        _file(
            "squirrel_directed.npz",
            "3f0436486716cf77b651c372e54f6b4c2cc52262e7faeeab584a34b41bae2616",
            760119,
        ),
    )
    about: ClassVar[About] = About(5201, 216933, 2089, 5, "", "MIT (repository)", _HOME)
    directed: ClassVar[bool] = True


@DATASETS.register("heterophilous/squirrel-filtered")
@dataclass(frozen=True, kw_only=True)
class SquirrelFiltered(Stored):
    """Squirrel without duplicate nodes (Platonov et al. 2023)."""

    files: ClassVar[tuple[File, ...]] = (
        _file(
            "squirrel_filtered.npz",
            "f06370ffb3116c5de8b7a600005400b2293c025e0ce2f6916d8201a825505ac7",
            208215,
        ),
    )
    about: ClassVar[About] = About(2223, 46998, 2089, 5, "", "MIT (repository)", _HOME)


@DATASETS.register("heterophilous/minesweeper")
@dataclass(frozen=True, kw_only=True)
class Minesweeper(Stored):
    """Minesweeper: a 100 × 100 grid, mines to be found from counts (Platonov et al. 2023)."""

    files: ClassVar[tuple[File, ...]] = (
        _file(
            "minesweeper.npz",
            "e664c8dacf1e8ac466c2c09ed4b237bd2c5541f47a6eae9c6092cb87f16412b3",
            135045,
        ),
    )
    about: ClassVar[About] = About(10000, 39402, 7, 2, "", "MIT (repository)", _HOME)


@DATASETS.register("webkb/cornell")
@dataclass(frozen=True, kw_only=True)
class Cornell(Stored):
    """Cornell: pages of a computer science department (WebKB; Pei et al. 2020)."""

    files: ClassVar[tuple[File, ...]] = (
        _file(
            "cornell.npz",
            "684c54ba3daa13b0ba1f04a3d6dd1b1175c1ae9bdeb982851fd4ff96d3aac298",
            30515,
        ),
    )
    about: ClassVar[About] = About(183, 277, 1703, 5, "", "MIT (repository)", _HOME)


@DATASETS.register("webkb/texas")
@dataclass(frozen=True, kw_only=True)
class Texas(Stored):
    """Texas: pages of a computer science department (WebKB; Pei et al. 2020)."""

    files: ClassVar[tuple[File, ...]] = (
        _file(
            "texas.npz",
            "b164b99e6c3d43e4ab07488ec59bd8c815f90cbc1bd4cf425ce587d2b534d844",
            28586,
        ),
    )
    about: ClassVar[About] = About(183, 279, 1703, 5, "", "MIT (repository)", _HOME)


@DATASETS.register("webkb/texas-4-classes")
@dataclass(frozen=True, kw_only=True)
class TexasFour(Stored):
    """Texas, its class of a single node left out of the splits (Platonov et al. 2023)."""

    files: ClassVar[tuple[File, ...]] = (
        _file(
            "texas_4_classes.npz",
            "2da438ba7f41fd82e0953e2c9f63ef18e5a58da51ae6369cb5f5010bdf0e67bd",
            28586,
        ),
    )
    about: ClassVar[About] = About(183, 279, 1703, 5, "", "MIT (repository)", _HOME)


@DATASETS.register("webkb/wisconsin")
@dataclass(frozen=True, kw_only=True)
class Wisconsin(Stored):
    """Wisconsin: pages of a computer science department (WebKB; Pei et al. 2020)."""

    files: ClassVar[tuple[File, ...]] = (
        _file(
            "wisconsin.npz",
            "2543c89838cfc75f737f7c4664cc1d097f8268602c20b2d1bd4f21407df9c074",
            41672,
        ),
    )
    about: ClassVar[About] = About(251, 450, 1703, 5, "", "MIT (repository)", _HOME)
