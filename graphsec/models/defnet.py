"""DefNet: dual-stage aggregation, bottlenecks, adversarial contrastive training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from graphsec.models.base import GNN, Sizes, glorot
from graphsec.models.stack import StackSpec, biases, weights, widths
from graphsec.ops import Adj, Features, dropout, linear
from graphsec.registry import MODELS, Range


class DefNet(GNN):
    """Layers of two stages and a bottleneck, trained beside a generator of fakes.

    With P = H V, narrow: stage one takes N = D^-1 A P, the neighbours without the node; stage two
    M = ReLU(α P + (1 − α) N + b), with α, 1 − α the softmax of q · tanh(P K) and q · tanh(N K),
    node by node. H' = ReLU(M U + c), or the logits M U + c. H and H' are ``hidden`` wide, all
    between them ``bottleneck``.

    Training adds ``contrast`` times the loss of a discriminator m · B s that is to tell the rows of
    the last M from fakes, beside s, the sigmoid of their mean. A fake is what M becomes after a
    generator moved each row of the first P by ``radius`` of its length. Encoder and discriminator
    descend, and the generator ascends in the same step, by a reversed gradient.
    """

    def __init__(self, sizes: Sizes, spec: DefNetSpec) -> None:
        super().__init__(spec.layers)
        self.spec, narrow = spec, spec.bottleneck
        width = widths(sizes, spec.hidden, spec.layers)
        self.squeeze = nn.ParameterList([glorot(wide, narrow) for wide in width[:-1]])
        self.bias = biases([narrow] * spec.layers)
        self.key = nn.ParameterList([glorot(narrow, narrow) for _ in self.bias])
        self.query = nn.ParameterList([glorot(narrow, 1) for _ in self.bias])
        self.widen = nn.ParameterList([glorot(narrow, wide) for wide in width[1:]])
        self.wide_bias = biases(width[1:])
        self.generator = weights([3 * narrow, spec.hidden, narrow])
        self.discriminator = glorot(narrow, narrow)
        self._last: Tensor | None = None  # M of the last layer, while training needs it

    def operator(self, adj: Adj) -> Adj:
        """D^-1 A: the mean over neighbours, without the node itself."""
        return adj.normalized("row", self_loops=False)

    def encode(self, x: Tensor | Features) -> Tensor:
        """P (n, bottleneck) of the first layer."""
        return linear(dropout(x, self.spec.dropout, self.training), self.squeeze[0])

    def layer(self, i: int, h: Tensor | Features, adj: Adj, x: Tensor | Features) -> Tensor:
        """Both stages, then out of the bottleneck; ReLU except at the end."""
        p = linear(dropout(h, self.spec.dropout, self.training), self.squeeze[i]) if i else h
        assert isinstance(p, Tensor)
        stages = torch.stack([p[: adj.num_nodes], self.aggregate(adj, p)], dim=1)
        alpha = (torch.tanh(stages @ self.key[i]) @ self.query[i]).softmax(1)
        mixed = torch.relu((alpha * stages).sum(1) + self.bias[i])
        out: Tensor = mixed @ self.widen[i] + self.wide_bias[i]
        if i + 1 < len(self.widen):
            return torch.relu(out)
        self._last = mixed if self.training and self.spec.contrast else None
        return out

    def penalty(self, x: Tensor | Features, adj: Adj) -> Tensor | None:
        """The weighted contrastive loss, on what training just answered about the batch."""
        real = self._last
        if real is None:
            return None
        summary = torch.sigmoid(real.mean(0))
        operator, first = self.operator(adj), self.encode(x)
        h = first + self._moves(first.detach(), summary.detach())
        for i in range(len(self.widen)):
            h = self.layer(i, h, operator.hop(i), first)
        fake, self._last = self._last, None
        assert fake is not None
        axis = self.discriminator @ summary
        loss: Tensor = (F.softplus(-real @ axis) + F.softplus(fake @ axis)).mean()
        return loss.mul(self.spec.contrast / 2)

    def _moves(self, first: Tensor, summary: Tensor) -> Tensor:
        """(n, bottleneck) what the generator adds to P; its gradient comes with the sign turned."""
        given = torch.cat([first, torch.randn_like(first), summary.expand_as(first)], dim=1)
        move: Tensor = F.normalize(torch.relu(given @ self.generator[0]) @ self.generator[1])
        move = move * first.norm(dim=1, keepdim=True).mul(self.spec.radius)
        return move.detach().mul(2) - move


@MODELS.register("defnet")
@dataclass(frozen=True, kw_only=True)
class DefNetSpec(StackSpec):
    """DefNet, as far as its abstract says what that is: the rest is ours.

    Read were the abstract and the beginning of the introduction. They name dual-stage aggregation
    and the bottleneck perceptron as answers to what is vulnerable "in every layer", and training
    "in a conditional GAN manner by leveraging the high-level graph representation"; no formula.
    **Ours**, item by item:

    - stage one is the mean over neighbours without the node, stage two attention between it and
      the node;
    - a bottleneck is a narrow middle of every layer, and messages are sent inside it;
    - the high-level representation is the mean over nodes, and the discriminator bilinear, as in
      Deep Graph Infomax (Veličković et al., ICLR 2019);
    - the generator moves first messages and no edges, by a fixed share of their length, from noise,
      the message and the high-level representation;
    - encoder and discriminator against generator, in one step by a reversed gradient (Ganin et
      al., JMLR 2016);
    - all defaults; and one encoder where the paper hardens GCN and GraphSAGE.

    Figures of the paper can't be expected of this. Both stages, the bottleneck and the game run on
    sampled hops too: the high-level representation is then that of the batch.

    Source: Wang et al., Adversarial Defense Framework for Graph Neural Network, arXiv 1905.03679,
    abstract.

    Attributes:
        bottleneck: Width between two layers' hidden states, and of messages.
        contrast: Weight of the contrastive loss; 0 leaves the game out.
        radius: How far the generator moves a message, as a share of its length.
    """

    module: ClassVar[type[GNN]] = DefNet
    training: ClassVar[Mapping[str, Any]] = {"weight_decay": 1e-3}

    bottleneck: Annotated[int, Field(ge=1, le=8192), Range(4, 64, log=True)] = 32
    contrast: Annotated[float, Field(ge=0), Range(1e-2, 1, log=True)] = 0.1
    radius: Annotated[float, Field(gt=0), Range(0.1, 4, log=True)] = 2.0

    def build(self, sizes: Sizes) -> GNN:
        """A freshly initialised DefNet."""
        return DefNet(sizes, self)
