"""Adversarial training: what each epoch sees, pseudo-labels, budgets, and what is gained by it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import graphsec
from graphsec import train
from graphsec.defenses import build
from graphsec.defenses.robust import adversarial_training
from graphsec.defenses.robust.adversarial_training import AdversarialTraining, taught, within
from graphsec.graph import Graph
from graphsec.models.base import inputs
from graphsec.ops import Adj
from graphsec.outcome import Outcome
from graphsec.rng import Rng
from graphsec.search import Objective
from graphsec.testing import tiny_graphs
from graphsec.train import Recipe

BLOCKS = tiny_graphs()["blocks"]
GCN = {"name": "gcn", "hidden": 16}
QUICK = {"name": "adversarial-training", "steps": 3, "block": 2_000, "warmup": 5}


def blocks(seed: int, n: int = 90) -> Graph:
    """Three blocks of one distribution of edges and features, drawn anew for each seed."""
    rng, y = np.random.default_rng(seed), np.arange(n) % 3
    mean = np.random.default_rng(7).normal(size=(3, 12))
    edges = np.argwhere(np.triu(rng.random((n, n)) < np.where(y[:, None] == y, 0.1, 0.017), 1))
    x = mean[y] + 1.2 * rng.normal(size=(n, 12))
    split = tuple(np.split(rng.permutation(n), [60, 66]))
    return Graph.from_edges(edges.T, n, x=x, y=y, split=split)


def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, Any, Adj]]:
    """What ``world`` gives to every training from now on: (part, epoch, features, adjacency)."""
    looks: list[tuple[str, int, Any, Adj]] = []

    def spied(*args: Any, world: Any = None, **more: Any) -> Any:
        def noted(part: Any, epoch: int) -> Any:
            looks.append((part, epoch, *world(part, epoch)))
            return looks[-1][2:]

        return train.fit(*args, world=None if world is None else noted, **more)

    monkeypatch.setattr(adversarial_training, "train_model", spied)
    return looks


def flips(graph: Graph, adj: Adj) -> Tensor:
    """(2, k) pairs u < v in which a plain adjacency differs from a graph's."""
    mine, other = (
        set(zip(*(part.tolist() for part in each.csr.coo), strict=True))
        for each in (graph.adj, adj)
    )
    return torch.tensor(sorted((u, v) for u, v in mine ^ other if u < v)).reshape(-1, 2).T


def test_it_keeps_more_of_its_accuracy_on_graphs_never_seen() -> None:
    """Trained on one graph, attacked on another: higher under attack, and less is lost.

    By a filter that can be learned, in the mean of four seeds.
    """
    model = {"name": "gprgnn", "hidden": 16, "hops": 4}
    attack = {"name": "prbcd", "steps": 15, "check_every": 5, "samples": 0, "block": 4_000}
    threat = {"budget": {"edges": 0.5}, "targets": "all"}
    hard = {**QUICK, "attack": "prbcd", "edges": 0.5, "self_training": False}
    clean, attacked = np.zeros((2, 4)), np.zeros((2, 4))
    for seed in range(4):
        known, new = blocks(seed), blocks(100 + seed)
        for row, defense in enumerate(("none", hard)):
            fields = {"epochs": 60, "lr": 0.1}
            made = graphsec.fit(known, model, defense, training=fields, seed=seed)
            outcome = graphsec.attack(attack, made, new, threat=threat, seed=seed)
            figures = graphsec.score(outcome, new, made, nodes=torch.arange(90))
            clean[row, seed] = float(figures["accuracy"])
            attacked[row, seed] = float(figures["attacked_accuracy"])
    gain = attacked.mean(1)
    loss = (clean - attacked).mean(1)
    assert gain[1] > gain[0] + 0.04
    assert loss[1] < loss[0] - 0.03
    assert clean[1].mean() > clean[0].mean() - 0.03


