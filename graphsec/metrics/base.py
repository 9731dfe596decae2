"""A number with its meaning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Metric:
    """A measured value; ``float(metric)`` is the value.

    Attributes:
        value: The number.
        higher_is_better: From the defender's side.
        low: Smallest possible value.
        high: Largest possible value.
        label: What a figure's axis says.
    """

    value: float
    higher_is_better: bool
    low: float
    high: float
    label: str

    def __float__(self) -> float:
        return self.value

    def spec(self) -> dict[str, Any]:
        """Plain form, for records."""
        return dict(vars(self))


@dataclass(frozen=True)
class Curve:
    """A curve for figures: points (x, y) and what the axes say."""

    x: tuple[float, ...]
    y: tuple[float, ...]
    x_label: str
    y_label: str

    def spec(self) -> dict[str, Any]:
        """Plain form, for records."""
        return {**vars(self), "x": list(self.x), "y": list(self.y)}
