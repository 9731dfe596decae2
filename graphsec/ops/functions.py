"""Sparse products as autograd functions whose derivatives are made of themselves.

So second derivatives (``gradgradcheck``), per-sample gradients (``torch.func.vmap(grad)``) and
forward-mode products (``torch.func.jvp``) work through every model of the zoo.
"""

# torch types the methods of autograd.Function as Any.
# mypy: disable-error-code="no-untyped-call, override, no-any-return"
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from graphsec.ops.structure import CSR, Pattern, array, kernels_for


def _front(value: Tensor, dim: int | None, batch: int) -> Tensor:
    """The batch dimension moved (or expanded) to the front."""
    if dim is None:
        return value.unsqueeze(0).expand(batch, *value.shape)
    return value.movedim(dim, 0)


def _into_heads(value: Tensor, dim: int | None, batch: int) -> Tensor:
    """(rows, heads, …) with a batch folded into the heads: (rows, batch · heads, …)."""
    rows_first = _front(value, dim, batch).movedim(0, 1)
    return rows_first.reshape(rows_first.shape[0], -1, *rows_first.shape[3:])


def _out_of_heads(value: Tensor, batch: int) -> Tensor:
    return value.reshape(value.shape[0], batch, -1, *value.shape[2:])


class _SpMM(Function):
    """(pattern, w (entries, heads) or None, h (cols, heads, width)) → (rows, heads, width)."""

    @staticmethod
    def forward(pattern: Pattern, w: Tensor | None, h: Tensor) -> Tensor:
        return pattern.multiply(w, h)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.pattern, w, h = inputs
        ctx.save_for_backward(w, h)
        ctx.save_for_forward(w, h)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[None, Tensor | None, Tensor | None]:
        w, h = ctx.saved_tensors
        gw = _SDDMM.apply(ctx.pattern, g, h) if ctx.needs_input_grad[1] else None
        gh = _SpMM.apply(ctx.pattern.T, w, g) if ctx.needs_input_grad[2] else None
        return None, gw, gh

    @staticmethod
    def jvp(ctx: Any, _: None, dw: Tensor | None, dh: Tensor | None) -> Tensor:
        w, h = ctx.saved_tensors
        out = h.new_zeros(())
        if dw is not None:
            out = out + _SpMM.apply(ctx.pattern, dw, h)
        if dh is not None:
            out = out + _SpMM.apply(ctx.pattern, w, dh)
        return out

    @staticmethod
    def vmap(info: Any, dims: Any, pattern: Pattern, w: Tensor | None, h: Tensor) -> Any:
        batch = info.batch_size
        if w is None or dims[1] is None:  # one matrix for all: fold the batch into the width
            last = h.movedim(dims[2], -1)
            out = _SpMM.apply(pattern, w, last.reshape(*last.shape[:2], -1))
            return out.reshape(*out.shape[:2], *last.shape[2:]), 3
        w, h = _into_heads(w, dims[1], batch), _into_heads(h, dims[2], batch)
        return _out_of_heads(_SpMM.apply(pattern, w, h), batch), 1


class _SDDMM(Function):
    """(pattern, a (rows, heads, width), b (cols, heads, width)) → (entries, heads)."""

    @staticmethod
    def forward(pattern: Pattern, a: Tensor, b: Tensor) -> Tensor:
        return pattern.dots(a, b)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.pattern, a, b = inputs
        ctx.save_for_backward(a, b)
        ctx.save_for_forward(a, b)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[None, Tensor | None, Tensor | None]:
        a, b = ctx.saved_tensors
        ga = _SpMM.apply(ctx.pattern, g, b) if ctx.needs_input_grad[1] else None
        gb = _SpMM.apply(ctx.pattern.T, g, a) if ctx.needs_input_grad[2] else None
        return None, ga, gb

    @staticmethod
    def jvp(ctx: Any, _: None, da: Tensor | None, db: Tensor | None) -> Tensor:
        a, b = ctx.saved_tensors
        out = a.new_zeros(())
        if da is not None:
            out = out + _SDDMM.apply(ctx.pattern, da, b)
        if db is not None:
            out = out + _SDDMM.apply(ctx.pattern, a, db)
        return out

    @staticmethod
    def vmap(info: Any, dims: Any, pattern: Pattern, a: Tensor, b: Tensor) -> Any:
        batch = info.batch_size
        a, b = _into_heads(a, dims[1], batch), _into_heads(b, dims[2], batch)
        return _out_of_heads(_SDDMM.apply(pattern, a, b), batch), 1


