"""Private votes: a model of features, and what a node's neighbours say of its class, noised."""

from __future__ import annotations

import copy
import math
import secrets
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from graphsec.defenses.base import Defense
from graphsec.defenses.private.dp_gnn import DPGNN
from graphsec.dp.capping import SENSITIVITY, soft_cap
from graphsec.graph import Graph
from graphsec.models.base import GNN, Capabilities
from graphsec.ops import Adj, Features, unit_rows
from graphsec.predict import How, PrivacyStatement
from graphsec.registry import DEFENSES, Range
from graphsec.rng import Rng
from graphsec.train import OnEpoch, Recipe, Trace


class Votes(GNN):
    """log p of a node's own features, plus ``weight`` times the votes of its neighbours.

    A node votes with its class probabilities, less 1 / classes, at norm 1; one whose label was
    trained on votes for that.

    Attributes:
        own: The model of the features.
        told: (n, classes) votes of the labelled training nodes, 0 elsewhere; None for a stranger.
        noise: (n, classes) of standard deviation 1; None for a stranger.
    """

    capabilities = Capabilities(tasks=("classification",), sampled=False, per_sample=False)

    def __init__(self, own: GNN, cap: float, soft: bool, scale: float, weight: float) -> None:
        super().__init__(1)
        self.own = own
        self._cap, self._soft, self._scale, self._weight = cap, soft, scale, weight
        self.told: Tensor | None = None
        self.noise: Tensor | None = None

    def public(self) -> Votes:
        """As a stranger has it, who knows the weights: without noise, and without labels."""
        other = copy.copy(self)  # the parameters are shared
        other.told = other.noise = None
        return other

    def operator(self, adj: Adj) -> Adj:
        """How far each node is heard by each neighbour."""
        return soft_cap(adj, self._cap) if self._soft else adj

    def hidden(self, x: Tensor | Features, adj: Adj) -> list[Tensor]:
        """What the features alone say, and the logits."""
        own = self.own(x, adj).log_softmax(1)
        votes = centred(own.exp())
        if self.told is not None:
            votes = torch.where(self.told.any(1, keepdim=True), self.told, votes)
        heard = self.aggregate(self.operator(adj), votes) / self._scale
        if self.noise is not None:
            heard = heard + self.noise
        return [own, own + self._weight * heard]


def centred(p: Tensor) -> Tensor:
    """Probabilities (n, classes) as votes: what is beyond equal shares, at norm 1."""
    return F.normalize(p - 1 / p.shape[1], dim=1)


