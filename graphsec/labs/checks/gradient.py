"""Lab 2: leakage from gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from graphsec.labs.checking import Names, close, function, require, tensor


def _product() -> tuple[Tensor, Tensor, Tensor]:
    """An input, and the gradients of a map that was given it; the first outputs are off."""
    draw = torch.Generator().manual_seed(0)
    a, g = torch.rand(6, generator=draw), torch.randn(5, generator=draw)
    g[0] = g[3] = 0.0
    return a, torch.outer(a, g), g


def label_of(names: Names) -> None:
    """Exercise 1."""
    answer = function(names, "label_of")
    for label in (0, 2, 3):
        p = torch.tensor([0.1, 0.6, 0.1, 0.2])
        gradient = p - torch.nn.functional.one_hot(torch.tensor(label), 4)
        found = int(tensor(answer(gradient), (), "label_of"))
        require(
            not (found == 1 and label != 1),
            "this is the class that the model finds likeliest: which entry of p − onehot(y) is "
            "negative?",
        )
        require(found == label, f"for the gradient {gradient.tolist()} the label is {label}")


def input_by_division(names: Names) -> None:
    """Exercise 2."""
    a, weight, bias = _product()
    answer = function(names, "input_by_division")
    found = torch.as_tensor(answer(weight, bias)).detach()
    require(
        found.shape != (5,),
        "one number for each output: take a column of ∇W (all inputs, one output), not a row",
    )
    require(found.shape == a.shape, f"must give shape (6,), got {tuple(found.shape)}")
    require(
        bool(found.isfinite().all()),
        "not finite: where the ReLU was off you divide 0 by 0. Choose a column where |g| is large",
    )
    made = tensor(found, (6,), "input_by_division")
    require(
        close(made, a),
        "not the input: every entry of column j of ∇W is the input times entry j of ∇b",
    )


def input_by_least_squares(names: Names) -> None:
    """Exercise 3."""
    a, weight, bias = _product()
    answer = function(names, "input_by_least_squares")
    made = tensor(answer(weight, bias), (6,), "input_by_least_squares")
    require(
        not close(made, weight @ bias),
        "this is G g: divide by gᵀg, so that without noise the input itself comes out",
    )
    require(close(made, a), "without noise the input itself must come out")
    noisy = weight + 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    made = tensor(answer(noisy, bias), (6,), "input_by_least_squares")
    largest = bias.abs().argmax()
    require(
        not close(made, noisy[:, largest] / bias[largest]),
        "this is still the one column of exercise 2: use all of them",
    )
    require(
        not close(made, (noisy[:, bias != 0] / bias[bias != 0]).mean(1)),
        "the plain mean of the columns' answers: those with small |g| are mostly noise and must "
        "weigh less",
    )
    require(close(made, noisy @ bias / (bias @ bias)), "not G g / gᵀg once there is noise")


def possible(names: Names) -> None:
    """Exercise 4."""
    rows = torch.tensor([[0.0, 1.0, 0.5], [0.2, 1.2, 0.5], [-0.2, 0.5, 0.5], [1.005, -0.005, 0.3]])
    answer = function(names, "possible")
    made = tensor(answer(rows, 0.01), (4,), "possible")
    require(not close(made[1], 1.0), "a pixel of 1.2 passes: look at the upper end, too")
    require(not close(made[2], 1.0), "a pixel of −0.2 passes: look at the lower end, too")
    require(not close(made[3], 0.0), "within the slack of 0.01 a pixel of 1.005 is still possible")
    require(close(made, torch.tensor([1.0, 0.0, 0.0, 1.0])), "all pixels of a row must be possible")


def own_features(names: Names) -> None:
    """Exercise 5."""
    draw = torch.Generator().manual_seed(0)
    x, weights = torch.rand(3, 4, generator=draw), torch.tensor([0.3, 0.2, 0.1])
    own, truth = 0.25, torch.rand(4, generator=draw)
    total = own * truth + weights @ x
    answer = function(names, "own_features")
    made = tensor(answer(total, own, weights, x), (4,), "own_features")
    require(not close(made, own * truth), "nearly: what is left is Â_vv times the features")
    require(
        not close(made, (total - x.sum(0)) / own),
        "each neighbour is in the sum with its own weight, not with 1",
    )
    require(close(made, truth), "take the weighted neighbours off the sum, then divide by Â_vv")


CHECKS = {
    1: label_of,
    2: input_by_division,
    3: input_by_least_squares,
    4: possible,
    5: own_features,
}
