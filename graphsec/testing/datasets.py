"""The contract of datasets."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar
from unittest import SkipTest

import torch

from graphsec.cell import Cell
from graphsec.datasets.cache import present
from graphsec.datasets.splits import is_drawn
from graphsec.graph import Graph
from graphsec.registry import DATASETS
from graphsec.rng import Rng
from graphsec.testing.common import Contract, content, disturb, global_state, same


class DatasetContract(Contract):
    """What every dataset must do; skipped where its files are neither cached nor at hand."""

    graphs: ClassVar[Callable[[], Mapping[str, Graph]]] = staticmethod(dict)

    @property
    def component(self) -> Any:
        """The dataset."""
        return DATASETS.build(self.spec)

    def _cell(self) -> Cell:
        return Cell(dataset=self.component.spec())

    def _load(self, seed: int = 0) -> Graph:
        if not present(self.component.files):
            raise SkipTest(f"the files of {self.component.name!r} are not in the cache")
        graph: Graph = self.component.load(Rng(seed)["data"])
        return graph

    def test_cites_its_source(self) -> None:
        """The docstring or ``about`` says who published it, and when or where."""
        said = f"{type(self.component).__doc__} {self.component.about.source}"
        assert re.search(r"\b(19|20)\d\d\b|https?://", said), f"no source in {said!r}"

    def test_is_a_valid_graph(self) -> None:
        """Loaded graphs keep every rule of ``Graph`` and can be trained on."""
        graph = self._load()
        assert isinstance(graph, Graph)
        assert content(graph) == graph.fingerprint  # built again, so validated again
        assert graph.num_edges > 0
        assert graph.x is None or graph.num_features > 0

    def test_same_seed_same_graph(self) -> None:
        """Whatever the global generators hold, which are left as they were."""
        disturb()
        first = self._load(7)
        disturb()
        before = global_state()
        assert self._load(7).fingerprint == first.fingerprint
        assert same(before, global_state())

    def test_split_is_disjoint(self) -> None:
        """Training, validation and test nodes exist, differ, and are labelled."""
        graph = self._load()
        if graph.split is None:
            raise SkipTest("has no split")
        parts = dict(graph.split.items())
        assert all(len(part) for part in parts.values())
        together = torch.cat(list(parts.values()))
        assert int(torch.bincount(together).max()) == 1
        if graph.y is not None and graph.task == "classification":
            assert (graph.y[together] >= 0).all()
            if is_drawn(self.component.strategy):
                # A published split may leave a class out: Texas has one of a single node.
                assert (torch.bincount(graph.y[parts["train"]]) > 0).all()
