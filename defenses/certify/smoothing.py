"""Sparse randomised smoothing: the vote over noisy graphs, with certified radii."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from graphsec.defenses.base import Defense
from graphsec.graph import Graph
from graphsec.models.base import GNN, Aggregate, Capabilities, inputs
from graphsec.ops import Adj, Features
from graphsec.predict import Predictor
from graphsec.registry import DEFENSES, Range
from graphsec.rng import Rng

Array = npt.NDArray[np.float64]
LARGEST = 100  # flips; a larger radius is reported as this one


@DEFENSES.register("smoothing")
@dataclass(frozen=True, kw_only=True)
class Smoothing(Defense):
    """The class that the model gives most often on randomly flipped copies of the graph.

    Each edge disappears with probability ``p_del`` and each absent pair appears with ``p_add``,
    independently; undirected graphs, whose edge weights are ignored. Answers are the log shares
    of votes under a fixed stream, so that the same graph gets the same answer.

    An attacker differentiates the relaxed vote: the value is that of the votes, the gradient that
    of the mean probabilities over the same noisy graphs, in the candidate pairs that show through
    the noise. It is the same in every mode of preprocessing.

    ``Predictor.certify`` speaks of the smoothed classifier, the limit of infinitely many votes,
    and of the class that the predictor answers. Answers by few votes can be on the wrong side of
    a narrow majority, all the more against an attacker who knows their stream.

    Source: Bojchevski, Gasteiger & Günnemann, Efficient Robustness Certificates for Discrete
    Data, ICML 2020; of its certificates the one of the majority, ρ > 1/2.

    Attributes:
        p_add: Probability that an absent pair appears. A node gets p_add · n false neighbours, so
            that it should be about 1 / n: 0.001 suits thousands of nodes. 0 adds no edges and
            certifies the most deletions.
        p_del: Probability that an edge disappears; p_add + p_del must be below 1. Up to 1/2
            no addition is certified (ρ is about p_del), unless thousands of votes agree.
        samples: Votes of an answer.
        certify_samples: Votes of a certificate.
        alpha: Probability that the certificate of a node is wrong. For k nodes at once, ask for
            alpha / k.
        train_noise: Train on a new noisy graph in each step, else on the clean graph.
    """

    tasks: ClassVar[tuple[str, ...]] = ("classification",)

    p_add: Annotated[float, Field(ge=0, lt=1), Range(1e-4, 1e-2, log=True)] = 0.001
    p_del: Annotated[float, Field(ge=0, lt=1), Range(0.2, 0.8)] = 0.6
    samples: Annotated[int, Field(ge=1)] = 50
    certify_samples: Annotated[int, Field(ge=1)] = 1000
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.01
    train_noise: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.p_add + self.p_del >= 1:
            raise ValueError(
                f"p_add + p_del must be below 1 (at 1 the noise hides the graph), "
                f"got {self.p_add} + {self.p_del}"
            )

    def harden(self, model: GNN) -> GNN:
        """The vote of the model."""
        return Vote(model, self)

    def certify(self, predictor: Predictor, graph: Graph, nodes: Tensor, rng: Rng) -> Tensor:
        """Certified radii of the predicted classes.

        Args:
            predictor: Made by this defense.
            graph: Graph that may already be attacked.
            nodes: (k,) nodes.
            rng: Stream of the votes.

        Returns:
            (k, 2) the most edges that can be added (none deleted), and deleted (none added),
            anywhere in the graph, without changing the smoothed class of the node; at most
            ``LARGEST``, −1 where the class has no proven majority even on this graph.
        """
        answers = predictor.predict(graph, nodes)
        x, adj = predictor.sanitise(inputs(graph), graph.adj)
        assert isinstance(predictor.model, Vote)
        votes = predictor.model.count(x, adj, self.certify_samples, rng)[nodes]
        hits = votes.gather(1, answers.unsqueeze(1)).squeeze(1)
        lower = lower_bound(hits.cpu().numpy(), self.certify_samples, self.alpha)
        radii = [
            largest_radius(lower, added, 1 - added, self.p_add, self.p_del) for added in (1, 0)
        ]
        return torch.from_numpy(np.stack(radii, 1)).to(nodes.device)


class Vote(GNN):
    """A model asked on noisy copies of the graph, and trained on them."""

    capabilities = Capabilities(
        tasks=("classification",), edge_weight=False, sampled=False, per_sample=False,
        second_order=False,
    )  # fmt: skip

    def __init__(self, base: GNN, noise: Smoothing) -> None:
        super().__init__(base.layers)
        self.base, self.noise = base, noise

    @property
    def aggregate(self) -> Aggregate:
        """How the base model gathers neighbours."""
        return self.base.aggregate

    @aggregate.setter
    def aggregate(self, aggregate: Aggregate) -> None:
        if hasattr(self, "base"):  # the constructor of all models sets it first
            self.base.aggregate = aggregate

    def forward(self, x: Tensor | Features, adj: Adj) -> Tensor:
        """Log shares of the votes (n, classes); in training, logits on one noisy graph."""
        if self.training:
            if not self.noise.train_noise:
                return self._base(x, adj)
            stream = Rng(int(torch.randint(2**62, ())))
            return self._base(x, self._noisy(adj, stream))
        votes = mean = torch.zeros(())
        for logits in self._outputs(x, adj, self.noise.samples, Rng(0)["smoothing"]):
            votes = votes + F.one_hot(logits.argmax(1), logits.shape[1])
            mean = mean + logits.softmax(1)
        value, soft = self._log_share(votes.to(mean.dtype)), self._log_share(mean)
        return value + (soft - soft.detach()) if soft.requires_grad else value

    @torch.no_grad()
    def count(self, x: Tensor | Features, adj: Adj, samples: int, rng: Rng) -> Tensor:
        """(n, classes) votes."""
        votes = torch.zeros((), dtype=torch.int64)
        for logits in self._outputs(x, adj, samples, rng):
            votes = votes + F.one_hot(logits.argmax(1), logits.shape[1])
        return votes

    def hidden(self, x: Tensor | Features, adj: Adj) -> list[Tensor]:
        """The answer alone: the noisy graphs share no hidden states."""
        return [self.forward(x, adj)]

    def groups(self, weight_decay: float, decay: str) -> list[dict[str, Any]]:
        """The base model's parameter groups."""
        return self.base.groups(weight_decay, decay)

    def settle(self, x: Tensor | Features, adj: Adj, y: Tensor, nodes: Tensor) -> None:
        """What the base model chooses, on the graph without noise."""
        self.base.settle(x, adj, y, nodes)

    def _outputs(self, x: Tensor | Features, adj: Adj, samples: int, rng: Rng) -> Iterator[Tensor]:
        for i in range(samples):
            yield self._base(x, self._noisy(adj, rng[i]))

    def _noisy(self, adj: Adj, rng: Rng) -> Adj:
        return adj.sample(self.noise.p_add, self.noise.p_del, rng)

    def _base(self, x: Tensor | Features, adj: Adj) -> Tensor:
        out: Tensor = self.base(x, adj)
        return out

    def _log_share(self, votes: Tensor) -> Tensor:
        """One more vote for each class, so that no share is 0."""
        return ((votes + 1) / (self.noise.samples + votes.shape[1])).log()


