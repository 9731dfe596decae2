"""What attacks on the model itself share: whom they ask about, and how they train a copy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from graphsec.attacks.base import Attack
from graphsec.graph import Graph, Split
from graphsec.models.base import Sizes, inputs
from graphsec.ops import propagate
from graphsec.predict import Predictor
from graphsec.registry import DEFENSES
from graphsec.rng import Rng
from graphsec.threat import Timing, View
from graphsec.train import Recipe, fit

_HELD_OUT = 0.1  # of what a copy learns from, where its recipe stops by validation
_CHUNK = 2_048  # rows compared with all others at once


@dataclass(frozen=True, kw_only=True)
class ExtractionAttack(Attack):
    """Base of attacks whose evidence is a copy of the victim.

    The threat's targets are the nodes on which copy and victim are compared. An attack asks about
    others only: a copy that has seen an answer need not be faithful to repeat it.
    """

    timing: ClassVar[Timing] = "inference"


def others(view: View) -> Tensor:
    """Nodes that are not targets.

    Raises:
        ValueError: All are.
    """
    rest = torch.ones(view.known.num_nodes, dtype=torch.bool)
    rest[view.targets] = False
    if not rest.any():
        raise ValueError(
            "threat.targets must leave nodes to ask about, got all "
            f"{view.known.num_nodes} of {view.known.name!r}"
        )
    return rest.nonzero().ravel()


def some(nodes: Tensor, count: int, rng: Rng) -> Tensor:
    """(count,) of the nodes, drawn uniformly, in rising order; all of them if they are fewer."""
    order = torch.randperm(len(nodes), generator=rng.torch())[:count]
    return nodes[order].sort().values


def trained_copy(
    graph: Graph, nodes: Tensor, targets: Tensor, recipe: Recipe, rng: Rng
) -> Predictor:
    """A model trained on what is known of some nodes' classes.

    Args:
        graph: Features and edges as the thief has them; its labels are not looked at.
        nodes: (k,) nodes to learn from.
        targets: (k, classes) probabilities of their classes.
        recipe: Architecture and training; of one that stops by validation a tenth of the nodes,
            drawn at random, is the validation part.
        rng: Stream of the training.
    """
    n, classes = graph.num_nodes, targets.shape[1]
    wanted = targets.new_zeros(n, classes)
    wanted[nodes] = targets
    y = torch.full((n,), -1, dtype=torch.int64)
    y[nodes] = targets.argmax(1)
    training = recipe.training
    stops = training.select != "last" or training.patience is not None
    order = nodes[torch.randperm(len(nodes), generator=rng["order"].torch())]
    held = max(1, round(_HELD_OUT * len(nodes))) if stops and len(nodes) > 1 else 0
    known = graph.replace(y=y, split=Split.of(order[held:], order[:held], nodes[:0]))
    if stops and not held:
        recipe = Recipe(recipe.model, replace(training, select="last", patience=None))
    with rng["init"].scope():
        sizes = Sizes(n, graph.num_features, classes)
        made: Predictor = DEFENSES.build("none").predictor(recipe, sizes)
    fit(made.model, known, recipe.training, rng["train"], targets=wanted)
    return made


def spread(graph: Graph, known: Tensor, rounds: int = 2) -> Tensor:
    """(n, d) features in which nodes without any have the mean of their neighbours' that have.

    Args:
        graph: Features, and the edges along which they spread.
        known: (n,) which nodes' features are known.
        rounds: How often: what was filled in is known in the next round. Others stay 0.

    Returns:
        Sparse where the graph's features are.
    """
    x = inputs(graph).to_dense() * known.unsqueeze(1)
    has = known
    for _ in range(rounds):
        weight = propagate(graph.adj, has.to(x.dtype).unsqueeze(1))
        mean = propagate(graph.adj, x) / weight.clamp(min=1e-12)
        new = ~has & (weight.squeeze(1) > 0)
        x = torch.where(new.unsqueeze(1), mean, x)
        has = has | new
    return x if inputs(graph).layout == torch.strided else x.to_sparse_csr()


def nearest(values: Tensor, count: int) -> Tensor:
    """(2, k) distinct pairs u < v of each row and the ``count`` rows of largest cosine with it.

    A row of zeros is near to none.
    """
    rows = torch.nn.functional.normalize(values, dim=1)
    n = len(rows)
    found = []
    for start in range(0, n, _CHUNK):
        like = rows[start : start + _CHUNK] @ rows.T
        me = torch.arange(start, start + len(like))
        like[torch.arange(len(like)), me] = -1.0
        size, place = like.topk(min(count, n - 1), 1)
        pairs = torch.stack([me.unsqueeze(1).expand_as(place), place])[:, size > 0]
        found.append(pairs.sort(0).values)
    distinct: Tensor = torch.unique(torch.cat(found, 1), dim=1)
    return distinct


def with_edges(graph: Graph, pairs: Tensor) -> Graph:
    """The graph with these pairs (2, k) as edges too."""
    return graph.flip(pairs[:, ~graph.has_edges(pairs)])
