"""Sparsity patterns without values: what a sparse product needs to know besides numbers."""

from __future__ import annotations

import contextlib
import contextvars
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from types import ModuleType
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.autograd import forward_ad

_plain_torch = contextvars.ContextVar("plain_torch", default=False)


@contextlib.contextmanager
def compiled(enabled: bool) -> Iterator[None]:
    """Switch the compiled kernels on or off within a block (parity tests compare both ways)."""
    token = _plain_torch.set(not enabled)
    try:
        yield
    finally:
        _plain_torch.reset(token)


@cache
def _kernels(name: str) -> ModuleType | None:
    """A kernel module, or None where numba is missing."""
    import importlib

    try:
        return importlib.import_module(f"graphsec.kernels.{name}")
    except ImportError:
        return None


# From this many entries on DGL's unweighted sum beats ours on a CPU (1.1 to 1.3 times, width 64).
DGL_FROM = 80_000


@cache
def _dgl() -> Any:
    """DGL, or None where it is missing (it has no wheels from Python 3.12 on)."""
    os.environ.setdefault("DGLBACKEND", "pytorch")  # or DGL asks, and writes to the home folder
    try:
        import dgl
        import dgl.ops
    except Exception:  # a DGL built for another torch fails in ways of its own
        return None
    return dgl


def kernels_for(name: str, *tensors: Tensor | None) -> ModuleType | None:
    """The compiled kernels if they can take these tensors, else None: use plain torch."""
    if _plain_torch.get():
        return None
    for tensor in tensors:
        if tensor is None:
            continue
        if tensor.device.type != "cpu" or tensor.dtype not in (torch.float32, torch.float64):
            return None
    return _kernels(name)


def array(tensor: Tensor) -> np.ndarray:
    """The numpy view that a kernel takes: contiguous, no gradient."""
    return tensor.detach().contiguous().numpy()


def in_transform() -> bool:
    """Whether a ``torch.func`` transform or forward differentiation is active."""
    level = torch._C._functorch.maybe_current_level()
    return level is not None or forward_ad._current_level >= 0


@contextlib.contextmanager
def outside_transforms() -> Iterator[None]:
    """A block in which no ``torch.func`` transform is active.

    Patterns depend on no differentiable tensor and are kept, so they are made outside: inside a
    transform torch can neither show indices to numpy nor read sparse tensors.
    """
    if torch._C._functorch.maybe_current_level() is None:
        yield
        return
    from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

    with temporarily_clear_interpreter_stack():
        yield


@dataclass(frozen=True, eq=False)
class CSR:
    """A sparsity pattern in CSR: row i has the columns ``indices[indptr[i]:indptr[i + 1]]``.

    Args:
        indptr: (rows + 1,) int64.
        indices: (entries,) int64.
        num_cols: Number of columns.
        eid: (entries,) position of each entry's value, None if they are in order. The transpose
            of a pattern has the same values in another order.
    """

    indptr: Tensor
    indices: Tensor
    num_cols: int
    eid: Tensor | None = None

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(self.indptr) - 1

    @property
    def nnz(self) -> int:
        """Number of entries."""
        return len(self.indices)

    @cached_property
    def coo(self) -> tuple[Tensor, Tensor]:
        """(row, column) of each value, in the order of the values."""
        if self.eid is not None:
            column, row = self.T.coo
            return row, column
        with outside_transforms():
            counts = self.indptr.diff()
            rows = torch.repeat_interleave(
                torch.arange(self.num_rows, device=counts.device), counts, output_size=self.nnz
            )
        return rows, self.indices

    @cached_property
    def T(self) -> CSR:
        """The transposed pattern over the same values."""
        if self.eid is not None:
            raise AssertionError("a transposed pattern is made by CSR.T, which sets its T")
        with outside_transforms():
            matrix = sp.csr_matrix(
                (np.arange(self.nnz), self.indices.cpu().numpy(), self.indptr.cpu().numpy()),
                shape=(self.num_rows, self.num_cols),
            ).tocsc()
            parts = (matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64), matrix.data)
            indptr, indices, eid = (torch.from_numpy(p).to(self.indptr.device) for p in parts)
        flipped = CSR(indptr, indices, self.num_rows, eid)
        flipped.__dict__["T"] = self
        return flipped

    @cached_property
    def symmetric(self) -> bool:
        """Whether every entry has its mirror image."""
        other = self.T
        return torch.equal(self.indptr, other.indptr) and torch.equal(self.indices, other.indices)

    @cached_property
    def keys(self) -> Tensor:
        """Row · num_cols + column of each entry; rising if columns are sorted in rows."""
        row, col = self.coo
        with outside_transforms():
            return row * self.num_cols + col

    def find(self, row: Tensor, col: Tensor) -> Tensor:
        """Entry at each (row, col), −1 where there is none. Columns must be sorted in rows."""
        wanted = row * self.num_cols + col
        if self.nnz == 0:
            return torch.full_like(wanted, -1)
        spot = torch.searchsorted(self.keys, wanted).clamp(max=self.nnz - 1)
        return torch.where(self.keys[spot] == wanted, spot, -1)

    def multiply(self, w: Tensor | None, h: Tensor) -> Tensor:
        """Σ over each row of w · h[column]: (rows, heads, width), no gradient."""
        heads, width = h.shape[1:]
        kernels = kernels_for("sparse", h, w)
        if kernels is None:
            row, col = self.coo
            messages = h[col] if w is None else h[col] * w.unsqueeze(-1)
            return h.new_zeros(self.num_rows, heads, width).index_add_(0, row, messages)
        if w is None and self.nnz >= DGL_FROM and h.dtype == torch.float32:
            summed = self._dgl_sum(h.detach().reshape(len(h), -1))
            if summed is not None:
                return summed.view(self.num_rows, heads, width)
        out = h.new_empty(self.num_rows, heads, width)
        indptr, indices = self.indptr.numpy(), self.indices.numpy()
        eid = None if self.eid is None or w is None else self.eid.numpy()
        across = heads * width  # not −1: there may be no rows to infer it from
        flat, target = array(h).reshape(len(h), across), out.numpy().reshape(len(out), across)
        if w is None or heads == 1:
            values = None if w is None else array(w).reshape(-1)
            kernels.spmm_flat(indptr, indices, eid, values, flat, target)
        else:
            kernels.spmm(indptr, indices, eid, array(w), flat, target)
        return out

    def _dgl_sum(self, h: Tensor) -> Tensor | None:
        """Σ over each row of h[column] by DGL's kernel; None where DGL is missing."""
        dgl = _dgl()
        if dgl is None or self.num_rows != self.num_cols:
            return None
        graph = self.__dict__.get("_dgl_graph")
        if graph is None:
            empty = self.indices.new_zeros(0)
            graph = dgl.graph(("csc", (self.indptr, self.indices, empty))).int()
            self.__dict__["_dgl_graph"] = graph
        out: Tensor = dgl.ops.copy_u_sum(graph, h.contiguous())
        return out

    def dots(self, a: Tensor, b: Tensor) -> Tensor:
        """⟨a[row], b[column]⟩ of each value: (entries, heads), no gradient."""
        kernels = kernels_for("sparse", a, b)
        if kernels is None:
            row, col = self.coo
            return (a[row] * b[col]).sum(-1)
        out = a.new_empty(self.nnz, a.shape[1])
        eid = None if self.eid is None else self.eid.numpy()
        indptr, indices = self.indptr.numpy(), self.indices.numpy()
        across = a.shape[1:].numel()
        left, right = array(a).reshape(len(a), across), array(b).reshape(len(b), across)
        if a.shape[1] == 1:
            kernels.sddmm_flat(indptr, indices, eid, left, right, out.numpy().reshape(-1))
        else:
            kernels.sddmm(indptr, indices, eid, left, right, out.numpy())
        return out


