"""What a dataset is: frozen fields, files with checksums, one method that gives a graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import scipy.sparse as sp

from graphsec.datasets import splits
from graphsec.datasets.cache import DataCorruptError, File
from graphsec.graph import Graph, GraphError, Split
from graphsec.registry import Component, SpecError
from graphsec.rng import Rng

Structural = Literal["none", "identity", "degree"]


class About(NamedTuple):
    """Facts for lists and docs; counts are those of the default fields, None if drawn.

    Attributes:
        nodes: Number of nodes.
        edges: Number of edges.
        features: Width of the features.
        classes: Number of classes.
        sensitive: Name of the sensitive attribute.
        licence: Licence as stated where the files come from.
        source: Where the data was published.
    """

    nodes: int | None = None
    edges: int | None = None
    features: int | None = None
    classes: int | None = None
    sensitive: str = ""
    licence: str = ""
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class Dataset(Component):
    """Base of all datasets; fields are options and hyperparameters.

    Attributes:
        split: Strategy (``graphsec.datasets.splits``); None means the dataset's own default.
        files: What must be in the cache.
        about: Facts for lists.
        default_split: The strategy used unless another is named.
        public: Whether a split was published with the data.
        stored: How many splits are stored in the file.
        generated: Whether the seed draws the graph itself.
        grid: Rows and columns, where features are the pixels of an image, in 0…1 and row by row.
    """

    kind: ClassVar[str] = "dataset"
    files: ClassVar[tuple[File, ...]] = ()
    about: ClassVar[About] = About()
    default_split: ClassVar[splits.Strategy] = {"per_class": 20, "val_per_class": 30}
    public: ClassVar[bool] = False
    stored: ClassVar[int] = 0
    generated: ClassVar[bool] = False
    grid: ClassVar[tuple[int, int] | None] = None

    split: str | dict[str, Any] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        asked = self.default_split if self.split is None else self.split
        made = splits.checked(asked, f"dataset {self.name!r}: split")
        if made == "public" and not self.public:
            raise SpecError(f"dataset {self.name!r}: split: it has no public split")
        if isinstance(made, dict) and made.get("stored", -1) >= self.stored:
            rule = f"0…{self.stored - 1}" if self.stored else "absent: no split is stored"
            raise SpecError(
                f"dataset {self.name!r}: split.stored must be {rule}, got {made['stored']}"
            )
        object.__setattr__(self, "split", made)

    @property
    def task(self) -> str:
        """Task of its graphs, so that misfits are found before loading."""
        return "classification"

    @property
    def seeded(self) -> bool:
        """Whether the data seed changes anything."""
        return self.generated or splits.is_drawn(self.strategy)

    @property
    def strategy(self) -> splits.Strategy:
        """The split strategy in force."""
        return self.default_split if self.split is None else self.split

    def load(self, rng: Rng) -> Graph:
        """The graph (drawn from ``rng["graph"]``) with its split (from ``rng["split"]``).

        Raises:
            DataError: Files are missing, damaged, or the cache is out of reach.
            SplitError: The split can't be drawn from these labels.
        """
        try:
            graph = self.read(rng)
        except GraphError as error:
            if not self.files:
                raise
            raise DataCorruptError(f"dataset {self.name!r}: {error}") from error
        if graph.y is None or graph.split is not None or not splits.is_drawn(self.strategy):
            return graph
        regression = graph.task == "regression"
        drawn = splits.draw(graph.y, self.strategy, rng["split"], regression=regression)
        return graph.replace(split=drawn)

    def read(self, rng: Rng) -> Graph:
        """The graph, with its published split where the strategy asks for one.

        Where it comes without one, ``load`` draws it.
        """
        raise NotImplementedError


def masks_split(train: Any, val: Any, test: Any, which: int, name: str) -> Split:
    """One of the splits stored as (k, n) boolean masks."""
    masks = [np.asarray(mask) for mask in (train, val, test)]
    if any(mask.dtype != bool or mask.ndim != 2 or which >= len(mask) for mask in masks):
        raise DataCorruptError(f"{name}: masks must be boolean, of shape (splits, nodes)")
    return Split.of(*(mask[which] for mask in masks))


def row_normalized(x: sp.csr_matrix) -> sp.csr_matrix:
    """Rows divided by their sum; rows of zeros stay."""
    total = np.asarray(x.sum(axis=1), np.float64).ravel()
    scale = np.divide(1.0, total, out=np.zeros_like(total), where=total != 0)
    return sp.csr_matrix(sp.diags(scale) @ x, dtype=np.float32)


def structural(kind: Structural, degree: np.ndarray) -> Any:
    """Features for a graph without any, made from its structure.

    Args:
        kind: ``identity`` (a sparse one-hot of the node), ``degree`` (1 and log(1 + degree),
            (n, 2)) or ``none``.
        degree: (n,) degrees.
    """
    if kind == "identity":
        return sp.identity(len(degree), np.float32, format="csr")
    if kind == "degree":
        rise = np.log1p(degree.astype(np.float32))
        return np.stack([np.ones_like(rise), rise], axis=1)
    return None


def largest_component(graph: Graph) -> Graph:
    """The subgraph of the largest (weakly) connected component, nodes in their old order."""
    from scipy.sparse.csgraph import connected_components

    _, part = connected_components(graph.to_scipy(), directed=True, connection="weak")
    return graph.subgraph(np.flatnonzero(part == np.bincount(part).argmax()))
