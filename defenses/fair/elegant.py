"""ELEGANT: a certificate that the gap between groups stays small under bounded changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from graphsec.defenses.base import Defense
from graphsec.defenses.certify.regions import lower_bound, worst_case
from graphsec.defenses.fair._training import groups_of, rates
from graphsec.graph import Graph
from graphsec.metrics import FairnessError
from graphsec.models.base import GNN, Capabilities, Sizes, Wrapper, inputs
from graphsec.ops import Adj, Features
from graphsec.predict import Predictor
from graphsec.registry import DEFENSES, Range
from graphsec.rng import Rng
from graphsec.train import OnEpoch, Recipe, Trace


@dataclass(frozen=True, kw_only=True)
class FairnessCertificate:
    """What is known of the gaps of a noisy model, and what follows under changes of the graph.

    Let q(G) be the probability, over fresh noise on the features (Gaussian, σ) and the edges
    (flips), that the answers about fixed nodes, whose groups are known and do not change, have a
    gap ΔSP of at most ``threshold``. Then with confidence 1 − ``alpha`` over the draws that the
    certificate was made of, q(G) ≥ ``probability``; and for **every** G′ that differs from G by at
    most ``added`` new and ``deleted`` missing edges and by features of a Frobenius norm of at most
    ``norm``, q(G′) ≥ ``least(added, deleted, norm)``. No model is retrained, and none assumed.

    Not claimed: anything of the model without noise, of utility, of ΔEO, of single nodes, of
    poisoned training, of draws that an attacker foresees, or of other nodes or groups.

    Source: Dong et al., Certified Defense on the Fairness of Graph Neural Networks (ELEGANT), KDD
    2025 (from notes); bounds of Cohen et al., ICML 2019 (Gaussian), and Bojchevski et al., ICML
    2020 (flips). The two are applied one after the other: given the features' noise, the share of
    edge noises with a small gap is a number from 0 to 1, and the bound for flips holds of any such.

    Attributes:
        threshold: η, largest gap allowed.
        hits: Draws with a gap of at most that.
        samples: Draws.
        alpha: Probability that the certificate is wrong.
        sigma: σ.
        p_add: Probability that an absent pair appears.
        p_del: Probability that an edge disappears.
    """

    threshold: float
    hits: int
    samples: int
    alpha: float
    sigma: float
    p_add: float
    p_del: float

    @property
    def probability(self) -> float:
        """Lower bound of q (Clopper–Pearson, one-sided)."""
        return float(lower_bound(np.array([self.hits]), self.samples, self.alpha)[0])

    def least(self, added: int = 0, deleted: int = 0, norm: float = 0.0) -> float:
        """Lower bound of q after so many flips and so large a change of features.

        Args:
            added: Most edges that are added.
            deleted: Most edges that are deleted.
            norm: Largest Frobenius norm of the change of the features.

        Raises:
            ValueError: One of them is negative.
        """
        from scipy.stats import norm as normal

        if min(added, deleted, norm) < 0:
            raise ValueError(
                f"added, deleted and norm must be ≥ 0, got {added}, {deleted} and {norm}"
            )
        p = np.array([self.probability])
        if added or deleted:
            p = worst_case(p, added, deleted, self.p_add, self.p_del)
        if norm:
            shift = norm / self.sigma if self.sigma else np.inf
            p = normal.cdf(normal.ppf(p) - shift)
        return float(p[0])

    def radius(self, added: int = 0, deleted: int = 0) -> float:
        """Largest change of features with which most noises keep the gap; −1 where even 0 does not.

        So long as q > 1/2 the smoothed verdict ("the gap is small") stands.
        """
        from scipy.stats import norm as normal

        least = self.least(added, deleted)
        return float(self.sigma * normal.ppf(least)) if least > 0.5 else -1.0

    def succeeds(self, draws: int, added: int = 0, deleted: int = 0, norm: float = 0.0) -> float:
        """Lower bound of the probability that the fairest of so many fresh draws has a small gap.

        The gap of a draw needs no labels: who deploys the model sees it, and answers by that draw.
        """
        return 1 - (1 - self.least(added, deleted, norm)) ** draws


@DEFENSES.register("elegant")
@dataclass(frozen=True, kw_only=True)
class Elegant(Defense):
    """Answers by the fairest of several noisy copies of the graph, with a certificate of its gap.

    Training is plain. An answer takes ``tries`` copies with noise on features and edges, and is the
    model's on that copy where ΔSP over the nodes that count (the test nodes of training; all
    without any) is least: this needs their groups, at answering too, but no labels. The noise of
    answers comes from a fixed stream, so that the same graph gets the same answer: the certificate
    speaks of fresh draws. Attackers differentiate the model on the copy that was chosen.

    ``certificate`` says what is proven (``FairnessCertificate``). The door ``Predictor.certify`` is
    for single nodes, and stays shut.

    Source: Dong et al., Certified Defense on the Fairness of Graph Neural Networks (ELEGANT), KDD
    2025 (from notes). Ours: noise is on all nodes and pairs, where they choose vulnerable ones.

    Attributes:
        threshold: η, the gap that is certified.
        sigma: Standard deviation of the noise on features.
        p_add: Probability that an absent pair appears.
        p_del: Probability that an edge disappears; p_add + p_del must be below 1.
        tries: Copies of an answer.
        samples: Copies of a certificate.
        alpha: Probability that a certificate is wrong.
    """

    tasks: ClassVar[tuple[str, ...]] = ("classification",)

    threshold: Annotated[float, Field(gt=0, lt=1), Range(0.02, 0.2, log=True)] = 0.1
    sigma: Annotated[float, Field(gt=0), Range(0.01, 1, log=True)] = 0.1
    p_add: Annotated[float, Field(ge=0, lt=1)] = 0.0
    p_del: Annotated[float, Field(ge=0, lt=1), Range(0.2, 0.8)] = 0.5
    tries: Annotated[int, Field(ge=1), Range(1, 50, log=True)] = 10
    samples: Annotated[int, Field(ge=1)] = 1000
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.p_add + self.p_del >= 1:
            raise ValueError(
                f"p_add + p_del must be below 1 (at 1 the noise hides the graph), "
                f"got {self.p_add} + {self.p_del}"
            )

    def build(self, recipe: Recipe, sizes: Sizes) -> GNN:
        """The model behind the choice of a noisy copy."""
        return FairestCopy(recipe.model.build(sizes), self, sizes.nodes)

    def train(
        self, model: GNN, graph: Graph, recipe: Recipe, rng: Rng, x: Tensor | Features, adj: Adj,
        on_epoch: OnEpoch | None = None, whole: Defense | None = None,
    ) -> Trace:  # fmt: skip
        """Plainly, on the graph without noise.

        Raises:
            FairnessError: The groups are not what fairness needs.
        """
        group = groups_of(graph, self.name)
        inner = model
        while isinstance(inner, Wrapper) and not isinstance(inner, FairestCopy):
            inner = inner.base
        assert isinstance(inner, FairestCopy)
        assert graph.split is not None
        counted = torch.full_like(group, -1)
        test = graph.split.test if len(graph.split.test) else torch.arange(graph.num_nodes)
        counted[test] = group[test]
        inner.counted.copy_(counted)
        return super().train(model, graph, recipe, rng, x, adj, on_epoch, whole)

    def certificate(
        self, predictor: Predictor, graph: Graph, nodes: Tensor, rng: Rng
    ) -> FairnessCertificate:
        """What ``certify_fairness`` proves of the model inside, with this defense's noise."""
        return certify_fairness(
            predictor, graph, nodes, rng, threshold=self.threshold, sigma=self.sigma,
            p_add=self.p_add, p_del=self.p_del, samples=self.samples, alpha=self.alpha,
        )  # fmt: skip


