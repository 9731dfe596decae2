"""Sets of small graphs of atoms, which whole-graph attacks are about: real ones and drawn ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from scipy.sparse.csgraph import connected_components

from graphsec.datasets.airports import _AT, _HOME
from graphsec.datasets.base import About, Dataset
from graphsec.datasets.cache import DataCorruptError, File, read
from graphsec.datasets.splits import Strategy, is_drawn
from graphsec.datasets.splits import draw as split
from graphsec.graph import Graph, Split
from graphsec.registry import DATASETS, Range
from graphsec.rng import Rng


@dataclass(frozen=True, kw_only=True)
class Molecules(Dataset):
    """Base: features are the type of an atom and its degree, each one-hot; bonds have no type.

    Attributes:
        labels: Of "graphs": whether there is an atom of type 2 (nitrogen). Of "atoms", for games
            about nodes: how many neighbours are of another type than 0 (carbon), 3 for more.
    """

    default_split: ClassVar[Strategy] = {"fractions": [0.6, 0.2, 0.2]}

    labels: Literal["graphs", "atoms"] = "graphs"

    @property
    def task(self) -> str:
        """Of whole graphs, or of nodes."""
        return "graph" if self.labels == "graphs" else "classification"

    def _set(self, pairs: np.ndarray, atoms: np.ndarray, owner: np.ndarray, rng: Rng) -> Graph:
        """A set of molecules with labels."""
        degree = np.bincount(pairs.ravel(), minlength=len(atoms))
        x = np.hstack([np.eye(k.max() + 1, dtype=np.float32)[k] for k in (atoms, degree)])
        if self.labels == "atoms":
            ends, other = np.hstack([pairs, pairs[::-1]])
            near = np.bincount(ends, weights=atoms[other] != 0, minlength=len(atoms))
            return Graph.from_edges(
                pairs, len(atoms), x=x, y=np.minimum(near, 3).astype(np.int64), graph_id=owner,
                name=self.name,
            )  # fmt: skip
        y = np.zeros(owner.max() + 1, np.int64)
        y[owner[atoms == 2]] = 1
        parts = None
        if is_drawn(self.strategy):
            drawn = split(torch.from_numpy(y), self.strategy, rng)
            parts = Split.of(
                *(np.isin(owner, part.numpy()).nonzero()[0] for _, part in drawn.items())
            )
        return Graph.from_edges(
            pairs, len(atoms), x=x, y=y[owner], graph_id=owner, split=parts, task="graph",
            name=self.name,
        )  # fmt: skip


@DATASETS.register("molecules")
@dataclass(frozen=True, kw_only=True)
class Drawn(Molecules):
    """Random trees of atoms that keep to valences 4, 2, 3 and 1, some bonds closing rings.

    Ours: not chemistry, but small graphs of atoms of few types and low degree, as in the sets that
    Morris et al. (TUDataset, 2020) collect. The label says whether there is an atom of type 2.

    Attributes:
        graphs: Number of molecules.
        smallest: Atoms of the smallest.
        largest: Atoms of the largest.
        rings: Bonds that close a ring, for each ten atoms; drawn only where valences allow.
    """

    about: ClassVar[About] = About(source="this project; types and sizes after Morris et al., 2020")
    generated: ClassVar[bool] = True

    graphs: Annotated[int, Field(ge=10, le=100_000)] = 200
    smallest: Annotated[int, Field(ge=2, le=1000)] = 4
    largest: Annotated[int, Field(ge=2, le=1000), Range(8, 30)] = 12
    rings: Annotated[float, Field(ge=0, le=5)] = 0.8

    def read(self, rng: Rng) -> Graph:
        """Draw the molecules."""
        if self.largest < self.smallest:
            raise ValueError(f"molecules: largest must be ≥ {self.smallest}, got {self.largest}")
        generator = rng["graph"].numpy()
        sizes = generator.integers(self.smallest, self.largest + 1, self.graphs)
        edges, atoms, start = [], [], 0
        for size in sizes:
            kinds, bonds = self._molecule(int(size), generator)
            atoms.append(kinds)
            edges.append(bonds + start)
            start += int(size)
        owner = np.repeat(np.arange(self.graphs), sizes)
        return self._set(np.concatenate(edges, 1), np.concatenate(atoms), owner, rng["split"])

    def _molecule(self, size: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Types (size,) and bonds (2, m)."""
        valence = np.array([4, 2, 3, 1])
        kinds = generator.choice(4, size, p=[0.6, 0.18, 0.14, 0.08])
        kinds[: max(1, size // 3)] = 0  # so that the others find room
        kinds[1:] = generator.permutation(kinds[1:])
        free, bonds = valence[kinds].copy(), []
        for atom in range(1, size):
            room = np.flatnonzero((free[:atom] > 0) & ((free[:atom] > 1) | (atom + 1 == size)))
            if not len(room):  # a bond more than free keeps the tree growing
                room = np.flatnonzero(free[:atom] > 0)
            if not len(room):
                room = np.array([0])
            other = int(generator.choice(room))
            if free[:atom].sum() - 1 + free[atom] - 1 <= 0:
                kinds[atom], free[atom] = 0, 4
            bonds.append((other, atom))
            free[[other, atom]] -= 1
        for _ in range(int(generator.poisson(self.rings * size / 10))):
            u, v = generator.integers(0, size, 2)
            if u != v and min(free[u], free[v]) > 0 and {(u, v), (v, u)}.isdisjoint(bonds):
                bonds.append((int(u), int(v)))
                free[[u, v]] -= 1
        return kinds, np.array(bonds).T


@DATASETS.register("molecules/aids")
@dataclass(frozen=True, kw_only=True)
class AIDS(Molecules):
    """Compounds screened against HIV, without hydrogen atoms.

    The files have no list of graphs: every connected component of two atoms or more is one, and
    its label, ours, says whether it holds nitrogen (atom type 3 in the files).
    """

    files: ClassVar[tuple[File, ...]] = (
        File(
            "mc_gra/AIDS/AIDS_A.txt",
            f"{_AT}/AIDS/AIDS_A.txt",
            "490429891c66e33ad10e6bdc4e98f7a6e908f8ba2fbae74d71cb0be9143adf89",
            731502,
        ),
        File(
            "mc_gra/AIDS/AIDS_node_labels.txt",
            f"{_AT}/AIDS/AIDS_node_labels.txt",
            "fdb51bd60828bdd83c4eb10eb140dc91201fc4b23839d1da3c296e854147bdbf",
            63049,
        ),
    )
    about: ClassVar[About] = About(
        31175, 32390, 45, 2, "", "MIT (repository)", f"{_HOME}; Riesen & Bunke, 2008"
    )

    def read(self, rng: Rng) -> Graph:
        """Read a list of bonds and a list of atom types."""
        texts = read(self.files)
        try:
            table = texts[self.files[0].name].replace(b",", b" ").split()
            pairs = np.array(table, np.int64).reshape(-1, 2).T - 1
            atoms = np.array(texts[self.files[1].name].split(), np.int64) - 1
        except ValueError as error:
            raise DataCorruptError(f"{self.name}: lines must hold integers") from error
        whole = Graph.from_edges(pairs, len(atoms))
        kept = np.flatnonzero(whole.degree.numpy())
        part = whole.subgraph(kept)
        _, owner = connected_components(part.to_scipy(), directed=False)
        return self._set(part.pairs.numpy(), atoms[kept], owner, rng["split"])
