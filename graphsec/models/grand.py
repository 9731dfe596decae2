"""GRAND: graph neural diffusion (Chamberlain et al., ICML 2021).

Not to be confused with the graph *random* neural network of Feng et al., NeurIPS 2020, which is
called GRAND too and has figures of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from graphsec.models.attention import Attending, Attention, Held, Kernel, Normalizer, Scores, Shares
from graphsec.models.base import GNN, Aggregate, Capabilities, ModelSpec, Sizes
from graphsec.models.ode import Method, Solver, steps
from graphsec.models.stack import Linear
from graphsec.ops import Adj, Features, dropout, personalized_pagerank
from graphsec.registry import MODELS, Range, SpecError

# Error of implicit Euler's inner solve, relative to that of its first guess.
TOLERANCE = 1e-7


@dataclass(frozen=True, eq=False)
class Diffusion:
    """The equation dX/dt = α (A(X) − I) X + s.

    Attributes:
        attention: X → A(X).
        aggregate: (A, X) → A X, or another aggregation.
        alpha: Rate in (0, 1).
        source: s, (n, width).
    """

    attention: Attention
    aggregate: Aggregate
    alpha: Tensor
    source: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """The right-hand side at X."""
        received = self.aggregate(self.attention(x), x)
        return torch.addcmul(self.source, self.alpha, received - x)

    def implicit(self, x: Tensor, step: float) -> Tensor:
        """The Z with Z = X + step · (α (A(X) − I) Z + s): attention is held through the step.

        Iterates Z ← (X + step · s + step · α A Z) / (1 + step · α). The error contracts by less
        than step / (1 + step) a round (its largest entry where the rows of A add up to one, its
        sum where the columns do), so the rounds that reach ``TOLERANCE`` are known beforehand
        and no value is looked at.
        """
        operator, gain = self.attention(x), step * self.alpha
        known, z = x + step * self.source, x
        for _ in range(math.ceil(math.log(TOLERANCE) / math.log(step / (1 + step)))):
            z = (known + gain * self.aggregate(operator, z)) / (1 + gain)
        return z

    def tensors(self) -> list[Tensor]:
        """What the right-hand side is computed from, besides X."""
        return [self.alpha, self.source, *self.attention.tensors()]


class GRAND(GNN):
    """Encoder; dX/dt = σ(α) (A(X(0)) − I) X + β X(0) up to a stopping time; ReLU and decoder."""

    # Diffusion has no fixed number of hops to sample. Per-sample gradients and second order are
    # those of the fixed steps: dopri5 looks at values to choose steps, which vmap can't follow.
    capabilities = Capabilities(sampled=False)
    time: Tensor

    def __init__(self, sizes: Sizes, spec: GRANDSpec) -> None:
        super().__init__(None)
        self.spec = spec
        self.step = spec.time / steps(spec.time, spec.step)
        self.encoder = Linear(sizes.features, spec.hidden)
        self.decoder = Linear(spec.hidden, sizes.outputs)
        self.scores = Scores(spec.hidden, spec.attention, spec.heads, spec.kernel)
        self.alpha = nn.Parameter(torch.zeros(()))
        self.beta = nn.Parameter(torch.zeros(()))
        self.register_buffer("time", torch.tensor(spec.time))

    def first_parameters(self) -> list[nn.Parameter]:
        """The encoder's."""
        return list(self.encoder.parameters())

    def forward(self, x: Tensor | Features, adj: Adj) -> Tensor:
        """Logits (n, classes)."""
        return self.hidden(x, adj)[-1]

    def hidden(self, x: Tensor | Features, adj: Adj) -> list[Tensor]:
        """(n, hidden) before and after diffusion, and the logits (n, classes)."""
        start = self.encoder(dropout(x, self.spec.input_dropout, self.training))
        time = self.spec.time if self.training else float(self.time)
        diffused = self._solver(adj).advance(self.diffusion(start, adj), start, time)
        return [start, diffused, self._decode(diffused)]

    def settle(self, x: Tensor | Features, adj: Adj, y: Tensor, nodes: Tensor) -> None:
        """Stop at the time of the highest accuracy on ``nodes``, up to three times ``spec.time``.

        The state is looked at after every step (``spec.step`` in adaptive methods). Among equal
        accuracies the lowest loss decides, then the earliest time.
        """
        with torch.no_grad():
            state = self.encoder(x)
            diffusion, best = self.diffusion(state, adj), (-math.inf, -math.inf)
            solver = self._solver(adj)
            for i in range(1, 3 * round(self.spec.time / self.step) + 1):
                state = solver.advance(diffusion, state, self.step)
                reached = _quality(self._decode(state[nodes]), y[nodes])
                if reached > best:
                    best = reached
                    self.time.fill_(i * self.step)

    def diffusion(self, start: Tensor, adj: Adj) -> Diffusion:
        """The equation that starts in X(0) = ``start`` (n, hidden) on a plain adjacency."""
        attention = self._attention(start, adj)
        source = start.detach() if self.training and self.spec.detach else start
        return Diffusion(attention, self.aggregate, self.alpha.sigmoid(), self.beta * source)

    def _attention(self, start: Tensor, adj: Adj) -> Attention:
        return Held(self._attending(adj.merged(self_loops=True))(start))

    def _attending(self, pattern: Adj) -> Attending:
        return Attending(pattern, self.scores, self.spec.normalizer, self.spec.shares)

    def _solver(self, adj: Adj) -> Solver:
        # The adjoint is first order, and only as exact as its tolerances: nothing for attackers.
        direct = adj.requires_grad or not self.training
        return replace(self.spec.solver, adjoint=self.spec.adjoint and not direct)

    def _decode(self, state: Tensor) -> Tensor:
        out: Tensor = self.decoder(dropout(state.relu(), self.spec.dropout, self.training))
        return out


