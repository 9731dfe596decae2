"""Baselines that change how much training nodes count: reweighting and resampling."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from graphsec.defenses.fair._training import FairDefense
from graphsec.graph import Graph
from graphsec.registry import DEFENSES
from graphsec.rng import Rng
from graphsec.train import Regulariser


@DEFENSES.register("fair-reweighting")
@dataclass(frozen=True, kw_only=True)
class FairReweighting(FairDefense):
    """Training nodes weigh as if label and group had nothing to do with each other.

    A node of label y and group s has the weight P(y) P(s) / P(y, s), of shares of the training
    nodes, so that the mean weight is 1; without a known group, 1. Only the loss differs.

    Source: Kamiran & Calders, Data preprocessing techniques for classification without
    discrimination, KAIS 2012, algorithm 3 (from memory).
    """

    def regulariser(self, graph: Graph, group: Tensor, rng: Rng) -> Regulariser:
        """The weighted less the plain cross-entropy, which the loss has already."""
        assert graph.y is not None
        weight, y = self.weights(graph, group, rng), graph.y

        def added(logits: Tensor, roots: Tensor) -> Tensor:
            known = y[roots] >= 0
            each = F.cross_entropy(logits[known], y[roots][known], reduction="none")
            mean: Tensor = ((weight[roots][known] - 1) * each).mean()
            return mean

        return added

    def weights(self, graph: Graph, group: Tensor, rng: Rng) -> Tensor:
        """(n,) weight of each node; 1 outside of the training part."""
        assert graph.y is not None
        assert graph.split is not None
        weight = torch.ones(graph.num_nodes, device=graph.y.device)
        train = graph.split.train
        train = train[(graph.y[train] >= 0) & (group[train] >= 0)]
        y, s = graph.y[train], group[train]
        cell = y * (int(s.max()) + 1) + s
        count = torch.bincount(cell).to(weight.dtype)
        of_label, of_group = torch.bincount(y), torch.bincount(s)
        weight[train] = of_label[y] * of_group[s] / (len(train) * count[cell])
        return weight


@DEFENSES.register("fair-resampling")
@dataclass(frozen=True, kw_only=True)
class FairResampling(FairReweighting):
    """Training nodes are drawn anew, with replacement, in proportion to those weights.

    Drawn once, before training: as many as there are. Some then count several times, some never.

    Source: Kamiran & Calders, KAIS 2012, §4.4, uniform sampling (from memory).
    """

    def weights(self, graph: Graph, group: Tensor, rng: Rng) -> Tensor:
        """(n,) how often each node was drawn; 1 outside of the training part."""
        assert graph.split is not None
        weight, train = super().weights(graph, group, rng).cpu(), graph.split.train
        picked = torch.multinomial(
            weight[train.cpu()], len(train), replacement=True, generator=rng.torch()
        )
        weight[train.cpu()] = torch.bincount(picked, minlength=len(train)).to(weight.dtype)
        return weight.to(train.device)