@DEFENSES.register("private-votes")
@dataclass(frozen=True, kw_only=True)
class PrivateVotes(Defense):
    """A private model of features, and one noisy sum of votes over each node's neighbours.

    The logits are log p + κ z: p of a model that ignores edges (``mlp``), trained by ``dp-gnn``,
    and z what neighbours vote plus noise, drawn once. κ, the weight of evidence z, is ``trust`` ·
    cap over the noise's standard deviation: the votes for a node's class, as guessed beforehand.

    **What is claimed.** Level "node": neighbours are graphs with and without one node, its edges,
    features and label. With ``heard = "soft"`` that holds for every undirected graph
    (docs/privacy.md, "Soft caps"), with "bound" for those that keep a public bound on degrees. It
    is about all that *others* see: the weights, and answers about other nodes of the training
    graph. What is answered about a node itself reads its own features and edges. Level "edge":
    neighbours differ in one undirected edge; features and labels are public then, and the model
    trains without noise.

    As with ``edge-rand``, questions about other edges than those of the training graph are answered
    under the same noise, and are not covered: they take it off again. Statements are made only with
    ``secure``, and nothing may be chosen by looking at the graph.

    Source: ours. Aggregates that are noised once, and kept, are the idea of GAP (Sajadmanesh et
    al., USENIX Security 2023); the node-level claim of its published form rests on a cut of degrees
    that is not stable (docs/privacy.md). The defaults were chosen on generated graphs.

    Attributes:
        level: Of neighbours: "node" or "edge".
        epsilon: ε of all; None draws no noise (ε = ∞).
        delta: δ, below one over the public number of training nodes.
        heard: "soft" caps, or "bound": all votes count, and degrees have a public bound.
        cap: K of soft caps, or the public bound on degrees.
        trust: Part of ``cap`` that a node's class is expected to get of votes.
        ratio: Noise multiplier of the model's steps over that of the votes.
        steps: Private steps of the model; the next four fields are those of ``dp-gnn`` too.
        rate: Each training node's chance to be in a step.
        clip: Most that its gradient can be long.
        lr: Learning rate of Adam.
        nodes: Public number of training nodes; None takes the graph's, which then is public.
        unit: Scale the features of every node to norm 1.
        secure: Draw samples and noise from the operating system, not from the seed.
    """

    tasks: ClassVar[tuple[str, ...]] = ("classification",)
    draws: ClassVar[bool] = True

    level: Literal["node", "edge"] = "node"
    epsilon: Annotated[float, Field(gt=0), Range(1, 16, log=True)] | None = 8.0
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    heard: Literal["soft", "bound"] = "soft"
    cap: Annotated[float, Field(gt=0), Range(4, 64, log=True)] = 16.0
    trust: Annotated[float, Field(ge=0, le=1), Range(0.1, 0.5)] = 0.3
    ratio: Annotated[float, Field(gt=0), Range(1, 10, log=True)] = 3.5
    steps: Annotated[int, Field(ge=1), Range(50, 1000, log=True)] = 100
    rate: Annotated[float, Field(gt=0, le=1), Range(0.01, 0.5, log=True)] = 0.25
    clip: Annotated[float, Field(gt=0), Range(0.1, 10, log=True)] = 1.0
    lr: Annotated[float, Field(gt=0, le=100), Range(1e-3, 1e-1, log=True)] = 0.03
    nodes: Annotated[int, Field(ge=1)] | None = None
    unit: bool = True
    secure: bool = False
    _told: Tensor | None = field(init=False, default=None, repr=False, compare=False)
    _noise: Tensor | None = field(init=False, default=None, repr=False, compare=False)

    def drawn(self, graph: Graph, rng: Rng) -> Defense:
        """With the noise of this training, and the votes of its labelled nodes.

        Raises:
            ValueError: The graph is directed, lacks labels or a split, or breaks the public bound.
        """
        self._check(graph)
        assert graph.y is not None
        assert graph.split is not None
        train = graph.split.train[graph.y[graph.split.train] >= 0]
        told = torch.zeros(graph.num_nodes, graph.num_classes)
        told[train] = centred(F.one_hot(graph.y[train], graph.num_classes).float())
        made = copy.copy(self)
        object.__setattr__(made, "_told", told)
        if self.epsilon is not None:
            stream = Rng(secrets.randbits(64)) if self.secure else rng
            noise = stream["votes"].numpy().standard_normal(told.shape)
            object.__setattr__(made, "_noise", torch.from_numpy(noise).float())
        return made

    def _check(self, graph: Graph) -> None:
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

    def refuses(self, recipe: Recipe) -> str | None:
        """Models that look at edges: neighbours would speak twice, and once without noise."""
        if not recipe.model.module.capabilities.uses_edges:
            return None
        return f"needs a model that uses no edges, such as 'mlp', got {recipe.model.name!r}"

    def sanitise(
        self, x: Tensor | Features, adj: Adj, how: How = "exact"
    ) -> tuple[Tensor | Features, Adj]:
        """Features at norm 1."""
        return (unit_rows(x) if self.unit else x), adj

    def harden(self, model: GNN) -> GNN:
        """Votes around the model, with the noise and the labels that were drawn."""
        scale = (self._multiplier or 1.0) * self._sensitivity
        made = Votes(
            model, self.cap, self.level == "node" and self.heard == "soft",
            scale=scale, weight=self.trust * self.cap / scale,
        )  # fmt: skip
        made.told, made.noise = self._told, self._noise
        return made

    @property
    def _sensitivity(self) -> float:
        """Most that the sums of all others move, in Frobenius norm."""
        if self.level == "edge":  # two rows, by one vote each
            return math.sqrt(2)
        return math.sqrt(self.cap) * (SENSITIVITY if self.heard == "soft" else 1.0)

    @property
    def _multiplier(self) -> float | None:
        """Noise multiplier of the votes."""
        if self.epsilon is None:
            return None
        steps = self.steps if self.level == "node" else 0
        return _multiplier(self.epsilon, self.delta, steps, self.rate, self.ratio)

    def train(
        self, model: GNN, graph: Graph, recipe: Recipe, rng: Rng, x: Tensor | Features, adj: Adj,
        on_epoch: OnEpoch | None = None, whole: Defense | None = None,
    ) -> Trace:  # fmt: skip
        """Train the model of the features: privately at level "node", else as the recipe says."""
        assert isinstance(model, Votes)
        if self.level == "edge":
            trace = super().train(model.own, graph, recipe, rng, x, adj, on_epoch, whole)
        else:
            trace = self._steps().train(model.own, graph, recipe, rng, x, adj, on_epoch, whole)
        model.eval()
        if self._multiplier is not None:
            import dp_accounting

            trace.spent.append((dp_accounting.GaussianDpEvent(self._multiplier), 1))
        return trace

    def _steps(self) -> DPGNN:
        noise = 0.0 if self._multiplier is None else self.ratio * self._multiplier
        return DPGNN(
            epsilon=None, noise_multiplier=noise, delta=self.delta, steps=self.steps,
            rate=self.rate, clip=self.clip, lr=self.lr, nodes=self.nodes, secure=self.secure,
        )  # fmt: skip

    def statement(self, graph: Graph, recipe: Recipe, trace: Trace) -> PrivacyStatement | None:
        """ε of steps and votes, where the noise can't be replayed."""
        if not self.secure or self.epsilon is None:
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
                argument="Gaussian mechanism on all sums of votes, √2 for an edge; post-processing",
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


@lru_cache(maxsize=256)
def _multiplier(epsilon: float, delta: float, steps: int, rate: float, ratio: float) -> float:
    """Noise multiplier z of the votes, with that of the steps at ratio · z, for ε in all."""
    import dp_accounting

    from graphsec.dp.accountant import noise_for, step_event

    def spent(z: float) -> Any:
        events = [dp_accounting.GaussianDpEvent(z)]
        if steps:
            step = step_event(ratio * z, rate, 0)
            events.append(dp_accounting.SelfComposedDpEvent(step, steps))
        return dp_accounting.ComposedDpEvent(events)

    return noise_for(spent, epsilon, delta)
