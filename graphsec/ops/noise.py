"""Random edge flips: each edge gone and each absent pair present, independently."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from graphsec.ops.structure import CSR

if TYPE_CHECKING:
    from graphsec.ops.adj import Adj
    from graphsec.rng import Rng

Keys = npt.NDArray[np.int64]


def noisy(adj: Adj, p_add: float, p_del: float, rng: Rng) -> Adj:
    """The pattern of an undirected adjacency with random flips; weights are dropped.

    What happens to a pair depends on the stream and the pair, not on the other edges: two graphs
    under one stream differ at most where they differed before. Candidate pairs are flips of the
    graph below the noise; only those that show through it stay. Time and memory are linear in
    edges, candidates and the p_add · n² / 2 pairs that appear.

    Args:
        adj: Adjacency of a whole graph; entries of weight 0 are absent.
        p_add: Probability that an absent pair appears.
        p_del: Probability that an edge disappears.
        rng: Stream to draw from.

    Raises:
        ValueError: Not a plain undirected adjacency.
    """
    edges, n = edge_keys(adj), adj.num_nodes
    appears = _appearing(n, p_add, rng)
    kept = edges[_uniform(edges, rng) >= p_del]
    keys = np.concatenate([kept, np.setdiff1d(appears, edges, assume_unique=True)])
    if adj.block is None:
        return _pattern(adj, keys)
    pairs = adj.block.pairs.cpu().numpy()
    codes = pairs.min(0) * n + pairs.max(0)
    shows = np.isin(codes, appears) != (_uniform(codes, rng) >= p_del)
    return _pattern(adj, keys, shows)


def flipped(adj: Adj, keys: Keys) -> Adj:
    """The pattern of an undirected adjacency with some pairs flipped; weights are dropped.

    Candidate pairs are flips on top of these.

    Args:
        adj: Adjacency of a whole graph; entries of weight 0 are absent.
        keys: (k,) distinct u · n + v, u < v, of the pairs.

    Raises:
        ValueError: Not a plain undirected adjacency.
    """
    edges = edge_keys(adj)
    shows = None if adj.block is None else np.ones(adj.block.pairs.shape[1], bool)
    return _pattern(adj, np.setxor1d(edges, keys, assume_unique=True), shows)


def edge_keys(adj: Adj) -> Keys:
    """Rising u · n + v, u < v, of the edges of an undirected adjacency whose weight is not 0.

    Raises:
        ValueError: Not a plain undirected adjacency.
    """
    _check(adj)
    entry, upper = adj._upper
    edges: Keys = upper.cpu().numpy()
    if adj.weight is not None:
        edges = edges[(adj.weight[entry] != 0).cpu().numpy()]
    return edges


def _pattern(adj: Adj, keys: Keys, shows: npt.NDArray[np.bool_] | None = None) -> Adj:
    """Edges ``keys`` of weight 1, and of the candidate pairs those that show."""
    n, device = adj.num_nodes, adj.csr.indices.device
    both = np.sort(np.concatenate([keys, keys % n * n + keys // n]))
    indptr = np.searchsorted(both, np.arange(n + 1, dtype=np.int64) * n)
    csr = CSR(torch.from_numpy(indptr).to(device), torch.from_numpy(both % n).to(device), n)
    made = replace(adj, csr=csr, weight=None, block=None)
    if adj.block is None or shows is None:
        return made
    if adj.weight is not None:  # taking away an edge of weight 0 changes nothing
        absent = (adj.weight[adj.block.clean_edge.clamp(min=0)] == 0).cpu().numpy()
        shows = shows & ~(absent & (adj.block.clean_edge >= 0).cpu().numpy())
    chosen = torch.from_numpy(shows.nonzero()[0]).to(device)
    return made.with_block(adj.block.pairs[:, chosen], adj.block.weight[chosen])


def _check(adj: Adj) -> None:
    operator = adj.final or adj.left is not None or adj.factors is not None or adj.loop
    if operator or adj.hops or adj.roots is not None or adj.owner is not None:
        raise ValueError(
            "noise on edges needs the plain adjacency of a whole graph, "
            "got a finished operator or a sample"
        )
    if not adj.csr.symmetric or (adj.block is not None and not adj.block.symmetric):
        raise ValueError("noise on edges needs an undirected graph, got a directed one")


def _appearing(n: int, p: float, rng: Rng) -> Keys:
    """Rising keys u · n + v, u < v, of pairs that are each drawn with probability p."""
    generator = rng["add"].numpy()
    count = generator.binomial(n * (n - 1) // 2, p)
    return np.sort(distinct_pairs(n, count, generator, shuffle=False))


def distinct_pairs(
    n: int, count: int, generator: np.random.Generator, *, shuffle: bool = True
) -> Keys:
    """(count,) u · n + v, u < v, of distinct pairs of n nodes, uniformly.

    Args:
        n: Number of nodes.
        count: Number of pairs.
        generator: What to draw from.
        shuffle: Whether their order is random too.
    """
    drawn = generator.choice(n * (n - 1) // 2, count, replace=False, shuffle=shuffle)
    # All pairs, once each, lie on a circle: every start u with every step of up to half a round.
    u, step = drawn % n, drawn // n + 1
    v = (u + step) % n
    keys: Keys = np.minimum(u, v) * n + np.maximum(u, v)
    return keys


def _uniform(keys: Keys, rng: Rng) -> npt.NDArray[np.float64]:
    """A number in [0, 1) for each key, a function of key and stream (twice SplitMix64's mixer).

    Source: Steele et al., Fast Splittable Pseudorandom Number Generators, OOPSLA 2014, §5.
    """
    mixed = _mix(keys.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15))
    mixed = _mix(mixed ^ np.uint64(rng["delete"].entropy))
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(z: npt.NDArray[Any]) -> npt.NDArray[Any]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: npt.NDArray[Any] = z ^ (z >> np.uint64(31))
    return mixed


def noise_of(rows: npt.NDArray[Any], salt: bytes) -> npt.NDArray[np.float64]:
    """(k, d) standard normal numbers that are a function of each row (k, d) and a salt."""
    noise = np.zeros(rows.shape)
    for row, drawn in zip(rows, noise, strict=True):
        seed = hashlib.sha256(salt + np.ascontiguousarray(row).tobytes()).digest()
        drawn[:] = np.random.default_rng(int.from_bytes(seed[:16], "big")).standard_normal(len(row))
    return noise
