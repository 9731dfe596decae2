"""Norms and weighted sums of the gradients of many roots, from rows of inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from graphsec.ops import Features

ROUNDING = 1e-6  # of sums in float32, as a share of the sum of all terms' lengths
AT_ONCE = 1_000_000  # numbers of single roots' rows or gradients held at a time

Rows = Tensor | Features


class Blocks:
    """Which rows belong to which root; the first n copies do to the roots ``owner[:n]``."""

    def __init__(self, owner: Tensor, roots: int) -> None:
        self.owner, self.roots = owner, roots
        self._groups: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}

    def of(self, lengths: tuple[int, ...]) -> Tensor:
        """Owner of each row of the stacked uses."""
        return torch.cat([self.owner[:n] for n in lengths])

    def alone(self, lengths: tuple[int, ...]) -> bool:
        """Whether each root has one row, its own: the roots' rows come first."""
        return lengths == (self.roots,)

    def groups(self, lengths: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
        """(roots (m,), rows (m, T)) of all roots that have T rows, for each T."""
        if lengths not in self._groups:
            owner = self.of(lengths)
            order, counts = owner.argsort(stable=True), owner.bincount(minlength=self.roots)
            start = counts.cumsum(0) - counts
            made = []
            for size in np.unique(counts.numpy()).tolist():
                roots = (counts == size).nonzero().ravel()
                rows = order[start[roots].unsqueeze(1) + torch.arange(size)]
                made.append((roots, rows))
            self._groups[lengths] = made
        return self._groups[lengths]

    def total(self, lengths: tuple[int, ...], values: Tensor) -> Tensor:
        """Sum of the rows' values over each root: (B, …)."""
        zeros = values.new_zeros(self.roots, *values.shape[1:])
        return zeros.index_add(0, self.of(lengths), values)


@dataclass(frozen=True)
class Part:
    """All uses of one parameter, stacked: its gradient is inputᵀ · output."""

    lengths: tuple[int, ...]
    input: Any  # (rows, d) tensor, scipy CSR, or None for a bias
    output: Tensor

    @staticmethod
    def of(x: Rows | None, gradient: Tensor, before: Part | None) -> Part:
        """A use with inputs x and the gradient of its outputs, below the uses ``before``."""
        made: Any = x.detach() if isinstance(x, Tensor) else None if x is None else scipy_of(x)
        if before is None:
            return Part((len(gradient),), made, gradient)
        if made is not None:
            stack = torch.cat if isinstance(made, Tensor) else sp.vstack
            made = stack([before.input, made])
        return Part((*before.lengths, len(gradient)), made, torch.cat([before.output, gradient]))

    def squares(self, blocks: Blocks) -> Tensor:
        """(B,) squared norms, not too small by rounding."""
        a, g = self.input, self.output
        length = g.square().sum(1)
        if isinstance(a, Tensor):
            length *= a.square().sum(1)
        elif a is not None:
            length *= torch.from_numpy(np.asarray(a.multiply(a).sum(1), np.float32).ravel())
        if blocks.alone(self.lengths):
            return length
        slack = ROUNDING * blocks.total(self.lengths, length.sqrt()).square()
        if a is None:
            return blocks.total(self.lengths, g).square().sum(1) + slack
        for roots, rows in blocks.groups(self.lengths):
            if rows.shape[1]:
                slack[roots] += _pairs(a, g, rows).clamp(min=0)
        return slack

    def sum(self, factor: Tensor, blocks: Blocks) -> Tensor:
        """Σ_i c_i A_iᵀ G_i."""
        a, g = self.input, self.output
        each = factor if blocks.alone(self.lengths) else factor[blocks.of(self.lengths)]
        weight = each.unsqueeze(1)
        if bool((factor == 0).any()):  # of roots that count as 0, and may hold anything
            nothing = weight == 0
            g = g.masked_fill(nothing, 0)
            if isinstance(a, Tensor):
                a = a.masked_fill(nothing, 0)
            elif a is not None:
                a = a.copy()
                a.data[np.repeat(nothing.numpy().ravel(), np.diff(a.indptr))] = 0
        if a is None:
            return (g * weight).sum(0)
        if isinstance(a, Tensor):  # the narrower side is scaled
            return (a * weight).T @ g if a.shape[1] < g.shape[1] else a.T @ (g * weight)
        return torch.from_numpy(np.ascontiguousarray(a.T @ (g * weight).numpy()))


def _pairs(a: Any, g: Tensor, rows: Tensor) -> Tensor:
    """(m,) ‖A_iᵀ G_i‖² of the roots whose rows (m, T) are given."""
    size, d, h = rows.shape[1], a.shape[1], g.shape[1]
    if not isinstance(a, Tensor):
        return _sparse_pairs(a, g, rows)
    written = size * (d + h) > d * h  # T² (d + h) of the ghost norm against T d h
    held = d * h if written else size * (size + d + h)
    found = []
    for some in torch.split(rows, max(AT_ONCE // held, 1)):
        mine, out = a[some], g[some]
        if written:
            found.append(torch.bmm(mine.transpose(1, 2), out).square().sum((1, 2)))
        else:
            gram = torch.bmm(mine, mine.transpose(1, 2))
            found.append((gram * torch.bmm(out, out.transpose(1, 2))).sum((1, 2)))
    return torch.cat(found)


def _sparse_pairs(a: Any, g: Tensor, rows: Tensor) -> Tensor:
    """Ghost norms with sparse inputs: one product whose columns are apart for each root."""
    size = rows.shape[1]
    found = []
    for some in torch.split(rows, max(AT_ONCE // (size * (size + g.shape[1])), 1)):
        mine = a[some.ravel().numpy()]
        entry = np.repeat(np.arange(mine.shape[0]), np.diff(mine.indptr))
        apart = mine.indices.astype(np.int64) + entry // size * a.shape[1]
        _, column = np.unique(apart, return_inverse=True)
        shape = (mine.shape[0], int(column.max(initial=-1)) + 1)
        spread = sp.csr_matrix((mine.data, column, mine.indptr), shape=shape)
        gram = (spread @ spread.T).tocoo()
        out = g[some]
        others = torch.bmm(out, out.transpose(1, 2)).numpy()
        root, s, t = gram.row // size, gram.row % size, gram.col % size
        with np.errstate(invalid="ignore", over="ignore"):  # such roots count as 0
            weighted = gram.data * others[root, s, t]
        found.append(np.bincount(root, weighted, minlength=len(some)))
    return torch.from_numpy(np.concatenate(found)).to(g.dtype)


def scipy_of(x: Features) -> Any:
    """The same numbers as a scipy CSR matrix."""
    parts = (x.values.detach().numpy(), x.csr.indices.numpy(), x.csr.indptr.numpy())
    return sp.csr_matrix(parts, shape=x.shape)
