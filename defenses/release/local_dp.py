"""Local privacy: clients add noise to their nodes' features before anything is trained."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from scipy.optimize import brentq
from scipy.stats import norm
from torch import Tensor

from graphsec.defenses.base import Defense
from graphsec.graph import Graph
from graphsec.models.base import inputs
from graphsec.ops import Adj, Features
from graphsec.predict import How, PrivacyStatement
from graphsec.registry import DEFENSES, Range
from graphsec.rng import Rng
from graphsec.train import Recipe, Trace


@DEFENSES.register("local-dp")
@dataclass(frozen=True, kw_only=True)
class LocalDP(Defense):
    """Training nodes' features are scaled to a norm of at most B and released once under noise.

    The L1 norm and Laplace noise of scale 2B / ε, or the L2 norm and Gaussian noise of the least
    deviation that is (ε, δ)-private at sensitivity 2B. Training and all answers see the noisy rows
    in the place of the training nodes' features, whatever is asked: they are drawn once, so that
    no averaging over rounds takes the noise off.

    **What holds**: ε (or (ε, δ)) for the features of any one training node, whatever all other
    data are: neighbours differ in that row alone, replaced by any other. All else that comes of it
    (gradients, weights, answers) is post-processing, *as long as* edges, labels, split and the
    public B do not depend on that row; where edges join similar nodes (``digits-knn``) they do, and
    nothing is claimed of such graphs. Nothing is claimed of edges, of labels, or of nodes outside
    of the training set. A statement is made with ``secure`` alone: noise of a seed can be replayed.

    Source: Kasiviswanathan et al., What Can We Learn Privately?, SIAM J. Comput. 2011 (local
    randomisers; Laplace noise at an L1 sensitivity is Dwork et al., TCC 2006); Balle & Wang,
    Improving the Gaussian Mechanism, ICML 2018, theorem 8. All from memory; the proofs are theirs.

    Attributes:
        epsilon: ε.
        bound: B, public.
        noise: "laplace" or "gaussian".
        delta: δ of the Gaussian noise.
        secure: Draw the noise from the operating system, not from the seed.
    """

    draws: ClassVar[bool] = True
    keyed: ClassVar[bool] = True

    epsilon: Annotated[float, Field(gt=0, lt=float("inf")), Range(1, 1e3, log=True)] = 8.0
    bound: Annotated[float, Field(gt=0, lt=float("inf")), Range(0.1, 100, log=True)] = 1.0
    noise: Literal["laplace", "gaussian"] = "laplace"
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    secure: bool = False
    _shown: tuple[Tensor, Tensor] | None = field(
        init=False, default=None, repr=False, compare=False
    )

    @property
    def std(self) -> float:
        """Standard deviation of the noise on each entry."""
        if self.noise == "laplace":
            return 2**0.5 * 2 * self.bound / self.epsilon
        return gaussian_std(self.epsilon, self.delta) * 2 * self.bound

    def drawn(self, graph: Graph, rng: Rng) -> Defense:
        """With the noisy rows of the training nodes.

        Raises:
            ValueError: The graph has no split.
        """
        if graph.split is None:
            raise ValueError(f"local-dp needs a split, found none in {graph.name!r}")
        generator = (Rng.fresh() if self.secure else rng).numpy()
        nodes = graph.split.train
        rows = self.held(inputs(graph).to_dense()[nodes])
        if self.noise == "laplace":
            drawn = generator.laplace(0, self.std / 2**0.5, tuple(rows.shape))
        else:
            drawn = generator.normal(0, self.std, tuple(rows.shape))
        made = copy.copy(self)
        noisy = (rows.double() + torch.from_numpy(drawn)).to(rows.dtype)
        object.__setattr__(made, "_shown", (nodes, noisy))
        return made

    def public(self) -> LocalDP:
        """Without the rows that were drawn."""
        return replace(self)

    def held(self, rows: Tensor) -> Tensor:
        """Rows (k, d) scaled to a norm of at most B."""
        order = 1 if self.noise == "laplace" else 2
        length = rows.norm(p=order, dim=1, keepdim=True).clamp(min=1e-30)
        scaled: Tensor = rows * (self.bound / length).clamp(max=1)
        return scaled

    def sanitise(
        self, x: Tensor | Features, adj: Adj, how: How = "exact"
    ) -> tuple[Tensor | Features, Adj]:
        """Noisy rows in the place of the training nodes'; all as it is before they are drawn."""
        if self._shown is None or how == "bypass":
            return x, adj
        (nodes, noisy), rows = self._shown, x.to_dense()
        return rows.index_copy(0, nodes, noisy.to(rows.dtype)), adj

    def estimate(self, found: Tensor, known: Tensor) -> Tensor:
        """Each column drawn to its mean by as much as the noise outweighs what varies there.

        The best linear guess of a noisy row by the first two moments of the others' rows, in full
        (correlations of columns included).
        """
        rows = self.held(known.to(found.dtype))
        mean = rows.mean(0)
        varies = (rows - mean).T @ (rows - mean) / max(len(rows) - 1, 1)
        noise = self.std**2 * torch.eye(len(mean), dtype=found.dtype)
        best = mean + (found - mean) @ torch.linalg.solve(varies + noise, varies)
        scale = known.to(found.dtype).norm(dim=1).mean() / rows.norm(dim=1).mean()
        guessed: Tensor = best * scale
        return guessed

    def statement(self, graph: Graph, recipe: Recipe, trace: Trace) -> PrivacyStatement | None:
        """ε of one node's features, where the noise can't be replayed."""
        if not self.secure:
            return None
        return PrivacyStatement(
            epsilon=self.epsilon,
            delta=0.0 if self.noise == "laplace" else self.delta,
            relation="replace the features of one training node",
            family="graphs whose edges, labels and split do not depend on those features, "
            f"with the public bound {self.bound:g} on their norm, to which they are scaled",
            release="of one fit: gradients, weights and answers",
            argument="noise on each row once, at sensitivity 2B, and post-processing",
        )


def gaussian_std(epsilon: float, delta: float) -> float:
    """Least deviation at sensitivity 1 that is (ε, δ)-private (Balle & Wang 2018, theorem 8)."""

    def excess(std: float) -> float:
        a, b = 1 / (2 * std), epsilon * std
        tail = math.exp(epsilon + norm.logcdf(-a - b))  # as one: e^ε alone may overflow
        return float(norm.cdf(a - b) - tail - delta)

    low, high = 1e-6, 1.0
    while excess(high) > 0:
        high *= 2
    return float(brentq(excess, low, high, xtol=1e-12))
