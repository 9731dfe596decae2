"""FairGNN: an adversary who must not find the group in the states, and a covariance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from graphsec.defenses.fair._training import FairDefense, Learner
from graphsec.graph import Graph
from graphsec.graph.container import Split
from graphsec.models.base import GNN, Sizes
from graphsec.ops import Adj, Features
from graphsec.registry import DEFENSES, MODELS, Range
from graphsec.rng import Rng
from graphsec.train import Recipe, Training
from graphsec.train import fit as train_model


@DEFENSES.register("fairgnn")
@dataclass(frozen=True, kw_only=True)
class FairGNN(FairDefense):
    """Training against an adversary who guesses groups from the last hidden states.

    A GCN first estimates the groups ŝ of all nodes from those of training nodes, of which a share
    ``known`` is given. Each step then lets the adversary, a linear map of the states, learn ŝ, and
    the model minimises

        loss + α · |cov(ŝ, ŷ)| − β · cross-entropy of the adversary,

    over all nodes, with ŷ the probability of answer 1; of several groups the largest covariance
    counts. The adversary is thrown away: attackers differentiate the model exactly.

    Source: Dai & Wang, Say No to the Discrimination: Learning Fair Graph Neural Networks with
    Limited Sensitive Attribute Information, WSDM 2021 (from notes). Published for Pokec-z: α = 100,
    β = 1, Adam at 1e-3 with decay 1e-5. Ours: the estimator is not trained further, the adversary
    has the recipe's learning rate, and the epoch is chosen by the rule of all fair defenses.

    Attributes:
        alpha: α.
        beta: β.
        known: Share of the training nodes whose group is known to training.
        steps: Steps of the adversary before each of the model.
    """

    needs_whole: ClassVar[bool] = True

    alpha: Annotated[float, Field(ge=0), Range(1, 100, log=True)] = 10.0
    beta: Annotated[float, Field(ge=0), Range(0.01, 1, log=True)] = 0.1
    known: Annotated[float, Field(gt=0, le=1)] = 1.0
    steps: Annotated[int, Field(ge=1), Range(1, 5)] = 1

    def learner(
        self, model: GNN, graph: Graph, group: Tensor, recipe: Recipe,
        x: Tensor | Features, adj: Adj, rng: Rng,
    ) -> GNN:  # fmt: skip
        """The model with its adversary."""
        found = estimated(graph, group, self.known, x, adj, rng)
        with rng["adversary"].scope(), torch.no_grad():
            states = model.eval().hidden(x, adj)
            width = states[-2 if len(states) > 1 else -1].shape[1]
            adversary = nn.Linear(width, found.shape[1]).to(found.device)
        return Adversarial(self, model, adversary, found, recipe.training.lr)


class Adversarial(Learner):
    """A model in training, and the adversary that it is trained against."""

    def __init__(
        self, defense: FairGNN, base: GNN, adversary: nn.Linear, group: Tensor, lr: float
    ) -> None:
        super().__init__(base, base.layers)
        self._defense, self._group = defense, group
        # Not a submodule: its weights are no part of the model's step, nor of what is released.
        self._adversary = (adversary,)
        self._optimizer = torch.optim.Adam(adversary.parameters(), lr=lr, weight_decay=1e-5)

    def term(self, x: Tensor | Features, adj: Adj) -> Tensor:
        """α |cov| − β times the loss of the adversary, who learns first."""
        (adversary,) = self._adversary
        h = self.states[-2 if len(self.states) > 1 else -1]
        for _ in range(self._defense.steps):
            self._optimizer.zero_grad()
            F.cross_entropy(adversary(h.detach()), self._group).backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
        tells = F.cross_entropy(
            F.linear(h, adversary.weight.detach(), adversary.bias.detach()), self._group
        )
        p = self.states[-1].softmax(1)[:, 1]
        return self._defense.alpha * covariance(p, self._group) - self._defense.beta * tells


def covariance(p: Tensor, group: Tensor) -> Tensor:
    """The largest |cov| of p (n,) with being of a group (n, groups)."""
    centred = group - group.mean(0)
    return ((p - p.mean()).unsqueeze(1) * centred).mean(0).abs().max()


def estimated(
    graph: Graph, group: Tensor, known: float, x: Tensor | Features, adj: Adj, rng: Rng
) -> Tensor:
    """(n, groups) probabilities of each node's groups, by a GCN; sure where they are given.

    Args:
        graph: Supplies the split; the training nodes' groups alone are looked at.
        group: (n,) groups, −1 unknown.
        known: Share of the training nodes whose group is given.
        x: Features.
        adj: Adjacency.
        rng: Stream of who is known, and of the training.
    """
    assert graph.split is not None
    train = graph.split.train[group[graph.split.train] >= 0]
    order = torch.randperm(len(train), generator=rng["known"].torch()).to(train.device)
    given = train[order[: max(round(known * len(train)), 2)]].sort().values
    none = train[:0]
    task = graph.replace(y=group, split=Split(given, none, none))
    groups = int(group.max()) + 1
    with rng["estimator"].scope():
        sizes = Sizes(graph.num_nodes, graph.num_features, groups)
        estimator: GNN = MODELS.build("gcn").build(sizes)
    estimator.to(graph.indptr.device)
    train_model(estimator, task, Training(), rng["estimator"], x=x, adj=adj)
    with torch.no_grad():
        found: Tensor = estimator(x, adj).softmax(1)
    found[given] = F.one_hot(group[given], groups).to(found.dtype)
    return found