class NonlinearGRAND(GRAND):
    """GRAND whose attention is computed anew wherever the right-hand side is evaluated."""

    def _attention(self, start: Tensor, adj: Adj) -> Attention:
        return self._attending(adj.merged(self_loops=True))


class RewiredGRAND(NonlinearGRAND):
    """Nonlinear GRAND on personalised PageRank links, of which the most attended are kept.

    The links are weighted by their PageRank, so that structure keeps its gradient, and chosen by
    attention at X(0), in training and prediction alike; the choice itself has no derivative.
    """

    # The dense PageRank that rewires has no rule for ``torch.func`` transforms.
    capabilities = Capabilities(sampled=False, per_sample=False)

    def _attention(self, start: Tensor, adj: Adj) -> Attention:
        assert isinstance(self.spec, RewiredGRANDSpec)
        links = personalized_pagerank(adj, self.spec.teleport, self.spec.links)
        attended = self._attending(links)(start).weight
        assert attended is not None
        assert links.weight is not None
        floor = attended.detach().sort().values[round((1 - self.spec.keep) * (len(attended) - 1))]
        kept = (attended.detach() >= floor).to(links.weight.dtype)
        return self._attending(replace(links, weight=links.weight * kept))


def _quality(logits: Tensor, y: Tensor) -> tuple[float, float]:
    """(accuracy, −loss) on labelled nodes; for regression the accuracy is 0 throughout."""
    if y.is_floating_point():
        return 0.0, -float(F.mse_loss(logits.squeeze(-1), y))
    right = (logits.argmax(1) == y).double().mean()
    return float(right), -float(F.cross_entropy(logits, y, ignore_index=-1))


