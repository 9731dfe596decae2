"""The graph container: frozen, canonical, validated."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

if TYPE_CHECKING:
    import networkx
    from torch_geometric.data import Data

    from graphsec.ops import Adj

Task = Literal["classification", "regression", "ranking", "graph", "none"]


class GraphError(ValueError):
    """A graph breaks a rule; the message names the field, what was found and the rule."""


@dataclass(frozen=True)
class Split:
    """Node indices for training, validation and testing (disjoint; any may be empty)."""

    train: Tensor
    val: Tensor
    test: Tensor

    @staticmethod
    def of(train: Any, val: Any, test: Any) -> Split:
        """Split from index or boolean mask arrays."""
        return Split(_indices(train), _indices(val), _indices(test))

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
        task: What ``y`` asks for.
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

    def __post_init__(self) -> None:
        _validate(self)

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
        pairs = _edge_array(edges)
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
        key, weight = _canonical(pairs, weight, n, directed)
        indptr = np.searchsorted(key, np.arange(n + 1, dtype=np.int64) * n)
        return Graph(
            indptr=torch.from_numpy(indptr.astype(np.int64)),
            indices=torch.from_numpy(key % n),
            edge_weight=None if weight is None else torch.from_numpy(weight),
            directed=directed,
            **_tensors(fields),
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
            fields["directed"] = not _is_symmetric(_edge_array(pairs), graph.num_nodes())
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
        n = self.num_nodes
        keys = self.edge_index[0] * n + self.edge_index[1]
        wanted = pairs[0] * n + pairs[1]
        if len(keys) == 0:
            return torch.zeros(wanted.shape, dtype=torch.bool)
        spot = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        return keys[spot] == wanted

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the content (name left out): equal graphs, and only those, agree."""
        digest = hashlib.sha256()
        for field in dataclasses.fields(self):
            if field.name == "name":
                continue
            digest.update(field.name.encode())
            for array in _arrays(getattr(self, field.name)):
                digest.update(f"{array.dtype}{array.shape}".encode())
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:32]

    def __repr__(self) -> str:
        kind = "directed" if self.directed else "undirected"
        return (
            f"Graph({self.name!r}, {self.num_nodes:,} nodes, {self.num_edges:,} {kind} edges, "
            f"{self.num_features:,} features, {self.num_classes} classes)"
        )

    # -- making another -----------------------------------------------------------------------

    def replace(self, **changes: Any) -> Graph:
        """A copy with some fields changed (validated again)."""
        return dataclasses.replace(self, **_tensors(changes))

    def flip(self, edges: Any) -> Graph:
        """The graph with each given pair added if absent and removed if present.

        Args:
            edges: (2, k) pairs; an undirected pair is given once, in either order.

        Raises:
            GraphError: A pair is a self-loop, out of range, or listed twice.
        """
        pairs = _edge_array(edges)
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
        )

    def subgraph(self, nodes: Any) -> Graph:
        """The graph induced by ``nodes`` (indices or mask), renumbered in their order."""
        index = _indices(nodes)
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
            pick[field] = None if value is None else _rows(value, index)
        coo = matrix.tocoo()
        weight = None if self.edge_weight is None else coo.data
        return Graph.from_edges(
            np.vstack([coo.row, coo.col]), len(keep), edge_weight=weight, directed=self.directed,
            split=split, task=self.task, name=self.name, **pick,
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
                data[f"{part}_mask"] = _mask(index, self.num_nodes)
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
                graph.ndata[f"{part}_mask"] = _mask(index, self.num_nodes)
        return graph


# -- helpers ----------------------------------------------------------------------------------


def _canonical(
    pairs: np.ndarray, weight: np.ndarray | None, n: int, directed: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Sorted distinct keys u·n + v (both directions if undirected), with their weights."""
    loop = pairs[0] == pairs[1]
    if loop.any():
        pairs = pairs[:, ~loop]
        weight = None if weight is None else weight[~loop]
    key = pairs[0] * n + pairs[1]
    if not directed:
        # The key of the unordered pair decides which duplicate is first, so that both
        # directions of an edge always end with the same weight.
        key = np.minimum(pairs[0], pairs[1]) * n + np.maximum(pairs[0], pairs[1])
    if weight is None:
        key = np.sort(key)  # ten times faster here than np.unique, which hashes
        key = key[np.r_[True, key[1:] != key[:-1]]] if len(key) else key
    else:
        key, first = np.unique(key, return_index=True)
        weight = weight[first]
    if directed:
        return key, weight
    mirrored = key % n * n + key // n
    order = np.argsort(np.concatenate([key, mirrored]), kind="stable")
    both = np.concatenate([key, mirrored])[order]
    return both, None if weight is None else np.concatenate([weight, weight])[order]


def _is_symmetric(pairs: np.ndarray, n: int) -> bool:
    forward = np.unique(pairs[0] * n + pairs[1])
    return np.array_equal(forward, np.unique(pairs[1] * n + pairs[0]))


def _edge_array(edges: Any) -> np.ndarray:
    """(2, m) int64 from whatever lists edges."""
    array = edges.detach().cpu().numpy() if isinstance(edges, Tensor) else np.asarray(edges)
    if array.size == 0:
        return np.zeros((2, 0), np.int64)
    if array.ndim != 2 or 2 not in array.shape:
        raise GraphError(f"edges must have shape (2, m) or (m, 2), found {array.shape}")
    if not np.issubdtype(array.dtype, np.integer):
        raise GraphError(f"edges must be integers, found {array.dtype}")
    return (array if array.shape[0] == 2 else array.T).astype(np.int64)


def _indices(nodes: Any) -> Tensor:
    """Node indices from an index array or a boolean mask."""
    index = torch.as_tensor(nodes)
    if index.dtype == torch.bool:
        return index.nonzero().ravel()
    if index.is_floating_point() and index.numel():
        raise GraphError(f"split must hold integers or booleans, found {index.dtype}")
    return index.to(torch.int64).ravel()


def _mask(index: Tensor, n: int) -> Tensor:
    mask = torch.zeros(n, dtype=torch.bool)
    mask[index] = True
    return mask


def _rows(value: Tensor, index: Tensor) -> Tensor:
    if value.layout == torch.strided:
        return value[index]
    parts = (value.values().numpy(), value.col_indices().numpy(), value.crow_indices().numpy())
    return features(sp.csr_matrix(parts, shape=tuple(value.shape))[index.numpy()])


def features(x: Any) -> Tensor:
    """Features as a float32 tensor; scipy matrices become sparse CSR tensors."""
    if sp.issparse(x):
        csr = sp.csr_matrix(x, dtype=np.float32)
        csr.sum_duplicates()
        csr.eliminate_zeros()
        parts = (csr.indptr.astype(np.int64), csr.indices.astype(np.int64), csr.data)
        indptr, indices, data = (torch.from_numpy(part) for part in parts)
        with warnings.catch_warnings():  # torch calls sparse CSR beta, once a process
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
            return torch.sparse_csr_tensor(indptr, indices, data, csr.shape, check_invariants=True)
    tensor = torch.as_tensor(x)
    if tensor.layout == torch.sparse_coo:
        tensor = tensor.coalesce().to_sparse_csr()
    return tensor.to(torch.float32)


def _tensors(fields: dict[str, Any]) -> dict[str, Any]:
    """Convert array-like fields to the tensors that ``Graph`` holds."""
    made = dict(fields)
    if made.get("x") is not None:
        made["x"] = features(made["x"])
    for key in ("sensitive", "node_type", "graph_id"):
        if made.get(key) is not None:
            made[key] = torch.as_tensor(made[key]).to(torch.int64)
    y = made.get("y")
    if y is not None:
        y = torch.as_tensor(y)
        real = made.get("task") == "regression"
        whole = not y.is_floating_point() or bool((y == y.round()).all())
        # A fractional label is left as it is, for the validation to name.
        made["y"] = y.to(torch.float32) if real else y.to(torch.int64) if whole else y
    if made.get("edge_weight") is not None:
        made["edge_weight"] = torch.as_tensor(made["edge_weight"]).to(torch.float32)
    split = made.get("split")
    if split is not None and not isinstance(split, Split):
        parts = [split[k] for k in ("train", "val", "test")] if isinstance(split, dict) else split
        made["split"] = Split.of(*parts)
    return made


def _arrays(value: Any) -> list[np.ndarray]:
    """The numpy arrays behind a field, for hashing."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        if value.layout == torch.sparse_csr:
            return [p.numpy() for p in (value.crow_indices(), value.col_indices(), value.values())]
        return [value.numpy()]
    if isinstance(value, Split):
        return [part.cpu().numpy() for _, part in value.items()]
    return [np.array(str(value))]


def _validate(g: Graph) -> None:
    """Check every rule of ``Graph``; the first broken one is raised."""
    _validate_structure(g)
    n = g.num_nodes
    for field in ("x", "y", "sensitive", "node_type", "graph_id"):
        value = getattr(g, field)
        if value is not None and value.shape[0] != n:
            raise GraphError(f"{field} must have one row a node ({n}), found {value.shape[0]}")
    if g.x is not None:
        if g.x.dim() != 2:
            raise GraphError(f"x must have two dimensions, found shape {tuple(g.x.shape)}")
        if g.x.layout not in (torch.strided, torch.sparse_csr):
            raise GraphError(f"x must be dense or sparse CSR, found {g.x.layout}")
        values = g.x.values() if g.x.layout == torch.sparse_csr else g.x
        if not torch.isfinite(values).all():
            bad = int((~torch.isfinite(values)).sum())
            raise GraphError(f"x must be finite, found {bad} NaN or infinite values")
    if g.edge_weight is not None:
        if g.edge_weight.shape != g.indices.shape:
            raise GraphError(
                f"edge_weight must have shape {tuple(g.indices.shape)}, "
                f"found {tuple(g.edge_weight.shape)}"
            )
        if not torch.isfinite(g.edge_weight).all():
            raise GraphError("edge_weight must be finite, found NaN or infinity")
        if (g.edge_weight < 0).any():
            raise GraphError(f"edge_weight must be ≥ 0, found {float(g.edge_weight.min())}")
    _validate_labels(g)
    _validate_split(g)


def _validate_structure(g: Graph) -> None:
    n = len(g.indptr) - 1
    if n <= 0:
        raise GraphError(f"num_nodes must be ≥ 1, got {n}: an empty graph has nothing to learn")
    if g.indptr.dtype != torch.int64 or g.indices.dtype != torch.int64:
        raise GraphError(
            f"indptr and indices must be int64, found {g.indptr.dtype} and {g.indices.dtype}"
        )
    counts = g.indptr.diff()
    if int(g.indptr[0]) != 0 or int(g.indptr[-1]) != len(g.indices) or (counts < 0).any():
        raise GraphError(f"indptr must rise from 0 to the number of indices ({len(g.indices)})")
    if len(g.indices) == 0:
        return
    low, high = int(g.indices.min()), int(g.indices.max())
    if low < 0 or high >= n:
        raise GraphError(f"edge_index must lie in 0…{n - 1}, found {low if low < 0 else high}")
    rows = torch.repeat_interleave(torch.arange(n, device=counts.device), counts)
    if (rows == g.indices).any():
        node = int(rows[rows == g.indices][0])
        raise GraphError(f"indices must hold no self-loops, found one at node {node}")
    key = rows * n + g.indices
    if (key.diff() <= 0).any():
        raise GraphError("indices must be sorted and distinct within each row")
    if not g.directed:
        mirrored, order = (g.indices * n + rows).sort()
        if not torch.equal(mirrored, key):
            raise GraphError("an undirected graph must hold both directions of every edge")
        if g.edge_weight is not None and len(g.edge_weight) == len(key) and not torch.equal(
            torch.nan_to_num(g.edge_weight[order]), torch.nan_to_num(g.edge_weight)
        ):  # fmt: skip
            raise GraphError("edge_weight of an undirected graph must agree in both directions")


def _validate_labels(g: Graph) -> None:
    if g.y is None:
        return
    if g.task in ("classification", "graph"):
        if g.y.dtype != torch.int64 or g.y.dim() != 1:
            raise GraphError(
                f"y must be (n,) integers for {g.task}, found {g.y.dtype} {tuple(g.y.shape)}"
            )
        if int(g.y.min()) < -1:
            raise GraphError(f"y must be ≥ 0, or −1 where unknown, found {int(g.y.min())}")
    elif g.task == "regression" and not torch.isfinite(g.y).all():
        raise GraphError("y must be finite for regression, found NaN or infinity")


def _validate_split(g: Graph) -> None:
    if g.split is None:
        return
    n = g.num_nodes
    seen = torch.zeros(n, dtype=torch.int64)
    for part, index in g.split.items():
        if len(index) and (int(index.min()) < 0 or int(index.max()) >= n):
            bad = int(index.min()) if int(index.min()) < 0 else int(index.max())
            raise GraphError(f"split.{part} must lie in 0…{n - 1}, found {bad}")
        seen += torch.bincount(index.cpu(), minlength=n)
    if (seen > 1).any():
        node = int((seen > 1).nonzero()[0])
        raise GraphError(f"split must be disjoint, found node {node} {int(seen[node])} times")
