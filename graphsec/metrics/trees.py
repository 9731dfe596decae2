"""How close recovered neighbourhoods are to the true ones, as the trees they unroll to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from graphsec.metrics.base import Metric

Look = tuple[int, ...]  # features, to two digits


@dataclass(frozen=True)
class Tree:
    """A node and what hangs on it, in an order that depends on nothing but looks.

    Attributes:
        look: Features of the node.
        children: Those of its neighbours that it was not reached from.
    """

    look: Look
    children: tuple[Tree, ...] = ()

    def cut(self, depth: int) -> Tree:
        """Its first levels."""
        kept = [child.cut(depth - 1) for child in self.children] if depth else []
        return grown(self.look, kept)

    def paths(self, before: tuple[Look, ...] = ()) -> Iterator[tuple[Look, ...]]:
        """Looks along the way to each node."""
        here = (*before, self.look)
        yield here
        for child in self.children:
            yield from child.paths(here)


def grown(look: Look, children: Sequence[Tree]) -> Tree:
    """A tree whose children are put in order."""
    return Tree(look, tuple(sorted(children, key=repr)))


def unrolled(x: Tensor, adj: Tensor, root: int, depth: int) -> Tree:
    """The tree of all walks from a root that don't go straight back, up to ``depth`` edges long.

    Args:
        x: (n, d) features.
        adj: (n, n) edges: where it is over 1/2, in either direction.
        root: Where it begins.
        depth: Most edges of a walk.
    """
    looks = [tuple(row) for row in (x.double() * 100).round().long().tolist()]
    links = (adj.double() > 0.5) | (adj.double() > 0.5).T
    near = [row.nonzero().ravel().tolist() for row in links.fill_diagonal_(False)]

    def at(node: int, parent: int, left: int) -> Tree:
        others = [other for other in near[node] if other != parent] if left else []
        return grown(looks[node], [at(other, node, left - 1) for other in others])

    return at(root, -1, depth)


def tree_metrics(found: Sequence[Tree], truth: Sequence[Tree], hops: int) -> dict[str, Metric]:
    """How many neighbourhoods are found exactly, and what share of each is.

    Found trees are matched with true ones so that most nodes are placed; a true one without a
    found one counts as not found at all.

    Args:
        found: Recovered trees.
        truth: The true ones.
        hops: Depth that was asked about; found trees are cut there.
    """
    found = [tree.cut(hops) for tree in found]
    placed = np.array([[_common(f, t) for f in found] for t in truth])
    pairs = zip(*linear_sum_assignment(-placed), strict=True) if found else ()
    both = [(found[f], truth[t]) for t, f in pairs]

    def mean(values: list[bool] | list[float]) -> float:
        return float(sum(values)) / len(truth)

    numbers = {
        "exact_share": (mean([f == t for f, t in both]), "neighbourhoods found exactly"),
        "placed_share": (mean([_common(f, t) for f, t in both]), "nodes right, with their way"),
        "neighbourhood_share": (
            mean([f.cut(1) == t.cut(1) for f, t in both]), "roots whose neighbours are right",
        ),
        "root_share": (mean([f.look == t.look for f, t in both]), "roots whose features are right"),
    }  # fmt: skip
    return {name: Metric(value, False, 0, 1, label) for name, (value, label) in numbers.items()}


def _common(a: Tree, b: Tree) -> float:
    """Share of nodes that are the same up to their way from the root, of the larger tree."""
    one, two = Counter(a.paths()), Counter(b.paths())
    return (one & two).total() / max(one.total(), two.total())
