"""What checks of answers share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Names = Mapping[str, Any]


class Wrong(Exception):
    """An answer that is not right; the message is the hint."""


def require(holds: object, hint: str) -> None:
    """Raise ``Wrong`` with the hint unless it holds."""
    if not holds:
        raise Wrong(hint)


def value(names: Names, name: str) -> Any:
    """A value that the student set."""
    require(name in names, f"there is no {name}")
    require(names[name] is not ..., f"{name} is not answered yet")
    return names[name]


def number(names: Names, name: str) -> float:
    """A number that the student set."""
    found = value(names, name)
    try:
        return float(found)
    except (TypeError, ValueError):
        raise Wrong(f"{name} must be a number, got {found!r}") from None


def function(names: Names, name: str) -> Callable[..., Any]:
    """A function that the student wrote; it refuses to give back nothing."""
    found = value(names, name)
    require(callable(found), f"{name} must be a function, got {found!r}")

    def called(*arguments: Any) -> Any:
        answer = found(*arguments)
        require(
            answer is not None and answer is not ...,
            f"{name} gives back nothing: it is not answered yet, or lacks a return",
        )
        return answer

    return called


def tensor(answer: Any, shape: tuple[int, ...], name: str) -> Any:
    """The answer as a float64 tensor of a shape."""
    import torch

    try:
        made = torch.as_tensor(answer).detach().double()
    except (TypeError, ValueError, RuntimeError):
        raise Wrong(f"{name} must give numbers, got {type(answer).__name__}") from None
    require(made.shape == shape, f"{name} must give shape {shape}, got shape {tuple(made.shape)}")
    require(bool(made.isfinite().all()), f"{name} gives numbers that are not finite")
    return made


def close(found: Any, wanted: Any, tolerance: float = 1e-4) -> bool:
    """Whether numbers or tensors agree, up to the tolerance (relative and absolute)."""
    import torch

    a, b = (torch.as_tensor(each).detach().double() for each in (found, wanted))
    return a.shape == b.shape and bool(torch.allclose(a, b, rtol=tolerance, atol=tolerance))
