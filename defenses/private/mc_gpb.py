"""MC-GPB: training that keeps the states of a model from telling which nodes are linked."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from graphsec.defenses.base import Defense
from graphsec.graph import Graph
from graphsec.models.base import GNN, Capabilities, Wrapper
from graphsec.models.stack import Linear
from graphsec.ops import Adj, Features
from graphsec.ops.dependence import cka, gaussian_kernel, hsic, information
from graphsec.registry import DEFENSES, Range
from graphsec.rng import Rng
from graphsec.train import OnEpoch, Recipe, Trace, loss_of
from graphsec.train import fit as train_model

Measure = Literal["kde", "cka", "hsic"]


@DEFENSES.register("mc-gpb", "gpb")
@dataclass(frozen=True, kw_only=True)
class MCGPB(Defense):
    """Training with a penalty on what each layer's states have to do with the edges.

    On random edges (u, v), the loss adds to that of the labels, for the states H_1 … H_L of the
    layers, the logits last,

        β Σ D(H_l[u], H_l[v]) + γ Σ D(H_l+1[u], H_l[u]) + δ Σ_{l<L} loss(linear map of H_l),

    where D measures dependence: ends of edges should have little to do with each other (privacy),
    a layer little with the one before (complexity), and each layer should still tell the labels
    (accuracy). A share of the edges is dropped once, before training; answers are given on the
    whole graph that is asked about. The linear maps are thrown away: the model is as without the
    defense, and attackers differentiate it exactly. Nothing is proven about what still leaks.

    The parameters are those of the highest validation accuracy, whatever the recipe selects: of the
    last epoch that reached it, as the penalties take time; of the last epoch without validation
    nodes.

    Source: Zhou et al., On Strengthening and Defending Graph Reconstruction Attack with Markov
    Chain Approximation, ICML 2023, §5, after a reading of the published code. Ours: one β and one
    γ for all layers and none for the features; D is of the states at the two ends, with Gaussian
    kernels, where the code has the product of the states at v as a kernel; a step samples its edges
    anew; the checkpoint (the code has test accuracy and the AUC of the edges in its rule); the
    defaults, which were not searched for.

    Attributes:
        beta: β, against dependence between the ends of edges.
        gamma: γ, against dependence between layers.
        auxiliary: δ, for the labels at each layer.
        drop: Share of edges dropped before training.
        measure: D: "kde", mutual information of kernel density estimates in nats; linear "cka",
            from 0 to 1; linear "hsic", which depends on the scale of the states.
        edges: Edges a step.
    """

    tasks: ClassVar[tuple[str, ...]] = ("classification",)

    beta: Annotated[float, Field(ge=0), Range(1e-2, 10, log=True)] = 1.0
    gamma: Annotated[float, Field(ge=0), Range(1e-3, 1, log=True)] = 0.1
    auxiliary: Annotated[float, Field(ge=0), Range(0.01, 1, log=True)] = 1.0
    drop: Annotated[float, Field(ge=0, lt=1), Range(0, 0.5)] = 0.1
    measure: Measure = "kde"
    edges: Annotated[int, Field(ge=2), Range(200, 2000, log=True)] = 1000

    def train(
        self, model: GNN, graph: Graph, recipe: Recipe, rng: Rng, x: Tensor | Features, adj: Adj,
        on_epoch: OnEpoch | None = None, whole: Defense | None = None,
    ) -> Trace:  # fmt: skip
        """On the thinned graph, with the penalties.

        Raises:
            ValueError: Training is in batches or on subgraphs.
        """
        training = recipe.training
        if training.batch_size is not None or training.sampler is not None:
            raise ValueError(
                "mc-gpb needs the whole graph: training.batch_size and training.sampler must be "
                f"None, got {training.batch_size} and {training.sampler}"
            )
        adj = thinned(adj, self.drop, rng["drop"]).pruned()
        with rng["heads"].scope():
            bottleneck = Bottleneck(self, model, graph, x, adj)
        best, kept = 0.0, model.state_dict()

        def look(epoch: int, figures: dict[str, float]) -> bool:
            nonlocal best, kept
            if figures.get("val_accuracy", -1.0) >= best:
                best, kept = figures["val_accuracy"], copy.deepcopy(model.state_dict())
            return bool(on_epoch and on_epoch(epoch, figures))

        trace = train_model(
            bottleneck, graph, replace(training, select="last"), rng,
            x=x, adj=adj, release=(whole or self).release, on_epoch=look,
        )  # fmt: skip
        model.load_state_dict(kept)
        return trace

    def leakage(self, states: list[Tensor], ends: Tensor) -> Tensor:
        """The terms of β and γ.

        Args:
            states: (n, width) of each layer.
            ends: (2, k) edges.
        """
        described = {"kde": gaussian_kernel}.get(self.measure, lambda h: h)
        dependence = {"kde": information, "cka": cka, "hsic": hsic}[self.measure]
        u, v = ends
        near = [described(h[u]) for h in states]
        total = states[0].new_zeros(())
        if self.beta:
            for here, h in zip(near, states, strict=True):
                total = total + self.beta * dependence(here, described(h[v]))
        if self.gamma:
            for before, after in pairwise(near):
                total = total + self.gamma * dependence(after, before)
        return total


class Bottleneck(Wrapper):
    """A model in training: itself, with MC-GPB's penalty and a linear map of each inner layer."""

    capabilities = Capabilities(tasks=("classification",), sampled=False, per_sample=False)

    def __init__(
        self, defense: MCGPB, base: GNN, graph: Graph, x: Tensor | Features, adj: Adj
    ) -> None:
        super().__init__(base, base.layers)
        assert graph.y is not None
        assert graph.split is not None
        self._defense, self._train, self._task = defense, graph.split.train, graph.task
        self._y = graph.y[self._train]
        with torch.no_grad():
            inner = base.eval().hidden(x, adj)[:-1] if defense.auxiliary else []
        self.heads = nn.ModuleList([Linear(h.shape[1], graph.num_classes) for h in inner])
        self.heads.to(graph.indptr.device)

    def forward(self, x: Tensor | Features, adj: Adj) -> Tensor:
        """Logits of the model."""
        out: Tensor = self.base(x, adj)
        return out

    def hidden(self, x: Tensor | Features, adj: Adj) -> list[Tensor]:
        """Outputs of the model's layers."""
        return self.base.hidden(x, adj)

    def groups(self, weight_decay: float, decay: str) -> list[dict[str, object]]:
        """The linear maps beside the model's groups, without decay."""
        heads = {"params": list(self.heads.parameters()), "weight_decay": 0.0}
        return [*self.base.groups(weight_decay, decay), heads]

    def penalty(self, x: Tensor | Features, adj: Adj) -> Tensor:
        """What MC-GPB adds to the loss, on edges of this step."""
        states = self.base.hidden(x, adj)
        row, col = adj.csr.coo
        total = self.base.penalty(x, adj)
        total = states[-1].new_zeros(()) if total is None else total
        if len(row) > 1:
            picked = torch.randint(len(row), (min(self._defense.edges, len(row)),))
            picked = picked.to(row.device)  # drawn on the CPU: the same edges everywhere
            total = total + self._defense.leakage(states, torch.stack([row[picked], col[picked]]))
        for head, state in zip(self.heads, states, strict=False):
            loss = loss_of(self._task, head(state[self._train]), self._y)
            total = total + self._defense.auxiliary * loss
        return total


def thinned(adj: Adj, share: float, rng: Rng) -> Adj:
    """The adjacency with each edge gone with probability ``share``, in both directions at once."""
    if not share:
        return adj
    row, col = adj.csr.coo
    low, high = (row, col) if not adj.csr.symmetric else (row.minimum(col), row.maximum(col))
    _, pair = torch.unique(low * adj.num_nodes + high, return_inverse=True)
    kept = torch.rand(int(pair.max()) + 1 if len(pair) else 0, generator=rng.torch()) >= share
    return adj.scaled(kept.to(pair.device)[pair].to(torch.float32), None)
