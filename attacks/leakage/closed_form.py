"""Closed form: what the gradient of a linear map and of its bias tell by division."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from graphsec.attacks.leakage._leak import Leak, LeakageAttack
from graphsec.models.base import inputs as features
from graphsec.models.maps import LinearMap, linear_maps
from graphsec.outcome import Reconstruction
from graphsec.registry import ATTACKS
from graphsec.rng import Rng
from graphsec.threat import Access, View


def multiplied(weight: Tensor, bias: Tensor) -> Tensor | None:
    """(width,) the row a that W was multiplied with, from ∇W = a gᵀ and ∇b = g.

    Every column of ∇W over its entry of ∇b gives a; least squares takes all of them at once, but
    for entries that are 0: pruning made them so, or else the whole row is 0 and so is a there.

    Args:
        weight: (width, outputs) ∇W.
        bias: (outputs,) ∇b.

    Returns:
        a, or None where ∇b is 0 and says nothing.
    """
    g = bias.double()
    scale = float(g.abs().max())
    if scale == 0:
        return None
    g = g / scale  # squares of tiny gradients would vanish
    scaled = weight.double() / scale
    return scaled @ g / ((scaled != 0).double() @ g.square()).clamp(min=1e-300)


@ATTACKS.register("closed-form")
@dataclass(frozen=True, kw_only=True)
class ClosedForm(LeakageAttack):
    """Divides the gradient of a linear map by that of its bias: exact, for a single root.

    Where the bias is added after aggregation and the gradient comes through one node's row alone,
    it has rank one: ∇W = (ÂH)_vᵀ g and ∇b = g. That is so of the map whose sum is the logits, in
    GCN, SGC, SAGE and MLP; of all maps of an MLP; and of all maps where the root is isolated, which
    takes knowledge of the edges (``structure``). No more is claimed: a deeper GCN's first map has a
    row of gradient for each neighbour. Features are claimed where a first map so determined takes
    the root's own: of MLPs, of a one-layer SAGE, of isolated roots. With dropout it finds what was
    left of them.

    Source: reference notes on gradient leakage (the rank-one bias trick): for one linear layer
    with a bias as in Geiping et al., Inverting Gradients, NeurIPS 2020, proposition 3.1 (from
    memory).

    Of an update after one local step it takes the gradient that was made of it.

    Attributes:
        structure: Whether the edges are known.
        through: Whether features that training saw under a known defense of them (``local-dp``,
            "dp-gnn" with ``unit``) are made the best guess of what they were; takes the features
            of others (FEATURES).
    """

    structure: bool = False
    through: bool = False

    @property
    def needs(self) -> Access:
        """Gradients, and the edges or features if they are known."""
        edges = Access.EDGES if self.structure else Access.NONE
        return super().needs | edges | (Access.FEATURES if self.through else Access.NONE)

    def run(self, view: View, rng: Rng) -> Reconstruction:
        """What each determined map was given, and features where that is what it was given.

        Raises:
            ValueError: There are several roots or local steps, or the model has no linear map of
                the form needed.
        """
        leak = self.leak(view)
        root = leak.roots
        if leak.local is not None and leak.local.steps > 1:
            raise ValueError(
                "attack 'closed-form' divides the gradient of one step: training.local_steps must "
                f"be 1, got {leak.local.steps}"
            )
        if len(root) > 1:
            raise ValueError(
                f"attack 'closed-form' needs a gradient of rank one: roots must be 1, got "
                f"{len(root)}"
            )
        maps = linear_maps(leak.predictor.model)
        if not maps:
            raise ValueError(
                "attack 'closed-form' needs a linear map whose bias is added after aggregation "
                f"(gcn, sgc, sage, mlp), {type(leak.predictor.model).__name__} has none"
            )
        alone = self.structure and _isolated(view, leak)
        blind = all(each.hops == 0 for each in maps)
        inputs, x = {}, None
        for each in maps:
            if each.last or alone or blind:
                found = _found(leak, each)
                if found is not None:
                    inputs[each.weight] = found
                    if each.layer == 0 and (each.hops == 0 or (alone and each.loops)):
                        x = found
        if x is not None and self.through and leak.defense is not None:
            shown = torch.ones(view.known.num_nodes, dtype=torch.bool)
            shown[leak.hidden(view.known, root)] = False
            x = leak.defense.estimate(x, features(view.known).to_dense()[shown])
        return Reconstruction(nodes=root, x=x, inputs=inputs)


def _found(leak: Leak, each: LinearMap) -> Tensor | None:
    for name in (each.weight, each.bias):
        if name not in leak.gradient:
            raise ValueError(
                f"attack 'closed-form' divides the gradient of {name!r}, which the release lacks"
            )
    row = multiplied(leak.gradient[each.weight], leak.gradient[each.bias])
    return None if row is None else row.unsqueeze(0)


def _isolated(view: View, leak: Leak) -> bool:
    """Whether no edge, in either direction, ends at the root."""
    u, v = leak.within(view.known.adj).pruned().csr.coo
    return not bool(((u == leak.roots) | (v == leak.roots)).any())
