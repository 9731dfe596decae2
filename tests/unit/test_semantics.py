"""The contextual block model's Bayes classifier, and how models compare with it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

import graphsec
from graphsec.graph import Graph
from graphsec.outcome import Perturbation
from graphsec.predict import Predictor
from graphsec.registry import DATASETS
from graphsec.semantics import Bayes, SemanticRobustness, closest_first, semantic_robustness

SPEC = {"name": "csbm-pq", "num_nodes": 300, "p_in": 0.05, "p_out": 0.01}


def joint(graph: Graph, y: Tensor, p: float, q: float, distance: float) -> float:
    """Log of the joint density of labels, edges and features, pair by pair."""
    assert graph.x is not None
    x = graph.x.to_dense().double()
    mean = distance / 2 / x.shape[1] ** 0.5
    total = -0.5 * float((x - mean * (2 * y.double() - 1).unsqueeze(1)).square().sum())
    edges = set(zip(*graph.pairs.tolist(), strict=True))
    for u, v in itertools.combinations(range(graph.num_nodes), 2):
        chance = p if y[u] == y[v] else q
        total += math.log(chance if (u, v) in edges else 1 - chance)
    return total


@pytest.mark.parametrize(("p", "q"), [(0.5, 0.2), (0.1, 0.4)])
def test_log_odds_are_those_of_the_joint_density(p: float, q: float) -> None:
    graph = graphsec.load(
        {"name": "csbm-pq", "num_nodes": 9, "p_in": p, "p_out": q, "features": 4, "split": "none"},
        seed=3,
    )
    assert graph.y is not None
    nodes = torch.arange(9)
    bayes = Bayes(p_in=p, p_out=q, distance=1.5)
    found = bayes.log_odds(graph, nodes)
    for v in nodes.tolist():
        one, zero = graph.y.clone(), graph.y.clone()
        one[v], zero[v] = 1, 0
        wanted = joint(graph, one, p, q, 1.5) - joint(graph, zero, p, q, 1.5)
        assert float(found[v]) == pytest.approx(wanted, abs=1e-5)
    # What any flips at a node can do, by trying all of them.
    radius = bayes.radius(graph, nodes)
    for v in nodes.tolist():
        others = [u for u in range(9) if u != v]
        clean = bayes.predict(graph, torch.tensor([v]))
        changing = [
            k
            for k in range(9)
            for ends in itertools.combinations(others, k)
            if bayes.predict(graph.flip(torch.tensor([ends, [v] * k], dtype=torch.int64)),
                             torch.tensor([v])) != clean
        ]  # fmt: skip
        assert min(changing, default=9) - 1 == min(int(radius[v]), 8)


def test_generator_has_the_stated_statistics() -> None:
    spec = {"name": "csbm-pq", "num_nodes": 4000, "distance": 2.0, "features": 16}
    graph = graphsec.load(spec, seed=0)
    assert graph.y is not None
    assert graph.x is not None
    x, y = graph.x.to_dense().double(), graph.y
    row, col = graph.pairs
    inside = int((y[row] == y[col]).sum())
    ones = int(y.sum())
    same = (ones * (ones - 1) + (4000 - ones) * (3999 - ones)) / 2
    across = ones * (4000 - ones)
    for count, pairs, p in ((inside, same, 0.0063), (len(row) - inside, across, 0.0015)):
        assert abs(count - pairs * p) < 5 * (pairs * p) ** 0.5
    assert ones != 2000
    assert abs(ones - 2000) < 5 * 1000**0.5
    gap = x[y == 1].mean(0) - x[y == 0].mean(0)
    assert float(gap.norm()) == pytest.approx(2.0, abs=0.15)
    assert float((x - (2 * y.double() - 1).unsqueeze(1) / 4).var()) == pytest.approx(1, abs=0.03)
    # The number of a node says nothing about its class.
    assert abs(np.corrcoef(np.arange(4000), y.numpy())[0, 1]) < 5 / 4000**0.5


def test_no_model_beats_the_bayes_classifier() -> None:
    graph = graphsec.load({**SPEC, "num_nodes": 1000, "p_in": 0.01, "p_out": 0.003}, seed=1)
    assert graph.y is not None
    assert graph.split is not None
    test = graph.split.test
    right = Bayes(p_in=0.01, p_out=0.003, distance=1.5)
    best = float((right.predict(graph, test) == graph.y[test]).double().mean())
    predictor = graphsec.fit(graph, "gcn", training={"epochs": 50})
    mine = float((predictor.predict(graph, test) == graph.y[test]).double().mean())
    assert 0.6 < mine < best
    # Its confidence is what it says: log-odds are calibrated.
    p = right.log_odds(graph, test).sigmoid()
    assert float(p.mean()) == pytest.approx(float(graph.y[test].double().mean()), abs=0.05)
    assert float(torch.maximum(p, 1 - p).mean()) == pytest.approx(best, abs=0.03)


class Follower(Predictor):
    """Changes its answer a given number of flips after the Bayes classifier would."""

    def __init__(self, bayes: Bayes, clean: Graph, shift: int) -> None:
        self.bayes, self.clean, self.shift = bayes, clean, shift

    def predict(self, graph: Graph, nodes: Tensor | None = None) -> Tensor:
        assert nodes is not None
        clean = self.bayes.predict(self.clean, nodes)
        flips = abs(graph.degree[nodes] - self.clean.degree[nodes])
        late = self.bayes.radius(self.clean, nodes) + self.shift
        return torch.where(flips > late, 1 - clean, clean)


@pytest.mark.parametrize("shift", [-1, 0, 2])
def test_measures_count_flips_short_of_the_boundary_and_beyond(shift: int) -> None:
    graph, bayes = graphsec.load(SPEC, seed=0), Bayes.of(DATASETS.build(SPEC))
    nodes = torch.arange(40)
    radius = bayes.radius(graph, nodes)
    nodes = nodes[(radius > 0) & (radius < 12)]
    worlds = closest_first(graph, nodes, 15)
    found = semantic_robustness(Follower(bayes, graph, shift), bayes, graph, worlds)
    assert len(found.nodes) > 20
    true = bayes.radius(graph, found.nodes)
    assert torch.equal(found.bayes, true)  # every such edge costs the same
    assert torch.equal(found.model, true + shift)
    total, k = int(true.sum()), len(found.nodes)
    reached = (total - k) / total if shift < 0 else 1.0
    over = 2 * k / (total + 2 * k) if shift > 0 else 0.0
    assert found.adversarial == pytest.approx(reached)
    assert found.over == pytest.approx(over)
    assert found.f1 == pytest.approx(2 * reached * (1 - over) / (reached + 1 - over))
    assert found.censored == 0


def test_a_model_without_edges_is_all_over_robust() -> None:
    graph, bayes = graphsec.load(SPEC, seed=0), Bayes.of(DATASETS.build(SPEC))
    mlp = graphsec.fit(graph, "mlp", training={"epochs": 30})
    found = semantic_robustness(mlp, bayes, graph, closest_first(graph, torch.arange(20), 12))
    assert found.adversarial == 1
    assert found.censored == 1
    assert found.over == pytest.approx(1 - float(found.bayes.sum()) / (12 * len(found.nodes)))


def test_any_local_attack_at_growing_budgets_will_do() -> None:
    graph, bayes = graphsec.load(SPEC, seed=0), Bayes.of(DATASETS.build(SPEC))
    predictor = graphsec.fit(graph, "gcn", training={"epochs": 30})
    targets = [0, 1, 2, 3]
    worlds = []
    for flips in range(1, 6):
        threat = {"targets": targets, "budget": {"edges_per_node": flips}}
        out = graphsec.attack("fga", predictor, graph, threat=threat)
        assert isinstance(out, Perturbation)
        worlds.append(out)
    found = semantic_robustness(predictor, bayes, graph, worlds)
    assert set(found.nodes.tolist()) <= set(targets)
    for node, model in zip(found.nodes, found.model.tolist(), strict=True):
        answers = [int(predictor.predict(graph.flip(w.per_target[int(node)]), node.unsqueeze(0)))
                   for w in worlds]  # fmt: skip
        clean = int(predictor.predict(graph, node.unsqueeze(0)))
        assert model == next((k for k, a in enumerate(answers) if a != clean), 5)
    assert found.model.min() < 5


def test_closest_first_adds_to_the_nearest_of_the_other_class() -> None:
    graph = graphsec.load(SPEC, seed=0)
    assert graph.y is not None
    assert graph.x is not None
    worlds = closest_first(graph, torch.tensor([7]), 3)
    assert [w.per_target[7].shape[1] for w in worlds] == [1, 2, 3]
    new = worlds[2].per_target[7][0]
    assert (graph.y[new] != graph.y[7]).all()
    assert graph.flip(worlds[2].per_target[7]).num_edges == graph.num_edges + 3
    far = (graph.x.to_dense() - graph.x.to_dense()[7]).norm(dim=1)
    linked = graph.edge_index[0][graph.edge_index[1] == 7]
    rest = graph.y != graph.y[7]
    rest[torch.cat([new, linked])] = False
    assert far[new].max() <= far[rest].min()


def test_bad_input_is_named() -> None:
    graph, bayes = graphsec.load(SPEC, seed=0), Bayes.of(DATASETS.build(SPEC))
    with pytest.raises(ValueError, match="p_in must lie between 0 and 1, got 1"):
        Bayes(p_in=1.0, p_out=0.1, distance=1.0)
    with pytest.raises(ValueError, match="no flip matters"):
        Bayes(p_in=0.1, p_out=0.1, distance=1.0).radius(graph, torch.tensor([0]))
    with pytest.raises(ValueError, match="most must be ≤"):
        closest_first(graph, torch.tensor([0]), 299)
    with pytest.raises(ValueError, match="labels 0 and 1"):
        bayes.log_odds(graphsec.load("sbm"), torch.tensor([0]))
    with pytest.raises(ValueError, match="for each budget"):
        semantic_robustness(Follower(bayes, graph, 0), bayes, graph, [Perturbation()])
    nothing = torch.zeros(2, dtype=torch.int64)
    assert SemanticRobustness(nodes=nothing, model=nothing, bayes=nothing, most=3).f1 == 1
