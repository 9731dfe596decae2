"""Laundering: a thief who has the weights disguises where they come from."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from graphsec.attacks.extraction._thief import ExtractionAttack, others, some
from graphsec.graph import Split
from graphsec.models.base import GNN, inputs
from graphsec.ops.noise import noise_of
from graphsec.outcome import StolenModel
from graphsec.predict import Predictor
from graphsec.registry import ATTACKS, Range
from graphsec.rng import Rng
from graphsec.threat import Access, View
from graphsec.train import Training, fit

_LEAST = 1e-30  # probability that stands for 0


@ATTACKS.register("model-laundering", "laundering")
@dataclass(frozen=True, kw_only=True)
class ModelLaundering(ExtractionAttack):
    """Takes the weights, prunes them, trains them further and blurs the answers, as told.

    What owners must still recognise. With everything off it is the victim itself, under another
    name. Pruning comes first and is not kept up in training, so that the rest makes up for it.

    Source: the removal attacks of Adi et al., Turning Your Weakness Into a Strength, USENIX
    Security 2018, §5, and Liu et al., Fine-Pruning, RAID 2018, as Zhao et al., Watermarking Graph
    Neural Networks by Random Graphs, ISDFS 2021, and Xu et al., EuroS&P 2023, use them on GNNs;
    all from memory.

    Attributes:
        prune: Share of the entries of each weight matrix that become 0, those nearest to it.
        epochs: Epochs of training on the thief's labels, of all parameters.
        lr: Their learning rate.
        labels: Share of the nodes that are not targets of which the thief knows the true label.
        noise: Standard deviation of Gaussian noise on the posteriors that the copy shows, the same
            whenever it gives the same answer.
    """

    prune: Annotated[float, Field(ge=0, lt=1), Range(0, 0.9)] = 0.3
    epochs: Annotated[int, Field(ge=0), Range(0, 200)] = 50
    lr: Annotated[float, Field(gt=0), Range(1e-3, 1e-1, log=True)] = 0.01
    labels: Annotated[float, Field(gt=0, le=1), Range(0.05, 1)] = 0.2
    noise: Annotated[float, Field(ge=0), Range(0, 0.5)] = 0.0

    @property
    def needs(self) -> Access:
        """The weights, and a labelled graph to train them on."""
        own = Access.FEATURES | Access.EDGES | Access.TRUE_LABELS
        return Access.WEIGHTS | own if self.epochs else Access.WEIGHTS

    def run(self, view: View, rng: Rng) -> StolenModel:
        """The disguised copy.

        Raises:
            ValueError: The threat is not adaptive: its view has another model for the victim.
        """
        if not view.threat.adaptive:
            raise ValueError(
                "attack 'model-laundering' takes the victim's own weights: threat.adaptive must be "
                "true, got false"
            )
        victim = view.model()
        model = copy.deepcopy(victim.model)
        stolen = Predictor(model, sanitise=victim.sanitise, origin=victim.origin)
        pruned(model, self.prune)
        if self.epochs:
            self._tune(stolen, view, rng)
        if self.noise:
            stolen.present = _Blurred(self.noise)
        return StolenModel(predictor=stolen)

    def _tune(self, stolen: Predictor, view: View, rng: Rng) -> None:
        graph, pool = view.known, others(view)
        if graph.y is None:
            raise ValueError(f"y is missing in {graph.name!r}: there is nothing to train on")
        pool = pool[graph.y[pool] >= 0]
        mine = some(pool, max(1, round(self.labels * len(pool))), rng["labels"])
        training = Training(epochs=self.epochs, lr=self.lr, weight_decay=0.0)
        known = graph.replace(split=Split.of(mine, mine[:0], mine[:0]))
        x, adj = stolen.sanitise(inputs(graph), graph.adj, "exact")
        fit(stolen.model, known, training, rng["train"], x=x, adj=adj.pruned())


@torch.no_grad()
def pruned(model: GNN, share: float) -> None:
    """Set that share of the entries of each weight matrix to 0, the smallest in magnitude."""
    for weight in model.parameters():
        count = int(share * weight.numel())
        if weight.dim() > 1 and count:
            order = weight.abs().ravel().argsort(stable=True)
            weight.ravel()[order[:count]] = 0.0


@dataclass(frozen=True)
class _Blurred:
    """Logarithms of posteriors with noise, a function of the posteriors."""

    scale: float

    def __call__(self, logits: Tensor) -> Tensor:
        posteriors = logits.softmax(1)
        noise = torch.from_numpy(noise_of(posteriors.numpy(), b"laundering")).to(posteriors)
        blurred = (posteriors + self.scale * noise).clamp(min=_LEAST)
        return F.normalize(blurred, p=1, dim=1).log()
