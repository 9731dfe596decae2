"""Metattack: the meta-gradient against a naive unrolled training, and the rules of its flips."""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import graphsec
from graphsec.attacks.poisoning._meta import MetaGradient
from graphsec.attacks.poisoning.metattack import Metattack
from graphsec.graph import Graph
from graphsec.outcome import Perturbation
from graphsec.rng import Rng
from graphsec.testing import tiny_graphs
from graphsec.threat import Threat

BUDGET = {"budget": {"edges": 4}}


def double_adj(graph: Graph) -> Any:
    """The graph's adjacency with float64 weights."""
    return dataclasses.replace(graph.adj, weight=graph.adj.merged().weight.double())  # type: ignore[union-attr]


def double_gradient(graph: Graph, attack: Metattack, rng: Rng) -> MetaGradient:
    assert graph.split is not None
    assert graph.y is not None
    train = graph.split.train[graph.y[graph.split.train] >= 0]
    return MetaGradient(attack, graph, train, graph.split.test, rng, torch.float64)


def naive(gradient: MetaGradient, graph: Graph, rng: Rng) -> tuple[float, Tensor]:
    """(loss, (n, n) derivatives) by autograd through every dense step of the training."""
    attack, n = gradient.attack, graph.num_nodes
    u, v = torch.triu_indices(n, n, 1)
    dense = torch.from_numpy(graph.to_scipy().todense()).double()
    weight = dense[u, v].requires_grad_()
    a = torch.eye(n).double().index_put((u, v), weight).index_put((v, u), weight)
    factor = a.sum(1).rsqrt()
    operator = factor[:, None] * a * factor
    assert graph.x is not None
    x = graph.x.to_dense().double()
    w = [each.requires_grad_() for each in gradient._initial(rng)]
    speed = [torch.zeros_like(each) for each in w]
    train = gradient.train
    others = ((gradient.weight > 0) & ~torch.isin(torch.arange(n), train)).nonzero().ravel()
    found: list[tuple[float, Tensor]] = []
    for step in range(attack.inner_steps):
        logits = (operator @ (operator @ x))[train] @ w[0] @ w[1]
        loss = F.cross_entropy(logits, gradient.labels[train])
        by = torch.autograd.grad(loss, w, create_graph=True)
        speed = [attack.momentum * s + g for s, g in zip(speed, by, strict=True)]
        w = [each - attack.lr * s for each, s in zip(w, speed, strict=True)]
        if attack.approximate:
            w = [each.detach().requires_grad_() for each in w]
            speed = [each.detach() for each in speed]
        if attack.approximate or step == attack.inner_steps - 1:
            logits = operator @ (operator @ x) @ w[0] @ w[1]
            part = F.cross_entropy(logits[train], gradient.labels[train]) * attack.share_train
            if attack.share_train < 1:
                rest = F.cross_entropy(logits[others], gradient.labels[others])
                part = part + (1 - attack.share_train) * rest
            (by_pair,) = torch.autograd.grad(part, weight, retain_graph=True)
            found.append((float(part.detach()), by_pair))
    whole = torch.zeros(n, n).double()
    whole[u, v] = torch.stack([by_pair for _, by_pair in found]).sum(0)
    return found[-1][0], whole + whole.T


@pytest.mark.parametrize("name", list(tiny_graphs()))
@pytest.mark.parametrize("approximate", [False, True])
@pytest.mark.parametrize("share_train", [0.0, 0.5, 1.0])
def test_the_gradient_is_that_of_the_unrolled_training(
    name: str, approximate: bool, share_train: float
) -> None:
    graph = tiny_graphs()[name]
    attack = Metattack(inner_steps=30, share_train=share_train, approximate=approximate)
    gradient = double_gradient(graph, attack, Rng(0))
    loss, mine = gradient(double_adj(graph), Rng(1))
    wanted_loss, wanted = naive(gradient, graph, Rng(1))
    mine.fill_diagonal_(0)
    assert loss == pytest.approx(wanted_loss, rel=1e-9)
    assert wanted.abs().max() > 1e-5
    assert float((mine - wanted).abs().max() / wanted.abs().max()) < 1e-9
    apart = (mine - wanted).abs() / wanted.abs().clamp(min=1e-6 * float(wanted.abs().max()))
    assert float(apart.max()) < 1e-6


def test_the_gradient_is_right_at_candidate_pairs() -> None:
    """A pair of weight p in a block counts as an edge of weight p."""
    graph = tiny_graphs()["karate"]
    gradient = double_gradient(graph, Metattack(inner_steps=10), Rng(0))
    pairs, p = torch.tensor([[0, 3], [9, 30]]), torch.tensor([0.3, 0.6]).double()
    assert not graph.has_edges(pairs).any()
    _, mine = gradient(double_adj(graph).with_block(pairs, p), Rng(1))
    edges = torch.cat([graph.pairs, pairs], 1)
    weight = torch.cat([torch.ones(graph.num_edges), p.float()])
    mixed = Graph.from_edges(edges, 34, edge_weight=weight, x=graph.x, y=graph.y)
    _, wanted = naive(gradient, mixed, Rng(1))
    mine.fill_diagonal_(0)
    assert float((mine - wanted).abs().max() / wanted.abs().max()) < 1e-6


