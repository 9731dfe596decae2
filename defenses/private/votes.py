"""Private votes: a model of features, and what a node's neighbours say of its class, noised."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Annotated, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from graphsec.defenses.base import Defense
from graphsec.defenses.private._noisy_sums import Noised, NoisySums
from graphsec.graph import Graph
from graphsec.models.base import GNN
from graphsec.ops import Adj, Features
from graphsec.registry import DEFENSES, Range
from graphsec.rng import Rng
from graphsec.train import OnEpoch, Recipe, Trace


class Votes(Noised):
    """log p of a node's own features, plus evidence of its neighbours' noisy votes.

    A node votes with its class probabilities, less 1 / classes, at norm 1; one whose label was
    trained on votes for that.

    Attributes:
        own: The model of the features.
        told: (n, classes) votes of the labelled training nodes, 0 elsewhere; None for a stranger.
        noise: (n, classes) of standard deviation 1; None for a stranger.
    """

    def __init__(self, own: GNN, rule: PrivateVotes, entropy: int) -> None:
        super().__init__(own, 1, rule, entropy)
        self._weight = rule.expected / self._scale
        self.told: Tensor | None = None

    def public(self) -> Self:
        """Without labels too."""
        other = super().public()
        other.told = None
        return other

    def heard(self, own: Tensor, adj: Adj) -> Tensor:
        """(n, classes) sums of votes, before noise."""
        votes = centred(own.exp())
        if self.told is not None:
            votes = torch.where(self.told.any(1, keepdim=True), self.told, votes)
        return self.aggregate(self.operator(adj), votes)

    def hidden(self, x: Tensor | Features, adj: Adj) -> list[Tensor]:
        """What the features alone say, and the logits."""
        own = self.own(x, adj).log_softmax(1)
        heard = self.heard(own, adj) / self._scale
        if self.noise is not None:
            heard = heard + self.noise
        return [own, own + self._weight * heard]


def centred(p: Tensor) -> Tensor:
    """Probabilities (n, classes) as votes: what is beyond equal shares, at norm 1."""
    return F.normalize(p - 1 / p.shape[1], dim=1)


@DEFENSES.register("private-votes")
@dataclass(frozen=True, kw_only=True)
class PrivateVotes(NoisySums):
    """A private model of features, and one noisy sum of votes over each node's neighbours.

    The logits are log p + κ z: p of a model that ignores edges (``mlp``), trained by ``dp-gnn``,
    and z what neighbours vote plus noise, over the noise's standard deviation, drawn once. κ, the
    evidence of z, is ``expected`` over that deviation: the votes for a node's class, as guessed
    beforehand. See ``NoisySums`` for what is claimed.

    Source: ours. Sums that are noised once, and kept, are the idea of GAP (Sajadmanesh et al.,
    USENIX Security 2023); the node-level claim of its published form rests on a cut of degrees that
    is not stable (docs/privacy.md). The defaults were chosen on ``amazon/photo``.

    Attributes:
        level: Of neighbours: "node" or "edge".
        epsilon: ε of all, unless ``noise_multiplier`` is given.
        noise_multiplier: Noise of the sums over their sensitivity, whatever ε that makes; 0 draws
            none anywhere. None finds the least for ``epsilon``.
        delta: δ, below one over the public number of training nodes.
        heard: "soft" caps, or "bound": all votes count, and degrees have a public bound; or
            "published", GAP's random cut to so many receivers of each node, with no claim.
        cap: K of soft caps, or the public bound, or the number of receivers.
        ratio: Noise multiplier of the model's steps over that of the votes.
        steps: Private steps of the model; the next four fields are those of ``dp-gnn`` too.
        rate: Each training node's chance to be in a step.
        clip: Most that its gradient can be long.
        lr: Learning rate of Adam.
        nodes: Public number of training nodes; None takes the graph's, which then is public.
        unit: Scale the features of every node to norm 1.
        secure: Draw samples and noise from the operating system, not from the seed.
        expected: Votes that a node's class is expected to get: a public guess.
    """

    expected: Annotated[float, Field(ge=0), Range(1, 20, log=True)] = 4.8
    _told: Tensor | None = field(init=False, default=None, repr=False, compare=False)
    _noise: Tensor | None = field(init=False, default=None, repr=False, compare=False)
    _entropy: int = field(init=False, default=0, repr=False, compare=False)

    def drawn(self, graph: Graph, rng: Rng) -> Defense:
        """With the noise of this training, and the votes of its labelled nodes."""
        self.check(graph)
        assert graph.y is not None
        assert graph.split is not None
        train = graph.split.train[graph.y[graph.split.train] >= 0]
        told = torch.zeros(graph.num_nodes, graph.num_classes)
        told[train] = centred(F.one_hot(graph.y[train], graph.num_classes).float())
        made = copy.copy(self)
        object.__setattr__(made, "_told", told)
        object.__setattr__(made, "_noise", self.noise(tuple(told.shape), rng))
        object.__setattr__(made, "_entropy", rng["cut"].entropy)
        return made

    def harden(self, model: GNN) -> GNN:
        """Votes around the model, with the noise and the labels that were drawn."""
        made = Votes(model, self, self._entropy)
        made.told, made.noise = self._told, self._noise
        return made

    def train(
        self, model: GNN, graph: Graph, recipe: Recipe, rng: Rng, x: Tensor | Features, adj: Adj,
        on_epoch: OnEpoch | None = None, whole: Defense | None = None,
    ) -> Trace:  # fmt: skip
        """Train the model of the features; the votes are a release of their own."""
        assert isinstance(model, Votes)
        trace = self.fitted(model.own, graph, recipe, rng, x, adj, on_epoch, whole)
        trace.spent += self.spent()
        model.eval()
        return trace
