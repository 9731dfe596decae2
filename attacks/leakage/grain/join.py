"""Depth-first search for whole graphs in which every node is the centre of a building block."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, product

import numpy as np

from graphsec.attacks.leakage.grain.blocks import Blocks

Found = tuple[np.ndarray, np.ndarray]  # kind of each node (n,), adjacency (n, n)


class Search:
    """All connected graphs of a number of nodes that are made of blocks, one after the other.

    A graph grows from a block: of the nodes whose neighbours are not all there, the one with the
    fewest blocks that fit is given one of them, its missing neighbours being new nodes or earlier
    ones that miss such a neighbour.

    Args:
        blocks: What graphs are made of.
        steps: Most nodes that are given a block, over all sizes.
        spare: Nodes whose block may lie outside the span.
    """

    def __init__(self, blocks: Blocks, steps: int, spare: int = 0) -> None:
        self.left, self.spare = steps, spare
        self.needed = blocks.needed
        kinds = range(blocks.leaves.shape[1])
        self.degree = blocks.kinds.degree
        self.of = {k: np.flatnonzero(blocks.centre == k) for k in kinds}
        self.leaves, self.centre = blocks.leaves, blocks.centre
        none = np.zeros(len(blocks.centre), bool)
        self.outside = none if blocks.outside is None else blocks.outside

    def graphs(self, size: int) -> Iterator[Found]:
        """Graphs of ``size`` nodes; some of them more than once, under other numbers of nodes."""
        count = len(self.centre)
        # The largest first, inside the span: where every block is needed, one is in every graph.
        order = np.lexsort((np.arange(count), -self.leaves.sum(1), self.outside))
        free = np.ones(count, bool)
        for place, block in enumerate(order):
            if (place and self.needed) or self.outside[block]:
                return
            kind = [int(self.centre[block])]
            used = [int(block)]
            yield from self._expanded(kind, [set()], [False], 0, used, free, size)
            free[block] = False  # graphs that hold it have been found

    def _expanded(
        self, kind: list[int], near: list[set[int]], done: list[bool], node: int,
        used: list[int], free: np.ndarray, size: int,
    ) -> Iterator[Found]:  # fmt: skip
        """Graphs in which ``node`` is the centre of the block that was used last."""
        missing = self.leaves[used[-1]] - self._near(kind, near[node])
        for joined in self._joins(kind, near, done, node, missing, size):
            self.left -= 1
            if self.left < 0:
                return
            kinds, edges = list(kind), [set(each) for each in near]
            closed = list(done)
            closed[node] = True
            for other in joined:
                if other < 0:
                    kinds.append(-other - 1)
                    edges.append(set())
                    closed.append(False)
                    other = len(kinds) - 1
                edges[node].add(other)
                edges[other].add(node)
            yield from self._next(kinds, edges, closed, used, free, size)

    def _joins(
        self, kind: list[int], near: list[set[int]], done: list[bool], node: int,
        missing: np.ndarray, size: int,
    ) -> Iterator[list[int]]:  # fmt: skip
        """Ways to find the missing neighbours: nodes, or −k − 1 for a new one of kind k."""
        room, ways = size - len(kind), []
        for k in missing.nonzero()[0]:
            wanted = int(missing[k])
            open_ = [
                other
                for other in range(len(kind))
                if kind[other] == k and not done[other] and other != node
                and other not in near[node] and len(near[other]) < self.degree[k]
            ]  # fmt: skip
            ways.append(
                [
                    [*chosen, *[-int(k) - 1] * (wanted - taken)]
                    for taken in range(min(wanted, len(open_)), -1, -1)
                    for chosen in combinations(open_, taken)
                ]
            )
        for choice in product(*ways):
            joined = [other for part in choice for other in part]
            if sum(other < 0 for other in joined) <= room:
                yield joined

    def _next(
        self, kind: list[int], near: list[set[int]], done: list[bool], used: list[int],
        free: np.ndarray, size: int,
    ) -> Iterator[Found]:  # fmt: skip
        allowed = free
        if self.outside[used].sum() >= self.spare:
            allowed = free & ~self.outside
        options: np.ndarray | None = None
        chosen = -1
        slots = 0
        for node in range(len(kind)):
            if done[node]:
                continue
            mine = self.of[kind[node]]
            fits = (self.leaves[mine] >= self._near(kind, near[node])).all(1) & allowed[mine]
            slots += int(self.degree[kind[node]]) - len(near[node])
            if options is None or fits.sum() < len(options):
                options, chosen = mine[fits], node
                if not len(options):
                    return
        if options is None:
            if len(kind) == size and not (self.needed and len(set(used)) < len(self.centre)):
                yield np.array(kind), _matrix(near)
            return
        if slots == 0 and len(kind) < size:
            return  # nothing can be added
        for block in options:
            more = [*used, int(block)]
            yield from self._expanded(kind, near, done, chosen, more, free, size)

    def _near(self, kind: list[int], nodes: set[int]) -> np.ndarray:
        """(K,) how many of ``nodes`` are of each kind."""
        counts = np.zeros(len(self.degree), np.int64)
        for node in nodes:
            counts[kind[node]] += 1
        return counts


def _matrix(near: list[set[int]]) -> np.ndarray:
    adj = np.zeros((len(near),) * 2)
    for node, others in enumerate(near):
        adj[node, list(others)] = 1
    return adj
