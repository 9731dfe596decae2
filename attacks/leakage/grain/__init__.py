"""GRAIN: whole graphs of known alphabets, put together until they have the gradient seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from graphsec.attacks.leakage._leak import Leak, LeakageAttack
from graphsec.attacks.leakage.closed_form import multiplied
from graphsec.attacks.leakage.grain.alphabet import Alphabet
from graphsec.attacks.leakage.grain.blocks import Blocks, building_blocks, closed, weighed
from graphsec.attacks.leakage.grain.join import Found, Search
from graphsec.attacks.leakage.grain.layers import (
    GCNLayers,
    Layers,
    gcn_operator,
    gradients,
    layers_of,
)
from graphsec.attacks.leakage.grain.several import reconstruction, together
from graphsec.attacks.leakage.grain.span import Span, complete
from graphsec.outcome import Reconstruction
from graphsec.registry import ATTACKS
from graphsec.rng import Rng
from graphsec.threat import Access, View


@ATTACKS.register("grain")
@dataclass(frozen=True, kw_only=True)
class Grain(LeakageAttack):
    """Recovers a whole graph exactly, features and edges, from the gradient of one step on it.

    The gradient of a layer's weight is Hᵀ(Âᵀ G): its columns lie in the span of the rows of H, what
    the layer was given, and where it has full rank every row of H lies in the span of its columns.
    So features are tried one-hot block by block against ∇W of the first layer; nodes with all
    multisets of neighbours, whose state after one layer can be computed, against that of the
    second; and what is left is joined, depth first and small graphs first, into whole graphs until
    one has the gradient that was seen. Other graphs of the set give the alphabet (FEATURES) and
    how features go with degrees (EDGES).

    Our additions: where the blocks that pass are independent and as many as the span has
    dimensions, each must be used; and a GCN's last layer gives, by division, the mean of its
    input over the graph, which rules graphs out before their gradient is computed and, in GCNs of
    two layers, says which blocks there may be. Of several graphs in a step, those are chosen whose
    gradients add up to the one seen. No more than the spans of two layers are tested.

    Source: Drencheva, Petrov, Baader, Dimitrov & Vechev, GRAIN: Exact Graph Reconstruction from
    Gradients, ICLR 2025 (span checks, building blocks, depth-first joining; from the reference
    notes, thresholds ours but for the 1e-3 of the span check).

    Attributes:
        threshold: Largest relative residual of what lies in a span.
        cut: Singular values below this share of the largest are rounding: a gradient is float32.
        match: Largest relative distance of the gradient of a graph that counts as found.
        skip_zeros: Whether columns with entries that were seen as 0 are left out of spans, and such
            entries out of the comparison, for gradients that a known defense has pruned.
        largest: Nodes of the largest graph that is tried; None: of the largest known one.
        blocks: Most neighbourhoods that are tried.
        steps: Most nodes that are joined, for each number of ``spare`` ones.
        spare: Nodes whose neighbourhood may lie outside the span: a gradient's rank may fall short.
    """

    game: ClassVar[str] = "graph-gradients"
    tasks: ClassVar[tuple[str, ...]] = ("graph",)

    threshold: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    cut: Annotated[float, Field(gt=0, lt=1)] = 1e-6
    match: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    skip_zeros: bool = False
    largest: Annotated[int, Field(ge=1)] | None = None
    blocks: Annotated[int, Field(ge=1)] = 1_000_000
    steps: Annotated[int, Field(ge=1)] = 100_000
    spare: Annotated[int, Field(ge=0)] = 2

    @property
    def needs(self) -> Access:
        """Gradients, and features and edges of graphs that are not private."""
        return super().needs | Access.FEATURES | Access.EDGES

    def run(self, view: View, rng: Rng) -> Reconstruction:
        """The graphs found, or the nearest ones tried; no nodes where none could be made.

        Raises:
            ValueError: The model is not of a form whose layers are known, features are continuous,
                a layer is too narrow for its gradient's rank, or has too few layers for a batch.
        """
        leak = self.leak(view)
        layers, count = layers_of(leak.predictor.model), len(leak.roots)
        alphabet, spans = Alphabet.of(view.known), self._spans(leak)
        if count > 1 and len(spans) < 2:
            raise ValueError(
                f"attack 'grain': a batch needs a span of states: layers must be ≥ 3 for {count} "
                "graphs, got 2"
            )
        kinds = alphabet.kinds(spans[0])
        blocks = building_blocks(kinds, layers, spans[1] if len(spans) > 1 else None, self.blocks)
        mean = _mean_input(leak, layers) if count == 1 else None
        if mean is not None and len(spans) == 1 and len(blocks.centre):
            blocks = weighed(blocks, mean, rng["costs"].numpy())
        if count > 1:  # not each block is needed in each graph
            blocks = replace(blocks, needed=False)
        chosen: list[tuple[Found, int]] = []
        distance = float("inf")
        if len(blocks.centre):
            chosen, distance = self._joined(leak, layers, blocks, mean, view)
        inside = len(blocks.centre) if blocks.outside is None else int((~blocks.outside).sum())
        info = {
            "ranks": [span.rank for span in spans], "kinds": len(kinds.degree), "blocks": inside,
            "distance": distance, "exact": distance < self.match,
        }  # fmt: skip
        return reconstruction(chosen, blocks.kinds, leak, info)

    def _spans(self, leak: Leak) -> list[Span]:
        """The span of each hidden layer's ∇W, the first layer's first.

        Raises:
            ValueError: That of a later layer is the whole space.
        """
        names = [f"weight.{i}" for i in range(leak.predictor.model.layers or 0)][:-1]
        seen = [leak.gradient[name].double().numpy() for name in names]
        if self.skip_zeros:
            seen = [complete(each) for each in seen]
        spans = [Span.of(each, self.threshold, self.cut) for each in seen]
        for name, span in list(zip(names, spans, strict=True))[1:]:
            if span.full:
                raise ValueError(
                    f"attack 'grain': the gradient of {name!r} must have a rank below its width "
                    f"({len(span.basis)}), or every candidate lies in its span; got {span.rank}: "
                    "the graph has too many nodes for the layer, or the gradient is noisy"
                )
        return spans

    def _joined(
        self, leak: Leak, layers: Layers, blocks: Blocks, mean: np.ndarray | None, view: View
    ) -> tuple[list[tuple[Found, int]], float]:
        """The first graphs that have the gradient seen, or else the nearest; and how far it is."""
        candidates = self._candidates(blocks, self._sizes(view))
        model, seen = leak.predictor.model.double(), _vector(leak.gradient)

        def gradient(graph: Found, label: int) -> np.ndarray:
            x, adj = torch.from_numpy(blocks.kinds.x[graph[0]]), torch.from_numpy(graph[1])
            mine = gradients(model, x, adj, label, leak.readout)
            vector = _vector({name: mine[name] for name in leak.gradient})
            return vector * (seen != 0) if self.skip_zeros else vector

        if len(leak.roots) > 1:
            return together(candidates, gradient, seen, len(leak.roots), leak.classes, self.match)
        label = int(leak.last_bias.argmin())
        best: list[tuple[Found, int]] = []
        nearest, size = float("inf"), max(float(np.linalg.norm(seen)), 1e-300)
        for graph in candidates:
            states = layers.states(blocks.kinds.x[graph[0]], graph[1])
            off = _roughly(states, graph[1], mean)
            if off < self.threshold:
                off = float(np.linalg.norm(gradient(graph, label) - seen)) / size
            if off < nearest:
                best, nearest = [(graph, label)], off
            if nearest < self.match:
                break
        return best, nearest

    def _candidates(self, blocks: Blocks, sizes: range) -> Iterator[Found]:
        """Graphs of blocks inside the span, the small ones first; then with a few from outside."""
        short = blocks.outside is not None and not blocks.needed
        for spare in range(self.spare + 1 if short else 1):
            part = blocks
            if short and not spare:
                assert blocks.outside is not None
                part = closed(blocks.where(~blocks.outside))
            search = Search(part, self.steps, spare)
            for size in sizes:
                yield from search.graphs(size)
                if search.left < 0:
                    break

    def _sizes(self, view: View) -> range:
        """Numbers of nodes that are tried: of the graphs asked about if they are known."""
        asked = view.question
        assert asked is not None
        if int(asked.min()) > 0:
            return range(int(asked.min()), int(asked.max()) + 1)
        owner = view.known.graph_id
        assert owner is not None
        return range(1, (self.largest or int(torch.bincount(owner).max())) + 1)


def _vector(gradient: dict[str, Tensor]) -> np.ndarray:
    return torch.cat([g.double().ravel() for g in gradient.values()]).numpy()


def _mean_input(leak: Leak, layers: Layers) -> np.ndarray | None:
    """(width,) the mean over a graph of ÂH, H what a GCN's last layer is given; else None."""
    if not isinstance(layers, GCNLayers):
        return None
    last = len(layers.weight)
    found = multiplied(leak.gradient[f"weight.{last}"], leak.gradient[f"bias.{last}"])
    return None if found is None else found.numpy()


def _roughly(states: list[np.ndarray], adj: np.ndarray, mean: np.ndarray | None) -> float:
    """How far a graph is from the mean that the gradient tells, relatively; 0 if it tells none."""
    if mean is None:
        return 0.0
    mine = (gcn_operator(adj) @ states[-1]).mean(0)
    return float(np.linalg.norm(mine - mean)) / max(float(np.linalg.norm(mean)), 1e-300)
