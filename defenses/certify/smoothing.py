"""Sparse randomised smoothing: the vote over noisy graphs, with certified radii."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from graphsec.defenses.base import Defense
from graphsec.defenses.certify.regions import LARGEST, Array, frontier, radii, vote_bounds
from graphsec.graph import Graph
from graphsec.models.base import GNN, Capabilities, Wrapper, inputs
from graphsec.ops import Adj, Features
from graphsec.predict import Predictor
from graphsec.registry import DEFENSES, Range
from graphsec.rng import Rng


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
    Data, ICML 2020; its multi-class certificate, with two classes the same as that of the
    majority.

    Attributes:
        p_add: Probability that an absent pair appears. A node gets p_add · n false neighbours, so
            that it should be about 1 / n: 0.001 suits thousands of nodes. 0 adds no edges and
            certifies the most deletions.
        p_del: Probability that an edge disappears; p_add + p_del must be below 1. Up to 1/2
            no addition is certified (ρ is about p_del), unless thousands of votes agree.
        samples: Votes of an answer.
        certify_samples: Votes of a certificate.
        alpha: Probability that the certificate of a node is wrong. For k nodes at once, ask for
            alpha / k. Half of it goes to the bound of the answer, half to those of its rivals.
        train_noise: Train on a new noisy graph in each step, else on the clean graph.
    """

    version = 2  # certificates count rivals and mixed flips, and stand in records
    tasks: ClassVar[tuple[str, ...]] = ("classification",)
    certified: ClassVar[tuple[str, ...]] = ("additions", "deletions", "flips")

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
            (k, 3) the most edges that can be added (none deleted), deleted (none added), and pairs
            that can be flipped in either way, anywhere in the graph, without changing the smoothed
            class of the node; at most ``LARGEST``, −1 where the class is not proven to be the
            likeliest even on this graph.
        """
        lower, upper = self._bounds(predictor, graph, nodes, rng)
        return torch.from_numpy(radii(lower, upper, self.p_add, self.p_del)).to(nodes.device)

    def certify_jointly(
        self, predictor: Predictor, graph: Graph, nodes: Tensor, rng: Rng
    ) -> Tensor:
        """Certified additions and deletions at the same time.

        Returns:
            (k, r) where column a holds the most deletions beside a additions, −1 where these are
            not certified; the last column is −1 throughout, unless it is that of ``LARGEST``.
        """
        lower, upper = self._bounds(predictor, graph, nodes, rng)
        columns = frontier(lower, upper, self.p_add, self.p_del)
        return torch.stack([torch.from_numpy(c) for c in columns], 1).to(nodes.device)

    def _bounds(
        self, predictor: Predictor, graph: Graph, nodes: Tensor, rng: Rng
    ) -> tuple[Array, Array]:
        """(k,) bounds of the answer's probability and of its rivals', from votes of their own."""
        answers = predictor.predict(graph, nodes)
        x, adj = predictor.sanitise(inputs(graph), graph.adj)
        assert isinstance(predictor.model, Vote)
        votes = predictor.model.count(x, adj, self.certify_samples, rng)[nodes]
        return vote_bounds(votes.cpu().numpy(), answers.cpu().numpy(), self.alpha)


class Vote(Wrapper):
    """A model asked on noisy copies of the graph, and trained on them; settled without noise."""

    capabilities = Capabilities(
        tasks=("classification",), edge_weight=False, sampled=False, per_sample=False,
        second_order=False,
    )  # fmt: skip

    def __init__(self, base: GNN, noise: Smoothing) -> None:
        super().__init__(base, base.layers)
        self.noise = noise

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


__all__ = ["LARGEST", "Smoothing", "Vote"]
