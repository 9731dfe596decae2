"""Epochs of the zoo on Cora beside torch_geometric's same models, in one run, one thread.

The peers take dense features, as their users do: what is compared is training as it is run, not
kernel against kernel. Their SAGE and GIN gather all features before the first linear map; ours map
first, which is the same and narrower: most of those two ratios.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphsec
from graphsec.models.base import Sizes
from graphsec.rng import Rng
from graphsec.train import Recipe, fit

pytestmark = pytest.mark.bench

# The same sizes on both sides; GCNII at 16 layers, so that a turn takes seconds.
SPECS: dict[str, dict[str, Any]] = {
    "gat": {"hidden": 8, "heads": 8, "dropout": 0.6},
    "gatv2": {"hidden": 8, "heads": 8, "dropout": 0.6},
    "sage": {"hidden": 64, "dropout": 0.5},
    "gin": {"hidden": 64, "dropout": 0.5},
    "appnp": {"hidden": 64, "dropout": 0.5, "edge_dropout": 0.5},
    "gcnii": {"hidden": 64, "layers": 16, "dropout": 0.6},
}
EPOCHS, TURNS = 10, 5


class Peer(nn.Module):
    """torch_geometric's convolutions, put together as their examples do."""

    def __init__(self, name: str, features: int, classes: int) -> None:
        super().__init__()
        from torch_geometric import nn as pyg

        spec = SPECS[name]
        hidden = spec["hidden"]
        self.name, self.p = name, spec["dropout"]
        self.into, self.out = nn.Linear(features, hidden), nn.Linear(hidden, classes)
        if name in ("gat", "gatv2"):
            heads = spec["heads"]
            conv = pyg.GATConv if name == "gat" else pyg.GATv2Conv
            convs = [
                conv(features, hidden, heads, dropout=self.p),
                conv(hidden * heads, classes, 1, concat=False, dropout=self.p),
            ]
        elif name == "sage":
            convs = [pyg.SAGEConv(features, hidden), pyg.SAGEConv(hidden, classes)]
        elif name == "gin":
            ends = [features, hidden, classes]
            convs = [pyg.GINConv(self._two(a, hidden, b), train_eps=True)
                     for a, b in itertools.pairwise(ends)]  # fmt: skip
        elif name == "appnp":
            convs = [pyg.APPNP(10, 0.1, dropout=spec["edge_dropout"], cached=True)]
        else:
            convs = [
                pyg.GCN2Conv(hidden, 0.1, 0.5, i + 1, cached=True) for i in range(spec["layers"])
            ]
        self.convs = nn.ModuleList(convs)

    @staticmethod
    def _two(features: int, hidden: int, classes: int) -> nn.Module:
        norm = nn.LayerNorm(hidden, elementwise_affine=False)
        return nn.Sequential(
            nn.Linear(features, hidden), norm, nn.ReLU(), nn.Linear(hidden, classes)
        )

    def drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, self.training)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        if self.name == "appnp":
            h = self.out(self.drop(F.relu(self.into(self.drop(x)))))
            out: Tensor = self.convs[0](h, edges)
            return out
        if self.name == "gcnii":
            h = first = F.relu(self.into(self.drop(x)))
            for conv in self.convs:
                h = F.relu(conv(self.drop(h), first, edges))
            last: Tensor = self.out(self.drop(h))
            return last
        activate = F.elu if self.name.startswith("gat") else F.relu
        h = activate(self.convs[0](self.drop(x), edges))
        scores: Tensor = self.convs[1](self.drop(h), edges)
        return scores


@pytest.mark.parametrize("name", list(SPECS))
def test_an_epoch_is_never_slower(data_dir: object, name: str) -> None:
    torch.set_num_threads(1)
    graph = graphsec.load("planetoid/cora")
    assert graph.x is not None
    assert graph.y is not None
    assert graph.split is not None
    x, y, train = graph.x.to_dense(), graph.y, graph.split.train
    recipe = Recipe.of({"name": name, **SPECS[name]}, {"epochs": EPOCHS, "patience": None,
                                                       "select": "last"})  # fmt: skip

    def ours(seed: int) -> None:
        with Rng(seed).scope():
            model = recipe.model.build(Sizes.of(graph))
        fit(model, graph, recipe.training, Rng(seed))

    def theirs(seed: int) -> None:
        with Rng(seed).scope():
            model = Peer(name, graph.num_features, graph.num_classes).train()
            optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=5e-4)
            for _ in range(EPOCHS):
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x, graph.edge_index)[train], y[train])
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()

    runs: dict[str, Callable[[int], None]] = {"ours": ours, "pyg": theirs}
    for run in runs.values():
        run(0)
    times: dict[str, list[float]] = {side: [] for side in runs}
    for turn in range(TURNS):  # alternating, so that a slow spell of the machine hits both
        for side, run in runs.items():
            start = time.perf_counter()
            run(turn)
            times[side].append((time.perf_counter() - start) / EPOCHS)
    ours_ms, pyg_ms = (statistics.median(times[side]) * 1e3 for side in ("ours", "pyg"))
    print(f"\n{name}: ours {ours_ms:.1f} ms, pyg {pyg_ms:.1f} ms, {pyg_ms / ours_ms:.2f}×")  # noqa: T201
    assert pyg_ms >= ours_ms
