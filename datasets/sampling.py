"""Array routines behind the generators: pairs, stubs, power laws."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor


def undirected(pairs: np.ndarray, n: int) -> tuple[Tensor, Tensor]:
    """Canonical CSR of an undirected graph: (n + 1,) and (E,) int64.

    Self-loops and repetitions are dropped. Sorting by counting makes it several times faster
    than sorting keys, which tells at 10⁷ edges.

    Args:
        pairs: (2, m) node pairs in any order.
        n: Number of nodes.
    """
    row, col = (side[pairs[0] != pairs[1]].astype(np.int32) for side in pairs)
    ends = (np.concatenate([row, col]), np.concatenate([col, row]))
    matrix = sp.csr_matrix((np.ones(len(ends[0]), np.int8), ends), shape=(n, n))
    matrix.sort_indices()
    indptr, indices = matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64)
    return torch.from_numpy(indptr), torch.from_numpy(indices)


def distinct(total: int, count: int, generator: np.random.Generator) -> np.ndarray:
    """``count`` distinct integers of 0…total−1, each set equally likely (order unspecified)."""
    if count * 3 >= total:
        return generator.permutation(total)[:count]
    found = np.zeros(0, np.int64)
    while len(found) < count:
        # Expected losses to repetition, and a little more, so that one round mostly does.
        lack = count - len(found)
        more = generator.integers(total, size=int(lack * (1 + count / total)) + 16)
        found = np.sort(np.concatenate([found, more]))
        # np.unique hashes integers, which takes five times as long as this.
        found = found[np.r_[True, found[1:] != found[:-1]]]
    surplus = generator.choice(len(found), len(found) - count, replace=False)
    return np.delete(found, surplus)


def blocks(
    starts: np.ndarray, p_in: float, p_out: float, generator: np.random.Generator
) -> np.ndarray:
    """(2, m) edges of a block model in which block b holds nodes starts[b]…starts[b+1]−1.

    Exact: the number of edges of each pair of blocks is binomial, and their places are drawn
    without replacement. Two draws serve the whole model, one for all pairs inside blocks and one
    for all pairs across.
    """
    sizes = np.diff(starts)
    inside = sizes * (sizes - 1) // 2
    parts = [_inside(starts, inside, p_in, generator)]
    if len(sizes) > 1:
        parts.append(_across(starts, sizes, p_out, generator))
    return np.concatenate(parts, axis=1)


def _inside(
    starts: np.ndarray, counts: np.ndarray, p: float, generator: np.random.Generator
) -> np.ndarray:
    ends = np.cumsum(counts)
    total = int(ends[-1])
    place = distinct(total, int(generator.binomial(total, p)), generator)
    block = np.searchsorted(ends, place, side="right")
    row, col = triangle(place - (ends - counts)[block])
    first = starts[block]
    return np.stack([row + first, col + first])


def _across(
    starts: np.ndarray, sizes: np.ndarray, p: float, generator: np.random.Generator
) -> np.ndarray:
    """Node u of block b pairs with every node of the blocks after b."""
    after = starts[-1] - starts[1:]
    ends = np.cumsum(sizes * after)
    total = int(ends[-1])
    place = distinct(total, int(generator.binomial(total, p)), generator)
    block = np.searchsorted(ends, place, side="right")
    local = place - (ends - sizes * after)[block]
    width = after[block]
    return np.stack([starts[block] + local // width, starts[block + 1] + local % width])


def triangle(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of the strict lower triangle, counted row by row."""
    row = ((1 + np.sqrt(8.0 * index + 1)) / 2).astype(np.int64)
    # The square root may be off by one in the last place.
    row -= row * (row - 1) // 2 > index
    row += row * (row + 1) // 2 <= index
    return row, index - row * (row - 1) // 2


