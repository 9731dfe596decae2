"""How far one node moves the sum of clipped gradients: measured, beside what is claimed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from graphsec.dp.accountant import Ledger
from graphsec.dp.gradients import Clip
from graphsec.dp.roots import BoundedRoots, induced, reach, thinned
from graphsec.dp.step import PrivateSteps
from graphsec.graph import Graph
from graphsec.models.base import build, inputs
from graphsec.ops import Adj
from graphsec.rng import Rng
from graphsec.sampling import subtrees

CLIP = 0.5


def drawn(seed: int, nodes: int, degree: int, hubs: int) -> Graph:
    """A random graph with degrees of at most ``degree``, some nodes of which have that many."""
    rng = np.random.default_rng(seed)
    room, edges = np.full(nodes, degree), set()
    room[hubs:] = rng.integers(1, max(degree, 2), nodes - hubs)
    wanted = [(u, int(v)) for u in range(hubs) for v in rng.permutation(nodes)]
    wanted += [tuple(pair) for pair in rng.integers(0, nodes, (3 * nodes, 2)).tolist()]
    for u, v in wanted:
        pair = (min(u, v), max(u, v))
        if u != v and room[u] and room[v] and pair not in edges:
            edges.add(pair)
            room[[u, v]] -= 1
    y = rng.integers(0, 2, nodes)
    train = np.sort(rng.permutation(nodes)[: nodes - nodes // 8])
    rest = np.setdiff1d(np.arange(nodes), train)
    return Graph.from_edges(
        np.array(sorted(edges)).reshape(-1, 2).T, nodes,
        x=rng.normal(size=(nodes, 3)), y=y, split=(train, [], rest),
    )  # fmt: skip


def without(graph: Graph, node: int) -> Graph:
    """The graph without a node: its edges are gone, and it is nobody's root."""
    assert graph.split is not None
    pairs = graph.pairs[:, (graph.pairs != node).all(0)]
    train = graph.split.train[graph.split.train != node]
    rest = torch.cat([graph.split.test, torch.tensor([node])]).unique()  # type: ignore[no-untyped-call]
    return Graph.from_edges(
        pairs, graph.num_nodes, x=graph.x, y=graph.y, split=(train, graph.split.val, rest)
    )


def steps(graph: Graph, spec: Any, degree: int, hops: int, clip: Clip) -> PrivateSteps:
    assert graph.split is not None
    assert graph.y is not None
    with Rng(1).scope():
        model = build(spec, graph)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    roots = BoundedRoots.of(
        graph.adj, graph.split.train, rate=0.5, hops=hops, max_degree=degree, public=graph.num_nodes
    )
    return PrivateSteps(
        model, inputs(graph), graph.y, graph.task, roots=roots, clip=clip, noise_multiplier=1.0,
        optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
        generator=np.random.default_rng(0), ledger=Ledger(),
    )  # fmt: skip


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    parts = [(one[name].double() - other[name].double()).square().sum() for name in one]
    return float(torch.stack(parts).sum().sqrt())


def alone(made: PrivateSteps, roots: Tensor) -> list[dict[str, Tensor]]:
    return [made.total(root.view(1)) for root in roots]


def check(seed: int, nodes: int, degree: int, hubs: int, hops: int, model: str, how: Any) -> None:
    """Remove a node: the sum over one sample moves by (2 ρ + b) C at most, and few roots do."""
    graph = drawn(seed, nodes, degree, hubs)
    rng = np.random.default_rng(seed + 1)
    assert graph.split is not None
    # Hubs and others; sometimes a node that nothing was trained on.
    gone = int(rng.integers(hubs)) if hubs and rng.random() < 0.5 else int(rng.integers(nodes))
    spec = {"name": model, "layers": hops, "hidden": 4, "dropout": 0.0}
    clip = Clip(norm=CLIP, how=how)
    before = steps(graph, spec, degree, hops, clip)
    after = steps(without(graph, gone), spec, degree, hops, clip)
    claimed = before.roots.changed  # type: ignore[attr-defined]
    sample = before.roots.draw(rng)
    stays = sample[sample != gone]
    own = len(sample) - len(stays)
    with_it, without_it = alone(before, stays), alone(after, stays)
    far = [distance(one, other) for one, other in zip(with_it, without_it, strict=True)]
    moved = sum(one > 0 for one in far)
    if gone not in graph.split.train:
        assert moved == own == 0
    assert moved <= min(claimed, len(stays))
    whole = distance(before.total(sample), after.total(stays))
    assert whole <= (2 * moved + own) * CLIP * (1 + 1e-5) + 1e-5


@pytest.mark.parametrize("hops", [1, 2])
@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6), nodes=st.integers(2, 30), degree=st.integers(1, 8),
    hubs=st.integers(0, 2), model=st.sampled_from(["gcn", "sage"]),
    how=st.sampled_from(["flat", "layer", "automatic"]),
)  # fmt: skip
def test_a_node_moves_the_sum_by_no_more_than_is_claimed(
    hops: int, seed: int, nodes: int, degree: int, hubs: int, model: str, how: Any
) -> None:
    check(seed, nodes, degree, min(hubs, nodes), hops, model, how)


