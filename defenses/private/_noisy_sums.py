"""What defenses share that noise sums over neighbours once, and train models of single nodes."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from graphsec.defenses.base import Defense
from graphsec.defenses.private._training import UnitFeatures, looks_at_edges
from graphsec.defenses.private.dp_gnn import DPGNN
from graphsec.dp.capping import SENSITIVITY, soft_cap
from graphsec.graph import Graph
from graphsec.models.base import GNN, Capabilities
from graphsec.ops import Adj, Features
from graphsec.predict import PrivacyStatement
from graphsec.registry import Range
from graphsec.rng import Rng
from graphsec.train import OnEpoch, Recipe, Trace

Heard = Literal["soft", "bound", "published"]
Level = Literal["node", "edge"]


@dataclass(frozen=True, kw_only=True)
class NoisySums(UnitFeatures):
    """Base: ``sums`` Gaussian mechanisms on all nodes' sums, ``models`` trained privately.

    **What is claimed.** Level "node": neighbours are graphs with and without one node, its edges,
    features and label. With ``heard = "soft"`` that holds for every undirected graph
    (docs/privacy.md, "Soft caps"), with "bound" for those that keep a public bound on degrees. It
    is about all that *others* see: the weights, and answers about other nodes of the training
    graph. What is answered about a node itself reads its own features and edges. Level "edge":
    neighbours differ in one undirected edge; features and labels are public then, and models train
    without noise.

    As with ``edge-rand``, questions about other edges than those of the training graph are answered
    under the same noise, and are not covered: they take it off again. Statements are made only with
    ``secure``, and nothing may be chosen by looking at the graph.
    """

    tasks: ClassVar[tuple[str, ...]] = ("classification",)
    draws: ClassVar[bool] = True

    level: Level = "node"
    epsilon: Annotated[float, Field(gt=0), Range(1, 16, log=True)] = 8.0
    noise_multiplier: Annotated[float, Field(ge=0)] | None = None
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    heard: Heard = "soft"
    cap: Annotated[float, Field(gt=0), Range(4, 64, log=True)] = 16.0
    ratio: Annotated[float, Field(gt=0), Range(1, 10, log=True)] = 4.0
    steps: Annotated[int, Field(ge=1), Range(50, 1000, log=True)] = 100
    rate: Annotated[float, Field(gt=0, le=1), Range(0.01, 1, log=True)] = 0.5
    clip: Annotated[float, Field(gt=0), Range(0.1, 10, log=True)] = 1.0
    lr: Annotated[float, Field(gt=0, le=100), Range(1e-3, 1e-1, log=True)] = 0.03
    nodes: Annotated[int, Field(ge=1)] | None = None
    secure: bool = False

    @property
    def sums(self) -> int:
        """How often sums over neighbours are released."""
        return 1

    @property
    def models(self) -> int:
        """How many models are trained, one after the other."""
        return 1

    def refuses(self, recipe: Recipe) -> str | None:
        """Models that look at edges: neighbours would speak twice, and once without noise."""
        return looks_at_edges(recipe)

    def noise(self, shape: tuple[int, ...], rng: Rng) -> Tensor | None:
        """Noise of standard deviation 1; None where there is none."""
        if not self.multiplier:
            return None
        generator = Rng.secure_numpy() if self.secure else rng["noise"].numpy()
        return torch.from_numpy(generator.standard_normal(shape)).float()

    def check(self, graph: Graph) -> None:
        """Refuse a graph that nothing can be promised for.

        Raises:
            ValueError: It is directed, lacks labels or a split, or breaks the public bound.
        """
        if graph.directed:
            raise ValueError(f"{self.name} needs an undirected graph, {graph.name!r} is directed")
        if graph.y is None or graph.split is None:
            raise ValueError(f"{self.name} needs labels and a split, {graph.name!r} lacks them")
        most = int(graph.indptr.diff().max()) if graph.num_nodes else 0
        if self.level == "node" and self.heard == "bound" and most > self.cap:
            raise ValueError(
                f"cap must be a bound on degrees that is known without the graph, got {self.cap}, "
                f"and {graph.name!r} has a node with more neighbours; a soft cap needs no bound"
            )

    @property
    def sensitivity(self) -> float:
        """Most that the sums of all others move, in Frobenius norm, for rows of norm 1."""
        if self.level == "edge":  # two rows, by one message each
            return math.sqrt(2)
        return math.sqrt(self.cap) * (SENSITIVITY if self.heard == "soft" else 1.0)

    @property
    def multiplier(self) -> float:
        """Noise multiplier of the sums."""
        if self.noise_multiplier is not None:
            return self.noise_multiplier
        steps = self.steps * self.models if self.level == "node" else 0
        return _multiplier(self.epsilon, self.delta, self.sums, steps, self.rate, self.ratio)

    @property
    def scale(self) -> float:
        """Standard deviation of the noise of every number of a sum."""
        return (self.multiplier or 1.0) * self.sensitivity

    def operator(self, adj: Adj, entropy: int) -> Adj:
        """How far each node is heard by each neighbour; edges heavier than 1 count as 1."""
        if adj.weight is not None:  # the sensitivity is that of edges of at most 1
            adj = replace(adj, weight=adj.weight.clamp(max=1))
        if self.level == "edge" or self.heard == "bound":
            return adj
        if self.heard == "soft":
            return soft_cap(adj, self.cap)
        return fewest(adj, int(self.cap), entropy)

    def fitted(
        self, model: GNN, graph: Graph, recipe: Recipe, rng: Rng, x: Tensor | Features, adj: Adj,
        on_epoch: OnEpoch | None = None, whole: Defense | None = None,
    ) -> Trace:  # fmt: skip
        """Train a model of single nodes: privately at level "node", else as the recipe says."""
        if self.level == "edge":
            return super().train(model, graph, recipe, rng, x, adj, on_epoch, whole)
        steps = DPGNN(
            noise_multiplier=self.ratio * self.multiplier, delta=self.delta, steps=self.steps,
            rate=self.rate, clip=self.clip, lr=self.lr, nodes=self.nodes, secure=self.secure,
        )  # fmt: skip
        return steps.train(model, graph, recipe, rng, x, adj, on_epoch, whole)

    def spent(self) -> list[tuple[Any, int]]:
        """The events of the sums."""
        if not self.multiplier:
            return []
        import dp_accounting

        return [(dp_accounting.GaussianDpEvent(self.multiplier), self.sums)]

    def statement(self, graph: Graph, recipe: Recipe, trace: Trace) -> PrivacyStatement | None:
        """ε of models and sums; none where noise can be replayed, or the argument has a gap."""
        published = self.level == "node" and self.heard == "published"
        if not self.secure or not self.multiplier or published:
            return None
        from graphsec.dp.accountant import Ledger

        epsilon = Ledger.resumed(trace.spent).epsilon(self.delta)
        if self.level == "edge":
            return PrivacyStatement(
                epsilon=epsilon, delta=self.delta,
                relation="add or remove one undirected edge",
                family="undirected graphs whose nodes, features, labels and split are public or do "
                "not depend on the edges",
                release="of one fit: weights, and answers on the training graph; not answers about "
                "the asker's own edges, not the noise",
                argument="Gaussian mechanism on all sums, √2 for an edge; post-processing",
            )  # fmt: skip
        bound = f" and degrees of at most {self.cap:g}, publicly known"
        return PrivacyStatement(
            epsilon=epsilon, delta=self.delta,
            relation="add or remove one node with its edges, features and label",
            family="undirected graphs whose classes and number of training nodes are public, whose "
            "split and each node's features and label depend on no other node"
            + bound * (self.heard == "bound"),
            release="of one fit: weights, noisy gradients, and answers about the other nodes of "
            "the training graph; not what is answered about the node itself, nor about the asker's "
            "own edges or features of neighbours, nor the noise",
            argument="docs/privacy.md, "
            + ("Soft caps" if self.heard == "soft" else "Sums under a public bound"),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class NoisyStates(NoisySums):
    """Base: sums of hidden states, hop by hop; how wide they are, the model will say."""

    hops: Annotated[int, Field(ge=1, le=16), Range(1, 5)] = 2
    _entropy: int = field(init=False, default=0, repr=False, compare=False)
    _rng: Rng | None = field(init=False, default=None, repr=False, compare=False)

    @property
    def sums(self) -> int:
        """One a hop."""
        return self.hops

    def refuses(self, recipe: Recipe) -> str | None:
        """Models without hidden states too."""
        reason = super().refuses(recipe)
        if reason is None and getattr(recipe.model, "layers", 0) < 2:
            return f"needs a model of two layers or more, got {recipe.model.name!r} of one"
        return reason

    def drawn(self, graph: Graph, rng: Rng) -> Defense:
        """With a stream of noise."""
        self.check(graph)
        made = copy.copy(self)
        object.__setattr__(made, "_rng", rng)
        object.__setattr__(made, "_entropy", rng["cut"].entropy)
        return made

    def noises(self, nodes: int, width: int) -> Tensor | None:
        """(hops, nodes, width) the noise of this training, of standard deviation 1."""
        return None if self._rng is None else self.noise((self.hops, nodes, width), self._rng)


class Noised(GNN):
    """A model around one of features, whose sums over neighbours are under a training's noise.

    Attributes:
        own: The model of features.
        noise: Of standard deviation 1, drawn once a training; None for a stranger.
    """

    capabilities = Capabilities(tasks=("classification",), sampled=False, per_sample=False)

    def __init__(self, own: GNN, hops: int, rule: NoisySums, entropy: int) -> None:
        super().__init__(hops)
        self.own = own
        self._rule, self._entropy, self._scale = rule, entropy, rule.scale
        self.noise: Tensor | None = None

    def public(self) -> Self:
        """As a stranger has it, who knows the weights: without noise."""
        other = copy.copy(self)  # the parameters are shared
        other.noise = None
        return other

    def operator(self, adj: Adj) -> Adj:
        """How far each node is heard by each neighbour."""
        return self._rule.operator(adj, self._entropy)


class NoisedStates(Noised):
    """One that sums hidden states, at norm 1, hop by hop."""

    def start(self, x: Tensor | Features, adj: Adj) -> Tensor:
        """(n, width) the last hidden state of the model of features, at norm 1."""
        return F.normalize(self.own.hidden(x, adj)[-2], dim=1)

    def hear(self, operator: Adj, state: Tensor, hop: int) -> Tensor:
        """(n, width) the noisy sum of neighbours' states, at norm 1."""
        heard = self.aggregate(operator, state)
        if self.noise is not None:
            heard = heard + self._scale * self.noise[hop]
        return F.normalize(heard, dim=1)


def fewest(adj: Adj, most: int, entropy: int) -> Adj:
    """At most so many receivers of each node, drawn at random: the published cut of degrees."""
    merged = adj.merged()
    assert merged.weight is not None
    send = merged.csr.coo[1].numpy()
    order = np.lexsort((np.random.default_rng(entropy).random(len(send)), send))
    first = np.searchsorted(send[order], send[order])
    kept = np.zeros(len(send), np.float32)
    kept[order[np.arange(len(send)) - first < most]] = 1
    return Adj(csr=merged.csr, weight=merged.weight * torch.from_numpy(kept), final=True)


@lru_cache(maxsize=256)
def _multiplier(
    epsilon: float, delta: float, sums: int, steps: int, rate: float, ratio: float
) -> float:
    """Noise multiplier z of the sums, with that of the steps at ratio · z, for ε in all."""
    import dp_accounting

    from graphsec.dp.accountant import noise_for, step_event

    def spent(z: float) -> Any:
        events = [dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(z), sums)]
        if steps:
            step = step_event(ratio * z, rate, 0)
            events.append(dp_accounting.SelfComposedDpEvent(step, steps))
        return dp_accounting.ComposedDpEvent(events)

    return noise_for(spent, epsilon, delta)
