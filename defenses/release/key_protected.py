"""Key-protected classification: classes are secret random vectors that only the client has."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar

import torch
from pydantic import Field

from graphsec.defenses.base import Defense
from graphsec.graph import Graph
from graphsec.models.base import GNN, Sizes
from graphsec.models.keyed import Keyed
from graphsec.registry import DEFENSES, Range
from graphsec.rng import Rng
from graphsec.train import Recipe


@DEFENSES.register("key-protected")
@dataclass(frozen=True, kw_only=True)
class KeyProtected(Defense):
    """The model embeds nodes; logits are similarities to one secret unit vector a class.

    The keys are the client's alone: they are no parameters, and never leave it. Who sees gradients
    does not know which direction is which class, nor the loss. What a gradient says of the features
    is protected no better for it: ``closed-form`` divides by the gradient of the embedding,
    whatever it is, and ``gradient-matching`` looks for keys beside the features (``keys``). It was
    made against attackers that train a generator on class scores. No privacy is promised.

    Source: Sariyildiz, Cinbis & Ayday, Key Protected Classification for Collaborative Learning,
    Pattern Recognition 2020: keys drawn normal and scaled to norm 1, similarities to the
    normalised embedding. Of ours: softmax of similarities at a temperature (there a loss on the
    similarity to the own class alone), no fixed layer, one client.

    Attributes:
        width: Entries of a key.
        scale: Similarities, of −1 to 1, are multiplied by this before the softmax.
    """

    tasks: ClassVar[tuple[str, ...]] = ("classification",)
    draws: ClassVar[bool] = True
    keyed: ClassVar[bool] = True

    width: Annotated[int, Field(ge=2), Range(16, 1024, log=True)] = 64
    scale: Annotated[float, Field(gt=0, lt=float("inf")), Range(1, 30, log=True)] = 10.0
    _seed: Rng | None = field(init=False, default=None, repr=False, compare=False)

    def drawn(self, graph: Graph, rng: Rng) -> Defense:
        """With a stream of its own for the keys."""
        made = copy.copy(self)
        object.__setattr__(made, "_seed", rng)
        return made

    def public(self) -> KeyProtected:
        """Without the stream of the keys."""
        return replace(self)

    def build(self, recipe: Recipe, sizes: Sizes) -> GNN:
        """A model whose outputs are embeddings, behind keys; without a draw, decoys."""
        base = recipe.model.build(Sizes(sizes.nodes, sizes.features, self.width))
        rng = self._seed or Rng(0)["decoy"]
        keys = torch.randn(sizes.outputs, self.width, generator=rng["keys"].torch())
        return Keyed(base, keys, self.scale)
