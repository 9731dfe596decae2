"""Chain inversion: each layer's input and output are known, so solve for what joins them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from graphsec.attacks.reconstruction._knowledge import (
    Knowledge,
    ReconstructionAttack,
    Source,
    check_size,
    combined,
)
from graphsec.models.base import GNN
from graphsec.ops import Adj, Features
from graphsec.ops.dense import dense
from graphsec.registry import ATTACKS, Range, SpecError
from graphsec.threat import Access, View

LIFT = 100.0  # added before a ReLU, so that it lets everything pass
FLOOR = 1e-5  # directions of a smaller share of the largest variance are left as they are


@ATTACKS.register("chain-inversion")
@dataclass(frozen=True, kw_only=True)
class ChainInversion(ReconstructionAttack):
    """Non-negative sparse regression for the operator that a model propagates with.

    A layer of a GCN sends the states Z = H W of all nodes through S = D̃^-½ (A + I) D̃^-½: its output
    tells S Z + b, as far as it is positive, and that S Z + b ≤ 0 where a ReLU cut it off. With the
    weights, the input and the output of a layer in hand that is linear in S: about as many
    equations a node as the layer is wide, for a row with few non-zeros that is a column too. So one
    convex problem is solved for all layers whose input is known (the first by the features, others
    by hidden states):

        min over S = Sᵀ ≥ 0 of Σ_layers ½ ‖(S Z + slack − T) C‖² + λ Σ_{u≠v} S_uv,

    where C makes all directions of Z equally long and slack ≥ 0 stands where a ReLU cut off. FISTA
    with restarts; λ falls from ``start`` to ``end`` times the value at which nothing is found. A
    pair's score is S_uv, ties broken by how alike its nodes are in all that is known. Where the
    operator is not symmetric (GraphSAGE's mean over neighbours) neither is S, and the score is
    S_uv + S_vu. Dense: O(n² · width) time a step. Rows with more neighbours than equations are not
    determined: there what FISTA has after few steps, which is spread out, ranks pairs better than
    what it ends at.

    Source: ours. It is the chain of MC-GRA (Zhou et al., ICML 2023) with each link taken at the
    state that is known, not at the state that the reconstruction so far would give, and solved for
    the operator instead of the adjacency inside it: that makes it convex. Beck & Teboulle 2009 for
    FISTA, O'Donoghue & Candès 2015 for restarts. The defaults were chosen on generated graphs.

    Attributes:
        steps: Steps of FISTA.
        start: λ at first, as a share of its largest useful value.
        end: λ at last.
    """

    requires: ClassVar[tuple[Source, ...]] = ("features",)

    steps: Annotated[int, Field(ge=2), Range(50, 800, log=True)] = 200
    start: Annotated[float, Field(gt=0, le=1), Range(1e-3, 1e-1, log=True)] = 1e-2
    end: Annotated[float, Field(gt=0, le=1), Range(1e-6, 1e-3, log=True)] = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not {"hidden", "outputs"} & set(self.knows):
            raise SpecError(
                f"attack {self.name!r}: knows must hold hidden or outputs, got {self.knows}"
            )

    @property
    def needs(self) -> Access:
        """The model too."""
        return super().needs | Access.WEIGHTS

    def parts(self, view: View, known: Knowledge, pairs: Tensor) -> list[Tensor]:
        """The operator's entries, ties broken by likeness."""
        check_size(view, self.name)
        n, (u, v) = view.known.num_nodes, pairs
        operator = self._solve(list(_links(view.model().model, known, view.known.adj)), n)
        found = operator[u, v] + operator[v, u]
        likeness = combined(known.similarities(pairs))
        return [found.double() + 1e-9 * float(found.max()) * likeness / likeness.max()]

    def _solve(self, links: list[_Link], n: int) -> Tensor:
        """(n, n) the operator ≥ 0; its diagonal, the self-loops, is free of charge."""
        sent = torch.cat([link.sent for link in links], 1)
        symmetric = all(link.symmetric for link in links)

        def slope(operator: Tensor) -> Tensor:
            pull = torch.cat([link.residual(operator) for link in links], 1) @ sent.T
            return (pull + pull.T).mul_(0.5) if symmetric else pull

        best = ahead = torch.zeros(n, n)
        largest, speed = -float(slope(ahead).min()), 1.0
        for step in range(self.steps):
            share = self.start * (self.end / self.start) ** (step / (self.steps - 1))
            down = slope(ahead)
            down.add_(share * largest).diagonal().sub_(share * largest)
            # The columns of each part are orthonormal: the curvature is at most their number.
            new = torch.add(ahead, down, alpha=-1 / len(links)).clamp_(min=0)
            if float(((ahead - new) * (new - best)).sum()) > 0:  # overshot: start afresh from here
                speed = 1.0
            after = (1 + (1 + 4 * speed**2) ** 0.5) / 2
            ahead = new + (speed - 1) / after * (new - best)
            best, speed = new, after
        return best


class _Link:
    """One layer: what was sent, what came of it, both in coordinates of equal variance.

    Attributes:
        sent: (n, width) orthonormal columns.
        symmetric: Whether the operator is.

    Args:
        sent: (n, width) states that the operator is applied to.
        got: (n, width) what came of them, 0 or less where it was cut off.
        cut: (n, width) where a ReLU cut it off.
        symmetric: Whether the operator is.
    """

    def __init__(self, sent: Tensor, got: Tensor, cut: Tensor, symmetric: bool) -> None:
        value, vector = torch.linalg.eigh((sent.T @ sent).double())
        scale = value.clamp(min=FLOOR * float(value.max())).rsqrt()
        self._white = (vector * scale).to(sent.dtype)
        self.sent, self.symmetric = sent @ self._white, symmetric
        self._raw, self._got, self._cut = sent, got, cut.to(sent.dtype)
        self._metric = self._white @ self._white.T
        self._slack = torch.zeros_like(got)

    def residual(self, operator: Tensor) -> Tensor:
        """(n, width) what the operator misses, after the slack where a ReLU cut off."""
        miss = operator @ self._raw - self._got
        if self._cut.any():
            slack, metric = self._slack, self._metric
            for _ in range(2):  # sweeps over coordinates, from where the last call ended
                for k in range(miss.shape[1]):
                    down = ((miss + slack) @ metric[:, k]) / metric[k, k]
                    slack[:, k] = (slack[:, k] - down).clamp_(min=0) * self._cut[:, k]
            miss = miss + slack
        missed: Tensor = miss @ self._white
        return missed


def _links(model: GNN, known: Knowledge, adj: Adj) -> Iterator[_Link]:
    """The layers whose input and output are known.

    Raises:
        ValueError: No such layer, or layers that are not linear in the operator.
    """
    states = [known.x, *known.hidden]
    outputs = [*known.hidden, *([] if known.logits is None else [known.logits])]
    last = (model.layers or 0) - 1
    # Without hidden states only a model of one layer joins features and outputs directly.
    layers = range(last + 1) if known.hidden or last == 0 else range(0)
    pairs = list(zip(layers, states, outputs, strict=False))
    if not pairs:
        raise ValueError(
            "attack 'chain-inversion' needs the input and the output of a layer: hidden states, "
            f"or the outputs of a model of one layer, found {type(model).__name__} with "
            f"{model.layers} layers"
        )
    probe = copy.copy(model)
    symmetric = _symmetric(model)
    for i, state, output in pairs:
        assert state is not None
        sent, rest = _affine(probe, i, state, known.x, adj)
        cut = (output == 0) if i < last else torch.zeros_like(output, dtype=torch.bool)
        yield _Link(sent, output - rest, cut, symmetric)


@torch.no_grad()
def _affine(
    model: GNN, i: int, state: Tensor | Features, x: Tensor | Features | None, adj: Adj
) -> tuple[Tensor, Tensor]:
    """(Z, r): layer i gives act(S Z + r) with any operator S, found by asking it.

    The aggregation is replaced by one that records what it is given and returns what we choose, so
    that the edges of ``adj`` are of no account.
    """
    given: list[Tensor] = []
    answer = torch.zeros(())

    def aggregate(adj: Adj, h: Tensor) -> Tensor:
        given.append(h)
        return answer.expand_as(h) if answer.dim() == 0 else answer

    model.__dict__["aggregate"] = aggregate
    answer = torch.tensor(LIFT)
    lifted = model.layer(i, state, adj, x)  # type: ignore[arg-type]
    rest = lifted - LIFT
    trial = torch.linspace(-1, 1, lifted.numel()).view_as(lifted)
    answer = trial + LIFT
    same = len(given) == 1 and given[0].shape == lifted.shape and given[0].dim() == 2
    if not same or not torch.allclose(model.layer(i, state, adj, x), lifted + trial, atol=1e-3):  # type: ignore[arg-type]
        raise ValueError(
            f"attack 'chain-inversion' needs layers that add one sum over neighbours to something: "
            f"layer {i} of {type(model).__name__} does not"
        )
    return given[0], rest


def _symmetric(model: GNN) -> bool:
    """Whether the operator of an undirected graph is symmetric, seen on a path of three nodes."""
    path = torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]])
    operator = getattr(model, "operator", None)
    if operator is None:
        return False
    matrix = dense(operator(Adj.dense(path)))
    return torch.allclose(matrix, matrix.T)
