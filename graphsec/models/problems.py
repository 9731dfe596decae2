"""Equations for the states of all nodes, local to each node, and how they are solved.

A problem says what must vanish, ``residual(h, *tensors) = 0``: where a map stays
(``FixedPoint``) or where an energy is lowest (``Minimum``). ``models.implicit`` differentiates the
state that solves it.
"""

# torch leaves gradients and the state of its transforms untyped.
# mypy: disable-error-code="no-untyped-call, no-any-return"
from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from graphsec.ops import CSR, spmm

log = logging.getLogger(__name__)

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Entries:
    """The entries of a sparsity pattern: who looks at whom.

    Attributes:
        csr: The pattern; row = receiving node, column = the node it looks at.
    """

    csr: CSR

    @staticmethod
    def of(csr: CSR) -> Entries:
        """Entries of a pattern; the same pattern gives the same entries."""
        made: Entries = csr.__dict__.setdefault("_entries", Entries(csr))
        return made

    @cached_property
    def _looks(self) -> CSR:
        each = torch.arange(self.csr.nnz + 1, device=self.csr.indptr.device)
        return CSR(each, self.csr.coo[1], self.csr.num_cols)

    @cached_property
    def _belongs(self) -> CSR:
        each = torch.arange(self.csr.nnz, device=self.csr.indptr.device)
        return CSR(self.csr.indptr, each, self.csr.nnz)

    def view(self, h: Tensor) -> Tensor:
        """The column's row of h (n, d) at each entry: (entries, d)."""
        return _product(self._looks, h)

    def own(self, h: Tensor) -> Tensor:
        """The row's row of h (n, d) at each entry: (entries, d)."""
        return _product(self._belongs.T, h)

    def to_rows(self, e: Tensor) -> Tensor:
        """Σ of e (entries, d) over each row: (n, d)."""
        return _product(self._belongs, e)

    def to_columns(self, e: Tensor) -> Tensor:
        """Σ of e (entries, d) over each column: (n, d)."""
        return _product(self._looks.T, e)


def _product(pattern: CSR, h: Tensor) -> Tensor:
    return spmm(pattern, None, h.unsqueeze(1)).squeeze(1)


@dataclass(frozen=True, eq=False, kw_only=True)
class Problem:
    """An equation for the states of all nodes, local to each node and its neighbours.

    Attributes:
        csr: Who looks at whom.
        width: Width of a state.
        tolerance: Norm of the residual at which solving stops.
        iterations: Most iterations.
    """

    csr: CSR
    width: int
    tolerance: float = 1e-8
    iterations: int = 300

    @property
    def entries(self) -> Entries:
        """The entries of the pattern."""
        return Entries.of(self.csr)

    def local(self, own: Tensor, view: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor | None]:
        """What each node computes from its own state and what it sees of its neighbours.

        Args:
            own: (n, d) states.
            view: (entries, d) what the row's node sees of the column's.
            *tensors: Whatever the equation depends on.

        Returns:
            The node's part of the residual (n, d), and at each entry the part that the row's
            node finds for the column's (entries, d) and must send there, None if there is none.
        """
        raise NotImplementedError

    def residual(self, h: Tensor, *tensors: Tensor) -> Tensor:
        """What vanishes at the solution: (n, d); differentiable in h and the tensors."""
        own, sent = self.local(h, self.entries.view(h), *tensors)
        return own if sent is None else own + self.entries.to_columns(sent)

    def solve(self, tensors: Sequence[Tensor], start: Tensor | None = None) -> Tensor:
        """The state at which the residual vanishes, without gradient."""
        raise NotImplementedError

    def invert(self, product: Map, right: Tensor) -> Tensor:
        """Solve product(v) = right; product is the residual's Jacobian or its transpose."""
        raise NotImplementedError

    def origin(self, tensors: Sequence[Tensor]) -> Tensor:
        """The state that solving starts from: zero."""
        return tensors[0].new_zeros(self.csr.num_rows, self.width)

    def rate(self, tensors: Sequence[Tensor]) -> float:
        """Step h ← h − rate · residual that converges on stale states, too."""
        return 1.0


@dataclass(frozen=True, eq=False, kw_only=True)
class FixedPoint(Problem):
    """h = f(h): the residual is h − f(h), and f contracts."""

    def solve(self, tensors: Sequence[Tensor], start: Tensor | None = None) -> Tensor:
        """Accelerated iteration of h ← f(h)."""
        h = self.origin(tensors) if start is None else start
        return anderson(lambda h: -self.residual(h, *tensors), h, self.tolerance, self.iterations)

    def invert(self, product: Map, right: Tensor) -> Tensor:
        """Accelerated iteration of v ← v + (right − product(v)), whose map contracts as f does."""
        goal = self.tolerance * float(right.norm())
        return anderson(lambda v: right - product(v), right, goal, self.iterations)


def anderson(change: Map, x: Tensor, goal: float, iterations: int, memory: int = 6) -> Tensor:
    """Iterate x ← x + change(x), each time from the best mixture of the last few points.

    The mixture, with weights that add up to one, is the one whose changes nearly cancel. Where
    that made the change larger than at the start, iteration goes on plainly from there.

    Source: Walker & Ni, Anderson Acceleration for Fixed-Point Iterations, SIAM Journal on
    Numerical Analysis 2011, algorithm AA, its least squares solved by the normal equations.

    Args:
        change: f(x) − x of a map that contracts.
        x: Start.
        goal: Norm of the change to stop at; one more step is made then.
        iterations: Most evaluations of ``change``.
        memory: Points that are mixed.
    """
    ends = x.new_zeros(memory, x.numel())  # x + change(x) at the last points, and the changes
    changes = torch.zeros_like(ends)
    products = x.new_zeros(memory, memory)  # of the changes
    kept, first = 0, math.inf
    for i in range(iterations):
        step = change(x)
        norm = float(step.norm())
        if norm <= goal:
            return x + step
        if i == 0:
            first = norm
        elif norm > first:
            kept = 0
        place = i % memory
        changes[place] = step.flatten()
        torch.add(x.flatten(), changes[place], out=ends[place])
        kept = min(kept + 1, memory)
        last = (place - torch.arange(kept)) % memory
        products[place] = products[:, place] = changes @ changes[place]
        weights = x.new_zeros(memory)
        weights[last] = _mixture(products[last][:, last])
        x = (weights @ ends).view_as(x)
    log.debug("no fixed point within %d iterations", iterations)
    return x


