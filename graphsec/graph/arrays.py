"""From whatever users have to the tensors that ``Graph`` holds, and back."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor


class GraphError(ValueError):
    """A graph breaks a rule; the message names the field, what was found and the rule."""


def canonical(
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


def is_symmetric(pairs: np.ndarray, n: int) -> bool:
    """Whether every (u, v) of ``pairs`` (2, m) comes with (v, u)."""
    forward = np.unique(pairs[0] * n + pairs[1])
    return np.array_equal(forward, np.unique(pairs[1] * n + pairs[0]))


def edge_array(edges: Any) -> np.ndarray:
    """(2, m) int64 from whatever lists edges."""
    array = edges.detach().cpu().numpy() if isinstance(edges, Tensor) else np.asarray(edges)
    if array.size == 0:
        return np.zeros((2, 0), np.int64)
    if array.ndim != 2 or 2 not in array.shape:
        raise GraphError(f"edges must have shape (2, m) or (m, 2), found {array.shape}")
    if not np.issubdtype(array.dtype, np.integer):
        raise GraphError(f"edges must be integers, found {array.dtype}")
    return (array if array.shape[0] == 2 else array.T).astype(np.int64)


def node_indices(nodes: Any) -> Tensor:
    """Node indices from an index array or a boolean mask."""
    index = torch.as_tensor(nodes)
    if index.dtype == torch.bool:
        return index.nonzero().ravel()
    if index.is_floating_point() and index.numel():
        raise GraphError(f"split must hold integers or booleans, found {index.dtype}")
    return index.to(torch.int64).ravel()


def node_mask(index: Tensor, n: int) -> Tensor:
    """(n,) True at the given nodes."""
    mask = torch.zeros(n, dtype=torch.bool)
    mask[index] = True
    return mask


def take_rows(value: Tensor, index: Tensor) -> Tensor:
    """Rows of a dense or sparse tensor."""
    if value.layout == torch.strided:
        return value[index]
    return features(as_scipy(value)[index.numpy()])


def flip_entries(x: Tensor, entries: Tensor) -> Tensor:
    """Features (n, d) with entries (2, k), nodes and columns, turned from v into 1 − v.

    Sparse ones stay sparse, without stored zeros.

    Raises:
        GraphError: An entry is out of range or listed twice.
    """
    if entries.shape[1] == 0:
        return x
    row, column = entries
    code = row * x.shape[1] + column
    inside = (row >= 0) & (row < x.shape[0]) & (column >= 0) & (column < x.shape[1])
    if not inside.all() or len(code.unique()) != len(code):
        raise GraphError(f"flipped entries must be distinct and lie within {tuple(x.shape)}")
    if x.layout == torch.strided:
        return x.index_put((row, column), 1 - x[row, column])
    matrix, (row, column) = as_scipy(x), entries.numpy()
    change = 1 - 2 * np.asarray(matrix[row, column]).ravel()
    return features(matrix + sp.csr_matrix((change, (row, column)), shape=matrix.shape))


def as_scipy(value: Tensor) -> sp.csr_matrix:
    """A dense or sparse tensor as a scipy matrix, which shares a sparse one's memory."""
    value = value.cpu()
    if value.layout == torch.strided:
        return sp.csr_matrix(value.numpy())
    parts = (value.values().numpy(), value.col_indices().numpy(), value.crow_indices().numpy())
    return sp.csr_matrix(parts, shape=tuple(value.shape))


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


def converted(fields: dict[str, Any]) -> dict[str, Any]:
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
    return made


def plain_arrays(value: Any) -> list[np.ndarray]:
    """The numpy arrays behind a field, for hashing."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        if value.layout == torch.sparse_csr:
            return [p.numpy() for p in (value.crow_indices(), value.col_indices(), value.values())]
        return [value.numpy()]
    return [np.array(str(value))]
