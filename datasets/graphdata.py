"""Amazon, Coauthor and other graphs, as npz files that hold pickled scipy matrices.

The Amazon and Coauthor graphs are of Shchur et al. (2018), "Pitfalls of graph neural network
evaluation", and were published at github.com/shchur/gnn-benchmark. The files read here hold the
same graphs as repacked by EdisonLeeeee/GraphData, which is where their addresses point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.sparse as sp

from graphsec.datasets.base import About, Dataset, largest_component, row_normalized
from graphsec.datasets.cache import DataCorruptError, File, read
from graphsec.datasets.pickles import load_npz
from graphsec.datasets.splits import Strategy
from graphsec.graph import Graph
from graphsec.registry import DATASETS
from graphsec.rng import Rng

_HOME = "https://github.com/EdisonLeeeee/GraphData"
_AT = f"{_HOME}/raw/f8022c26b917346f2a461ffec0ec5ae24b36de68/datasets"
_SHCHUR = "https://github.com/shchur/gnn-benchmark"


def _file(name: str, digest: str, size: int) -> File:
    return File(f"graphdata_npz/{name}", f"{_AT}/{name}", digest, size)


@dataclass(frozen=True, kw_only=True)
class GraphData(Dataset):
    """An undirected, unweighted graph with sparse features.

    The default split is that of Shchur et al.: 20 training and 30 validation nodes a class.

    Attributes:
        largest_component: Keep the largest connected component only.
        normalize: Divide each row of the features by its sum.
    """

    default_split: ClassVar[Strategy] = {"per_class": 20, "val_per_class": 30}

    largest_component: bool = False
    normalize: bool = False

    def read(self, rng: Rng) -> Graph:
        """Read the one file."""
        name = self.files[0].name
        z = load_npz(read(self.files)[name], name, ["adj_matrix", "node_attr", "node_label"])
        adj, x = z["adj_matrix"], z["node_attr"]
        matrices = isinstance(adj, sp.csr_matrix) and isinstance(x, sp.csr_matrix)
        if not matrices or not isinstance(z["node_label"], np.ndarray):
            raise DataCorruptError(f"{name}: adj_matrix and node_attr must be CSR matrices")
        adj.data[:] = 1
        x = row_normalized(x) if self.normalize else x
        # Some files count classes from 1.
        y = np.unique(z["node_label"], return_inverse=True)[1]
        graph = Graph.from_scipy(adj, x=x, y=y, name=self.name)
        return largest_component(graph) if self.largest_component else graph


@DATASETS.register("amazon/computers")
@dataclass(frozen=True, kw_only=True)
class AmazonComputers(GraphData):
    """Amazon Computers: goods bought together, reviews as features (Shchur et al. 2018)."""

    files: ClassVar[tuple[File, ...]] = (
        _file(
            "amazon_cs.npz",
            "a6942db609f196b53503d91b99a02ad8d052d5d9be8ef41db976fb65f66ed1f3",
            3410531,
        ),
    )
    about: ClassVar[About] = About(13752, 245861, 767, 10, "", "MIT (repository)", _SHCHUR)


@DATASETS.register("amazon/photo")
@dataclass(frozen=True, kw_only=True)
class AmazonPhoto(GraphData):
    """Amazon Photo: goods bought together, reviews as features (Shchur et al. 2018)."""

    files: ClassVar[tuple[File, ...]] = (
        _file(
            "amazon_photo.npz",
            "bdb98b54cd3125bfa69b23ba0aae84fabcb770c6727175b8f6eb1d64f3be4b2b",
            1772672,
        ),
    )
    about: ClassVar[About] = About(7650, 119081, 745, 8, "", "MIT (repository)", _SHCHUR)


@DATASETS.register("coauthor/cs")
@dataclass(frozen=True, kw_only=True)
class CoauthorCS(GraphData):
    """Coauthor CS: authors who wrote together, keywords as features (Shchur et al. 2018)."""

    files: ClassVar[tuple[File, ...]] = (
        _file(
            "coauthor_cs.npz",
            "7b7b51bf270d341f1c4231834c58a526bb04db003fd76a6d2f51ad7d252005ed",
            2800548,
        ),
    )
    about: ClassVar[About] = About(18333, 81894, 6805, 15, "", "MIT (repository)", _SHCHUR)


@DATASETS.register("coauthor/physics")
@dataclass(frozen=True, kw_only=True)
class CoauthorPhysics(GraphData):
    """Coauthor Physics: authors who wrote together (Shchur et al. 2018)."""

    files: ClassVar[tuple[File, ...]] = (
        _file(
            "coauthor_phy.npz",
            "1c930d99910763bc5f0c1aa90e8baa945f5ad6027663fe5332d0f08fde33cd7d",
            3772032,
        ),
    )
    about: ClassVar[About] = About(34493, 247962, 8415, 5, "", "MIT (repository)", _SHCHUR)


@DATASETS.register("graphdata/acm")
@dataclass(frozen=True, kw_only=True)
class ACM(GraphData):
    """ACM: papers that share an author, keywords as features (Wang et al. 2019, HAN)."""

    files: ClassVar[tuple[File, ...]] = (
        _file(
            "acm.npz",
            "f585d6127cd2e2a6605d3f1f7dded4003264f32db0b8d339adb2436559374a03",
            379273,
        ),
    )
    about: ClassVar[About] = About(3025, 13128, 1870, 3, "", "MIT (repository)", _HOME)


@DATASETS.register("graphdata/blogcatalog")
@dataclass(frozen=True, kw_only=True)
class BlogCatalog(GraphData):
    """BlogCatalog: friends among bloggers, keywords as features (Huang et al. 2017)."""

    files: ClassVar[tuple[File, ...]] = (
        _file(
            "blogcatalog.npz",
            "115be8c3396ae7db96c60df578c8c24ee46d2547ca62fa538ec9852c338df6c6",
            1426499,
        ),
    )
    about: ClassVar[About] = About(5196, 171743, 8189, 6, "", "MIT (repository)", _HOME)


@DATASETS.register("graphdata/flickr")
@dataclass(frozen=True, kw_only=True)
class Flickr(GraphData):
    """Flickr: friends among photographers, tags as features (Huang et al. 2017)."""

    files: ClassVar[tuple[File, ...]] = (
        _file(
            "flickr.npz",
            "8eebe3fa74d66818d1977af8e13f8697b9710a4485b43ef5cbea305ce2eabc6a",
            1280230,
        ),
    )
    about: ClassVar[About] = About(7575, 239738, 12047, 9, "", "MIT (repository)", _HOME)
