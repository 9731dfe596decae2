"""ProGAP: models trained one after the other, each on the noisy sums of the last one's states."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphsec.defenses.base import Defense
from graphsec.defenses.private._noisy_sums import NoisedStates, NoisyStates
from graphsec.graph import Graph
from graphsec.models.base import GNN, Sizes
from graphsec.models.mlp import MLPSpec
from graphsec.models.stack import Stack
from graphsec.ops import Adj, Features
from graphsec.registry import DEFENSES
from graphsec.rng import Rng
from graphsec.train import OnEpoch, Recipe, Trace


class Progressive(NoisedStates):
    """A model of features, and a perceptron a stage on all states so far and a noisy sum.

    Attributes:
        own: Stage 0, a model of features with a hidden layer.
        stages: The others.
        noise: (stages, n, width) of standard deviation 1; None for a stranger.
    """

    def __init__(self, own: Stack, classes: int, rule: ProGAP, entropy: int) -> None:
        super().__init__(own, rule.hops, rule, entropy)
        width = own.weight[-1].shape[0]
        self.stages = nn.ModuleList(
            MLPSpec(hidden=width, dropout=0.0).build(Sizes(0, (stage + 2) * width, classes))
            for stage in range(rule.hops)
        )

    def seen(self, x: Tensor | Features, adj: Adj, stage: int) -> list[Tensor]:
        """What a stage starts from, each (n, width) at norm 1: all states, and the noisy sum."""
        states, operator = [self.start(x, adj)], self.operator(adj)
        for i in range(stage + 1):
            start = [*states, self.hear(operator, states[-1], i)]
            if i < stage:
                made: Tensor = self.stages[i].hidden(torch.cat(start, 1), adj)[-2]  # type: ignore[operator]
                states.append(F.normalize(made, dim=1))
        return start

    def hidden(self, x: Tensor | Features, adj: Adj) -> list[Tensor]:
        """All states, the last sum, and the logits of the last stage."""
        start = self.seen(x, adj, len(self.stages) - 1)
        return [*start, self.stages[-1](torch.cat(start, 1), adj)]


@DEFENSES.register("progap")
@dataclass(frozen=True, kw_only=True)
class ProGAP(NoisyStates):
    """Progressive aggregation perturbation: what is summed was trained on the sums before.

    Stage 0 (the recipe's ``mlp``) is trained on features. Then, stage by stage, the hidden states
    of the last stage are summed over neighbours with noise, once, and a perceptron is trained on
    that sum and all states so far, whose hidden layer is the next state. The last one answers. All
    trainings are private at level "node".

    See ``NoisySums`` for what is claimed. The sums' argument asks that the states of other nodes
    be the same in both graphs. They are, given what was released before: a state is a function of
    weights, of the node's own features and of the noisy sums that it heard. The published form of
    level "node" cuts receivers at random, and nothing is claimed for it, as for ``gap``.

    Source: Sajadmanesh & Gatica-Perez, ProGAP: Progressive Graph Neural Networks with Differential
    Privacy Guarantees, WSDM 2024 (the abstract, and the roles of its stages in the published
    code). Stages train alone, as in that code's layerwise mode, without batch normalisation. Ours:
    "soft" and "bound"; a stage looks at earlier states before its hidden layer, where theirs joins
    them after it.

    Attributes:
        level: Of neighbours: "node" or "edge".
        epsilon: ε of all, unless ``noise_multiplier`` is given.
        noise_multiplier: Noise of the sums over their sensitivity, whatever ε that makes; 0 draws
            none anywhere. None finds the least for ``epsilon``.
        delta: δ, below one over the public number of training nodes.
        heard: "soft" caps, a public "bound" on degrees, or the "published" cut.
        cap: K of soft caps, or the public bound, or the number of receivers.
        ratio: Noise multiplier of the models' steps over that of the sums.
        steps: Private steps of each model; the next four fields are those of ``dp-gnn`` too.
        rate: Each training node's chance to be in a step.
        clip: Most that its gradient can be long.
        lr: Learning rate of Adam.
        nodes: Public number of training nodes; None takes the graph's, which then is public.
        unit: Scale the features of every node to norm 1.
        secure: Draw samples and noise from the operating system, not from the seed.
        hops: Stages after the first: sums over neighbours, one after the other.
    """

    @property
    def models(self) -> int:
        """One a stage."""
        return self.hops + 1

    def harden(self, model: GNN) -> GNN:
        """The model as stage 0, with the others and the noise."""
        assert isinstance(model, Stack)
        return Progressive(model, model.weight[-1].shape[1], self, self._entropy)

    def train(
        self, model: GNN, graph: Graph, recipe: Recipe, rng: Rng, x: Tensor | Features, adj: Adj,
        on_epoch: OnEpoch | None = None, whole: Defense | None = None,
    ) -> Trace:  # fmt: skip
        """Stage after stage, each on sums that are drawn when the one before has been trained."""
        assert isinstance(model, Progressive)
        assert isinstance(model.own, Stack)
        model.noise = self.noises(graph.num_nodes, model.own.weight[-1].shape[0])
        trace = self.fitted(model.own, graph, recipe, rng["stage"][0], x, adj, on_epoch, whole)
        trace.spent += self.spent()
        for i, stage in enumerate(model.stages):
            assert isinstance(stage, GNN)
            model.eval()
            with torch.no_grad():
                start = torch.cat(model.seen(x, adj, i), 1)
            one = self.fitted(stage, graph, recipe, rng["stage"][i + 1], start, adj, None, whole)
            trace.epochs += one.epochs
            trace.history += one.history
            trace.spent += one.spent
        model.eval()
        return trace
