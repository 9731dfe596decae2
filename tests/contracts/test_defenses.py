"""Every registered defense keeps the contract of defenses; ``none`` is plain training."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import graphsec
from graphsec.defenses.fair._training import FairDefense
from graphsec.defenses.federated._horizontal import HorizontalDefense
from graphsec.defenses.federated._vertical import VerticalDefense
from graphsec.defenses.purify._fakes import FakeUsers
from graphsec.graph import Graph
from graphsec.models.base import Sizes
from graphsec.registry import DEFENSES
from graphsec.rng import Rng
from graphsec.testing import DefenseContract, disturb, tiny_graphs, tiny_rankings, tiny_ratings
from graphsec.train import Recipe, fit

# Fields that suit tiny graphs, and what to compose.
GDC = {"name": "gdc", "k": 16}
SPECS = {
    "adversarial-training": {
        "name": "adversarial-training",
        "steps": 2,
        "block": 500,
        "warmup": 45,
    },
    "compose": [GDC, "soft-median"],
    # Eleven nodes can't be private and useful: what is tested is the way, with almost no noise.
    "dp-gnn": {
        "name": "dp-gnn",
        "noise_multiplier": 0.01,
        "rate": 0.5,
        "steps": 80,
        "max_degree": 20,
    },
    "dp-subgraphs": {
        "name": "dp-subgraphs",
        "noise_multiplier": 0.01,
        "cells": 4,
        "rate": 0.5,
        "steps": 80,
    },
    "dpar": {
        "name": "dpar",
        "noise_multiplier": 0.01,
        "rate": 0.5,
        "steps": 80,
    },
    # The group nearly is the label on the graphs of fair defenses.
    "edits": {"name": "edits", "keep": 3, "keep_edges": 1, "steps": 20},
    "fair-purify": {"name": "fair-purify", "drop": 0.2},
    "fairgnn": {"name": "fairgnn", "alpha": 2},
    "gap": {"name": "gap", "epsilon": 1e3, "cap": 8, "steps": 80, "hops": 1},
    "gdc": GDC,
    "fingerprint": {"name": "fingerprint", "models": 19},
    "mc-gpb": {"name": "mc-gpb", "beta": 0.1, "gamma": 0.01},
    "private-votes": {"name": "private-votes", "epsilon": 1e3, "steps": 80, "rate": 0.5},
    "progap": {"name": "progap", "epsilon": 1e3, "cap": 8, "steps": 80, "hops": 1},
    "smoothing": {"name": "smoothing", "samples": 20},
    "svd": {"name": "svd", "rank": 8},
    "watermark": {"name": "watermark", "nodes": 24},
}

# What is behind them, where it can't be the contract's own model.
MLP = {"name": "mlp", "hidden": 16}
MODELS = {"dpar": MLP, "gap": MLP, "private-votes": MLP, "progap": MLP}


@cache
def unfair_graphs() -> dict[str, Graph]:
    """Graphs of two classes, one of which mostly goes with a group; the group is a feature too."""
    graphs = {}
    spec = {"name": "dc-sbm", "num_nodes": 240, "classes": 2, "signal": 0.7, "homophily": 0.8}
    for seed, name in enumerate(("dense", "sparse")):
        graph = graphsec.load(spec, seed=seed)
        assert graph.y is not None
        assert graph.x is not None
        odd = torch.from_numpy(np.random.default_rng(seed).random(240) < 0.3)
        group = ((graph.y == 1) ^ odd).long()
        x = torch.cat([graph.x, group.unsqueeze(1).float()], 1)
        x = x if name == "dense" else x.relu().to_sparse_csr()
        split = graphsec.splits(graph, 1, fractions=[0.4, 0.3, 0.3])[0].split
        graphs[name] = graph.replace(x=x, sensitive=group, split=split, name=f"unfair-{name}")
    return graphs


for _name in DEFENSES:
    _class = f"Test_{_name.replace('-', '_')}"
    _fields: dict[str, Any] = {"spec": SPECS.get(_name, _name)}
    if _name in MODELS:
        _fields["model"] = MODELS[_name]
    if issubclass(DEFENSES[_name], VerticalDefense):
        _fields |= {"model": "rating-lightgcn", "graphs": staticmethod(tiny_ratings)}
        _fields |= {"spec": {"name": _name, "parties": 2}, "utility_drop": 0.3}
        _fields |= {"training": {"epochs": 25, "batch_size": None}}
    if issubclass(DEFENSES[_name], FakeUsers):
        _fields |= {
            "model": {"name": "lightgcn", "width": 8},
            "graphs": staticmethod(tiny_rankings),
        }
        _fields |= {"training": {"epochs": 30, "lr": 0.05, "patience": None, "select": "last"}}
    if issubclass(DEFENSES[_name], HorizontalDefense):
        # Half of the edges are missing; by communities a client of "karate" has one class only.
        _spec = {"name": _name, "clients": 2, "local_steps": 3, "partition": "uniform"}
        _fields |= {"spec": _spec, "training": {"epochs": 60, "weight_decay": 0.0}}
        _fields |= {"utility_drop": 0.3}
    if issubclass(DEFENSES[_name], FairDefense) or _name == "elegant":
        _fields |= {"graphs": staticmethod(unfair_graphs)}
    globals()[_class] = type(_class, (DefenseContract,), _fields)


class TestSoftMedianBehindGAT(DefenseContract):
    """Soft Median is an aggregate, not a model: GAT takes it as GCN does."""

    spec = "soft-median"
    model = {"name": "gat", "hidden": 4, "heads": 2, "dropout": 0.2}  # noqa: RUF012 - constants
    training = {"epochs": 60, "lr": 0.03}  # noqa: RUF012


@pytest.mark.parametrize("graph", tiny_graphs().values(), ids=list(tiny_graphs()))
@pytest.mark.parametrize("model", ["gcn", "mlp"])
def test_none_is_plain_training(graph: Graph, model: str) -> None:
    """Bit for bit what the training loop gives without any defense code around it."""
    recipe, rng = Recipe.of(model, {"epochs": 15}), Rng(4)["defense"]
    defended = graphsec.fit(graph, model, "none", training={"epochs": 15}, seed=4)
    disturb()
    with rng["init"].scope():
        plain = recipe.model.build(Sizes.of(graph))
    fit(plain, graph, recipe.training, rng["train"])
    assert graph.x is not None
    with torch.no_grad():
        assert torch.equal(plain(graph.x, graph.adj), defended.logits(graph))
