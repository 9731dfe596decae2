"""Lab 6: node-level privacy and its audit."""

from __future__ import annotations

import math

import torch

from graphsec.labs.checking import Names, close, function, require, tensor


def clip(names: Names) -> None:
    """Exercise 1."""
    x = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    answer = function(names, "clip")
    made = torch.as_tensor(answer(x, 1.0))
    require(bool(made.isfinite().all()), "a row of zeros became nan: don't divide by its length")
    made = tensor(made, (3, 2), "clip")
    require(not close(made[1], torch.tensor([0.6, 0.8])), "short rows stay as they are")
    require(not close(made[0], torch.ones(2)), "scale the row; cutting entries turns it around")
    require(
        close(made, torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]])), "not clipped by row length"
    )
    made = tensor(answer(x, 2.0), (3, 2), "clip")
    require(close(made[0], torch.tensor([1.2, 1.6])), "with C = 2 the first row must have length 2")


def sensitivity(names: Names) -> None:
    """Exercise 2."""
    answer = function(names, "sensitivity")
    found = float(answer(9, 2.0))
    require(not close(found, 2.0), "C is what one sum moves: v is in K of them")
    require(
        not close(found, 18.0),
        "K·C adds the lengths; changes in different rows are at right angles, so squares add",
    )
    require(close(found, 6.0), f"for K = 9 and C = 2 it is 6, yours {found:g}")


def score(names: Names) -> None:
    """Exercise 3."""
    seen, row = torch.arange(6.0).reshape(3, 2), torch.tensor([1.0, -2.0])
    found = float(tensor(function(names, "score")(seen, row), (), "score"))
    require(not close(found, 12.0), "the sign: likelier in must score higher")
    require(close(found, -12.0), "the sum over the K rows of their inner products with v's row")


def refuted_epsilon(names: Names) -> None:
    """Exercise 4."""
    answer = function(names, "refuted_epsilon")
    found = float(answer(0.5, 0.05, 0.1))
    require(not close(found, math.log(10)), "δ is given away first: take it off the TPR")
    require(not close(found, 8.0), "this is e^ε: take the logarithm")
    require(close(found, math.log(8)), f"for TPR .5, FPR .05, δ = .1 it is ln 8, yours {found:.3f}")
    require(float(answer(0.1, 0.5, 0.0)) == 0.0, "a test worse than guessing refutes nothing: 0")
    require(float(answer(0.0, 0.5, 0.1)) == 0.0, "a TPR below δ refutes nothing: 0")


CHECKS = {1: clip, 2: sensitivity, 3: score, 4: refuted_epsilon}
