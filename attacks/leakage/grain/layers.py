"""What the first layers of a model make of small graphs, in numpy: thousands are tried."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from graphsec.attacks.leakage.grain.alphabet import Kinds
from graphsec.graph import Graph
from graphsec.models.base import GNN
from graphsec.models.gat import GAT
from graphsec.models.gcn import GCN
from graphsec.ops import propagate
from graphsec.readout import Readout, pooled


class Layers(Protocol):
    """The hidden layers of a model."""

    def stars(self, kinds: Kinds, centre: int, leaves: np.ndarray) -> np.ndarray:
        """(B, width) first hidden state of a centre whose neighbours are of kinds (B, degree)."""
        ...

    def states(self, x: np.ndarray, adj: np.ndarray) -> list[np.ndarray]:
        """Hidden states (n, width) of all layers but the last, of a graph with adjacency (n, n)."""
        ...


def layers_of(model: GNN) -> Layers:
    """The hidden layers of a GCN or GAT, in float64.

    Raises:
        ValueError: It is another model, has one layer only, or trains with dropout.
    """
    name = type(model).__name__
    if type(model) not in (GCN, GAT) or model.aggregate is not propagate:
        raise ValueError(
            f"attack 'grain' knows the layers of gcn and gat that aggregate by sums, not {name}"
        )
    assert isinstance(model, GCN | GAT)
    count = len(model.weight)
    if count < 2:
        raise ValueError(
            f"attack 'grain' needs a hidden layer: layers must be ≥ 2, got {count}; the gradient "
            "of the map to the logits has no more columns than there are classes"
        )
    if model.p > 0:
        raise ValueError(
            f"attack 'grain' repeats the step exactly: dropout must be 0, got {model.p:g}"
        )
    if isinstance(model, GCN):
        return GCNLayers(_arrays(model.weight)[:-1], _arrays(model.bias)[:-1], model)
    attention = _arrays(model.send)[:-1], _arrays(model.receive)[:-1]
    return GATLayers(_arrays(model.weight)[:-1], _arrays(model.bias)[:-1], *attention)


def _arrays(parameters: torch.nn.ParameterList) -> list[np.ndarray]:
    return [p.detach().double().numpy() for p in parameters]


def gcn_operator(adj: np.ndarray) -> np.ndarray:
    """Â of an adjacency (n, n)."""
    looped = adj + np.eye(len(adj))
    scale = looped.sum(1) ** -0.5
    return np.asarray(scale[:, None] * looped * scale)


@dataclass(frozen=True, eq=False)
class GCNLayers:
    """σ(Â H W + b); a neighbour's share depends on its degree, which its kind tells."""

    weight: list[np.ndarray]
    bias: list[np.ndarray]
    model: GCN

    def _activated(self, z: np.ndarray) -> np.ndarray:
        return np.asarray(self.model.between(torch.from_numpy(z)).numpy())

    def stars(self, kinds: Kinds, centre: int, leaves: np.ndarray) -> np.ndarray:
        """First hidden state of the centre."""
        root = (kinds.degree + 1.0) ** -0.5
        sent = root[:, None] * (kinds.x @ self.weight[0])
        total = sent[centre] + sent[leaves].sum(1)
        return self._activated(root[centre] * total + self.bias[0])

    def after(self, i: int, given: np.ndarray) -> np.ndarray:
        """Hidden state from what the map of layer i is given after aggregation; of the last: it."""
        if i == len(self.weight):
            return given
        return self._activated(given @ self.weight[i] + self.bias[i])

    def states(self, x: np.ndarray, adj: np.ndarray) -> list[np.ndarray]:
        """All hidden states."""
        operator, states = gcn_operator(adj), []
        for weight, bias in zip(self.weight, self.bias, strict=True):
            x = self._activated(operator @ (x @ weight) + bias)
            states.append(x)
        return states


@dataclass(frozen=True, eq=False)
class GATLayers:
    """ELU(Σ α W h + b) of several heads; α depends on the kinds of both ends alone."""

    weight: list[np.ndarray]
    bias: list[np.ndarray]
    send: list[np.ndarray]
    receive: list[np.ndarray]

    def stars(self, kinds: Kinds, centre: int, leaves: np.ndarray) -> np.ndarray:
        """First hidden state of the centre."""
        z = self._mapped(0, kinds.x)
        everyone = np.hstack([np.full((len(leaves), 1), centre), leaves])
        score = _leaky((z[centre] * self.receive[0]).sum(-1) + (z * self.send[0]).sum(-1))
        share = np.exp(score - score.max(0))[everyone]  # (B, degree + 1, heads)
        out = (share[..., None] * z[everyone]).sum(1) / share.sum(1)[..., None]
        return _elu(out.reshape(len(leaves), -1) + self.bias[0])

    def states(self, x: np.ndarray, adj: np.ndarray) -> list[np.ndarray]:
        """All hidden states."""
        there, states = (adj + np.eye(len(adj)))[..., None], []
        for i, bias in enumerate(self.bias):
            z = self._mapped(i, x)
            score = _leaky(
                (z * self.receive[i]).sum(-1)[:, None] + (z * self.send[i]).sum(-1)[None]
            )
            share = there * np.exp(score - score.max((0, 1)))
            share = share / share.sum(1, keepdims=True)
            x = _elu(np.einsum("uvq,vqf->uqf", share, z).reshape(len(x), -1) + bias)
            states.append(x)
        return states

    def _mapped(self, i: int, x: np.ndarray) -> np.ndarray:
        heads = self.send[i].shape[0]
        return np.asarray((x @ self.weight[i]).reshape(len(x), heads, -1))


def _leaky(s: np.ndarray) -> np.ndarray:
    return np.where(s > 0, s, 0.2 * s)


def _elu(z: np.ndarray) -> np.ndarray:
    return np.where(z > 0, z, np.expm1(np.minimum(z, 0)))


def gradients(model: GNN, x: Tensor, adj: Tensor, label: int, how: Readout) -> dict[str, Tensor]:
    """The gradient of the loss of one graph, by parameter.

    Args:
        model: In float64.
        x: (n, d) features.
        adj: (n, n) adjacency.
        label: The graph's.
        how: How its answer is read off its nodes.
    """
    made = Graph.from_edges(adj.nonzero().T, len(x), x=x)
    logits = pooled(model(x, made.adj), torch.zeros(len(x), dtype=torch.int64), how)
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor([label]))
    named = dict(model.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()))
    return dict(zip(named, found, strict=True))
