"""Clipped sums of per-root gradients, from one backward pass through all subtrees at once.

A weight's gradient of root i is ∇W_i = A_iᵀ G_i: A_i are the inputs of its map at the copies that
belong to the root, G_i the gradients of its outputs. The squared norm is Σ_st ⟨a_s, a_t⟩⟨g_s, g_t⟩
over pairs of these rows (ghost norm), and the clipped sum Aᵀ (c · G), with a factor a root
(Book-Keeping): no gradient of a single root is ever written down, unless a root has so many copies
that its norm is cheaper that way.

Source: Goodfellow, Efficient Per-Example Gradient Computations, 2015 (one row a sample); Li et al.,
Large Language Models Can Be Strong Differentially Private Learners, ICLR 2022 (ghost norm); Bu,
Wang, Zha & Karypis, Differentially Private Optimization on Large Model at Small Cost, ICML 2023
(Book-Keeping). All three are written from memory of the formulas.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from graphsec.dp.blocks import ROUNDING, Blocks, Part, Rows
from graphsec.dp.recorder import Recorder, UnknownUseError, unknown
from graphsec.models.base import GNN
from graphsec.ops import Adj

How = Literal["flat", "layer", "automatic"]


@dataclass(frozen=True)
class Clip:
    """How the gradient of one root is held to a norm of at most ``norm``.

    Attributes:
        norm: C. "layer" gives each of L layers C / √L, whose squares sum to C².
        how: "flat" scales by min(1, C / ‖g‖); "layer" does so layer by layer; "automatic" scales
            by C / (‖g‖ + γ) (Bu et al., Automatic Clipping, NeurIPS 2023, eq. 4; from memory).
        gamma: γ.
    """

    norm: float = 1.0
    how: How = "flat"
    gamma: float = 0.01

    def factors(self, squares: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """(B,) factor of each parameter's gradients, from their squared norms (B,).

        A root whose gradient is not finite gets 0: it counts, and adds nothing.
        """
        layers = {name: _layer(name) if self.how == "layer" else "" for name in squares}
        # A little less, so that rounding can't make it more.
        limit = (1 - ROUNDING) * self.norm / len(set(layers.values())) ** 0.5
        finite = torch.stack(list(squares.values())).isfinite().all(0)
        factor = {}
        for layer in set(layers.values()):
            square = sum(squares[name] for name in squares if layers[name] == layer)
            assert isinstance(square, Tensor)
            norm = square.sqrt()
            scale = limit / (norm + self.gamma) if self.how == "automatic" else limit / norm
            factor[layer] = torch.where(finite, scale.clamp(max=_most(self.how)), 0.0)
        return {name: factor[layer] for name, layer in layers.items()}


def _most(how: How) -> float:
    return torch.inf if how == "automatic" else 1.0


def _layer(name: str) -> str:
    """What a parameter is clipped with: those of one number are one layer (weight.0, bias.0)."""
    number = re.search(r"\d+", name)
    return name if number is None else number.group()


def clipped_sum(
    model: GNN, x: Rows, adj: Adj, y: Tensor, task: str, clip: Clip
) -> tuple[dict[str, Tensor], Tensor]:
    """Σ_i clipped gradient of root i's loss, by parameter, and the norms before clipping.

    Args:
        model: Made of ``ops.linear`` (or ``h @ W``), additions of biases, and whatever does not
            mix subtrees; without batch statistics.
        x: (copies, d) features of the copies.
        adj: Their subtrees, from ``sampling.subtrees``.
        y: (m,) labels of the first m copies, −1 where unknown. In subtrees these are the B roots.
            The loss of a root is the mean over the labelled copies that it owns; without any, its
            gradient is 0.
        task: "classification" or "regression".
        clip: How to clip.

    Returns:
        (sums like the trainable parameters, (B,) norms). The norms are private.

    Raises:
        UnknownUseError: A parameter is used otherwise; ``looped_sum`` takes any model.
    """
    owner = adj.hops[0].owner if adj.hops else adj.owner
    assert owner is not None
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    parts = _parts(model, x, adj, y, task, trainable, owner)
    blocks = Blocks(owner, count(owner))
    sums = {name: torch.zeros_like(p) for name, p in trainable.items()}
    if not parts:
        return sums, torch.zeros(count(owner))
    squares = {name: part.squares(blocks) for name, part in parts.items()}
    factors = clip.factors(squares)
    for name, part in parts.items():
        sums[name] = part.sum(factors[name], blocks)
    return sums, torch.stack(list(squares.values())).sum(0).sqrt()


def _parts(
    model: GNN, x: Rows, adj: Adj, y: Tensor, task: str, trainable: Mapping[str, Tensor],
    owner: Tensor,
) -> dict[str, Part]:  # fmt: skip
    """Inputs and output gradients of each parameter; all else of the passes is gone."""
    recorder = Recorder(model)
    with torch.enable_grad(), recorder:
        logits = recorder.now(model(x, adj))
        loss = root_losses(task, logits[: len(y)], y, owner).sum()
    uses = recorder.uses
    wanted = [*(use.output for use in uses), *trainable.values()]
    found = torch.autograd.grad(loss, wanted, allow_unused=True)
    for name, gradient in zip(trainable, found[len(uses) :], strict=True):
        if gradient is not None:  # it went past the recorder
            raise UnknownUseError(unknown(model, name, "a function that was not watched"))
    parts: dict[str, Part] = {}
    for use, gradient in zip(uses, found, strict=False):
        if gradient is not None:
            parts[use.name] = Part.of(use.input, gradient, parts.get(use.name))
    return parts


def looped_sum(
    model: GNN, roots: Iterable[tuple[Rows, Adj, Tensor]], task: str, clip: Clip
) -> tuple[dict[str, Tensor], Tensor]:
    """The same for any model without batch statistics, root by root: slow.

    Args:
        model: Any model that runs on subtrees.
        roots: (x, adj, y) of each root, as ``clipped_sum`` takes them.
        task: "classification" or "regression".
        clip: How to clip.
    """
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    sums = {name: torch.zeros_like(p) for name, p in trainable.items()}
    norms = []
    for x, adj, y in roots:
        logits = model(x, adj)[: len(y)]
        loss = root_losses(task, logits, y, torch.zeros(len(y), dtype=torch.int64)).sum()
        found = torch.autograd.grad(loss, list(trainable.values()), allow_unused=True)
        mine = {n: g for n, g in zip(trainable, found, strict=True) if g is not None}
        squares = {name: g.square().sum().view(1) for name, g in mine.items()}
        factors = clip.factors(squares)
        for name, gradient in mine.items():
            sums[name] += gradient.nan_to_num(0, 0, 0) * factors[name].squeeze()
        norms.append(torch.stack(list(squares.values())).sum().sqrt())
    return sums, torch.stack(norms) if norms else torch.zeros(0)


def count(owner: Tensor) -> int:
    """Roots of copies that belong to 0 … B − 1, each of which has one."""
    return int(owner.max()) + 1 if len(owner) else 0


def root_losses(task: str, logits: Tensor, y: Tensor, owner: Tensor) -> Tensor:
    """(B,) loss of each root: the mean over its labelled copies, 0 where there are none."""
    roots, mine = count(owner), owner[: len(y)]
    known = torch.ones(len(y)) if task == "regression" else (y >= 0).float()
    share = known / torch.zeros(roots).index_add(0, mine, known).clamp(min=1)[mine]
    return torch.zeros(roots).index_add(0, mine, losses(task, logits, y) * share)


def losses(task: str, logits: Tensor, y: Tensor) -> Tensor:
    """(m,) loss of each label."""
    if task == "regression":
        return F.mse_loss(logits.squeeze(-1), y, reduction="none")
    return F.cross_entropy(logits, y, ignore_index=-1, reduction="none")


SHARED = "{} has batch_statistics: the gradient of one root depends on others"


def beyond_roots(module: type[GNN]) -> str | None:
    """What in a class of models would let others than a root's subtree into its gradient."""
    name, can = module.__name__, module.capabilities
    if can.batch_statistics:
        return SHARED.format(name)
    if can.uses_edges and not can.sampled:
        return f"{name} is not sampled: it does not run on the subtree of a root"
    if "classification" not in can.tasks:
        return f"{name} is for {', '.join(can.tasks)}: private steps need labels"
    if module.penalty is not GNN.penalty:
        return f"{name} adds a penalty to its loss, which no clipping holds"
    if module.settle is not GNN.settle:
        return f"{name} settles on validation labels, which no event accounts for"
    return None
