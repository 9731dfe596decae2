"""Lab 5: adaptive attacks."""

from __future__ import annotations

from typing import Any

import torch

from graphsec.labs.checking import Names, Wrong, close, function, require, tensor


def kept(names: Names) -> None:
    """Exercise 1."""
    x = torch.tensor([[1.0, 0.0], [3.0, 0.0], [1.0, 1.0], [-1.0, 0.0], [0.0, 0.1]])
    pairs = torch.tensor([[0, 0, 0, 0, 2], [1, 2, 3, 4, 4]])  # cosines 1, .71, −1, 0, .71
    answer = function(names, "kept")
    made = tensor(answer(x, pairs, 0.5), (5,), "kept")
    wanted = torch.tensor([1.0, 1.0, 0.0, 0.0, 1.0])
    require(not close(made, 1 - wanted), "the other way round: like pairs are kept, unlike dropped")
    inner = (x[pairs[0]] * x[pairs[1]]).sum(1)
    require(
        not close(made, (inner > 0.5).double()),
        "this is the inner product: divide by both lengths, so that faint rows have a chance",
    )
    require(close(made, wanted), "not the pairs with a cosine above the threshold")
    made = tensor(answer(x, pairs, 0.0), (5,), "kept")
    require(not close(made[3], 1.0), "a cosine equal to the threshold is dropped: use >, not ≥")


def choose(names: Names) -> None:
    """Exercise 2."""
    answer = function(names, "choose")
    accuracy = {0.2: 0.91, 0.8: 0.85, 0.5: 0.90, 0.6: 0.90, 0.9: 0.70}
    found = float(answer(accuracy, 0.90))
    require(found != 0.2, "this is the threshold of the best accuracy; asked for was the highest "
            "threshold that costs no more than allowed")  # fmt: skip
    require(found != 0.9, "this ignores the floor")
    require(found == 0.6, f"of {accuracy} with floor 0.9 it is 0.6, yours {found:g}")
    require(float(answer(accuracy, 0.99)) == -1.0, "where no threshold is good enough, give −1.0")


def _numbers(found: Any) -> list[int]:
    try:
        return [int(each) for each in found]
    except (TypeError, ValueError):
        raise Wrong(f"spend must give numbers of candidates, got {found!r}") from None


def spend(names: Names) -> None:
    """Exercise 3."""
    scores = torch.tensor([0.9, 0.1, 0.8, 0.5, 0.7, 0.3])
    allowed = torch.tensor([False, True, False, True, True, True])
    answer = function(names, "spend")
    made = sorted(_numbers(answer(scores, allowed, 2)))
    require(made != [0, 2], "the filter drops both of these: the budget is spent on nothing")
    require(
        made != [1, 2] and made != [2, 3],
        "these are places among the allowed ones: give the numbers that the candidates had before",
    )
    require(len(made) <= 2, f"the budget was 2, spent were {len(made)}")
    require(made == [3, 4], f"the two best allowed ones are 3 and 4, got {made}")
    made = _numbers(answer(-scores - 1, allowed, 2))
    require(
        sorted(made) == [1, 5],
        "with scores that are all negative a forbidden candidate came first: don't multiply by 0",
    )
    made = _numbers(answer(scores, allowed, 6))
    require(len(made) == 4, f"only 4 candidates are allowed, whatever the budget; got {len(made)}")


def gain(names: Names) -> None:
    """Exercise 4."""
    defended = torch.tensor([[0.9, 0.6], [0.5, 0.9]])
    undefended = torch.tensor([[0.8, 0.4], [0.7, 0.5]])
    found = float(tensor(function(names, "gain")(defended, undefended), (), "gain"))
    require(
        not close(found, 0.125),
        "the mean over attacks: a weak attack would make the defense look better",
    )
    require(
        not close(found, 0.15),
        "this is the best case, each under its weakest attack: take the lowest accuracy",
    )
    require(
        not close(found, -0.1),
        "without the defense lowest minus with it: the other way round",
    )
    require(
        close(found, 0.1),
        f"the worst of each seed are (.6, .5) with and (.4, .5) without: the gain is .1, yours "
        f"{found:.3f}",
    )
    many = torch.tensor([[0.9, 0.6, 0.7], [0.5, 0.9, 0.8]])
    found = float(function(names, "gain")(many, undefended))
    require(close(found, 0.1), "there may be more attacks on one than on the other")


CHECKS = {1: kept, 2: choose, 3: spend, 4: gain}
