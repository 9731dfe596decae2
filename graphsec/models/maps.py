"""Where the linear maps of a model are, for what their gradients give away."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from graphsec.models.base import GNN
from graphsec.models.gcn import GCN
from graphsec.models.keyed import Keyed
from graphsec.models.mlp import MLP
from graphsec.models.sage import SAGE
from graphsec.models.sgc import SGC
from graphsec.ops import Adj, Features, propagate


@dataclass(frozen=True)
class LinearMap:
    """A linear map whose bias is added after aggregation: (P^hops H) W + b.

    P is the model's operator, H its state before the layer (the features before layer 0).

    Attributes:
        weight: Name of W.
        bias: Name of b.
        layer: Whose input H is.
        hops: How often H is aggregated before b is added.
        loops: Whether P has self-loops, so that an isolated node is given its own state.
        last: Whether the sum is the logits.
    """

    weight: str
    bias: str
    layer: int
    hops: int
    loops: bool
    last: bool


def linear_maps(model: GNN) -> list[LinearMap]:
    """The linear maps of a model, the first layer first; none where they are of another form.

    Known for GCN, SAGE, SGC and MLP that aggregate by plain sums: attention depends on the map it
    weighs, and a median picks a neighbour for each column.
    """
    if isinstance(model, Keyed):  # whose embedding is in the place of the logits
        return [
            replace(each, weight=f"base.{each.weight}", bias=f"base.{each.bias}")
            for each in linear_maps(model.base)
        ]
    if model.aggregate is not propagate or model.layers is None:
        return []
    if isinstance(model, SGC):
        return [LinearMap("weight.0", "bias", 0, model.layers, True, True)]
    names = {GCN: {"weight": 1}, MLP: {"weight": 0}, SAGE: {"own": 0, "near": 1}}
    return [
        LinearMap(f"{name}.{i}", f"bias.{i}", i, hops, name == "weight", i + 1 == model.layers)
        for i in range(model.layers)
        for name, hops in names.get(type(model), {}).items()
    ]


@torch.no_grad()
def map_inputs(model: GNN, x: Tensor | Features, adj: Adj, nodes: Tensor) -> dict[str, Tensor]:
    """What each linear map is given at some nodes: name of the weight → (k, width), P^hops H."""
    if isinstance(model, Keyed):
        inner = map_inputs(model.base, x, adj, nodes)
        return {f"base.{name}": given for name, given in inner.items()}
    states = [x, *model.hidden(x, adj)]
    operator, found = model.operator(adj), {}
    for each in linear_maps(model):
        given = states[each.layer]
        dense = given.to_dense()
        for _ in range(each.hops):
            dense = propagate(operator, dense)
        found[each.weight] = dense[nodes]
    return found
