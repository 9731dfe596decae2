"""A symmetric adjacency with one number a pair, as a model under attack sees it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from graphsec.attacks.reconstruction._knowledge import check_size
from graphsec.ops import Adj, Features
from graphsec.ops.symmetric import Symmetric, mirror
from graphsec.threat import View

Loss = Callable[[Symmetric], Tensor]


def gram(x: Tensor | Features) -> Tensor:
    """(n, n) X Xᵀ of dense or sparse features."""
    rows = x.to_dense()
    return rows @ rows.T


class Relaxed:
    """The victim's states on adjacencies (n, n) between 0 and 1, and derivatives by them.

    The adjacency stands for what the model sees: a defense that cleans graphs is passed by.

    Args:
        view: The attacker's view, with WEIGHTS.
        x: Features.
        name: Who asks, for error messages.

    Raises:
        ValueError: The graph is directed, or too large for a dense matrix.
    """

    def __init__(self, view: View, x: Tensor | Features, name: str) -> None:
        check_size(view, name)
        self._victim, self._x = view.model().relaxed("bypass"), x
        self._n = view.known.num_nodes

    def constant(self, value: float) -> Tensor:
        """The adjacency with the same weight for every pair."""
        return torch.full((self._n, self._n), value).fill_diagonal_(0.0)

    def states(self, a: Tensor | Symmetric) -> list[Tensor]:
        """Outputs of all layers on an adjacency, the logits last."""
        return self._victim.hidden(self._x, Adj.dense(a))

    def gradient(self, loss: Loss, a: Tensor) -> Tensor:
        """Derivative of a loss by the one number of each pair; 0 on the diagonal."""
        leaf, found = Symmetric(a), torch.empty_like(a)
        for rows, slope in leaf.blocks(loss(leaf)):
            found[rows, rows.start :] = slope
        return mirror(found)

    def adam(self, loss: Loss, a: Tensor, steps: int, lr: float) -> Tensor:
        """(n, n) what Adam finds between 0 and 1, starting at ``a``, which it overwrites."""
        mean, square = torch.zeros_like(a), torch.zeros_like(a)
        for step in range(1, steps + 1):
            leaf, unbias, rate = Symmetric(a), 1 / (1 - 0.999**step), -lr / (1 - 0.9**step)
            for rows, slope in leaf.blocks(loss(leaf)):
                here = rows, slice(rows.start, None)
                mean[here].lerp_(slope, 0.1)
                square[here].lerp_(slope.square_(), 0.001)
                scale = torch.mul(square[here], unbias, out=slope).sqrt_().add_(1e-12)
                a[here].addcdiv_(mean[here], scale, value=rate).clamp_(0, 1)
            mirror(a)
        return a