class FairestCopy(Wrapper):
    """A model asked on noisy copies; ``counted`` (n,) has groups of nodes that count, else −1."""

    capabilities = Capabilities(
        tasks=("classification",), edge_weight=False, sampled=False, per_sample=False,
        second_order=False,
    )  # fmt: skip

    def __init__(self, base: GNN, noise: Elegant, nodes: int) -> None:
        super().__init__(base, base.layers)
        self.noise = noise
        self.counted: Tensor
        self.register_buffer("counted", torch.full((nodes,), -1, dtype=torch.int64))

    def forward(self, x: Tensor | Features, adj: Adj) -> Tensor:
        """Logits (n, classes) on the fairest copy; in training on the graph itself."""
        if self.training:
            out: Tensor = self.base(x, adj)
            return out
        if adj.num_nodes != len(self.counted):
            raise ValueError(
                f"elegant knows the groups of {len(self.counted)} nodes, and was asked about a "
                f"graph of {adj.num_nodes}"
            )
        best, least = None, float("inf")
        places = (self.counted >= 0).nonzero().ravel()
        for seen, noisy in copies(x, adj, self.noise, self.noise.tries, Rng(0)["elegant"]):
            logits: Tensor = self.base(seen, noisy)
            gap = parity(logits[places].argmax(1), self.counted[places])
            if gap < least:
                best, least = logits, gap
        assert best is not None
        return best

    def hidden(self, x: Tensor | Features, adj: Adj) -> list[Tensor]:
        """The answer alone: which copy is chosen shows in nothing else."""
        return self.base.hidden(x, adj) if self.training else [self.forward(x, adj)]


