"""Meta-PGD and Meta-PR-BCD: gradients at pairs, budgets, and harm after training anew."""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any

import pytest
import torch

import graphsec
from graphsec.attacks.poisoning._meta import MetaGradient
from graphsec.attacks.poisoning._relaxed import NOBODY, MetaObjective
from graphsec.attacks.poisoning.meta_pgd import MetaPGD
from graphsec.attacks.poisoning.metattack import Metattack
from graphsec.graph import Graph
from graphsec.outcome import Perturbation
from graphsec.registry import ATTACKS
from graphsec.rng import Rng
from graphsec.testing import tiny_graphs
from graphsec.threat import Threat

GRAPHS = tiny_graphs()
BLOCKS = GRAPHS["blocks"]
SMALL: dict[str, dict[str, Any]] = {
    "meta-pgd": {"name": "meta-pgd", "inner_steps": 20, "steps": 25, "samples": 3},
    "meta-prbcd": {
        "name": "meta-prbcd",
        "inner_steps": 20,
        "steps": 25,
        "samples": 3,
        "block": 800,
    },
}


def double_gradient(graph: Graph, attack: Any) -> tuple[MetaGradient, Any]:
    """Meta-gradient and adjacency in float64."""
    assert graph.split is not None
    assert graph.y is not None
    train = graph.split.train[graph.y[graph.split.train] >= 0]
    weight = graph.adj.merged().weight
    assert weight is not None
    adj = dataclasses.replace(graph.adj, weight=weight.double())
    return MetaGradient(attack, graph, train, graph.split.test, Rng(0), torch.float64), adj


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("attack", [Metattack(inner_steps=10), MetaPGD(inner_steps=10)])
@pytest.mark.parametrize("approximate", [False, True])
def test_gradients_at_pairs_are_those_of_all_pairs(
    name: str, attack: Any, approximate: bool
) -> None:
    """At weights between 0 and 1, of edges and of pairs that are none; the losses agree too."""
    graph = GRAPHS[name]
    attack = dataclasses.replace(attack, approximate=approximate)
    gradient, adj = double_gradient(graph, attack)
    u, v = torch.triu_indices(graph.num_nodes, graph.num_nodes, 1)
    some = torch.arange(0, len(u), 7)
    pairs = torch.stack([u[some], v[some]])
    edge = graph.has_edges(pairs)
    assert edge.any()
    p = torch.linspace(0.05, 0.6, len(some), dtype=torch.float64)
    before = p.clone()
    loss, mine = gradient.at_pairs(adj, pairs, p, Rng(1))
    other, every = gradient(adj.with_block(pairs, p), Rng(1))
    weights = torch.from_numpy(graph.to_scipy().toarray()).double()[pairs[0], pairs[1]]
    wanted = every[pairs[0], pairs[1]] * torch.where(edge, -weights, 1.0)
    assert loss == pytest.approx(other, rel=1e-9)
    torch.testing.assert_close(mine, wanted, rtol=1e-6, atol=1e-9 * float(wanted.abs().max()))
    assert mine.abs().max() > 1e-6
    assert gradient.loss(adj.with_block(pairs, p), Rng(1)) == pytest.approx(loss, rel=1e-9)
    assert torch.equal(p, before)
    assert not p.requires_grad


def test_both_ways_to_the_rows_agree() -> None:
    """More training nodes than features, and fewer."""
    for graph in GRAPHS.values():
        gradient, adj = double_gradient(graph, Metattack(inner_steps=2))
        gradient.train = gradient.train[:5]
        assert len(gradient.train) < graph.num_features
        operator = adj.normalized()
        torch.testing.assert_close(gradient._few_rows(operator), gradient._rows(operator))


def objective(name: str, dense: bool, **budget: Any) -> MetaObjective:
    attack = ATTACKS.build(SMALL[name])
    threat = Threat.of({"budget": budget}).resolve(attack)
    return MetaObjective(attack, threat.open(None, BLOCKS, Rng(0)), Rng(0), 2, dense=dense)


def test_dense_and_sparse_objectives_agree() -> None:
    """From all pairs or at these alone: one gradient, the largest entry 1."""
    u, v = torch.triu_indices(90, 90, 1)
    pairs = torch.stack([u, v])
    p = torch.where(torch.arange(len(u)) % 40 == 0, 0.3, 0.0)
    (first, _), (second, _) = (
        objective("meta-pgd", dense, edges=9).gradient(NOBODY, pairs, p) for dense in (True, False)
    )
    assert float(first.abs().max()) == pytest.approx(1)
    torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-4)


def test_flips_are_judged_by_the_mean_loss_of_the_same_trainings() -> None:
    mine = objective("meta-pgd", True, edges=9)
    flips = torch.tensor([[0, 1, 2], [4, 8, 30]])
    score = mine.judge(NOBODY, flips).score
    assert score == mine.judge(NOBODY, flips).score
    losses = [mine._meta.loss(BLOCKS.flip(flips).adj, Rng(0)["judge"][i]) for i in range(2)]
    assert score[0] == pytest.approx(-statistics.mean(losses), abs=1e-5)


def flips_of(spec: Any, seed: int = 0, graph: Graph = BLOCKS, **budget: Any) -> Perturbation:
    attack = ATTACKS.build(spec)
    threat = Threat.of({"budget": budget, "timing": "poisoning"}).resolve(attack)
    outcome = attack.run(threat.open(None, graph, Rng(seed)["view"]), Rng(seed)["attack"])
    threat.check(outcome, graph)
    assert isinstance(outcome, Perturbation)
    return outcome


def poisoned_accuracy(outcome: Perturbation, graph: Graph = BLOCKS) -> float:
    """Mean over three trainings on the flipped graph."""
    world = outcome.apply(graph)
    assert world.split is not None
    assert world.y is not None
    test = world.split.test
    found = []
    for seed in range(3):
        victim = graphsec.fit(
            world, {"name": "gcn", "hidden": 16}, training={"epochs": 60}, seed=seed
        )
        found.append(float((victim.predict(world, test) == world.y[test]).double().mean()))
    return statistics.mean(found)


@pytest.mark.parametrize("name", SMALL)
def test_harm_exceeds_that_of_random_flips(name: str) -> None:
    """For every seed, with as many flips, to victims of another model trained anew."""
    mine = [poisoned_accuracy(flips_of(SMALL[name], seed, edges=0.15)) for seed in (0, 1)]
    blind = [poisoned_accuracy(flips_of("random", seed, edges=0.15)) for seed in (0, 1)]
    assert max(mine) < min(blind) - 0.02


@pytest.mark.parametrize("name", SMALL)
def test_budgets_of_nodes_hold_and_none_means_none(name: str) -> None:
    spec = {**SMALL[name], "steps": 4}
    flips = flips_of(spec, edges=30, edges_per_node=1).flips
    assert 0 < flips.shape[1] <= 30
    assert flips.ravel().bincount().max() == 1
    assert flips_of(spec, edges=0).flips.shape == (2, 0)


def test_only_the_dense_one_is_bound_to_few_nodes() -> None:
    path = torch.stack([torch.arange(10_100), torch.arange(1, 10_101)])
    y = torch.arange(10_101) % 2
    graph = Graph.from_edges(
        path, x=torch.nn.functional.one_hot(y).float(), y=y,
        split=(range(4), range(4, 8), range(8, 40)), name="path",
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"at most 10000, found 10101"):
        flips_of(SMALL["meta-pgd"], graph=graph, edges=2)
    spec = {**SMALL["meta-prbcd"], "steps": 2, "inner_steps": 2}
    assert flips_of(spec, graph=graph, edges=2).flips.shape[1] <= 2
