"""Gradient matching over whole graphs: relaxed features and edges, rounded in the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from graphsec.attacks.leakage._leak import Leak, LeakageAttack
from graphsec.attacks.leakage.gradient_matching import _lbfgs, distance
from graphsec.attacks.leakage.grain.alphabet import Alphabet
from graphsec.graph import Graph
from graphsec.models.base import inputs
from graphsec.ops import Adj
from graphsec.outcome import Reconstruction
from graphsec.readout import graph_labels, pooled
from graphsec.registry import ATTACKS, Range
from graphsec.rng import Rng
from graphsec.threat import Access, View


@dataclass(frozen=True, kw_only=True)
class GraphLeakageAttack(LeakageAttack):
    """Base of attacks on the gradient of a step on one whole graph."""

    game: ClassVar[str] = "graph-gradients"
    tasks: ClassVar[tuple[str, ...]] = ("graph",)

    @property
    def needs(self) -> Access:
        """Gradients, and features and edges of graphs that are not private."""
        return super().needs | Access.FEATURES | Access.EDGES

    def single(self, view: View) -> tuple[Leak, Tensor]:
        """The gradient, and (1,) the label of the graph that it is of.

        Raises:
            ValueError: It is of several graphs.
        """
        leak = self.leak(view)
        if len(leak.roots) > 1:
            raise ValueError(
                f"attack {self.name!r} is on one graph: graphs must be 1, got {len(leak.roots)}"
            )
        return leak, leak.last_bias.argmin().unsqueeze(0)


def typical_size(asked: Tensor, known: Graph) -> int:
    """Nodes of the graph asked about; where that is private, the median of known graphs."""
    if int(asked[0]) > 0:
        return int(asked[0])
    assert known.graph_id is not None
    return int(torch.bincount(known.graph_id).median())


@ATTACKS.register("graph-matching")
@dataclass(frozen=True, kw_only=True)
class GraphMatching(GraphLeakageAttack):
    """DLG over a whole graph: features and edges are optimised, and rounded in the end.

    Features are shares of the values of each one-hot block (or of 0 and 1), edges weights from 0
    to 1 of all pairs. In the end each block takes its largest value, and as many of the heaviest
    pairs are edges as the degrees say that features tell (else those over 1/2). The number of
    nodes is known, or taken to be the median. It knows what ``grain`` knows of alphabets.

    Source: Zhu et al., Deep Leakage from Gradients, NeurIPS 2019, algorithm 1, with rounding: the
    kind of baseline that Drencheva et al., GRAIN, ICLR 2025, compare with.

    Attributes:
        steps: Most iterations of L-BFGS in a run.
        restarts: Runs, of which the one whose gradient is nearest counts.
    """

    steps: Annotated[int, Field(ge=1), Range(50, 1000, log=True)] = 200
    restarts: Annotated[int, Field(ge=1), Range(1, 8)] = 3

    def run(self, view: View, rng: Rng) -> Reconstruction:
        """The graph that the nearest run was rounded to.

        Raises:
            ValueError: There are several graphs, features are continuous, or the model's gradients
                can't be differentiated.
        """
        leak, y = self.single(view)
        model = leak.predictor.model.double()
        if not model.capabilities.second_order:
            raise ValueError(
                "attack 'graph-matching' differentiates gradients again, which "
                f"{type(model).__name__} does not allow"
            )
        assert view.question is not None
        size, alphabet = typical_size(view.question, view.known), Alphabet.of(view.known)
        runs = [self._run(leak, y, alphabet, size, rng["run"][i]) for i in range(self.restarts)]
        loss, x, weight = min(runs, key=lambda each: each[0])
        x, adj = rounded_graph(x, weight, alphabet)
        owner = torch.zeros(size, dtype=torch.int64)
        nodes = torch.arange(size)
        return Reconstruction(nodes=nodes, x=x, adj=adj, owner=owner, y=y, info={"loss": loss})

    def _run(
        self, leak: Leak, y: Tensor, alphabet: Alphabet, size: int, rng: Rng
    ) -> tuple[float, Tensor, Tensor]:
        """(loss, features, weights of pairs (n, n)) of one run."""
        generator, width = rng.torch(), alphabet.rows.shape[1]
        z = torch.randn(size, width, generator=generator, dtype=torch.float64).requires_grad_()
        s = torch.randn(size, size, generator=generator, dtype=torch.float64).requires_grad_()
        model, owner = leak.predictor.model, torch.zeros(size, dtype=torch.int64)
        named = dict(model.named_parameters())
        seen = [g.double() for g in leak.gradient.values()]
        wanted = [named[name] for name in leak.gradient]
        off = 1 - torch.eye(size, dtype=torch.float64)

        def graph() -> tuple[Tensor, Tensor]:
            return relaxed(z, alphabet.blocks), ((s + s.T) / 2).sigmoid() * off

        def objective() -> Tensor:
            x, weight = graph()
            logits = pooled(model(x, Adj.dense(weight)), owner, leak.readout)
            loss = F.cross_entropy(logits, y)
            mine = torch.autograd.grad(loss, wanted, create_graph=True)
            return distance(mine, seen, "l2")

        _lbfgs(objective, [z, s], self.steps)
        x, weight = graph()
        return objective().item(), x.detach(), weight.detach()


def relaxed(z: Tensor, blocks: list[tuple[int, int]]) -> Tensor:
    """Features from logits (n, d): shares in each one-hot block, or of each entry."""
    if not blocks:
        return z.sigmoid()
    return torch.cat([z[:, start:end].softmax(1) for start, end in blocks], 1)


def rounded_graph(x: Tensor, weight: Tensor, alphabet: Alphabet) -> tuple[Tensor, Tensor]:
    """Features of 0 and 1, and (n, n) edges of 0 and 1, from relaxed ones."""
    hard = torch.zeros_like(x)
    for start, end in alphabet.blocks:
        hard[:, start:end].scatter_(1, x[:, start:end].argmax(1, keepdim=True), 1.0)
    if not alphabet.blocks:
        hard = (x > 0.5).double()
    upper = weight.triu(1)
    if alphabet.degree_of:
        degree = sum(int(hard[:, c].sum()) * d for c, d in alphabet.degree_of.items())
        pairs = len(x) * (len(x) - 1) // 2
        count = min(degree // 2, pairs)
        kept = torch.zeros_like(upper).ravel()
        order = torch.triu_indices(len(x), len(x), 1)
        flat = order[0] * len(x) + order[1]
        kept[flat[upper.ravel()[flat].topk(count).indices]] = 1
        upper = kept.view_as(upper)
    else:
        upper = (upper > 0.5).double()
    return hard.float(), (upper + upper.T).float()


@ATTACKS.register("graph-guess")
@dataclass(frozen=True, kw_only=True)
class GraphGuess(GraphLeakageAttack):
    """Guesses a known graph: one of the label read off the gradient, of the nearest size.

    Source: a baseline of this project: graphs of a set are alike, and what a guess has in common
    with a private one no gradient gave away.

    Attributes:
        guess: "known", or "zero": as many nodes without features and edges.
    """

    guess: Literal["known", "zero"] = "known"

    @property
    def needs(self) -> Access:
        """Labels of known graphs too."""
        return super().needs | Access.TRUE_LABELS

    def run(self, view: View, rng: Rng) -> Reconstruction:
        """One known graph.

        Raises:
            ValueError: There are several graphs.
        """
        _, y = self.single(view)
        known, asked = view.known, view.question
        assert asked is not None
        assert known.graph_id is not None
        if self.guess == "zero":
            size = typical_size(asked, known)
            blank, adj = torch.zeros(size, known.num_features), torch.zeros(size, size)
            owner = torch.zeros(size, dtype=torch.int64)
            return Reconstruction(nodes=torch.arange(size), x=blank, adj=adj, owner=owner, y=y)
        sizes, labels = torch.bincount(known.graph_id), graph_labels(known)
        there = (sizes > 0) & (labels == y)
        there = there if bool(there.any()) else sizes > 0
        far = (sizes - typical_size(asked, known)).abs()
        near = (there & (far == far[there].min())).nonzero().ravel().numpy()
        chosen = int(rng.numpy().choice(near))
        one = known.subgraph((known.graph_id == chosen).nonzero().ravel())
        return Reconstruction(
            nodes=torch.arange(one.num_nodes),
            x=inputs(one).to_dense(),
            adj=torch.from_numpy(one.to_scipy().toarray()).float(),
            owner=torch.zeros(one.num_nodes, dtype=torch.int64),
            y=y,
        )
