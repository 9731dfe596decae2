"""GRAIN on nodes: what surrounds a root, features and edges, put together level by level."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from graphsec.attacks.leakage._leak import Leak, LeakageAttack
from graphsec.attacks.leakage.grain.alphabet import Alphabet, Kinds
from graphsec.attacks.leakage.grain.colours import Colours, deeper, tree
from graphsec.attacks.leakage.grain.join import Found
from graphsec.attacks.leakage.grain.layers import GCNLayers, layers_of
from graphsec.attacks.leakage.grain.several import beside, reconstruction, shares
from graphsec.attacks.leakage.grain.span import Span
from graphsec.game import NeighbourhoodGradients
from graphsec.graph import Graph
from graphsec.models.base import inputs
from graphsec.outcome import Reconstruction
from graphsec.registry import ATTACKS
from graphsec.rng import Rng
from graphsec.threat import Access, View


@dataclass(frozen=True, kw_only=True)
class NeighbourhoodAttack(LeakageAttack):
    """Base of attacks on what surrounds the nodes of a step."""

    game: ClassVar[str] = "neighbourhood-gradients"

    @property
    def needs(self) -> Access:
        """Gradients, and features and edges of what is not private."""
        return super().needs | Access.FEATURES | Access.EDGES


@ATTACKS.register("grain-nodes")
@dataclass(frozen=True, kw_only=True)
class GrainNodes(NeighbourhoodAttack):
    """Recovers the tree that a root's neighbourhood unrolls to, as deep as the model has layers.

    Of a GCN layer ∇W = (ÂH)ᵀ G, and in a step on roots G is zero beyond as many hops as there are
    layers after it: columns lie in the span of the rows (ÂH)_u of the nodes that near. So single
    nodes can't be tried, but a node with all multisets of neighbours can, against the first layer;
    nodes whose neighbours have neighbours, against the second; and so on up to the last layer,
    whose gradient has rank one of a single root. What is left for roots is told apart by its whole
    gradient. Which features occur at all shows in the rows of the first gradient that aren't zero.

    Source: Drencheva, Petrov, Baader, Dimitrov & Vechev, GRAIN: Exact Graph Reconstruction from
    Gradients, ICLR 2025 (span checks, blocks that grow layer by layer; from the reference notes);
    tests of sums instead of nodes are ours.

    Attributes:
        threshold: Largest relative residual of what lies in a span.
        cut: Singular values below this share of the largest are rounding.
        match: Largest relative distance of the gradient of what counts as found.
        colours: Most surroundings that are tried, level by level.
        compared: Most whole gradients that are compared, of a batch with each label.
    """

    threshold: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    cut: Annotated[float, Field(gt=0, lt=1)] = 1e-6
    match: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    colours: Annotated[int, Field(ge=1)] = 1_000_000
    compared: Annotated[int, Field(ge=1)] = 2_000

    def run(self, view: View, rng: Rng) -> Reconstruction:
        """The trees found, or the nearest ones tried; no nodes where none could be made.

        Raises:
            ValueError: The model is no GCN whose layers are known, features are continuous, there
                are as many roots as classes, or too many surroundings to try.
        """
        leak = self.leak(view)
        layers, count = layers_of(leak.predictor.model), len(leak.roots)
        if not isinstance(layers, GCNLayers):
            raise ValueError("attack 'grain-nodes' knows the sums of gcn, not those of gat")
        if count >= leak.classes:
            raise ValueError(
                f"attack 'grain-nodes': the last layer's gradient tells fewer roots apart than "
                f"there are classes: roots must be at most {leak.classes - 1}, got {count}"
            )
        depth = leak.predictor.model.layers or 0
        seen = [leak.gradient[f"weight.{i}"].double().numpy() for i in range(depth)]
        kinds = Alphabet.of(view.known).seen((seen[0] != 0).any(1))
        levels = [Colours.of(kinds)]
        for level, g in enumerate(seen, 1):
            span = Span.of(g, self.threshold, self.cut)
            levels.append(deeper(levels[-1], kinds, layers, level, span, self.colours))
        found = [tree(levels, colour) for colour in range(len(levels[-1].kind))]
        chosen, distance = self._nearest(found[: self.compared], kinds, leak)
        info = {
            "colours": [len(each.kind) for each in levels],
            "distance": distance, "exact": distance < self.match,
        }  # fmt: skip
        return reconstruction(chosen, kinds, leak, info)

    def _nearest(
        self, found: list[Found], kinds: Kinds, leak: Leak
    ) -> tuple[list[tuple[Found, int]], float]:
        """As many trees and labels as there are roots, whose gradients add up best."""
        count = len(leak.roots)
        labels = [int(leak.last_bias.argmin())] if count == 1 else list(range(leak.classes))
        tried = [(each, label) for each in found for label in labels]
        if not tried:
            return [], float("inf")
        seen = torch.cat([g.double().ravel() for g in leak.gradient.values()]).numpy()
        columns = np.array([_gradient(each, kinds, label, leak) for each, label in tried]).T
        if count == 1:
            off = np.linalg.norm(columns - seen[:, None], axis=0) / np.linalg.norm(seen)
            return [tried[int(off.argmin())]], float(off.min())
        chosen, distance = shares(columns, seen, count)
        return [tried[i] for i in chosen], distance


def _gradient(found: Found, kinds: Kinds, label: int, leak: Leak) -> np.ndarray:
    """The gradient of the loss of one root, as one vector; degrees are those of kinds."""
    kind, adj = found
    scale = (kinds.degree[kind] + 1.0) ** -0.5
    operator = torch.from_numpy(scale[:, None] * (adj + np.eye(len(adj))) * scale)
    model = leak.predictor.model
    named = {
        name: p.detach().double().requires_grad_() for name, p in model.named_parameters()
    }  # fmt: skip
    h, depth = torch.from_numpy(kinds.x[kind]), model.layers or 0
    for i in range(depth):
        h = operator @ (h @ named[f"weight.{i}"]) + named[f"bias.{i}"]
        if i < depth - 1:
            h = model.between(h)  # type: ignore[operator]
    loss = F.cross_entropy(h[:1], torch.tensor([label]))
    slopes = torch.autograd.grad(loss, [named[name] for name in leak.gradient])
    return torch.cat([g.ravel() for g in slopes]).numpy()


@ATTACKS.register("neighbourhood-guess")
@dataclass(frozen=True, kw_only=True)
class NeighbourhoodGuess(NeighbourhoodAttack):
    """Guesses the commonest neighbourhood of known nodes of the label, or nothing but zeros.

    Of several roots the labels aren't known, and the guess is the commonest of all.

    Source: a baseline of this project: small neighbourhoods are alike, and a guess says what share
    of success no gradient is needed for.

    Attributes:
        guess: "common", or "zero": a lonely node without features.
    """

    guess: Literal["common", "zero"] = "common"

    @property
    def needs(self) -> Access:
        """Labels of known nodes too."""
        return super().needs | Access.TRUE_LABELS

    def run(self, view: View, rng: Rng) -> Reconstruction:
        """The same for every root."""
        leak, known = self.leak(view), view.known
        assert isinstance(leak.rules, NeighbourhoodGradients)
        counts, k = leak.counts(), len(leak.roots)
        y = leak.labels(counts)
        x, adj = torch.zeros(1, known.num_features), torch.zeros(1, 1)
        if self.guess == "common":
            x, adj = _commonest(known, y, leak.rules.hops)
        return Reconstruction(
            nodes=torch.arange(k * len(x)),
            x=x.repeat(k, 1),
            adj=beside([adj] * k),
            owner=torch.arange(k).repeat_interleave(len(x)),
            y=y,
            counts=counts,
        )


def _commonest(known: Graph, y: Tensor | None, hops: int) -> tuple[Tensor, Tensor]:
    """Features (n, d) and edges (n, n), root first, of what surrounds most nodes of a label."""
    assert known.y is not None
    dense, csr = inputs(known).to_dense(), known.to_scipy()
    near = [csr.indices[a:b].tolist() for a, b in pairwise(csr.indptr)]
    colour = torch.unique(dense, dim=0, return_inverse=True)[1].tolist()
    for _ in range(hops):
        signs = [(colour[u], *sorted(colour[v] for v in near[u])) for u in range(len(near))]
        number = {sign: i for i, sign in enumerate(dict.fromkeys(signs))}
        colour = [number[sign] for sign in signs]
    there = torch.arange(len(near)) if y is None else (known.y == y).nonzero().ravel()
    there = there if len(there) else torch.arange(len(near))
    most = Counter(colour[u] for u in there.tolist()).most_common(1)[0][0]
    root = next(u for u in there.tolist() if colour[u] == most)
    ball = [root]
    for _ in range(hops):
        ball = list(dict.fromkeys(ball + [v for u in ball for v in near[u]]))
    return dense[ball], torch.from_numpy(csr[ball][:, ball].toarray() != 0).float()
