"""Solvers of dy/dt = f(y): fixed steps of our own, and those of torchdiffeq.

The fixed steps know nothing but sums and products of tensors: their gradients are exact for what
they compute, to any order and under ``torch.func``, as attacks and per-sample gradients need.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

Method = Literal["euler", "rk4", "implicit-euler", "dopri5", "implicit-adams"]


class Flow(Protocol):
    """The right-hand side of an autonomous equation dy/dt = f(y)."""

    def __call__(self, y: Tensor, /) -> Tensor:
        """f(y), of the shape of y."""
        ...

    def implicit(self, y: Tensor, step: float, /) -> Tensor:
        """The z with z = y + step · f(z): where a step of implicit Euler ends."""
        ...

    def tensors(self) -> list[Tensor]:
        """Every tensor in f that may need a gradient: the adjoint method sees no others."""
        ...


@dataclass(frozen=True, kw_only=True)
class Solver:
    """How an equation is integrated.

    Attributes:
        method: "euler", "rk4" and "implicit-euler" take equal steps; "dopri5" adapts them;
            "implicit-adams" is torchdiffeq's predictor–corrector of up to 12th order.
        step: Longest step of the methods with equal steps.
        rtol: Relative tolerance of the others.
        atol: Absolute tolerance of the others.
        adjoint: Gradients by integrating backwards instead of remembering every step, which
            saves memory; first order only, and as exact as the tolerances.
    """

    method: Method = "rk4"
    step: float = 1.0
    rtol: float = 1e-9
    atol: float = 1e-7
    adjoint: bool = False

    def advance(self, flow: Flow, y: Tensor, time: float) -> Tensor:
        """The state ``time`` later.

        Args:
            flow: f of dy/dt = f(y).
            y: State at the start.
            time: How long to integrate, ≥ 0.

        Raises:
            ImportError: The method is torchdiffeq's, which is not installed.
        """
        if time <= 0:
            return y
        own = _STEPS.get(self.method)
        if own is None or self.adjoint:
            return self._torchdiffeq(flow, y, time)
        count = steps(time, self.step)
        for _ in range(count):
            y = own(flow, y, time / count)
        return y

    def _torchdiffeq(self, flow: Flow, y: Tensor, time: float) -> Tensor:
        ode = _import_torchdiffeq(self.method)
        settings: dict[str, Any] = {
            "rtol": self.rtol,
            "atol": self.atol,
            "method": self.method.replace("-", "_"),
        }
        if self.method != "dopri5":
            settings["options"] = {"step_size": time / steps(time, self.step)}
        integrate = ode.odeint
        if self.adjoint:
            integrate = ode.odeint_adjoint
            settings["adjoint_params"] = tuple(flow.tensors())
        times = torch.tensor([0.0, time], dtype=y.dtype, device=y.device)
        out: Tensor = integrate(lambda _, state: flow(state), y, times, **settings)[-1]
        return out


def steps(time: float, step: float) -> int:
    """Fewest equal steps of at most ``step`` (up to rounding) that make up ``time``."""
    return max(1, math.ceil(time / step - 1e-4))


def _euler(flow: Flow, y: Tensor, h: float) -> Tensor:
    return torch.add(y, flow(y), alpha=h)


def _rk4(flow: Flow, y: Tensor, h: float) -> Tensor:
    """The classical Runge–Kutta method of fourth order."""
    a = flow(y)
    b = flow(y + h / 2 * a)
    c = flow(y + h / 2 * b)
    d = flow(y + h * c)
    return y + h / 6 * (a + 2 * (b + c) + d)


def _implicit_euler(flow: Flow, y: Tensor, h: float) -> Tensor:
    return flow.implicit(y, h)


_STEPS: dict[str, Callable[[Flow, Tensor, float], Tensor]] = {
    "euler": _euler,
    "rk4": _rk4,
    "implicit-euler": _implicit_euler,
}


def _import_torchdiffeq(method: str) -> Any:
    try:
        import torchdiffeq
    except ImportError as error:
        raise ImportError(
            f"solver {method!r} (or adjoint=True) needs torchdiffeq: "
            'pip install "graphsec[ode]"; euler, rk4 and implicit-euler work without it'
        ) from error
    return torchdiffeq
