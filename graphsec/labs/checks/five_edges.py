"""Lab 4: a local attack on edges."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphsec.labs.checking import Names, Wrong, close, function, require, tensor


def margin(names: Names) -> None:
    """Exercise 1."""
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, 1.0], [-4.0, -2.0, -3.0]])
    y = torch.tensor([0, 2, 0])
    answer = function(names, "margin")
    made = tensor(answer(logits, y), (3,), "margin")
    wanted = torch.tensor([1.5, -2.0, -2.0])
    require(not close(made, -wanted), "the sign: the true class's logit minus the others'")
    require(
        not close(made, torch.tensor([0.0, -2.0, -2.0])),
        "the largest *other* logit: the true class is still among those you compare with",
    )
    require(
        not close(made[2], -4.0),
        "in the last row all logits are negative, and leaving the true class out by a 0 made that "
        "0 the largest",
    )
    require(close(made, wanted), f"of {logits.tolist()}, labels {y.tolist()}: {wanted.tolist()}")
    open_ = logits.clone().requires_grad_()
    require(
        bool(torch.as_tensor(answer(open_, y)).requires_grad),
        "the margin must have a gradient: compute with tensors, without item() or detach()",
    )


def _numbers(found: Any, name: str) -> list[int]:
    try:
        return [int(each) for each in found]
    except (TypeError, ValueError):
        raise Wrong(f"{name} must give a list of numbers, got {found!r}") from None


def best_flips(names: Names) -> None:
    """Exercise 2."""
    answer = function(names, "best_flips")
    slope = torch.tensor([0.5, -2.0, 0.1, -0.3, 3.0, -1.0])
    made = sorted(_numbers(answer(slope, 2), "best_flips"))
    require(made != [0, 4], "these raise the margin most: the attacker wants it low")
    require(
        made != [1, 4],
        "the size of the slope is not what counts: a large positive one raises the margin",
    )
    require(len(made) <= 2, f"the budget was 2, taken were {len(made)}")
    require(made == [1, 5], f"of slopes {slope.tolist()} the best two are numbers 1 and 5")
    made = sorted(_numbers(answer(slope, 5), "best_flips"))
    require(
        made == [1, 3, 5],
        "with a budget of 5 only the three negative slopes are worth it, others help the victim",
    )


def greedy(names: Names) -> None:
    """Exercise 3."""
    answer = function(names, "greedy")
    asked: list[list[int]] = []

    def gradient_of(flipped: list[int]) -> Tensor:
        asked.append(list(flipped))
        slope = torch.tensor([-1.0, -3.0, -2.0, 1.0])
        if 1 in flipped:  # now 2 is worth nothing, and 3 is
            slope = torch.tensor([-1.0, -3.0, 0.5, -2.0])
        return slope

    made = _numbers(answer(gradient_of, 2), "greedy")
    require(made != [1, 1], "candidate 1 was flipped twice, and is where it was")
    require(
        made != [1, 2],
        "after the first flip the slopes changed, and 3 promised more: ask gradient_of again",
    )
    require(made == [1, 3], f"expected [1, 3], the best one each time, got {made}")
    require([1] in asked, "gradient_of must be told what is flipped already")
    made = _numbers(answer(gradient_of, 4), "greedy")
    require(
        made == [1, 3, 0],
        f"stop when no slope of what is left is negative: expected [1, 3, 0], got {made}",
    )


def wilson(names: Names) -> None:
    """Exercise 4."""
    answer = function(names, "wilson")
    low, high = tensor(answer(8, 20), (2,), "wilson").tolist()
    require(low < high, "the lower end comes first")
    half = 1.96 * (0.4 * 0.6 / 20) ** 0.5
    require(not close(high - low, 2 * half), "this is the plain interval, not Wilson's")
    require(
        close([low, high], [0.21881, 0.61341], 1e-3),
        f"for 8 of 20 it is 0.219 … 0.613, yours {low:.3f} … {high:.3f}",
    )
    low, high = tensor(answer(0, 20), (2,), "wilson").tolist()
    require(
        close([low, high], [0.0, 0.16113], 1e-3),
        f"for 0 of 20 it is 0 … 0.161, yours {low:.3f} … {high:.3f}",
    )


CHECKS = {1: margin, 2: best_flips, 3: greedy, 4: wilson}