@MODELS.register("grand-l")
@dataclass(frozen=True, kw_only=True)
class GRANDSpec(ModelSpec):
    """Linear GRAND: attention is computed once, from X(0).

    The defaults are the paper's for Cora, but for the time, which is that of Citeseer, and for
    the method: equal steps of 1 instead of dopri5.

    Source: Chamberlain et al., GRAND: Graph Neural Diffusion, ICML 2021, §4.

    Attributes:
        hidden: Width of the diffused state.
        heads: Heads of attention, averaged.
        attention: Width of all queries together, a multiple of ``heads``.
        kernel: How queries and keys score an edge: see ``Scores``.
        normalizer: What makes shares of scores: "softmax", or "squareplus" in place of its
            exponential, as in the published settings for Cora and Citeseer.
        shares: Whether the shares of attention that a node receives add up to one, as in the
            paper, or those that it sends, as in the published settings for Cora and Citeseer.
        time: How long diffusion runs in training; afterwards, see ``GRAND.settle``.
        input_dropout: Dropout of the features.
        dropout: Dropout before the decoder.
        method: "euler", "rk4" and "implicit-euler" take equal steps and are right for attackers
            and per-sample gradients; "dopri5" and "implicit-adams" need ``graphsec[ode]``.
        step: Longest step of the methods with equal steps, and how often the stopping time is
            looked for.
        tol_scale: Tolerances of the other methods are atol = 1e-7 and rtol = 1e-9 times this.
        adjoint: Train by integrating backwards, which saves memory; needs ``graphsec[ode]``. A
            gradient in edges is always taken directly.
        detach: In training X(0) is a constant in the source term, as in the published code: the
            encoder learns from what diffusion leaves of it. In evaluation mode gradients pass
            through the source too, so that attackers get the true ones.
    """

    module: ClassVar[type[GRAND]] = GRAND
    training: ClassVar[Mapping[str, Any]] = {
        "epochs": 100, "optimizer": "adamax", "lr": 0.0229, "weight_decay": 5.08e-3,
        "select": "accuracy",
    }  # fmt: skip

    hidden: Annotated[int, Field(ge=1, le=8192), Range(16, 128, log=True)] = 80
    heads: Annotated[int, Field(ge=1, le=64), Range(1, 8)] = 8
    attention: Annotated[int, Field(ge=1, le=8192), Range(16, 128, log=True)] = 128
    kernel: Kernel = "scaled-dot"
    normalizer: Normalizer = "softmax"
    shares: Shares = "received"
    time: Annotated[float, Field(gt=0, le=1000), Range(1, 30, log=True)] = 7.87
    input_dropout: Annotated[float, Field(ge=0, lt=1), Range(0, 0.9)] = 0.5
    dropout: Annotated[float, Field(ge=0, lt=1), Range(0, 0.9)] = 0.05
    method: Method = "euler"
    step: Annotated[float, Field(gt=0, le=1000), Range(0.1, 2, log=True)] = 1.0
    tol_scale: Annotated[float, Field(gt=0), Range(1, 1e4, log=True)] = 1000.0
    adjoint: bool = False
    detach: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attention % self.heads:
            raise SpecError(
                f"model {self.name!r}: attention must be a multiple of heads ({self.heads}), "
                f"got {self.attention}"
            )
        if self.kernel == "pearson" and self.attention == self.heads:
            raise SpecError(
                f"model {self.name!r}: attention must be at least twice heads ({self.heads}) with "
                f"kernel 'pearson', which compares entries within a head; got {self.attention}"
            )

        if self.adjoint and self.method == "implicit-euler":
            raise SpecError(
                f"model {self.name!r}: adjoint must be False with method 'implicit-euler', got True"
            )

    @property
    def solver(self) -> Solver:
        """How the equation is integrated."""
        return Solver(
            method=self.method, step=self.step, rtol=1e-9 * self.tol_scale,
            atol=1e-7 * self.tol_scale, adjoint=self.adjoint,
        )  # fmt: skip

    def build(self, sizes: Sizes) -> GNN:
        """A freshly initialised GRAND."""
        return self.module(sizes, self)


@MODELS.register("grand-nl")
@dataclass(frozen=True, kw_only=True)
class NonlinearGRANDSpec(GRANDSpec):
    """Nonlinear GRAND: attention is computed at every evaluation of the right-hand side.

    Source: Chamberlain et al., GRAND: Graph Neural Diffusion, ICML 2021, §4.
    """

    module: ClassVar[type[GRAND]] = NonlinearGRAND


@MODELS.register("grand-nl-rw")
@dataclass(frozen=True, kw_only=True)
class RewiredGRANDSpec(GRANDSpec):
    """Nonlinear GRAND with rewiring: on links of personalised PageRank, the most attended kept.

    Source: Chamberlain et al., GRAND: Graph Neural Diffusion, ICML 2021, §4; links as in
    Gasteiger et al., Diffusion Improves Graph Learning, NeurIPS 2019.

    Attributes:
        teleport: Teleport probability of PageRank.
        links: Links of each node.
        keep: Share of all links that is kept.
    """

    module: ClassVar[type[GRAND]] = RewiredGRAND

    teleport: Annotated[float, Field(gt=0, lt=1), Range(0.05, 0.3)] = 0.05
    links: Annotated[int, Field(ge=1), Range(16, 128, log=True)] = 64
    keep: Annotated[float, Field(gt=0, le=1), Range(0.3, 1)] = 0.8