def _mixture(products: Tensor) -> Tensor:
    """Weights, adding up to one, of the shortest mixture of vectors with these inner products."""
    scale = products.diagonal().sqrt()
    gram = products / scale.outer(scale)
    gram.diagonal().add_(1e-13)  # vectors that are all but parallel leave the weights open
    weights = torch.linalg.solve(gram, 1 / scale) / scale
    return weights / weights.sum()


@dataclass(frozen=True, eq=False, kw_only=True)
class Minimum(Problem):
    """The minimum of a strongly convex energy E = Σ e_i: the residual is its gradient.

    Attributes:
        iterations: Most Newton steps.
    """

    iterations: int = 50

    def energy(self, own: Tensor, view: Tensor, *tensors: Tensor) -> Tensor:
        """(n,) energy e_i of each node, from its own state and what it sees of others."""
        raise NotImplementedError

    def local(self, own: Tensor, view: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """∂e_i/∂h_i, and the gradient messages ∂e_i/∂h_j."""
        own, view = own.detach().requires_grad_(), view.detach().requires_grad_()
        with torch.enable_grad():
            total = self.energy(own, view, *tensors).sum()
            first, second = torch.autograd.grad(total, (own, view))
        return first, second

    def residual(self, h: Tensor, *tensors: Tensor) -> Tensor:
        """∇E, differentiable in h and the tensors."""

        def total(h: Tensor) -> Tensor:
            return self.energy(h, self.entries.view(h), *tensors).sum()

        if transformed():
            return torch.func.grad(total)(h)
        with torch.enable_grad():
            point = h if h.requires_grad else h.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(total(point), point, create_graph=True)
        return gradient

    def solve(self, tensors: Sequence[Tensor], start: Tensor | None = None) -> Tensor:
        """Newton's method; each step by conjugate gradients, halved until the gradient shrinks.

        One step more is made after the tolerance is met: it costs little and squares the error.
        """
        h = self.origin(tensors) if start is None else start
        norm, product, gradient = self._linearised(h, tensors)
        for _ in range(self.iterations):
            last = norm <= self.tolerance
            forcing = 1e-6 if last else min(0.1, norm**0.5)
            step = conjugate_gradients(product, -gradient, forcing)
            rate, before = 1.0, norm
            while True:
                norm, product, gradient = self._linearised(h + rate * step, tensors)
                if norm <= (1 - 1e-4 * rate) * before or rate < 1e-6:
                    break
                rate /= 2
            if norm < before:
                h = h + rate * step
            if last or norm >= before:
                return h
        log.debug("gradient norm %.2g after %d Newton steps", norm, self.iterations)
        return h

    def _linearised(self, h: Tensor, tensors: Sequence[Tensor]) -> tuple[float, Map, Tensor]:
        """Norm of the gradient at h, the Hessian–vector product there, and the gradient."""
        point = h.detach().requires_grad_()
        gradient = self.residual(point, *tensors)

        def product(v: Tensor) -> Tensor:
            return torch.autograd.grad(gradient, point, v, retain_graph=True)[0]

        return float(gradient.detach().norm()), product, gradient.detach()

    def rate(self, tensors: Sequence[Tensor]) -> float:
        """1 / (4 L), L the largest curvature at the start and at the minimum.

        A quarter, because with the schedules of ``hogwild`` a gradient is a few updates old.
        """
        start = self.origin(tensors)
        return 1 / (4 * max(self._curvature(h, tensors) for h in (start, self.solve(tensors))))

    def _curvature(self, h: Tensor, tensors: Sequence[Tensor]) -> float:
        """Largest eigenvalue of the Hessian at h, by power iteration."""
        product = self._linearised(h, tensors)[1]
        v = torch.arange(1.0, h.numel() + 1, dtype=h.dtype).cos().view_as(h)
        largest = 0.0
        for _ in range(30):
            v = product(v / v.norm())
            largest = float(v.norm())
        return largest

    def invert(self, product: Map, right: Tensor) -> Tensor:
        """Conjugate gradients: the Hessian is symmetric and positive definite."""
        return conjugate_gradients(product, right, 1e-9)


def conjugate_gradients(product: Map, right: Tensor, relative: float) -> Tensor:
    """Solve product(x) = right for x, with a symmetric positive definite product.

    Args:
        product: Matrix–vector product.
        right: Right-hand side, of any shape.
        relative: Norm of the residual over that of the right-hand side at which to stop.
    """
    x, r = torch.zeros_like(right), right
    p, square = r, float(r.square().sum())
    goal = square * relative**2
    for _ in range(min(right.numel(), 1000)):
        if square <= goal or square == 0:
            break
        q = product(p)
        curvature = float((p * q).sum())
        if curvature <= 0:  # rounding, at the very end
            break
        x, r = x + square / curvature * p, r - square / curvature * q
        square, previous = float(r.square().sum()), square
        p = r + square / previous * p
    return x


def transformed() -> bool:
    """Whether a ``torch.func`` transform is active."""
    return torch._C._functorch.maybe_current_level() is not None