@dataclass(frozen=True, eq=False)
class Pairs:
    """An unsorted list of node pairs, as a sparsity pattern: row u, column v.

    Args:
        u: (pairs,) int64 rows.
        v: (pairs,) int64 columns.
        num_rows: Number of rows and of columns.
        symmetric: Whether each pair also stands for its mirror image, with the same value.
    """

    u: Tensor
    v: Tensor
    num_rows: int
    symmetric: bool

    @property
    def num_cols(self) -> int:
        """Number of columns."""
        return self.num_rows

    @cached_property
    def T(self) -> Pairs:
        """The transposed pattern; a symmetric one is its own."""
        return self if self.symmetric else Pairs(self.v, self.u, self.num_rows, False)

    def multiply(self, w: Tensor | None, h: Tensor) -> Tensor:
        """Σ over each row of w · h[column]: (rows, heads, width), no gradient."""
        if w is None:
            w = h.new_ones(len(self.u), h.shape[1])
        return self.add_to(h.new_zeros(self.num_rows, *h.shape[1:]), w, h)

    def add_to(self, out: Tensor, w: Tensor, h: Tensor) -> Tensor:
        """``out`` (rows, heads, width) after the product of ``multiply`` was added to it."""
        kernels = kernels_for("sparse", h, w)
        if kernels is None:
            out.index_add_(0, self.u, h[self.v] * w.unsqueeze(-1))
            if self.symmetric:
                out.index_add_(0, self.v, h[self.u] * w.unsqueeze(-1))
            return out
        u, v, target = self.u.numpy(), self.v.numpy(), out.numpy()
        if w.shape[1] == 1:
            flat = (array(w)[:, 0], array(h)[:, 0], target[:, 0])
            kernels.pairs_spmm_flat(u, v, *flat, self.symmetric)
        else:
            kernels.pairs_spmm(u, v, array(w), array(h), target, self.symmetric)
        return out

    def dots(self, a: Tensor, b: Tensor) -> Tensor:
        """⟨a[row], b[column]⟩ of each pair, plus its mirror image's: (pairs, heads)."""
        kernels = kernels_for("sparse", a, b)
        if kernels is None:
            out = (a[self.u] * b[self.v]).sum(-1)
            return out + (a[self.v] * b[self.u]).sum(-1) if self.symmetric else out
        out = a.new_empty(len(self.u), a.shape[1])
        u, v = self.u.numpy(), self.v.numpy()
        left, right, values = array(a), array(b), out.numpy()
        if a.shape[1] == 1:
            flat = (left[:, 0], right[:, 0], values[:, 0])
            kernels.pairs_sddmm_flat(u, v, *flat, self.symmetric)
        else:
            kernels.pairs_sddmm(u, v, left, right, values, self.symmetric)
        return out


Pattern = CSR | Pairs
