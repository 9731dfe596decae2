"""The graph container: frozen, canonical, validated."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from graphsec.graph.arrays import (
    GraphError,
    canonical,
    converted,
    edge_array,
    is_symmetric,
    node_indices,
    node_mask,
    plain_arrays,
    take_rows,
)
from graphsec.graph.growth import grown
from graphsec.graph.holdout import Holdout
from graphsec.graph.rules import check

if TYPE_CHECKING:
    import networkx
    from torch_geometric.data import Data

    from graphsec.ops import Adj

Task = Literal["classification", "regression", "ranking", "rating", "graph", "none"]


@dataclass(frozen=True)
class Split:
    """Node indices for training, validation and testing (disjoint; any may be empty)."""

    train: Tensor
    val: Tensor
    test: Tensor

    @staticmethod
    def of(train: Any, val: Any, test: Any) -> Split:
        """Split from index or boolean mask arrays."""
        return Split(node_indices(train), node_indices(val), node_indices(test))

    @staticmethod
    def made(split: Any) -> Split | None:
        """A split from a split, a mapping with train, val and test, or a sequence of three."""
        if split is None or isinstance(split, Split):
            return split
        parts = [split[k] for k in ("train", "val", "test")] if isinstance(split, dict) else split
        return Split.of(*parts)

    def items(self) -> list[tuple[str, Tensor]]:
        """(name, indices) pairs."""
        return [("train", self.train), ("val", self.val), ("test", self.test)]


@dataclass(frozen=True, eq=False, kw_only=True)
class Graph:
    """A graph with features, labels and a split; immutable.

    ``indptr``/``indices`` is the adjacency matrix in CSR, row u holding the edges u→v,
    sorted, without duplicates or self-loops; an undirected graph holds both directions.
    Isolated nodes are legal.

    Attributes:
        indptr: (n + 1,) int64.
        indices: (E,) int64.
        x: Features, (n, d) float32: a dense tensor, or a sparse CSR tensor which stays sparse;
            None where nodes have none.
        y: (n,) int64 labels for classification (−1 marks an unknown one), (n,) or (n, k)
            float32 targets for regression, None without labels.
        split: Train, validation and test nodes.
        sensitive: (n,) int64 sensitive attribute, kept apart from the features.
        edge_weight: (E,) float32, finite and ≥ 0; None means all ones.
        edge_y: (E,) targets of edges (ratings).
        node_type: (n,) int64 (0 user, 1 item in ranking graphs).
        graph_id: (n,) int64, the graph each node belongs to, in sets of graphs.
        holdout: Interactions kept out of a ranking graph, to validate and to test on.
        task: What ``y`` asks for; "ranking" asks which items a user takes next, "rating"
            what the user thinks of them (``edge_y``), in a graph of users (the first nodes) and
            items.
        directed: Whether u→v may exist without v→u.
        name: Name for records.

    Raises:
        GraphError: A field breaks a rule.
    """

    indptr: Tensor
    indices: Tensor
    x: Tensor | None = None
    y: Tensor | None = None
    split: Split | None = None
    sensitive: Tensor | None = None
    edge_weight: Tensor | None = None
    edge_y: Tensor | None = None
    node_type: Tensor | None = None
    graph_id: Tensor | None = None
    task: Task = "classification"
    directed: bool = False
    name: str = "graph"
    holdout: Holdout | None = None

    def __post_init__(self) -> None:
        check(self)

    # -- making one ---------------------------------------------------------------------------

    @staticmethod
    def from_edges(
        edges: Any,
        num_nodes: int | None = None,
        *,
        edge_weight: Any = None,
        directed: bool = False,
        **fields: Any,
    ) -> Graph:
        """Graph from an edge list.

        Self-loops and duplicates are dropped; an undirected graph gets both directions.

        Args:
            edges: (2, m) or (m, 2) integers; an array of shape (2, 2) is read as (2, m).
            num_nodes: Number of nodes; default one more than the largest index.
            edge_weight: (m,) weights; where an edge is listed twice, the first weight stays.
            directed: Keep directions as they are.
            **fields: The other fields of ``Graph``; arrays are converted.
        """
        pairs = edge_array(edges)
        n = int(pairs.max()) + 1 if num_nodes is None and pairs.size else int(num_nodes or 0)
        if n <= 0:
            raise GraphError(f"num_nodes must be ≥ 1, got {n}: an empty graph has nothing to learn")
        if pairs.size and (pairs.min() < 0 or pairs.max() >= n):
            bad = pairs.min() if pairs.min() < 0 else pairs.max()
            raise GraphError(f"edge_index must lie in 0…{n - 1}, found {bad}")
        weight = None if edge_weight is None else np.asarray(edge_weight, np.float32).ravel()
        if weight is not None and len(weight) != pairs.shape[1]:
            raise GraphError(
                f"edge_weight must have one value an edge ({pairs.shape[1]}), found {len(weight)}"
            )
        key, weight = canonical(pairs, weight, n, directed)
        indptr = np.searchsorted(key, np.arange(n + 1, dtype=np.int64) * n)
        return Graph(
            indptr=torch.from_numpy(indptr.astype(np.int64)),
            indices=torch.from_numpy(key % n),
            edge_weight=None if weight is None else torch.from_numpy(weight),
            directed=directed,
            **_converted(fields),
        )

    @staticmethod
    def from_scipy(matrix: Any, **fields: Any) -> Graph:
        """Graph from a scipy sparse adjacency matrix (stored values other than 1 become weights).

        The graph is undirected unless ``directed=True`` is given; explicit zeros are no edges.
        """
        coo = sp.coo_matrix(matrix)
        if coo.shape[0] != coo.shape[1]:
            raise GraphError(f"adjacency matrix must be square, found shape {coo.shape}")
        if not np.isfinite(coo.data.astype(np.float64)).all():
            raise GraphError("edge_weight must be finite, found NaN or infinity")
        keep = coo.data != 0
        weight = None if (coo.data[keep] == 1).all() else coo.data[keep]
        pairs = np.vstack([coo.row[keep], coo.col[keep]])
        return Graph.from_edges(pairs, coo.shape[0], edge_weight=weight, **fields)

    @staticmethod
    def from_networkx(graph: networkx.Graph, **fields: Any) -> Graph:
        """Graph from networkx; nodes are numbered in its order, ``weight`` attributes are kept."""
        import networkx as nx

        fields.setdefault("directed", graph.is_directed())
        array = nx.to_scipy_sparse_array(graph, weight="weight", dtype=np.float32)
        return Graph.from_scipy(array, **fields)

    @staticmethod
    def from_pyg(data: Data, **fields: Any) -> Graph:
        """Graph from a torch_geometric ``Data`` (x, y, edge_index, edge_weight and masks)."""
        masks = [getattr(data, f"{part}_mask", None) for part in ("train", "val", "test")]
        if all(mask is not None and mask.dim() == 1 for mask in masks):
            fields.setdefault("split", Split.of(*masks))
        fields.setdefault("directed", data.is_directed())
        for key in ("x", "y"):
            if getattr(data, key, None) is not None:
                fields.setdefault(key, getattr(data, key))
        weight = getattr(data, "edge_weight", None)
        return Graph.from_edges(data.edge_index, data.num_nodes, edge_weight=weight, **fields)

    @staticmethod
    def from_dgl(graph: Any, **fields: Any) -> Graph:
        """Graph from a homogeneous DGL graph (ndata ``feat``, ``label`` and masks; edata ``w``)."""
        data = graph.ndata
        for key, name in (("x", "feat"), ("y", "label")):
            if name in data:
                fields.setdefault(key, data[name])
        masks = [data.get(f"{part}_mask") for part in ("train", "val", "test")]
        if all(mask is not None for mask in masks):
            fields.setdefault("split", Split.of(*masks))
        weight = graph.edata.get("w")
        pairs = torch.stack(graph.edges())
        if "directed" not in fields:
            fields["directed"] = not is_symmetric(edge_array(pairs), graph.num_nodes())
        return Graph.from_edges(pairs, graph.num_nodes(), edge_weight=weight, **fields)

    # -- what it is ---------------------------------------------------------------------------

    @property
    def num_nodes(self) -> int:
        """Number of nodes n."""
        return len(self.indptr) - 1

    @property
    def num_edges(self) -> int:
        """Number of edges: unordered pairs if undirected, arcs if directed."""
        return len(self.indices) if self.directed else len(self.indices) // 2

    @property
    def num_features(self) -> int:
        """Width of ``x`` (0 without features)."""
        return 0 if self.x is None else int(self.x.shape[1])

    @property
    def num_classes(self) -> int:
        """Number of classes (1 for regression)."""
        if self.y is None:
            return 0
        return int(self.y.max()) + 1 if self.task in ("classification", "graph") else 1

    @property
    def num_users(self) -> int:
        """Number of users, which are the first nodes (0 without ``node_type``)."""
        return 0 if self.node_type is None else int((self.node_type == 0).sum())

    @cached_property
    def edge_index(self) -> Tensor:
        """(2, E) source and target of every stored direction, in CSR order."""
        rows = torch.repeat_interleave(
            torch.arange(self.num_nodes, device=self.indptr.device), self.indptr.diff()
        )
        return torch.stack([rows, self.indices])

    @cached_property
    def pairs(self) -> Tensor:
        """(2, num_edges) each edge once: u < v if undirected, u→v if directed."""
        row, col = self.edge_index
        return self.edge_index if self.directed else self.edge_index[:, row < col]

    @cached_property
    def degree(self) -> Tensor:
        """(n,) number of edges that leave each node."""
        return self.indptr.diff()

    @cached_property
    def adj(self) -> Adj:
        """The graph as models see it (``ops.Adj``): rows receive, columns send."""
        from graphsec.ops import Adj

        return Adj.of(self)

    def has_edges(self, pairs: Tensor) -> Tensor:
        """(k,) whether each column (u, v) of ``pairs`` (2, k) is an edge."""
        return self.adj.csr.find(pairs[1], pairs[0]) >= 0

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the content (name left out): equal graphs, and only those, agree."""
        digest = hashlib.sha256()
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "name" or (field.name == "holdout" and value is None):
                continue  # graphs without a holdout hash as they did before there were any
            digest.update(field.name.encode())
            parts = [part for _, part in value.items()] if isinstance(value, Split) else [value]
            if isinstance(value, Holdout):
                parts = list(value.tensors())
            for array in (array for part in parts for array in plain_arrays(part)):
                digest.update(f"{array.dtype}{array.shape}".encode())
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:32]

    def __repr__(self) -> str:
        if self.task in ("ranking", "rating"):
            items = self.num_nodes - self.num_users
            held = "" if self.holdout is None else (
                f", {self.holdout.val.shape[1]:,} + {self.holdout.test.shape[1]:,} held out"
            )  # fmt: skip
            return (
                f"Graph({self.name!r}, {self.num_users:,} users, {items:,} items, "
                f"{self.num_edges:,} interactions{held})"
            )
        kind = "directed" if self.directed else "undirected"
        return (
            f"Graph({self.name!r}, {self.num_nodes:,} nodes, {self.num_edges:,} {kind} edges, "
            f"{self.num_features:,} features, {self.num_classes} classes)"
        )

    # -- making another -----------------------------------------------------------------------

    def replace(self, **changes: Any) -> Graph:
        """A copy with some fields changed (validated again)."""
        return dataclasses.replace(self, **_converted(changes))

    def flip(self, edges: Any) -> Graph:
        """The graph with each given pair added if absent and removed if present.

        Args:
            edges: (2, k) pairs; an undirected pair is given once, in either order. A held-out
                pair that becomes an edge leaves the holdout.

        Raises:
            GraphError: A pair is a self-loop, out of range, or listed twice.
        """
        pairs = edge_array(edges)
        n = self.num_nodes
        if pairs.size == 0:
            return self
        if pairs.min() < 0 or pairs.max() >= n:
            raise GraphError(f"flips must lie in 0…{n - 1}, found {pairs.min()}…{pairs.max()}")
        if (pairs[0] == pairs[1]).any():
            raise GraphError("flips must not be self-loops, found one at node "
                             f"{pairs[0][pairs[0] == pairs[1]][0]}")  # fmt: skip
        ordered = pairs if self.directed else np.sort(pairs, axis=0)
        key = ordered[0] * n + ordered[1]
        if len(np.unique(key)) != len(key):
            raise GraphError("flips must be distinct pairs, found one listed twice")
        both = key if self.directed else np.concatenate([key, ordered[1] * n + ordered[0]])
        row, col = self.edge_index.numpy()
        old = row * n + col
        keep = ~np.isin(old, both, assume_unique=True)
        new = np.setdiff1d(both, old, assume_unique=True)
        merged = np.concatenate([old[keep], new])
        order = np.argsort(merged, kind="stable")
        weight = None
        if self.edge_weight is not None:
            values = np.concatenate([self.edge_weight.numpy()[keep], np.ones(len(new), np.float32)])
            weight = torch.from_numpy(values[order])
        merged = merged[order]
        indptr = np.searchsorted(merged, np.arange(n + 1, dtype=np.int64) * n)
        return dataclasses.replace(
            self,
            indptr=torch.from_numpy(indptr.astype(np.int64)),
            indices=torch.from_numpy(merged % n),
            edge_weight=weight,
            edge_y=None,
            holdout=self.holdout and self.holdout.without(torch.from_numpy(pairs), n),
        )

    def grow(self, x: Any, edges: Any) -> Graph:
        """The graph with m more nodes n … n + m − 1, in no part of the split, without labels.

        In a ranking graph they are users. Those come first, so what are n … n + m − 1 in ``edges``
        stand behind the users in the graph that is returned, and items are m higher there; ratings
        are left out.

        Args:
            x: (m, d) their features, dense.
            edges: (2, k) their edges, each with at least one new end; an undirected edge is
                given once. Weights are 1.

        Raises:
            GraphError: An edge joins two old nodes, is a self-loop, out of range or listed
                twice, or leads from a new user to no item; the widths of the features differ;
                or labels are real numbers.
        """
        return grown(self, x, edges)

    def subgraph(self, nodes: Any) -> Graph:
        """The graph induced by ``nodes`` (indices or mask), renumbered in their order."""
        index = node_indices(nodes)
        keep = index.numpy()
        matrix = self.to_scipy()[keep][:, keep]
        place = torch.full((self.num_nodes,), -1, dtype=torch.int64)
        place[index] = torch.arange(len(index))
        split = None
        if self.split is not None:
            parts = [place[part] for _, part in self.split.items()]
            split = Split(*(part[part >= 0] for part in parts))
        pick: dict[str, Any] = {}
        for field in ("x", "y", "sensitive", "node_type", "graph_id"):
            value = getattr(self, field)
            pick[field] = None if value is None else take_rows(value, index)
        coo = matrix.tocoo()
        weight = None if self.edge_weight is None else coo.data
        return Graph.from_edges(
            np.vstack([coo.row, coo.col]), len(keep), edge_weight=weight, directed=self.directed,
            split=split, task=self.task, name=self.name,
            holdout=self.holdout and self.holdout.renumbered(place), **pick,
        )  # fmt: skip

    def to(self, device: torch.device | str) -> Graph:
        """The graph with every tensor on ``device``."""
        moved: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                moved[field.name] = value.to(device)
            elif isinstance(value, Split):
                moved[field.name] = Split(*(part.to(device) for _, part in value.items()))
            elif isinstance(value, Holdout):
                moved[field.name] = value.to(device)
        return dataclasses.replace(self, **moved)

    # -- to other libraries -------------------------------------------------------------------

    def to_scipy(self) -> sp.csr_matrix:
        """Adjacency matrix as scipy CSR (weights, or ones), float32."""
        n = self.num_nodes
        data = (
            np.ones(len(self.indices), np.float32)
            if self.edge_weight is None
            else self.edge_weight.cpu().numpy()
        )
        parts = (data, self.indices.cpu().numpy(), self.indptr.cpu().numpy())
        return sp.csr_matrix(parts, shape=(n, n))

    def to_networkx(self) -> networkx.Graph:
        """Networkx graph with ``weight`` attributes where the graph is weighted."""
        import networkx as nx

        kind = nx.DiGraph if self.directed else nx.Graph
        graph = kind()
        graph.add_nodes_from(range(self.num_nodes))
        if self.edge_weight is None:
            graph.add_edges_from(self.pairs.T.tolist())
        else:
            row, col = self.edge_index.tolist()
            graph.add_weighted_edges_from(zip(row, col, self.edge_weight.tolist(), strict=True))
        return graph

    def to_pyg(self) -> Data:
        """torch_geometric ``Data`` with dense features and masks."""
        from torch_geometric.data import Data

        data = Data(edge_index=self.edge_index, num_nodes=self.num_nodes)
        if self.x is not None:
            data.x = self.x.to_dense() if self.x.layout != torch.strided else self.x
        if self.y is not None:
            data.y = self.y
        if self.edge_weight is not None:
            data.edge_weight = self.edge_weight
        if self.split is not None:
            for part, index in self.split.items():
                data[f"{part}_mask"] = node_mask(index, self.num_nodes)
        return data

    def to_dgl(self) -> Any:
        """DGL graph with ndata ``feat``, ``label`` and masks, edata ``w``.

        Raises:
            ImportError: DGL is not installed (it has no wheels for Python 3.12 and newer).
        """
        os.environ.setdefault("DGLBACKEND", "pytorch")  # or DGL asks, and writes to the home folder
        try:
            import dgl
        except ImportError as error:
            raise ImportError("to_dgl needs dgl==1.1.3, which needs Python 3.11") from error
        row, col = self.edge_index
        graph = dgl.graph((row, col), num_nodes=self.num_nodes)
        if self.x is not None:
            graph.ndata["feat"] = self.x.to_dense() if self.x.layout != torch.strided else self.x
        if self.y is not None:
            graph.ndata["label"] = self.y
        if self.edge_weight is not None:
            graph.edata["w"] = self.edge_weight
        if self.split is not None:
            for part, index in self.split.items():
                graph.ndata[f"{part}_mask"] = node_mask(index, self.num_nodes)
        return graph


def _converted(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields as ``Graph`` holds them."""
    made = converted(fields)
    if "split" in made:
        made["split"] = Split.made(made["split"])
    if "holdout" in made:
        made["holdout"] = Holdout.made(made["holdout"])
    return made
