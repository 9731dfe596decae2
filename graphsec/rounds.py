"""What a server of federated learning gets: updates after local steps, and sums over clients."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Release = Callable[[list[Tensor]], list[Tensor]]


class LocalRounds:
    """Rounds of local steps: the server gets, and goes on with, the difference of the weights.

    Source: McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized
    Data, AISTATS 2017, algorithm 1 (FedAvg), with one client.

    Args:
        model: Trained in place.
        steps: Local steps of a round.
    """

    def __init__(self, model: nn.Module, steps: int) -> None:
        self.model, self.steps, self.count = model, steps, 0
        self.start = self._weights()

    def _weights(self) -> dict[str, Tensor]:
        return {n: p.detach().clone() for n, p in self.model.named_parameters()}

    def stepped(self) -> bool:
        """Count a step; whether it was the last of its round."""
        self.count += 1
        return self.count >= self.steps

    @torch.no_grad()
    def close(self, release: Release | None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(difference of the weights as released, weights that the round began with), by name."""
        trained = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        moved = [p - self.start[name] for name, p in trained.items()]
        sent = moved if release is None else release(moved)
        for (name, parameter), step in zip(trained.items(), sent, strict=True):
            parameter.copy_(self.start[name] + step)
        began, self.start, self.count = self.start, self._weights(), 0
        return dict(zip(trained, sent, strict=True)), began


def sum_of_clients(
    model: nn.Module, losses: Tensor, clients: Sequence[Tensor], release: Release | None
) -> Tensor:
    """Give the model the mean of its clients' gradients, each released apart; their mean loss.

    Clients count by their numbers of roots.

    Args:
        model: Whose parameters get gradients.
        losses: (k,) mean loss of each client.
        clients: The roots of each.
        release: What a client does to its gradient before it is summed.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    share = torch.tensor([float(len(client)) for client in clients])
    share = share / share.sum()
    total = [torch.zeros_like(p) for p in trained]
    for loss, part in zip(losses, share.tolist(), strict=True):
        found = torch.autograd.grad(loss, trained, retain_graph=True, allow_unused=True)
        mine = [
            torch.zeros_like(p) if g is None else g for p, g in zip(trained, found, strict=True)
        ]
        for sum_, gradient in zip(total, mine if release is None else release(mine), strict=True):
            sum_ += part * gradient
    for parameter, gradient in zip(trained, total, strict=True):
        parameter.grad = gradient
    return (losses.detach() * share).sum()
