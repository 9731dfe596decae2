"""The step that a gradient came from, posed for an attack that looks for its features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from graphsec.attacks.leakage._leak import Leak, Local
from graphsec.attacks.leakage._prior import Prior, prior
from graphsec.models.base import GNN, inputs
from graphsec.ops import Adj, Features
from graphsec.rng import Rng
from graphsec.sampling import sample, take
from graphsec.threat import View


@dataclass(frozen=True, eq=False)
class Problem:
    """The step that is looked for, in float64 and on no more than the roots' neighbourhood.

    Of several steps after each other ``gradients`` and ``seen`` are one after the other too.

    Attributes:
        models: With the weights of each moment, and without dropout.
        sent: What was sent at each, by parameter.
        x: (m, d) known features of the neighbourhood, zeros where they are private.
        rows: (k,) rows of ``x`` that are private and looked for.
        adj: The neighbourhood.
        roots: (r,) rows of the model's output that are the roots'; None: all.
        y: (r,) labels; None where they are looked for too.
        bounds: Range of the features that are known, 0 in it.
        prior: What is known of the private features without the gradient, if that is wanted.
        local: Local steps, where differences of weights were sent.
        defense: What gradients go through before they are compared; None: nothing.
        groups: Roots whose gradients go through it apart; None: their mean does.
        secrets: Buffers of the model that are looked for too, with their shapes.
    """

    models: tuple[GNN, ...]
    sent: tuple[dict[str, Tensor], ...]
    x: Tensor
    rows: Tensor
    adj: Adj
    roots: Tensor | None
    y: Tensor | None
    bounds: tuple[float, float]
    prior: Prior | None = None
    local: Local | None = None
    defense: Any = None
    groups: list[Tensor] | None = None
    secrets: dict[str, torch.Size] = field(default_factory=dict)

    @property
    def model(self) -> GNN:
        """The model at the step in question."""
        return self.models[0]

    @property
    def seen(self) -> list[Tensor]:
        """What was sent, parameter by parameter."""
        return [g for each in self.sent for g in each.values()]

    def gradients(
        self, z: Tensor, soft: Tensor | None, secret: Mapping[str, Tensor] | None = None
    ) -> list[Tensor]:
        """What would have been sent.

        Args:
            z: (k, d) features.
            soft: (r, c) logits of labels, where those are looked for.
            secret: Buffers, where those are.
        """
        x = self.x.index_copy(0, self.rows, z)
        target = self.y if soft is None else soft.softmax(1)
        assert target is not None
        moments = zip(self.models, self.sent, strict=True)
        found = (self._sent(model, seen, x, target, secret or {}) for model, seen in moments)
        return [g for each in found for g in each.values()]

    def _sent(
        self, model: GNN, seen: dict[str, Tensor], x: Tensor, target: Tensor,
        secret: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:  # fmt: skip
        step = self._gradient if self.local is None else self._update
        if self.defense is None or self.groups is None:
            found = step(model, list(seen), x, target, None, secret)
            return found if self.defense is None else self.defense.expectation(found, seen)
        total: dict[str, Tensor] = {}
        for group in self.groups:
            part = step(model, list(seen), x, target, group, secret)
            for name, g in self.defense.expectation(part, seen).items():
                share = len(group) / len(target) * g
                total[name] = total[name] + share if name in total else share
        return total

    def _gradient(
        self, model: GNN, names: list[str], x: Tensor, target: Tensor, group: Tensor | None,
        secret: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:  # fmt: skip
        weights = dict(model.named_parameters())
        logits = functional_call(model, dict(secret), (x, self.adj)) if secret else model(
            x, self.adj
        )  # fmt: skip
        return _slope(self._loss(logits, target, group), {name: weights[name] for name in names})

    def _update(
        self, model: GNN, names: list[str], x: Tensor, target: Tensor, group: Tensor | None,
        secret: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:  # fmt: skip
        """The local steps, unrolled."""
        assert self.local is not None
        start = dict(model.named_parameters())
        weights: dict[str, Tensor] = {name: start[name] for name in names}
        for _ in range(self.local.steps):
            logits = functional_call(model, {**start, **weights, **secret}, (x, self.adj))
            slope = _slope(self._loss(logits, target, group), weights)
            weights = {
                name: w - self.local.lr * (slope[name] + self.local.decay[name] * w)
                for name, w in weights.items()
            }
        return {name: w - start[name].detach() for name, w in weights.items()}

    def _loss(self, logits: Tensor, target: Tensor, group: Tensor | None) -> Tensor:
        logits = logits if self.roots is None else logits[self.roots]
        if group is not None:
            logits, target = logits[group], target[group]
        return F.cross_entropy(logits, target)


def _slope(loss: Tensor, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The gradient by parameter, to be differentiated again."""
    found = torch.autograd.grad(loss, list(weights.values()), create_graph=True, allow_unused=True)
    pairs = zip(weights.items(), found, strict=True)
    return {name: torch.zeros_like(w) if g is None else g for (name, w), g in pairs}


def posed(
    view: View,
    leak: Leak,
    hidden: Tensor,
    y: Tensor | None,
    through: bool = False,
    informed: bool = False,
) -> tuple[Problem, Tensor]:
    """The problem, and which of the ``hidden`` nodes its rows are: a root's answer needs them.

    Args:
        view: Of the attacker.
        leak: What left training.
        hidden: (h,) nodes whose features are private.
        y: (r,) labels of the roots; None where they are looked for.
        through: Whether the defense is part of the step, as attackers know it.
        informed: Whether what is known of the features without the gradient is wanted.
    """
    predictor, known = leak.predictor, view.known
    x, adj = predictor.sanitise(inputs(known), known.adj, predictor.how)
    adj = leak.within(adj).pruned()
    models = tuple(moment.predictor.model.double() for moment in leak.moments)
    model = models[0]
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
    defense = leak.defense if through else None
    buffers = dict(model.named_buffers())
    problem = Problem(
        models=models,
        sent=tuple({k: g.double() for k, g in each.sent.items()} for each in leak.moments),
        x=take(x, nodes).to_dense().double(),
        rows=rows,
        adj=adj,
        roots=roots,
        y=y,
        bounds=(min(float(whole.min()), 0.0), max(float(whole.max()), 0.0)),
        prior=prior(x, known.adj, nodes[rows]) if informed else None,
        local=leak.local,
        defense=defense,
        groups=None if defense is None else defense.apart(leak.roots),
        secrets={name: buffers[name].shape for name in leak.secrets} if through else {},
    )
    return problem, torch.searchsorted(hidden, nodes[rows])


def _values(x: Tensor) -> Tensor:
    return x if x.layout == torch.strided else x.values()