class _EdgeRatio(Function):
    """(csr, w (entries, heads), s (entries, heads)) → exp(s) / Σ_row w·exp(s)."""

    @staticmethod
    def forward(csr: CSR, w: Tensor, s: Tensor) -> Tensor:
        kernels = kernels_for("sparse", w, s)
        if kernels is not None and csr.eid is None:
            out = torch.empty_like(s, memory_format=torch.contiguous_format)
            weight = array(w)
            kernels.edge_shift(csr.indptr.numpy(), weight, array(s), out.numpy())
            out.exp_()  # torch's is vectorised
            kernels.edge_divide(csr.indptr.numpy(), weight, out.numpy())
            return out
        row = csr.coo[0].unsqueeze(-1).expand_as(s)
        shape = (csr.num_rows, s.shape[1])
        present = s.masked_fill(w <= 0, -torch.inf)
        top = s.new_full(shape, -torch.inf).scatter_reduce(0, row, present, "amax")
        shifted = (s - top.gather(0, row)).clamp(max=30)
        e = torch.where(top.gather(0, row) == -torch.inf, 0.0, shifted.exp())
        total = s.new_zeros(shape).scatter_add(0, row, w * e)
        return torch.where(total > 0, 1 / total, 0.0).gather(0, row) * e

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.csr, w, _ = inputs
        ctx.save_for_backward(w, output)
        ctx.save_for_forward(w, output)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[None, Tensor | None, Tensor | None]:
        w, r = ctx.saved_tensors
        pull = edge_gather(ctx.csr, edge_sum(ctx.csr, g * r))
        gw = -r * pull if ctx.needs_input_grad[1] else None
        gs = r * (g - w * pull) if ctx.needs_input_grad[2] else None
        return None, gw, gs

    @staticmethod
    def jvp(ctx: Any, _: None, dw: Tensor | None, ds: Tensor | None) -> Tensor:
        w, r = ctx.saved_tensors
        ds = torch.zeros_like(r) if ds is None else ds
        change = w * r * ds if dw is None else w * r * ds + r * dw
        return r * (ds - edge_gather(ctx.csr, edge_sum(ctx.csr, change)))

    @staticmethod
    def vmap(info: Any, dims: Any, csr: CSR, w: Tensor, s: Tensor) -> Any:
        batch = info.batch_size
        w, s = _into_heads(w, dims[1], batch), _into_heads(s, dims[2], batch)
        return _out_of_heads(_EdgeRatio.apply(csr, w, s), batch), 1


def spmm(pattern: Pattern, w: Tensor | None, h: Tensor) -> Tensor:
    """Sparse times dense: out[i] = Σ_e w_e h[col e] over the entries e of row i.

    Args:
        pattern: Where the entries stand.
        w: (entries, heads) values, None for ones.
        h: (cols, heads, width).

    Returns:
        (rows, heads, width); differentiable in w and h to any order.
    """
    return _SpMM.apply(pattern, w, h)


def sddmm(pattern: Pattern, a: Tensor, b: Tensor) -> Tensor:
    """Dot products at the entries: out_e = ⟨a[row e], b[col e]⟩.

    Args:
        pattern: Where the entries stand.
        a: (rows, heads, width).
        b: (cols, heads, width).

    Returns:
        (entries, heads); differentiable in a and b to any order.
    """
    return _SDDMM.apply(pattern, a, b)


def edge_sum(csr: CSR, e: Tensor) -> Tensor:
    """Σ of the entry values e (entries, heads) over each row: (rows, heads)."""
    return spmm(csr, e, e.new_ones(csr.num_cols, e.shape[1], 1)).squeeze(-1)


def edge_gather(csr: CSR, v: Tensor) -> Tensor:
    """The row's value v (rows, heads) at each entry: (entries, heads)."""
    ones = v.new_ones(csr.num_cols, v.shape[1], 1)
    return sddmm(csr, v.unsqueeze(-1), ones)


def edge_ratio(csr: CSR, w: Tensor, s: Tensor) -> Tensor:
    """exp(s_e) / Σ_row w·exp(s): softmax share of one unit of weight.

    ``w * edge_ratio(csr, w, s)`` is the attention of a weighted graph, in which weight 0 means
    absent; its derivative in w is right at 0 too.

    Args:
        csr: Pattern whose rows are normalised.
        w: (entries, heads) weights ≥ 0.
        s: (entries, heads) scores.
    """
    return _EdgeRatio.apply(csr, w, s)