@pytest.mark.parametrize("attack", ["lrbcd", "prbcd"])
def test_every_epoch_after_the_warmup_sees_another_attack(
    monkeypatch: pytest.MonkeyPatch, attack: str
) -> None:
    """Within the budgets, fresh from the clean graph, and worse for the model than that graph."""
    looks = seen(monkeypatch)
    fields = {**QUICK, "attack": attack, "edges": 0.2, "self_training": False}
    made = graphsec.fit(BLOCKS, GCN, fields, training={"epochs": 9})
    assert [look[:2] for look in looks] == [("train", epoch) for epoch in range(9)]
    assert all(look[3] is looks[0][3] for look in looks[:5])
    assert BLOCKS.split is not None
    assert BLOCKS.y is not None
    budget = round(0.2 * float(BLOCKS.degree[BLOCKS.split.train].sum()) / 2)
    found = [flips(BLOCKS, look[3]) for look in looks]
    for each in found[5:]:
        assert 0 < each.shape[1] <= budget
        if attack == "lrbcd":
            each_node = torch.bincount(each.ravel(), minlength=90)
            assert (each_node <= BLOCKS.degree // 2).all()
    assert len({str(each.tolist()) for each in found[5:]}) == 4
    train_part, y = BLOCKS.split.train, BLOCKS.y[BLOCKS.split.train]
    with torch.no_grad():
        margin = [
            float(graphsec.search.margins(made.model(*look[2:])[train_part], y).mean())
            for look in (looks[0], looks[-1])
        ]
    assert margin[1] < margin[0] - 0.1


def test_validation_nodes_are_attacked_where_training_looks_at_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The figures that decide which epoch is kept are those under attack."""
    looks = seen(monkeypatch)
    fields = {"epochs": 8, "validate_every": 2}
    made = graphsec.fit(BLOCKS, GCN, QUICK, training=fields, on_epoch=lambda *_: False)
    val = [look for look in looks if look[0] == "val"]
    assert [look[1] for look in val] == [1, 3, 5, 7]
    assert [flips(BLOCKS, look[3]).shape[1] > 0 for look in val] == [False, False, True, True]
    assert BLOCKS.split is not None
    assert BLOCKS.y is not None
    part = BLOCKS.split.val
    with torch.no_grad():
        clean, attacked = (
            float((made.model(*look[2:])[part].argmax(1) == BLOCKS.y[part]).float().mean())
            for look in (val[0], val[-1])
        )
    assert made.trace.history[-1]["val_accuracy"] == pytest.approx(attacked)
    assert attacked < clean


def test_the_warmup_alone_is_plain_training() -> None:
    fields = {**QUICK, "warmup": 20, "self_training": False}
    made = graphsec.fit(BLOCKS, GCN, fields, training={"epochs": 20})
    plain = graphsec.fit(BLOCKS, GCN, training={"epochs": 20})
    assert torch.equal(made.logits(BLOCKS), plain.logits(BLOCKS))


def test_pseudo_labels_are_those_of_a_plainly_trained_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """True labels outside of the training part change nothing, nor are validation nodes taught."""
    graphs: list[Graph] = []

    def spied(model: Any, graph: Graph, *rest: Any, **more: Any) -> Any:
        graphs.append(graph)
        return train.fit(model, graph, *rest, **more)

    monkeypatch.setattr(adversarial_training, "train_model", spied)
    graphsec.fit(BLOCKS, GCN, QUICK, training={"epochs": 12})
    first, second = graphs
    assert first is BLOCKS
    assert first.split is not None
    assert second.split is not None
    assert first.y is not None
    assert second.y is not None
    rest = first.split.test
    assert set(second.split.train.tolist()) == {*first.split.train.tolist(), *rest.tolist()}
    assert torch.equal(second.split.val, first.split.val)
    given = torch.cat([first.split.train, first.split.val])
    assert torch.equal(second.y[given], first.y[given])
    right = float((second.y[rest] == first.y[rest]).double().mean())
    assert 0.5 < right < 1
    graphs.clear()
    hidden = BLOCKS.replace(y=first.y.index_fill(0, rest, 0))
    graphsec.fit(hidden, GCN, QUICK, training={"epochs": 12})
    assert torch.equal(graphs[1].y, second.y)  # type: ignore[arg-type]


def test_unknown_labels_get_pseudo_labels_too() -> None:
    weighted = tiny_graphs()["weighted"]
    assert weighted.y is not None
    assert weighted.split is not None
    made = taught(weighted, torch.ones(48, dtype=torch.int64))
    assert made.y is not None
    assert made.split is not None
    assert int(weighted.y[47]) == -1
    assert int(made.y[47]) == 1
    assert 47 in made.split.train
    assert len(made.split.test) == 0


@pytest.mark.parametrize("per_node", [True, False])
def test_weights_are_kept_within_the_budgets(per_node: bool) -> None:
    limit = torch.full((90,), 1) if per_node else None
    objective = Objective(BLOCKS, torch.arange(90), 6, limit)
    pairs = torch.triu_indices(90, 90, 1)
    p = torch.rand(pairs.shape[1], generator=torch.Generator().manual_seed(0)) * 2 - 0.5
    made = within(objective)(pairs, p)
    assert float(made.sum()) <= 6 + 1e-4
    assert float(made.sum()) > 5
    assert 0 <= float(made.min()) <= float(made.max()) <= 1
    if limit is not None:
        load = torch.zeros(90).index_add(0, pairs.ravel(), made.repeat(2))
        assert float(load.max()) <= 1 + 1e-5


def test_it_trains_through_the_defenses_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The attack knows of the filter, and the model sees what the filter leaves."""
    karate = tiny_graphs()["karate"]
    jaccard = build({"name": "jaccard", "threshold": 0.15})
    looks = seen(monkeypatch)
    graphsec.fit(karate, GCN, [jaccard, {**QUICK, "edges": 0.3}], training={"epochs": 8})
    for _, epoch, _, adj in looks:
        _, filtered = jaccard.sanitise(inputs(karate), adj)
        assert torch.equal(filtered.pruned().csr.indices, adj.csr.indices)
        assert epoch < 5 or flips(karate, adj).shape[1] > 0
    assert looks[-1][3] is not looks[0][3]


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a model that looks at edges, got 'mlp'"):
        graphsec.fit(BLOCKS, "mlp", QUICK)
    with pytest.raises(ValueError, match=r"training\.sampler must be None"):
        graphsec.fit(BLOCKS, GCN, {**QUICK, "self_training": False}, training={"sampler": "shadow"})
    with pytest.raises(ValueError, match="edges: input should be less than or equal to 1, got 2"):
        AdversarialTraining(edges=2)


def test_it_runs_on_sampled_hops() -> None:
    """The attack sees the whole graph, a step a batch of it."""
    fields = {"epochs": 7, "batch_size": 16}
    made = graphsec.fit(BLOCKS, GCN, {**QUICK, "self_training": False}, training=fields)
    again = graphsec.fit(BLOCKS, GCN, {**QUICK, "self_training": False}, training=fields)
    assert torch.equal(made.logits(BLOCKS), again.logits(BLOCKS))
    assert float(graphsec.score(Outcome(), BLOCKS, made)["accuracy"]) > 0.5


def test_streams_decide_the_attacks() -> None:
    defense, recipe = build(QUICK), Recipe.of(GCN, {"epochs": 8})
    first, again, other = (
        defense.fit(BLOCKS, recipe, Rng(seed)["defense"]).logits(BLOCKS) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
