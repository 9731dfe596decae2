"""A symmetric matrix that is learned entry by entry, and derivatives by its pairs."""

# torch types the methods of autograd.Function as Any.
# mypy: disable-error-code="no-untyped-call, override, no-any-return"
from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

ROWS = 128  # of a block: what is done with one happens in the cache


class Symmetric:
    """A symmetric matrix A (n, n) that a loss is a function of.

    Its products with thin matrices and with kernels are noted down, so that the derivative by
    all pairs is P Qᵀ + Q Pᵀ + Σ c K, made once and block by block, however many layers a loss has:
    autograd would add up a matrix for each of them. What is done with ``matrix`` itself is
    differentiated by autograd.

    Args:
        matrix: (n, n), symmetric; a view of it is kept, not a copy.
    """

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix.detach().requires_grad_()
        self._thin: list[tuple[Tensor, Tensor]] = []
        self._wide: list[tuple[Tensor, Tensor]] = []

    def __matmul__(self, h: Tensor) -> Tensor:
        """A H, (n, d); first derivatives only."""
        return _Product.apply(self.matrix, h, self._thin)

    def inner(self, kernel: Tensor) -> Tensor:
        """Σ_uv A_uv K_uv of a symmetric kernel (n, n); first derivatives only."""
        return _Inner.apply(self.matrix, kernel, 1.0, self._wide)

    @cached_property
    def square(self) -> Tensor:
        """‖A‖², looked at once."""
        return _Inner.apply(self.matrix, self.matrix.detach(), 2.0, self._wide)

    def norm(self) -> Tensor:
        """‖A‖, with derivative 0 at 0."""
        return self.square.clamp(min=1e-24).sqrt()

    def blocks(self, loss: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Derivative of a loss by the number of each pair, in blocks of the upper triangle.

        Yields:
            Rows s:e and the derivative (e − s, n − s) there by columns s:n, in a buffer used again.
        """
        n, matrix = len(self.matrix), self.matrix.detach()
        self._thin.clear()
        self._wide.clear()
        (rest,) = torch.autograd.grad(loss, self.matrix, allow_unused=True)
        none = matrix.new_zeros(n, 0)
        p = torch.cat([none, *(g for g, _ in self._thin)], 1)
        q = torch.cat([none, *(h for _, h in self._thin)], 1)
        left, right = torch.cat([p, q], 1), torch.cat([q, p], 1).T.contiguous()
        buffer = matrix.new_empty(ROWS * n)
        for start in range(0, n, ROWS):
            rows, cols = slice(start, min(start + ROWS, n)), slice(start, n)
            height, width = rows.stop - start, n - start
            block = buffer[: height * width].view(height, width)
            torch.mm(left[rows], right[:, cols], out=block)
            for kernel, weight in self._wide:
                block.add_(kernel[rows, cols], alpha=2 * float(weight))
            if rest is not None:
                block.add_(rest[rows, cols]).add_(rest[cols, rows].T)
            yield rows, block


def mirror(matrix: Tensor) -> Tensor:
    """Copy what is above the diagonal (n, n) below it, in place; 0 on the diagonal."""
    n = len(matrix)
    for start in range(0, n, ROWS):
        end = min(start + ROWS, n)
        corner = matrix[start:end, start:end].triu(1)
        matrix[start:end, start:end] = corner + corner.T
        matrix[end:, start:end] = matrix[start:end, end:].T
    return matrix


def _times(matrix: Tensor, h: Tensor) -> Tensor:
    """A H; with columns one after the other in memory few of them take half the time."""
    return matrix @ h.T.contiguous().T


class _Product(Function):
    """(A symmetric, H, where to note the derivative) → A H."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, h: Tensor, noted: list[tuple[Tensor, Tensor]]) -> Tensor:
        ctx.noted = noted
        ctx.save_for_backward(matrix, h)
        return _times(matrix, h)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[None, Tensor | None, None]:
        matrix, h = ctx.saved_tensors
        if ctx.needs_input_grad[0]:
            ctx.noted.append((g, h.detach()))
        return None, _times(matrix, g) if ctx.needs_input_grad[1] else None, None


class _Inner(Function):
    """(A, K, factor of the derivative by A, where to note it) → Σ A K."""

    @staticmethod
    def forward(
        ctx: Any, matrix: Tensor, kernel: Tensor, factor: float, noted: list[tuple[Tensor, Tensor]]
    ) -> Tensor:
        ctx.factor, ctx.noted = factor, noted
        ctx.save_for_backward(matrix, kernel)
        return torch.dot(matrix.ravel(), kernel.ravel())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[None, Tensor | None, None, None]:
        matrix, kernel = ctx.saved_tensors
        if ctx.needs_input_grad[0]:
            ctx.noted.append((kernel.detach(), ctx.factor * g))
        return None, g * matrix if ctx.needs_input_grad[1] else None, None, None