@torch.no_grad()
def certify_fairness(
    predictor: Predictor,
    graph: Graph,
    nodes: Tensor,
    rng: Rng,
    *,
    threshold: float = 0.1,
    sigma: float = 0.1,
    p_add: float = 0.0,
    p_del: float = 0.5,
    samples: int = 1000,
    alpha: float = 0.01,
) -> FairnessCertificate:
    """Certify that the gap ΔSP of any predictor, asked on noisy graphs, stays small.

    The noise comes before all preprocessing, so that what a defense does to the graph is part of
    the model that is certified. Behind ``elegant`` the model inside is meant.

    Args:
        predictor: Any classifier of two classes.
        graph: Undirected and unweighted, with groups; it may be attacked already.
        nodes: (k,) nodes whose answers count.
        rng: Stream of the draws; they must not have chosen ``threshold`` or the noise.
        threshold: Largest gap allowed.
        sigma: Standard deviation of the noise on features.
        p_add: Probability that an absent pair appears.
        p_del: Probability that an edge disappears.
        samples: Draws.
        alpha: Probability that the certificate is wrong.

    Raises:
        FairnessError: The nodes are not of two groups or more.
        ValueError: The graph is directed or weighted.
    """
    if graph.directed or graph.edge_weight is not None:
        raise ValueError(f"certify_fairness needs an undirected, unweighted graph: {graph.name!r}")
    if graph.sensitive is None:
        raise FairnessError(
            f"certify_fairness needs a sensitive attribute: {graph.name!r} has none"
        )
    nodes = nodes[graph.sensitive[nodes] >= 0]
    group = graph.sensitive[nodes]
    if len(torch.unique(group)) < 2:
        raise FairnessError("certify_fairness needs nodes of two groups or more")
    noise = Elegant(
        threshold=threshold, sigma=sigma, p_add=p_add, p_del=p_del, samples=samples, alpha=alpha
    )
    hits = 0
    for x, adj in copies(inputs(graph), graph.adj, noise, samples, rng):
        said = asked(predictor, x, adj)[nodes].argmax(1)
        hits += parity(said, group) <= threshold
    return FairnessCertificate(
        threshold=threshold, hits=hits, samples=samples, alpha=alpha, sigma=sigma, p_add=p_add,
        p_del=p_del,
    )  # fmt: skip


def asked(predictor: Predictor, x: Tensor | Features, adj: Adj) -> Tensor:
    """Logits of the model itself, behind its preprocessing but without a choice of copies."""
    if not isinstance(predictor.model, FairestCopy):
        return predictor.answer(x, adj)
    x, adj = predictor.sanitise(x, adj, predictor.how)
    return predictor.present(predictor.model.base(x, adj))


def copies(
    x: Tensor | Features, adj: Adj, noise: Any, count: int, rng: Rng
) -> Iterator[tuple[Tensor, Adj]]:
    """Noisy features and adjacencies, independent of each other."""
    dense = x.to_dense()
    for i in range(count):
        shift = torch.randn(dense.shape, generator=rng[i]["features"].torch()).to(dense)
        yield dense + noise.sigma * shift, adj.sample(noise.p_add, noise.p_del, rng[i]["edges"])


def parity(said: Tensor, group: Tensor) -> float:
    """ΔSP of answers (k,) and groups (k,); 0 where none counts."""
    if not len(said):
        return 0.0
    found = rates(said.double(), group)
    return float(found.max() - found.min())
