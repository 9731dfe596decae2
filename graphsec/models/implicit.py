"""Layers that are defined by an equation: solved for their state, differentiated implicitly.

``solution`` gives the state h* at which a problem's residual vanishes and its derivatives in every
tensor, by the implicit function theorem, to any order. Solving happens in float64, so that
residuals far below float32's rounding can be reached.
"""

# torch types the methods of autograd.Function as Any.
# mypy: disable-error-code="no-untyped-call, override, no-any-return"
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from graphsec.models.base import GNN
from graphsec.models.problems import Problem, transformed
from graphsec.ops import Adj, Features

# Norm of the residual that training solves to.
ROUGH = 1e-3


def _pullback(
    f: Callable[..., Tensor], primals: Sequence[Tensor], v: Tensor, create: bool
) -> tuple[Tensor, ...]:
    """vᵀ ∂f/∂primals, by whichever of torch's two ways works where this is called."""
    if transformed():
        pulled: tuple[Tensor, ...] = torch.func.vjp(f, *primals)[1](v)
        return pulled
    with torch.enable_grad():
        # Aliases, as a state that f closes over may itself have come from the primals: only the
        # direct dependence is wanted here, not the way through the solver.
        points = [
            p.view_as(p) if create and p.requires_grad else p.detach().requires_grad_()
            for p in primals
        ]
        return torch.autograd.grad(
            f(*points), points, v, create_graph=create, allow_unused=True, materialize_grads=True
        )


class _Solution(Function):
    """(problem, start, tensors…) → h with residual(h, tensors…) = 0."""

    @staticmethod
    def forward(problem: Problem, start: Tensor | None, *tensors: Tensor) -> Tensor:
        return problem.solve([t.detach() for t in tensors], start).detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.problem = inputs[0]
        ctx.save_for_backward(output, *inputs[2:])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        h, *tensors = ctx.saved_tensors
        problem: Problem = ctx.problem
        wanted = [i for i in range(len(tensors)) if ctx.needs_input_grad[i + 2]]
        v = _Inverse.apply(problem, True, h, g, *tensors)

        def residual(*some: Tensor) -> Tensor:
            filled = list(tensors)
            for i, tensor in zip(wanted, some, strict=True):
                filled[i] = tensor
            return problem.residual(h, *filled)

        pulled = _pullback(residual, [tensors[i] for i in wanted], v, torch.is_grad_enabled())
        out: list[Tensor | None] = [None] * (len(tensors) + 2)
        for i, gradient in zip(wanted, pulled, strict=True):
            out[i + 2] = -gradient
        return tuple(out)

    @staticmethod
    def vmap(info: Any, dims: Any, problem: Problem, start: Any, *tensors: Tensor) -> Any:
        return _one_by_one(_Solution, info, dims[2:], (problem, start), tensors)


class _Inverse(Function):
    """(problem, transposed, h, right, tensors…) → J⁻ᵀ·right (or J⁻¹·right), J = ∂residual/∂h."""

    @staticmethod
    def forward(
        problem: Problem, transposed: bool, h: Tensor, right: Tensor, *tensors: Tensor
    ) -> Tensor:
        with torch.enable_grad():
            point = h.detach().requires_grad_()
            out = problem.residual(point, *(t.detach() for t in tensors))
            dummy = torch.zeros_like(out, requires_grad=True)
            (pulled,) = torch.autograd.grad(
                out, point, dummy, create_graph=not transposed, retain_graph=True
            )

        def product(v: Tensor) -> Tensor:
            if transposed:
                return torch.autograd.grad(out, point, v, retain_graph=True)[0]
            return torch.autograd.grad(pulled, dummy, v, retain_graph=True)[0]

        return problem.invert(product, right.detach())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.problem, ctx.transposed, h, _, *tensors = inputs
        ctx.save_for_backward(output, h, *tensors)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        v, h, *tensors = ctx.saved_tensors
        problem: Problem = ctx.problem
        w = _Inverse.apply(problem, not ctx.transposed, h, g, *tensors)
        # ⟨Jᵀv, w⟩ or ⟨Jv, w⟩ = ⟨v, Jᵀw⟩ is what the right-hand side gave; its change in h and the
        # tensors, with v and w held, is what the solution must make up for.
        push, pull = (v, w) if ctx.transposed else (w, v)

        def pairing(h: Tensor, *tensors: Tensor) -> Tensor:
            (back,) = _pullback(lambda h: problem.residual(h, *tensors), [h], push, True)
            return (back * pull).sum()

        one = g.new_ones(())
        pulled = _pullback(pairing, [h, *tensors], one, torch.is_grad_enabled())
        return None, None, -pulled[0], w, *(-gradient for gradient in pulled[1:])

    @staticmethod
    def vmap(info: Any, dims: Any, problem: Problem, transposed: bool, *tensors: Tensor) -> Any:
        return _one_by_one(_Inverse, info, dims[2:], (problem, transposed), tensors)


def _one_by_one(
    function: type[Function], info: Any, dims: Any, static: Any, tensors: Sequence[Tensor]
) -> tuple[Tensor, int]:
    """One solve a member of the batch: each has its own number of iterations."""
    outs = [
        function.apply(
            *static,
            *(t if d is None else t.select(d, i) for t, d in zip(tensors, dims, strict=True)),
        )
        for i in range(info.batch_size)
    ]
    return torch.stack(outs), 0


def solution(problem: Problem, tensors: Sequence[Tensor], start: Tensor | None = None) -> Tensor:
    """The state h* (n, d) at which the problem's residual vanishes, float64.

    Args:
        problem: The equation.
        tensors: What it depends on; gradients of any order reach all of them.
        start: State to start from; the answer depends on it only within the tolerance.
    """
    doubled = [t.double() for t in tensors]
    return _Solution.apply(problem, start, *doubled)


class Implicit(GNN):
    """A model whose hidden state solves an equation; it has no fixed number of layers."""

    def __init__(self) -> None:
        super().__init__(None)
        self._last: Tensor | None = None

    def problem(self, x: Tensor | Features, adj: Adj) -> tuple[Problem, list[Tensor]]:
        """The equation of a graph, and the tensors it depends on."""
        raise NotImplementedError

    def readout(self, h: Tensor) -> Tensor:
        """Logits from the state (n, d)."""
        raise NotImplementedError

    def state(self, x: Tensor | Features, adj: Adj) -> Tensor:
        """The state that solves the equation: (n, d), float64.

        Training starts from the state of the last epoch, and solves to ``ROUGH`` only: a step on
        a loss that dropout makes noisy gains nothing from more.
        """
        problem, tensors = self.problem(x, adj)
        if not self.training or transformed():
            return solution(problem, tensors)
        problem = replace(problem, tolerance=max(problem.tolerance, ROUGH))
        fits = self._last is not None and self._last.shape == (problem.csr.num_rows, problem.width)
        h = solution(problem, tensors, self._last if fits else None)
        self._last = h.detach()
        return h

    def forward(self, x: Tensor | Features, adj: Adj) -> Tensor:
        """Logits (n, outputs)."""
        return self.readout(self.state(x, adj))

    def hidden(self, x: Tensor | Features, adj: Adj) -> list[Tensor]:
        """The state and the logits."""
        h = self.state(x, adj)
        return [h.to(next(self.parameters()).dtype), self.readout(h)]

    @torch.no_grad()
    def residual_norm(self, x: Tensor | Features, adj: Adj) -> float:
        """Norm of the residual at the state: how well the equation is solved."""
        problem, tensors = self.problem(x, adj)
        doubled = [t.double() for t in tensors]
        return float(problem.residual(problem.solve(doubled), *doubled).detach().norm())
