"""PPRGo: class scores, gathered from the nodes that walks from a node visit most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from graphsec.models.base import GNN, Capabilities, ModelSpec, Sizes
from graphsec.models.stack import Decoupled
from graphsec.ops import Adj, Features, propagate, ranked
from graphsec.registry import MODELS, Range
from graphsec.sampling import take

# Power steps of the answer that attackers differentiate stop when less of the walk is left.
_LEFT = 1e-2


class PPRGo(Decoupled):
    """Z = Π_k H: Π_k the k largest entries of personalised PageRank, H a perceptron's scores.

    The aggregation over a row of Π_k is replaceable, so the robust form is the defense
    ``soft-median`` around this model (Geisler et al. 2021, §4). Each row is found by itself, by
    pushes around its node: about some nodes the model answers without the others.
    """

    capabilities = Capabilities(sampled=False, alone=True)

    def __init__(self, sizes: Sizes, spec: PPRGoSpec) -> None:
        super().__init__(sizes, spec.hidden, spec.depth, 1, spec.dropout)
        self.layers = None
        self.spec = spec

    def forward(self, x: Tensor | Features, adj: Adj) -> Tensor:
        """(n, classes) logits."""
        return self.at(x, adj, torch.arange(adj.num_nodes))

    def hidden(self, x: Tensor | Features, adj: Adj) -> list[Tensor]:
        """(n, classes) scores of each node's own features, and the logits."""
        return [self.encode(x), self.forward(x, adj)]

    def at(self, x: Tensor | Features, adj: Adj, nodes: Tensor) -> Tensor:
        """(k, classes) logits of ``nodes``, from their rows alone.

        Where edges carry gradients the answer is ``walked``, whose derivative sees every node a
        walk could reach, not only the k of today. Behind another aggregation than the sum, the
        value stays that of the rows and only the derivative is that of the walk, an attacker's
        surrogate (straight-through, Athalye et al. 2018).
        """
        if adj.final:  # a defense has put links of its own into the place of PageRank
            return self.aggregate(adj, self.encode(x))[nodes]
        if not adj.requires_grad:
            return self.gathered(x, adj, nodes)
        walk = self.walked(self.encode(x), adj)[nodes]
        if self.aggregate is propagate:
            return walk
        fixed = adj.with_tensors([tensor.detach() for tensor in adj.tensors()])
        return walk + (self.gathered(x, fixed, nodes) - walk).detach()

    def gathered(self, x: Tensor | Features, adj: Adj, nodes: Tensor) -> Tensor:
        """(k, classes) aggregated over the largest entries of the rows of ``nodes``."""
        spec = self.spec
        rows = ranked(adj, nodes, spec.topk, spec.teleport, spec.epsilon)
        if rows.num_nodes < adj.num_nodes:  # scores of the nodes in these rows only
            seen, column = torch.unique(rows.csr.indices, return_inverse=True)
            rows = replace(rows, csr=replace(rows.csr, indices=column, num_cols=len(seen)))
            x = take(x, seen)
        return self.aggregate(rows, self.encode(x))

    def walked(self, h: Tensor, adj: Adj) -> Tensor:
        """(n, classes) Π H with all of Π, by power steps Z ← (1 − α) D^-1 A Z + α H.

        Differentiable to any order in edge weights and candidate pairs.
        """
        alpha, step = self.spec.teleport, adj.normalized("row", self_loops=False)
        stays = (adj.degrees() <= 1e-12).unsqueeze(1)  # walks from an isolated node end there
        z, left = h, 1.0
        while left > _LEFT:
            z = (1 - alpha) * torch.where(stays, h, propagate(step, z)) + alpha * h
            left *= 1 - alpha
        return z


@MODELS.register("pprgo")
@dataclass(frozen=True, kw_only=True)
class PPRGoSpec(ModelSpec):
    """PPRGo; with ``soft-median`` around it, its robust form.

    Memory is linear in nodes times ``topk`` and in edges. Trained on the rows of the labelled
    nodes alone, in batches if ``training.batch_size`` is set.

    Source: Bojchevski et al., Scaling Graph Neural Networks with Approximate PageRank, KDD 2020,
    eq. 3 and algorithm 1; α = .1 and the soft-median form as in Geisler et al., NeurIPS 2021, §4.
    Walks follow D^-1 A without self-loops, also at test time (the paper's answers there are a few
    power steps).

    Attributes:
        hidden: Width of the perceptron.
        depth: Its linear maps.
        dropout: Rate before each of them.
        topk: Entries kept in each row.
        teleport: α, the probability that a walk starts again.
        epsilon: Mass that may stay where it is, per unit of degree.
    """

    module: ClassVar[type[GNN]] = PPRGo
    training: ClassVar[Mapping[str, Any]] = {"weight_decay": 1e-4}

    hidden: Annotated[int, Field(ge=1, le=8192), Range(16, 512, log=True)] = 64
    depth: Annotated[int, Field(ge=1, le=16), Range(1, 4)] = 2
    dropout: Annotated[float, Field(ge=0, lt=1), Range(0, 0.9)] = 0.5
    topk: Annotated[int, Field(ge=1, le=4096), Range(16, 256, log=True)] = 128
    teleport: Annotated[float, Field(gt=0, le=1), Range(0.05, 0.5)] = 0.1
    epsilon: Annotated[float, Field(gt=0, lt=1), Range(1e-6, 1e-3, log=True)] = 1e-5

    def build(self, sizes: Sizes) -> GNN:
        """A freshly initialised PPRGo."""
        return PPRGo(sizes, self)