def flips_of(graph: Graph, spec: Any = "metattack", seed: int = 0, **threat: Any) -> Perturbation:
    attack = graphsec.registry.ATTACKS.build(spec)
    resolved = Threat.of({**BUDGET, **threat}).resolve(attack)
    view = resolved.open(None, graph, Rng(seed)["view"])
    outcome = attack.run(view, Rng(seed)["attack"])
    resolved.check(outcome, graph)
    assert isinstance(outcome, Perturbation)
    return outcome


@pytest.mark.parametrize("name", list(tiny_graphs()))
def test_flips_are_the_best_by_the_naive_gradient(name: str) -> None:
    """Each flip is the allowed pair of largest gradient times change, on the graph so far."""
    graph = tiny_graphs()[name]
    attack = Metattack(inner_steps=20)
    flips = flips_of(graph, attack.spec()).flips
    assert flips.shape[1] == 4
    rng = Rng(0)["attack"]
    gradient = double_gradient(graph, attack, rng["labels"])
    for k in range(4):
        now = graph.flip(flips[:, :k])
        _, by_pair = naive(gradient, now, rng["init"][k])
        dense = torch.from_numpy(now.to_scipy().todense()).double()
        score = by_pair * torch.where(dense > 0, -dense, 1.0)
        lonely = now.degree == 1
        score[(dense > 0) & (lonely[:, None] | lonely)] = -torch.inf
        score[tuple(flips[:, :k])] = -torch.inf
        u, v = flips[:, k]
        assert u < v
        assert float(score[u, v]) >= float(score.triu(1).max()) * (1 - 1e-4)


def test_no_node_loses_its_last_edge() -> None:
    graph = tiny_graphs()["karate"]
    spec = {"name": "metattack", "inner_steps": 5}
    outcome = flips_of(graph, spec, budget={"edges": 120})
    deleted = graph.has_edges(outcome.flips)
    assert int(deleted.sum()) > 20
    after = outcome.apply(graph)
    assert (after.degree[graph.degree > 0] > 0).all()


def test_the_loss_rises() -> None:
    graph = tiny_graphs()["blocks"]
    losses = flips_of(graph, budget={"edges": 0.2}).info["losses"]
    assert losses[-1] > 1.2 * losses[0]


def test_a_retrained_victim_suffers_more_than_from_random_flips() -> None:
    graph = tiny_graphs()["blocks"]
    assert graph.split is not None
    assert graph.y is not None
    test, y = graph.split.test, graph.y

    def after(attack: Any, seed: int) -> float:
        poisoned = flips_of(graph, attack, seed, budget={"edges": 0.2}).apply(graph)
        victim = graphsec.fit(poisoned, training={"epochs": 60}, seed=seed)
        return float((victim.predict(poisoned, test) == y[test]).double().mean())

    mine = [after({"name": "metattack", "inner_steps": 30}, seed) for seed in range(3)]
    chance = [after("random", seed) for seed in range(3)]
    assert statistics.median(mine) < statistics.median(chance) - 0.05


def test_refuses_what_it_cannot_attack() -> None:
    graph = tiny_graphs()["blocks"]
    arcs = Graph.from_edges(graph.edge_index, 90, directed=True, x=graph.x, y=graph.y,
                            split=graph.split)  # fmt: skip
    with pytest.raises(ValueError, match="undirected"):
        flips_of(arcs)
    with pytest.raises(ValueError, match=r"num_nodes .* at most 10000, found 10001"):
        flips_of(Graph.from_edges([[0], [1]], 10_001, x=torch.ones(10_001, 1)))
    with pytest.raises(ValueError, match="needs x, y and split"):
        flips_of(graph.replace(x=None))
    with pytest.raises(ValueError, match="labelled training nodes"):
        flips_of(graph.replace(split=([], [0], [1])))
    with pytest.raises(ValueError, match=r"needs threat\.targets outside"):
        flips_of(graph, targets="train")
    assert graph.x is not None
    with pytest.raises(ValueError, match=r"lr = 0\.1 its loss is"):
        flips_of(graph.replace(x=graph.x * 1e15))
    assert flips_of(graph, {"name": "metattack", "share_train": 1.0}, targets="train").flips.numel()


def test_labels_of_the_others_are_not_used() -> None:
    """With every label granted it finds the same flips as with the training labels alone."""
    graph = tiny_graphs()["blocks"]
    more = (*Metattack().needs.names, "true_labels")
    assert torch.equal(flips_of(graph).flips, flips_of(graph, access=more).flips)