# -- the certificate, pure functions of numbers ---------------------------------------------------


def lower_bound(hits: npt.NDArray[np.int64], trials: int, alpha: float) -> Array:
    """(k,) one-sided Clopper-Pearson bounds: each probability is above with confidence 1 − alpha.

    Source: Clopper & Pearson, The Use of Confidence or Fiducial Limits, Biometrika 1934.

    Args:
        hits: (k,) successes.
        trials: Number of trials.
        alpha: Probability that a bound is wrong.
    """
    from scipy import stats

    some = np.maximum(hits, 1)
    bound: Array = np.where(hits > 0, stats.beta.ppf(alpha, some, trials - some + 1), 0.0)
    return bound


def worst_case(p: Array, added: int, deleted: int, p_add: float, p_del: float) -> Array:
    """Least probability ρ of a class on the perturbed graph, of whatever classifier.

    The ratio of the likelihoods of a noisy graph under clean and perturbed graph depends only on
    how many of the changed pairs show their clean state: ``added + deleted + 1`` regions. The
    worst classifier answers with the class where the ratio is largest. Requires p_add + p_del < 1.

    Source: Bojchevski et al. 2020, the regions of constant likelihood ratio.

    Args:
        p: (k,) probability of the class on the clean graph.
        added: Edges that the perturbation adds.
        deleted: Edges that it deletes.
        p_add: Probability that the noise adds a pair.
        p_del: Probability that it deletes an edge.
    """
    from scipy import stats

    def regions(deleted_shows: float, added_shows: float) -> Array:
        """Cumulated chances of 0, 1, … hidden clean states, where each shows with a chance."""
        each = (
            stats.binom.pmf(np.arange(count + 1), count, 1 - shows)
            for count, shows in ((deleted, deleted_shows), (added, added_shows))
        )
        return np.concatenate([[0.0], np.cumsum(np.convolve(*each))])

    clean = regions(1 - p_del, 1 - p_add)
    perturbed = regions(p_add, p_del)
    rho: Array = np.interp(p, clean, perturbed)
    return rho


def largest_radius(
    p: Array, added: int, deleted: int, p_add: float, p_del: float
) -> npt.NDArray[np.int64]:
    """(k,) largest r ≤ ``LARGEST`` with ρ > 1/2 at r · added and r · deleted flips, or −1.

    ρ never rises with the radius, so that the first failure ends the search.
    """
    radius = np.full(len(p), -1)
    for r in range(LARGEST + 1):
        holds = worst_case(p, r * added, r * deleted, p_add, p_del) > 0.5
        if not holds.any():
            break
        radius[holds] = r
    return radius
