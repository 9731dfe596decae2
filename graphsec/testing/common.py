"""Tiny graphs, helpers, and what all contract suites share."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from graphsec.cell import Cell
from graphsec.graph import Graph
from graphsec.models.base import inputs
from graphsec.outcome import Injection, Outcome
from graphsec.predict import Predictor
from graphsec.registry import DATASETS, Component

TRAINING = {"epochs": 60}


@cache
def tiny_graphs() -> dict[str, Graph]:
    """Three labelled graphs that cover what components must cope with.

    "blocks" is a stochastic block model with dense features; "weighted" one with edge weights,
    two isolated nodes and an unknown label; "karate" Zachary's club with sparse binary features.
    All have a sensitive attribute of two values that goes with the first class four times in five;
    one node of "weighted" has an unknown one.
    """
    return {"blocks": _blocks(90, 3, 1), "weighted": _weighted(), "karate": _karate()}


def _blocks(n: int, classes: int, seed: int) -> Graph:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    chance = np.where(y[:, None] == y[None, :], 0.16, 0.02)
    edges = np.argwhere(np.triu(rng.random((n, n)) < chance, 1))
    x = np.eye(classes)[y] @ rng.normal(size=(classes, 12)) + rng.normal(size=(n, 12)) * 1.5
    return Graph.from_edges(
        edges.T, n, x=x, y=y, split=_thirds(n, seed), sensitive=_group(y, seed), name="blocks"
    )


def _weighted() -> Graph:
    base, rng = _blocks(48, 2, 2), np.random.default_rng(2)
    edges = base.pairs.numpy()
    edges = edges[:, (edges < 46).all(0)]  # the last two nodes stay alone
    y = base.y.numpy().copy() if base.y is not None else np.zeros(48)
    y[47] = -1
    weight = rng.uniform(0.2, 2, edges.shape[1])
    group = _group(y, 2)
    group[46] = -1
    return Graph.from_edges(
        edges, 48, edge_weight=weight, x=base.x, y=y, split=_thirds(46, 2), sensitive=group,
        name="weighted",
    )  # fmt: skip


def _karate() -> Graph:
    import networkx as nx

    rng = np.random.default_rng(3)
    club = nx.karate_club_graph()
    y = np.array([club.nodes[v]["club"] == "Officer" for v in club]).astype(int)
    words = rng.random((34, 20)) < np.where(np.arange(20) % 2 == y[:, None], 0.35, 0.15)
    edges = np.array(club.edges())
    x = sp.csr_matrix(words.astype(np.float32))
    return Graph.from_edges(
        edges.T, 34, x=x, y=y, split=_thirds(34, 3), sensitive=_group(y, 3), name="karate"
    )


def _group(y: np.ndarray, seed: int) -> np.ndarray:
    """A sensitive attribute that mostly says whether a node is of class 0."""
    odd = np.random.default_rng([seed, 1]).random(len(y)) < 0.2
    return np.asarray((y == 0) ^ odd, np.int64)


def _thirds(n: int, seed: int) -> tuple[np.ndarray, ...]:
    order = np.random.default_rng(seed).permutation(n)
    return tuple(np.sort(part) for part in np.split(order, [n // 3, n // 2]))


def disturb() -> None:
    """Put the global generators into an arbitrary state: nothing may depend on it."""
    seed = random.SystemRandom().randrange(2**31)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the legacy generator is what is disturbed
    torch.manual_seed(seed)


def global_state() -> list[Any]:
    """What the global generators hold."""
    legacy: Any = np.random.get_state()  # noqa: NPY002 - only looked at
    return [torch.get_rng_state(), legacy[1], legacy[2], random.getstate()]


def content(graph: Graph) -> str:
    """The graph's fingerprint, computed afresh (the cached one would not see a change)."""
    return dataclasses.replace(graph).fingerprint


def same(a: Any, b: Any) -> bool:
    """Whether two outcomes, or parts of them, are identical."""
    if isinstance(a, Tensor):
        alike = isinstance(b, Tensor) and a.layout == b.layout  # sparse ones can't be compared
        return alike and torch.equal(a.to_dense(), b.to_dense())
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, Outcome | Injection):
        return type(a) is type(b) and same(vars(a), vars(b))
    if isinstance(a, Predictor):
        return same(a.model.state_dict(), b.model.state_dict())
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(np.array_equal(a, b)) if isinstance(a, np.ndarray) else bool(a == b)


def some_flips(graph: Graph, count: int = 6, seed: int = 0) -> Tensor:
    """(2, 2·count) pairs: as many edges as non-edges, of user and item in ranking graphs."""
    rng = np.random.default_rng(seed)
    u, v = np.triu_indices(graph.num_nodes, 1)
    if graph.task in ("ranking", "rating"):
        across = (u < graph.num_users) & (v >= graph.num_users)
        u, v = u[across], v[across]
    pairs = torch.from_numpy(np.stack([u, v]))
    edge = graph.has_edges(pairs)
    picked = [rng.choice(mask.nonzero().ravel().numpy(), count, replace=False)
              for mask in (edge, ~edge)]  # fmt: skip
    return pairs[:, np.sort(np.concatenate(picked))]


def x_of(graph: Graph) -> Tensor:
    """What models take as features."""
    return inputs(graph)


class Contract:
    """Base of the suites.

    Attributes:
        spec: Name, spec or instance of the component under test.
        graphs: Graphs to test on, by name.
    """

    spec: ClassVar[Any] = None
    graphs: ClassVar[Callable[[], Mapping[str, Graph]]] = staticmethod(tiny_graphs)

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Run tests that ask for a ``graph`` on each graph."""
        if "graph" in metafunc.fixturenames:
            graphs = type(self).graphs()
            metafunc.parametrize("graph", list(graphs.values()), ids=list(graphs))

    @property
    def component(self) -> Component:
        """The component that ``spec`` names."""
        raise NotImplementedError

    def _cell(self) -> Cell:
        raise NotImplementedError

    def test_cites_its_source(self) -> None:
        """The docstring says where the method comes from."""
        assert "Source: " in (type(self.component).__doc__ or "")

    def test_spec_round_trips(self) -> None:
        """The spec survives JSON, and builds an equal component and a cell of the same key."""
        plain = json.loads(json.dumps(self.component.spec()))
        assert type(self.component)(**{k: v for k, v in plain.items() if k != "name"}) == (
            self.component
        )
        cell = self._cell()
        again = Cell.from_spec(json.loads(json.dumps(cell.spec())))
        assert again.key == cell.key
        assert again.row == cell.row


def any_dataset() -> str:
    """Name of a dataset, for cells that are not run."""
    return next(iter(DATASETS))
