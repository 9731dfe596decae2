"""Graphs in the npz format of Nettack and Metattack (Zügner et al. 2018): CSR parts, labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import scipy.sparse as sp

from graphsec.datasets.base import (
    About,
    Dataset,
    Structural,
    largest_component,
    row_normalized,
    structural,
)
from graphsec.datasets.cache import File, read
from graphsec.datasets.pickles import csr, load_npz
from graphsec.datasets.splits import Strategy
from graphsec.graph import Graph
from graphsec.registry import DATASETS
from graphsec.rng import Rng

_HOME = "https://github.com/danielzuegner/gnn-meta-attack"
_AT = f"{_HOME}/raw/982d900d05f19f0bd061b8d4988310bd7baa5f91/data"


def _file(name: str, digest: str, size: int) -> File:
    return File(f"nettack_npz/{name}", f"{_AT}/{name}", digest, size)


def _parts(prefix: str) -> list[str]:
    return [f"{prefix}_{part}" for part in ("data", "indices", "indptr", "shape")]


@dataclass(frozen=True, kw_only=True)
class Nettack(Dataset):
    """A citation graph as attack papers use it: undirected, unweighted, largest component.

    Counts in lists are those of the largest component. Without a published split, 20 training
    and 20 validation nodes a class are drawn.

    Attributes:
        largest_component: Keep the largest connected component only.
        normalize: Divide each row of the features by its sum.
    """

    default_split: ClassVar[Strategy] = {"per_class": 20, "val_per_class": 20}
    attributes: ClassVar[bool] = True

    largest_component: bool = True
    normalize: bool = False

    def read(self, rng: Rng) -> Graph:
        """Read the one file."""
        name = self.files[0].name
        wanted = [*_parts("adj"), "labels", *(_parts("attr") if self.attributes else [])]
        z = load_npz(read(self.files)[name], name, wanted)

        def matrix(prefix: str) -> sp.csr_matrix:
            data, indices, indptr, shape = (z[key] for key in _parts(prefix))
            return csr(data, indices, indptr, shape, f"{name}: {prefix}")

        adj = matrix("adj")
        adj.data[:] = 1
        x = matrix("attr") if self.attributes else None
        x = row_normalized(x) if x is not None and self.normalize else x
        graph = Graph.from_scipy(adj, x=x, y=z["labels"], name=self.name)
        return largest_component(graph) if self.largest_component else graph


@DATASETS.register("nettack/cora_ml", "cora_ml")
@dataclass(frozen=True, kw_only=True)
class CoraML(Nettack):
    """Cora-ML: machine learning papers (McCallum et al. 2000; Bojchevski & Günnemann 2018)."""

    files: ClassVar[tuple[File, ...]] = (
        _file(
            "cora_ml.npz",
            "ffbe4e64857dc6bf38f1877e4312559a064df84b59d0f32f938717de5d5af0fd",
            1620832,
        ),
    )
    about: ClassVar[About] = About(2810, 7981, 2879, 7, "", "MIT (repository)", _HOME)


@DATASETS.register("nettack/cora")
@dataclass(frozen=True, kw_only=True)
class CoraNettack(Nettack):
    """Cora as in Nettack: the largest component of the Planetoid graph."""

    files: ClassVar[tuple[File, ...]] = (
        _file(
            "cora.npz",
            "398a5c8f949a4f2a3c8fb248f777d2756c654de714762d6a18c04eaa19a96271",
            711224,
        ),
    )
    about: ClassVar[About] = About(2485, 5069, 1433, 7, "", "MIT (repository)", _HOME)


@DATASETS.register("nettack/citeseer")
@dataclass(frozen=True, kw_only=True)
class CiteseerNettack(Nettack):
    """Citeseer as in Nettack: the largest component."""

    files: ClassVar[tuple[File, ...]] = (
        _file(
            "citeseer.npz",
            "36e9a5bbe84eaa0c3c6b226f8b27450bb79246a5df22c375b3bacddb856efa8e",
            1418528,
        ),
    )
    about: ClassVar[About] = About(2110, 3668, 3703, 6, "", "MIT (repository)", _HOME)


@DATASETS.register("nettack/polblogs", "polblogs")
@dataclass(frozen=True, kw_only=True)
class Polblogs(Nettack):
    """Polblogs: links between political blogs, liberal or conservative (Adamic & Glance 2005).

    Blogs have no features.

    Attributes:
        features: What stands in for features.
    """

    files: ClassVar[tuple[File, ...]] = (
        _file(
            "polblogs.npz",
            "cd0983c2b1caa3bbe2703a4e316f97bb1dccd33f98800d3d8e4bbe51cc86941b",
            171030,
        ),
    )
    about: ClassVar[About] = About(1222, 16714, 1222, 2, "", "MIT (repository)", _HOME)
    attributes: ClassVar[bool] = False

    features: Structural = "identity"

    def read(self, rng: Rng) -> Graph:
        """Read the one file and add features."""
        graph = super().read(rng)
        return graph.replace(x=structural(self.features, graph.degree.numpy()))
