"""A model whose classes are secret vectors (Sariyildiz et al., Pattern Recognition 2020)."""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from graphsec.models.base import GNN, Wrapper
from graphsec.ops import Adj, Features
from graphsec.rng import Rng


class Keyed(Wrapper):
    """Logits are similarities of an embedding to a key of each class.

    Args:
        base: Gives embeddings (n, width).
        keys: (classes, width), scaled to norm 1; a buffer, which no release holds.
        scale: What similarities are multiplied by.
    """

    secrets: ClassVar[tuple[str, ...]] = ("keys",)
    keys: Tensor

    def __init__(self, base: GNN, keys: Tensor, scale: float) -> None:
        super().__init__(base, base.layers)
        self.capabilities = base.capabilities  # type: ignore[misc]
        self.scale = scale
        self.register_buffer("keys", F.normalize(keys, dim=1))

    def operator(self, adj: Adj) -> Adj:
        """The base model's."""
        return self.base.operator(adj)

    def hidden(self, x: Tensor | Features, adj: Adj) -> list[Tensor]:
        """The base model's states, the embeddings among them, and the logits."""
        states = self._states(x, adj)
        return [*states, self._scores(states[-1])]

    def forward(self, x: Tensor | Features, adj: Adj) -> Tensor:
        """Logits (n, classes)."""
        return self._scores(self.base(x, adj))

    def _states(self, x: Tensor | Features, adj: Adj) -> list[Tensor]:
        return self.base.hidden(x, adj)

    def _scores(self, embeddings: Tensor) -> Tensor:
        keys = F.normalize(self.keys, dim=1)
        return self.scale * F.normalize(embeddings, dim=1) @ keys.to(embeddings.dtype).T

    def public(self) -> Keyed:
        """This model with other keys, always the same: nobody but the client has its own."""
        other = copy.deepcopy(self)
        decoys = torch.randn(self.keys.shape, generator=Rng(0)["decoy"].torch())
        other.keys = F.normalize(decoys, dim=1)
        return other
