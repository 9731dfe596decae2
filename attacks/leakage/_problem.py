"""The step that a gradient came from, posed for an attack that looks for its features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from graphsec.attacks.leakage._leak import Leak
from graphsec.models.base import GNN, inputs
from graphsec.ops import Adj, Features
from graphsec.rng import Rng
from graphsec.sampling import sample, take
from graphsec.threat import View


@dataclass(frozen=True, eq=False)
class Problem:
    """The step that is looked for, in float64 and on no more than the roots' neighbourhood.

    Attributes:
        model: With the weights of that moment, and without dropout.
        names: Of the parameters whose gradient was seen.
        seen: Their gradients.
        x: (m, d) known features of the neighbourhood, zeros where they are private.
        rows: (k,) rows of ``x`` that are private and looked for.
        adj: The neighbourhood.
        roots: (r,) rows of the model's output that are the roots'; None: all.
        y: (r,) labels; None where they are looked for too.
        bounds: Range of the features that are known, 0 in it.
    """

    model: GNN
    names: list[str]
    seen: list[Tensor]
    x: Tensor
    rows: Tensor
    adj: Adj
    roots: Tensor | None
    y: Tensor | None
    bounds: tuple[float, float]

    def gradients(self, z: Tensor, soft: Tensor | None) -> Sequence[Tensor]:
        """What the gradients would be with features z (k, d) and the logits of labels (r, c)."""
        logits = self.model(self.x.index_copy(0, self.rows, z), self.adj)
        logits = logits if self.roots is None else logits[self.roots]
        if self.y is None:
            assert soft is not None
            loss = F.cross_entropy(logits, soft.softmax(1))
        else:
            loss = F.cross_entropy(logits, self.y)
        parameters = dict(self.model.named_parameters())
        wanted = [parameters[name] for name in self.names]
        return torch.autograd.grad(loss, wanted, create_graph=True)


def posed(view: View, leak: Leak, hidden: Tensor, y: Tensor | None) -> tuple[Problem, Tensor]:
    """The problem, and which of the ``hidden`` nodes its rows are: a root's answer needs them."""
    predictor, known = leak.predictor, view.known
    x, adj = predictor.sanitise(inputs(known), known.adj, predictor.how)
    model, adj = predictor.model.double(), adj.pruned()
    if not model.capabilities.second_order:
        raise ValueError(
            "attack 'gradient-matching' differentiates gradients again, which "
            f"{type(model).__name__} does not allow"
        )
    roots: Tensor | None = leak.roots
    nodes = torch.arange(known.num_nodes)
    if model.layers is not None and model.capabilities.sampled:
        nodes, adj = sample(adj, leak.roots, (-1,) * model.layers, Rng(0))  # all: draws nothing
        roots = None
    whole = x.values if isinstance(x, Features) else _values(x)
    rows = torch.isin(nodes, hidden).nonzero().ravel()
    problem = Problem(
        model=model,
        names=list(leak.gradient),
        seen=[g.double() for g in leak.gradient.values()],
        x=take(x, nodes).to_dense().double(),
        rows=rows,
        adj=adj,
        roots=roots,
        y=y,
        bounds=(min(float(whole.min()), 0.0), max(float(whole.max()), 0.0)),
    )
    return problem, torch.searchsorted(hidden, nodes[rows])


def _values(x: Tensor) -> Tensor:
    return x if x.layout == torch.strided else x.values()