@pytest.mark.slow
@pytest.mark.parametrize("hops", [1, 2])
def test_a_node_moves_no_sum_of_thousands(hops: int) -> None:
    rng = np.random.default_rng()
    for seed in rng.integers(0, 10**9, 1000).tolist():
        nodes, degree, hubs = (int(rng.integers(*span)) for span in ((2, 16), (1, 6), (0, 3)))
        model, how = rng.choice(["gcn", "sage"]), rng.choice(["flat", "layer", "automatic"])
        check(seed, nodes, degree, min(hubs, nodes), hops, str(model), str(how))


def test_the_bound_on_changed_roots_is_reached() -> None:
    """In a tree of full degree every node within two steps changes: D + D (D − 1) of them."""
    edges = [(0, i) for i in (1, 2, 3)] + [(i, 2 * i + j) for i in (1, 2, 3) for j in (2, 3)]
    graph = Graph.from_edges(
        np.array(edges).T, 10, x=np.random.default_rng(0).normal(size=(10, 3)),
        y=np.arange(10) % 2, split=(range(10), [], []),
    )  # fmt: skip
    for hops, wanted in ((1, 3), (2, 9)):
        spec = {"name": "gcn", "layers": hops, "hidden": 4, "dropout": 0.0}
        before = steps(graph, spec, 3, hops, Clip(norm=CLIP))
        after = steps(without(graph, 0), spec, 3, hops, Clip(norm=CLIP))
        roots = torch.arange(1, 10)
        pairs = zip(alone(before, roots), alone(after, roots), strict=True)
        assert sum(distance(a, b) > 1e-6 for a, b in pairs) == wanted == reach(3, hops)


def test_degrees_of_the_whole_graph_would_reach_one_hop_further() -> None:
    """The trap that subtree degrees avoid: a node two steps off changes a model of one hop."""
    path = [[0, 1], [1, 2]]
    graph = Graph.from_edges(path, 3, x=np.eye(3), y=[0, 1, 0], split=(range(3), [], []))
    cut = without(graph, 2)
    model = build({"name": "gcn", "layers": 1}, graph).eval()
    root = torch.tensor([0])

    def logits(of: Graph, whole: bool) -> Tensor:
        nodes, adj = subtrees(of.adj, root, 1)
        if whole:
            degree = of.adj.degrees()[nodes]
            hops = tuple(replace(hop, degree=degree[: hop.csr.num_cols]) for hop in adj.hops)
            adj = replace(adj, hops=hops)
        out: Tensor = model(inputs(of)[nodes], adj)
        return out.detach()

    assert torch.equal(logits(graph, whole=False), logits(cut, whole=False))
    assert not torch.allclose(logits(graph, whole=True), logits(cut, whole=True))


# -- the published sampler ------------------------------------------------------------------------


class Coins:
    """The same coin for an edge whether or not some node is there."""

    def __init__(self, adj: Adj, coins: np.ndarray) -> None:
        row, col = adj.csr.coo
        self.values = coins[row.numpy(), col.numpy()]

    def random(self, count: int) -> np.ndarray:
        assert count == len(self.values)
        values: np.ndarray = self.values
        return values


def hub_graph(nodes: int = 900, degree: int = 300, seed: int = 0) -> Graph:
    """Node 0 has ``degree`` neighbours, everybody else about ten."""
    rng = np.random.default_rng(seed)
    edges = rng.integers(1, nodes, (2, 5 * nodes))
    hub = np.stack([np.zeros(degree, int), 1 + rng.permutation(nodes - 1)[:degree]])
    edges = np.concatenate([edges[:, edges[0] != edges[1]], hub], axis=1)
    return Graph.from_edges(
        edges, nodes, x=np.ones((nodes, 1)), y=np.zeros(nodes, int), split=(range(nodes), [], [])
    )


def seen_by(graph: Graph, coins: np.ndarray, k: int) -> list[set[int]]:
    """What each root sees at one hop."""
    assert graph.split is not None
    inner = induced(graph.adj, graph.split.train)
    row, col = thinned(inner, k, Coins(inner, coins)).csr.coo  # type: ignore[arg-type]
    found: list[set[int]] = [set() for _ in range(graph.num_nodes)]
    for root, node in zip(row.tolist(), col.tolist(), strict=True):
        found[root].add(node)
    return found


def test_a_node_is_seen_by_no_more_roots_than_k() -> None:
    graph = hub_graph()
    for seed in range(5):
        coins = np.random.default_rng(seed).random((900, 900))
        seen = [node for root in seen_by(graph, coins, 5) for node in root]
        assert max(np.bincount(seen)) <= 5


def test_published_sampler_changes_roots_that_never_saw_the_node() -> None:
    """The gap: without a hub, its neighbours' other edges are kept with other chances.

    The claim is of N = K + 1 = 6 changed roots. The hub is seen by at most five, and 66 to 95
    others change, with the same coin for each edge.
    """
    graph = hub_graph()
    for seed in range(5):
        coins = np.random.default_rng(seed).random((900, 900))
        before, after = seen_by(graph, coins, 5), seen_by(without(graph, 0), coins, 5)
        others = [i for i in range(1, 900) if 0 not in before[i] and before[i] != after[i]]
        assert sum(0 in root for root in before) <= 5
        assert len(others) > 10 * (5 + 1)
