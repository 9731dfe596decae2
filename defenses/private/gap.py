"""GAP: an encoder, noisy sums of its states over neighbours, a head on all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from graphsec.defenses.base import Defense
from graphsec.defenses.private._noisy_sums import NoisedStates, NoisyStates
from graphsec.graph import Graph
from graphsec.models.base import GNN, Sizes
from graphsec.models.mlp import MLPSpec
from graphsec.models.stack import Stack
from graphsec.ops import Adj, Features
from graphsec.registry import DEFENSES, Range
from graphsec.rng import Rng
from graphsec.train import OnEpoch, Recipe, Trace


class Perturbed(NoisedStates):
    """The encoder's last hidden state at norm 1, summed and noised hop by hop, and a head.

    Attributes:
        own: The encoder, a model of features with a hidden layer.
        head: The classifier of all hops' states side by side.
        noise: (hops, n, width) of standard deviation 1; None for a stranger.
    """

    def __init__(self, own: GNN, head: GNN, rule: GAP, entropy: int) -> None:
        super().__init__(own, rule.hops, rule, entropy)
        self.head, self._hops = head, rule.hops

    def hops(self, x: Tensor | Features, adj: Adj) -> list[Tensor]:
        """(n, width) states of every hop, the node's own first, each at norm 1."""
        states, operator = [self.start(x, adj)], self.operator(adj)
        for hop in range(self._hops):
            states.append(self.hear(operator, states[-1], hop))
        return states

    def hidden(self, x: Tensor | Features, adj: Adj) -> list[Tensor]:
        """States of every hop, and the logits."""
        states = self.hops(x, adj)
        return [*states, self.head(torch.cat(states, 1), adj)]


@DEFENSES.register("gap")
@dataclass(frozen=True, kw_only=True)
class GAP(NoisyStates):
    """Aggregation perturbation: states are summed over neighbours with noise, then only looked at.

    An encoder (the recipe's ``mlp``) is trained, its hidden states are summed over neighbours and
    noised hop by hop, and a head is trained on all hops; both trainings are private at level
    "node". See ``NoisySums`` for what is claimed; the published form of level "node" cuts each
    node's receivers at random to ``cap``, and nothing is claimed for it: a node that goes frees a
    place with each of its neighbours, so that sums change which never heard it.

    Source: Sajadmanesh, Shamsabadi, Bellet & Gatica-Perez, GAP: Differentially Private Graph Neural
    Networks with Aggregation Perturbation, USENIX Security 2023 (from memory, with the notes of its
    code). Ours: "soft" and "bound"; one ratio of noise between trainings and sums; a head of one
    perceptron where theirs has one a hop.

    Attributes:
        level: Of neighbours: "node" or "edge".
        epsilon: ε of all, unless ``noise_multiplier`` is given.
        noise_multiplier: Noise of the sums over their sensitivity, whatever ε that makes; 0 draws
            none anywhere. None finds the least for ``epsilon``.
        delta: δ, below one over the public number of training nodes.
        heard: "soft" caps, a public "bound" on degrees, or the "published" cut.
        cap: K of soft caps, or the public bound, or the number of receivers.
        ratio: Noise multiplier of the two models' steps over that of the sums.
        steps: Private steps of each model; the next four fields are those of ``dp-gnn`` too.
        rate: Each training node's chance to be in a step.
        clip: Most that its gradient can be long.
        lr: Learning rate of Adam.
        nodes: Public number of training nodes; None takes the graph's, which then is public.
        unit: Scale the features of every node to norm 1.
        secure: Draw samples and noise from the operating system, not from the seed.
        hops: Sums over neighbours, one after the other.
        head: Hidden units of the head.
    """

    head: Annotated[int, Field(ge=1, le=8192), Range(8, 128, log=True)] = 32

    @property
    def models(self) -> int:
        """Encoder and head."""
        return 2

    def harden(self, model: GNN) -> GNN:
        """The model as an encoder, with a head and the noise."""
        assert isinstance(model, Stack)
        width, classes = model.weight[-1].shape
        head = MLPSpec(hidden=self.head, dropout=0.0).build(
            Sizes(0, (self.hops + 1) * width, classes)
        )
        return Perturbed(model, head, self, self._entropy)

    def train(
        self, model: GNN, graph: Graph, recipe: Recipe, rng: Rng, x: Tensor | Features, adj: Adj,
        on_epoch: OnEpoch | None = None, whole: Defense | None = None,
    ) -> Trace:  # fmt: skip
        """Encoder, noisy sums, head, in this order."""
        assert isinstance(model, Perturbed)
        assert isinstance(model.own, Stack)
        model.noise = self.noises(graph.num_nodes, model.own.weight[-1].shape[0])
        trace = self.fitted(model.own, graph, recipe, rng["encoder"], x, adj, on_epoch, whole)
        model.eval()
        with torch.no_grad():
            states = torch.cat(model.hops(x, adj), 1)
        head = self.fitted(model.head, graph, recipe, rng["head"], states, adj, None, whole)
        trace.epochs += head.epochs
        trace.history += head.history
        trace.spent += self.spent() + head.spent
        model.eval()
        return trace