def block_ends(
    weight: np.ndarray, starts: np.ndarray, counts: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """(2, m) edges whose ends are drawn in their block in proportion to ``weight``.

    Args:
        weight: (n,) positive weights.
        starts: (C + 1,) first node of each block, and n.
        counts: (C, C) number of edges from block to block.
        generator: Source of randomness.
    """
    classes = len(counts)

    def ends(per_block: np.ndarray) -> np.ndarray:
        """As many ends in each block as told, block after block, in random order within."""
        drawn = []
        for c in range(classes):
            share = weight[starts[c] : starts[c + 1]]
            often = generator.multinomial(per_block[c], share / share.sum())
            drawn.append(
                generator.permutation(np.repeat(np.arange(starts[c], starts[c + 1]), often))
            )
        return np.concatenate(drawn)

    # The first ends come in the order of (row, column) of ``counts``, the second of
    # (column, row): bring these into the order of those.
    left, right = ends(counts.sum(1)), ends(counts.sum(0))
    row = np.repeat(np.tile(np.arange(classes), classes), counts.T.ravel())
    return np.stack([left, right[np.argsort(row, kind="stable")]])


def power_law(
    generator: np.random.Generator, size: int, exponent: float, low: float, high: float
) -> np.ndarray:
    """(size,) draws with density ∝ x^−exponent on low…high."""
    power = 1 - exponent
    uniform = generator.random(size)
    drawn = (low**power + uniform * (high**power - low**power)) ** (1 / power)
    return np.asarray(drawn, np.float64)


def power_law_start(exponent: float, high: float, mean: float) -> float:
    """The lower end that gives a power law up to ``high`` the mean asked for (bisection)."""

    def mean_from(low: float) -> float:
        if abs(exponent - 2) < 1e-9:
            return math.log(high / low) / (1 / low - 1 / high)
        one, two = 1 - exponent, 2 - exponent
        return float((high**two - low**two) / two / ((high**one - low**one) / one))

    left, right = 1e-6, high * (1 - 1e-9)
    for _ in range(100):
        middle = (left + right) / 2
        left, right = (middle, right) if mean_from(middle) < mean else (left, middle)
    return left


def rounded(values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Integers with the values as their means."""
    return np.floor(values + generator.random(len(values))).astype(np.int64)


def community_sizes(
    generator: np.random.Generator, n: int, exponent: float, low: int, high: int
) -> np.ndarray:
    """Power-law sizes that add up to n; the last ones are evened out to fit."""
    drawn = rounded(power_law(generator, n // low + 1, exponent, low, high), generator)
    sizes = np.clip(drawn, low, high)
    count = int(np.searchsorted(np.cumsum(sizes), n, side="right"))
    if count == 0:
        return np.array([n])
    sizes = sizes[:count]
    rest = n - int(sizes.sum())
    if rest >= low:
        return np.append(sizes, rest)
    # Too few for a community of their own: spread over the others.
    return np.asarray(sizes + rest // count + (np.arange(count) < rest % count))


def joined_within(
    stubs: np.ndarray, labels: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """(2, m) configuration model inside each class; a stub left over in a class is dropped.

    Args:
        stubs: (n,) number of stubs of each node.
        labels: (n,) classes.
        generator: Source of randomness.
    """
    node = np.repeat(np.arange(len(stubs)), stubs)
    node = _by_class(node, labels, generator)
    label = labels[node]
    size = np.bincount(label)[label] if len(label) else label
    place = np.arange(len(label)) - np.searchsorted(label, label)
    left = np.flatnonzero((place % 2 == 0) & (place + 1 < size))
    pairs = np.stack([node[left], node[left + 1]])

    def shuffled(ends: np.ndarray) -> np.ndarray:
        # Every class has an even number of these ends, so neighbours share their class.
        return _by_class(ends.ravel(), labels, generator).reshape(-1, 2).T

    return _mended(pairs, lambda p: _repeated(p, len(stubs)), shuffled, generator)


def joined_across(
    stubs: np.ndarray, labels: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """(2, m) configuration model between classes; pairs that stay in one class are dropped.

    Args:
        stubs: (n,) number of stubs of each node.
        labels: (n,) classes.
        generator: Source of randomness.
    """
    node = generator.permutation(np.repeat(np.arange(len(stubs)), stubs))
    pairs = node[: len(node) // 2 * 2].reshape(2, -1)

    def bad(p: np.ndarray) -> np.ndarray:
        wrong: np.ndarray = (labels[p[0]] == labels[p[1]]) | _repeated(p, len(stubs))
        return wrong

    def shuffled(ends: np.ndarray) -> np.ndarray:
        return generator.permutation(ends.ravel()).reshape(2, -1)

    pairs = _mended(pairs, bad, shuffled, generator)
    return pairs[:, labels[pairs[0]] != labels[pairs[1]]]


def _mended(
    pairs: np.ndarray,
    bad: Callable[[np.ndarray], np.ndarray],
    shuffled: Callable[[np.ndarray], np.ndarray],
    generator: np.random.Generator,
    rounds: int = 8,
) -> np.ndarray:
    """Break up bad pairs, with as many others at random, and join their ends anew.

    Stops when fewer than one pair in a thousand is bad, or when a round mends less than a quarter:
    where classes are too small for their degrees, no joining is free of repetitions.
    """
    before = 2 * pairs.shape[1]
    for _ in range(rounds):
        wrong = np.flatnonzero(bad(pairs))
        if len(wrong) * 1000 <= pairs.shape[1] or len(wrong) > 0.75 * before:
            break
        before = len(wrong)
        partner = generator.integers(pairs.shape[1], size=len(wrong))
        mixed = np.unique(np.concatenate([wrong, partner]))
        pairs[:, mixed] = shuffled(pairs[:, mixed])
    return pairs


def _by_class(nodes: np.ndarray, labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Nodes ordered by class, at random within each."""
    nodes = generator.permutation(nodes)
    return nodes[np.argsort(labels[nodes], kind="stable")]


def _repeated(pairs: np.ndarray, n: int) -> np.ndarray:
    """(m,) whether a pair is a self-loop or was listed before."""
    key = np.minimum(pairs[0], pairs[1]) * n + np.maximum(pairs[0], pairs[1])
    order = np.argsort(key, kind="stable")
    again = np.zeros(len(key), bool)
    again[order[1:]] = key[order[1:]] == key[order[:-1]]
    again |= pairs[0] == pairs[1]
    return again


def preferential(n: int, m: int, generator: np.random.Generator) -> np.ndarray:
    """(2, m·(n − m)) edges of preferential attachment; repetitions included.

    Edge e has ends 2e (the node it belongs to) and 2e + 1, which copies an end, uniform among
    those of older nodes. Copies of copies are resolved by following all pointers at once; a chain
    halves with every step on average, so that few rounds do.
    """
    owner = np.concatenate([np.arange(1, m + 1), np.repeat(np.arange(m + 1, n), m)])
    edges = np.arange(m, len(owner))
    older = edges // m * m
    source = generator.integers(2 * older)
    target = np.zeros(len(owner), np.int64)  # the first m edges lead to the centre of the star
    # Copying an end 2e gives the owner of e; copying 2e + 1 asks what that one copied.
    pending = np.arange(len(edges))
    pointer = source
    while len(pending):
        edge, copied = pointer // 2, pointer % 2 == 1
        done = ~copied | (edge < m)
        found = np.where(copied, 0, owner[edge])
        target[m + pending[done]] = found[done]
        pending, pointer = pending[~done], source[edge[~done] - m]
    return np.stack([owner, target])
