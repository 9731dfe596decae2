"""Features times weights, and dropout; sparse features stay sparse."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary
from torch.utils.weak import WeakTensorKeyDictionary

from graphsec.ops.functions import spmm
from graphsec.ops.structure import CSR, outside_transforms

_patterns: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


@dataclass(frozen=True, eq=False)
class Features:
    """A sparse feature matrix: a fixed pattern (with its transpose, cached) and values."""

    csr: CSR
    values: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.csr.num_rows, self.csr.num_cols

    @property
    def dtype(self) -> torch.dtype:
        """Type of the values."""
        return self.values.dtype

    @cached_property
    def row_counts(self) -> Tensor:
        """(rows,) number of entries of each row, float32."""
        return self.csr.indptr.diff().to(torch.float32)

    @cached_property
    def row_squares(self) -> Tensor:
        """(rows,) squared norm of each row, float32."""
        zeros = torch.zeros(self.csr.num_rows, device=self.values.device)
        return zeros.index_add(0, self.csr.coo[0], self.values.detach().float().square())

    @staticmethod
    def of(x: Tensor) -> Features:
        """Features of a sparse CSR tensor; the same tensor gives the same pattern."""
        known: Features | None = _patterns.get(x)  # type: ignore[no-untyped-call]
        if known is not None:
            return known
        with outside_transforms():
            return Features._read(x)

    @staticmethod
    def _read(x: Tensor) -> Features:
        csr = CSR(x.crow_indices().to(torch.int64), x.col_indices().to(torch.int64), x.shape[1])
        if x.requires_grad:
            return Features(csr, x.values())
        # A view would keep x alive, and with it this entry: ``data`` shares memory only.
        made = Features(csr, x.values().data)
        _patterns[x] = made
        return made

    def rows(self, index: Tensor) -> Features:
        """The given rows, in order."""
        counts = self.csr.indptr.diff()[index]
        indptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        starts = self.csr.indptr[index] - indptr[:-1]
        entries = torch.arange(int(indptr[-1])) + torch.repeat_interleave(starts, counts)
        csr = CSR(indptr, self.csr.indices[entries], self.csr.num_cols)
        return Features(csr, self.values[entries])

    def to_dense(self) -> Tensor:
        """(rows, columns) dense, differentiable in the values."""
        row, col = self.csr.coo
        return self.values.new_zeros(self.shape).index_put((row, col), self.values)


def linear(x: Tensor | Features, weight: Tensor) -> Tensor:
    """X · weight.

    Args:
        x: (n, d) dense, sparse CSR tensor, or ``Features``.
        weight: (d, k).

    Returns:
        (n, k); differentiable in the weight and in dense x or the values of ``Features``.

    A torch function, so that a ``TorchFunctionMode`` can watch it (per-root gradients do).
    """
    if has_torch_function_unary(weight):
        out: Tensor = handle_torch_function(linear, (weight,), x, weight)
        return out
    if isinstance(x, Tensor):
        if x.layout == torch.strided:
            return x @ weight
        x = Features.of(x)
    values = x.values.to(weight.dtype)
    return spmm(x.csr, values.unsqueeze(-1), weight.unsqueeze(1)).squeeze(1)


def unit_rows(x: Tensor | Features) -> Tensor | Features:
    """Every row at norm 1; rows of zeros stay. Sparse features stay sparse."""
    if isinstance(x, Tensor) and x.layout == torch.strided:
        return F.normalize(x.float(), dim=1)
    given = Features.of(x) if isinstance(x, Tensor) else x
    row = given.csr.coo[0]
    values = given.values.float()
    square = values.new_zeros(given.csr.num_rows).index_add(0, row, values.square())
    return replace(given, values=values / square.clamp(min=1e-24).sqrt()[row])


def dropout(x: Tensor | Features, p: float, training: bool) -> Tensor | Features:
    """Inverted dropout; on sparse features only the non-zeros are drawn (same distribution).

    The mask comes from 16 random bits a value, an order of magnitude cheaper than torch's
    ``bernoulli_`` on a CPU; p is rounded to a multiple of 2⁻¹⁶ and the scale fits the rounded p.
    """
    if not training or p == 0:
        return x
    if isinstance(x, Tensor) and x.layout != torch.strided:
        x = Features.of(x)
    if isinstance(x, Features):
        return replace(x, values=_drop(x.values, p))
    return _drop(x, p)


def _drop(x: Tensor, p: float) -> Tensor:
    if x.device.type != "cpu" or torch._C._functorch.maybe_current_level() is not None:
        return F.dropout(x, p, True)
    threshold = round(p * 65536)
    if threshold >= 65536:
        return x * 0
    words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    bits = words.view(torch.int16)[: x.numel()].view(x.shape)
    keep = (bits >= threshold - 32768).to(x.dtype)
    return x * keep.mul_(65536 / (65536 - threshold))
