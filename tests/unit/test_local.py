"""Local attacks: worlds, their scores, and exactness on tiny graphs."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import graphsec
from graphsec.attacks.adversarial._local import Row
from graphsec.attacks.adversarial._surrogate import TargetRow, surrogate
from graphsec.attacks.adversarial._unnoticeable import Cooccurrence, likelihood_ratio
from graphsec.attacks.adversarial.local_prbcd import LocalPRBCD
from graphsec.attacks.adversarial.sga import Linear
from graphsec.graph import Graph
from graphsec.outcome import Perturbation
from graphsec.rng import Rng
from graphsec.search import attack_loss, margins
from graphsec.testing import tiny_graphs
from graphsec.threat import Budget, Threat

LOCAL = ("brute-force", "fga", "local-prbcd", "nettack", "sga")
GRAPHS = tiny_graphs()


@pytest.fixture(params=GRAPHS)
def graph(request: pytest.FixtureRequest) -> Graph:
    return GRAPHS[request.param]


@pytest.fixture(scope="module")
def victim() -> graphsec.Predictor:
    return graphsec.fit(GRAPHS["blocks"], {"name": "gcn", "hidden": 16}, training={"epochs": 60})


def row_of(graph: Graph, target: int, budget: int = 1) -> Row:
    ends = torch.arange(graph.num_nodes)
    return Row(graph, target, ends[ends != target], budget)


def local(name: Any, victim: graphsec.Predictor, graph: Graph, **threat: Any) -> dict[int, Tensor]:
    outcome = graphsec.attack(name, victim, graph, threat=threat)
    assert isinstance(outcome, Perturbation)
    return outcome.per_target


# -- budgets and scores ---------------------------------------------------------------------------


def test_node_budgets_alone_bound_the_flips() -> None:
    path = Graph.from_edges([[0, 1, 2], [1, 2, 3]], 4)
    assert Budget(edges_per_node=1.0).edge_count(path) == 3  # degrees 1, 2, 2, 1: two ends a flip
    assert Budget(edges_per_node=0.5).edge_count(path) == 1
    assert Budget(edges_per_node=100).edge_count(path) == 6  # no more than there are pairs
    assert Budget(edges=2, edges_per_node=1.0).edge_count(path) == 2
    assert Budget().edge_count(path) == 0


def test_budget_of_each_target() -> None:
    path = Graph.from_edges([[0, 1, 2], [1, 2, 3]], 4)

    def budgets(**budget: Any) -> list[int]:
        threat = Threat(targets=(2, 0), budget=Budget(**budget))
        return threat.open(None, path, Rng(0)).target_budget.tolist()

    assert budgets() == [0, 0]
    assert budgets(edges=2) == [2, 2]
    assert budgets(edges_per_node=1.0) == [2, 1]
    assert budgets(edges=1, edges_per_node=1.0) == [1, 1]


def test_every_target_is_scored_in_its_own_world(victim: graphsec.Predictor) -> None:
    graph = GRAPHS["blocks"]
    outcome = graphsec.attack("fga", victim, graph, threat={"budget": {"edges_per_node": 0.5}})
    assert isinstance(outcome, Perturbation)
    numbers = {k: float(v) for k, v in graphsec.score(outcome, graph, victim).items()}
    assert graph.y is not None
    broken = [
        int(victim.predict(graph.flip(flips))[node]) != int(graph.y[node])
        for node, flips in outcome.per_target.items()
    ]
    nodes = torch.tensor(list(outcome.per_target))
    clean = float((victim.predict(graph, nodes) == graph.y[nodes]).double().mean())
    assert 0 < sum(broken) < len(broken)
    assert numbers["broken"] == sum(broken) / len(broken)
    assert numbers["attacked_accuracy"] == 1 - numbers["broken"]
    assert numbers["accuracy"] == clean
    assert numbers["accuracy_drop"] == pytest.approx(clean - numbers["attacked_accuracy"])
    assert numbers["flips"] == sum(f.shape[1] for f in outcome.per_target.values()) / len(nodes)
    with pytest.raises(ValueError, match="local"):
        graphsec.score(outcome, graph, victim, after=victim.relaxed())


@pytest.mark.parametrize("name", LOCAL)
def test_unlabelled_targets_and_those_without_budget_get_no_flips(name: str) -> None:
    graph = GRAPHS["weighted"]  # nodes 46 and 47 have no edges, 47 no label
    victim = graphsec.fit(graph, {"name": "gcn", "hidden": 8}, training={"epochs": 20})
    worlds = local(name, victim, graph, targets=(0, 46, 47), budget={"edges_per_node": 1.0})
    assert set(worlds) == {0, 46}
    assert worlds[0].shape[1] > 0
    assert worlds[46].shape[1] == 0
    outcome = Perturbation(per_target={**worlds, 47: worlds[46]})
    numbers = graphsec.score(outcome, graph, victim)
    assert float(numbers["flips"]) == worlds[0].shape[1] / 2


@pytest.mark.parametrize("name", LOCAL)
def test_flips_are_at_the_target(name: str, graph: Graph) -> None:
    victim = graphsec.fit(graph, {"name": "gcn", "hidden": 8}, training={"epochs": 20})
    worlds = local(
        name, victim, graph, targets=(1, 5, 30), budget={"edges": 3, "edges_per_node": 1.0}
    )
    for target, flips in worlds.items():
        assert 0 < flips.shape[1] <= 3
        assert (flips == target).any(0).all()


@pytest.mark.parametrize("name", LOCAL)
def test_poisoning_is_refused(name: str, victim: graphsec.Predictor) -> None:
    with pytest.raises(ValueError, match=r"threat\.timing must be 'evasion'"):
        local(name, victim, GRAPHS["blocks"], timing="poisoning", budget={"edges": 1})


# -- gradients ------------------------------------------------------------------------------------


def test_gradient_of_a_row(victim: graphsec.Predictor, graph: Graph) -> None:
    """Against central differences of the loss, in double precision, away from and at 0."""
    victim = graphsec.fit(graph, {"name": "gcn", "hidden": 8}, training={"epochs": 20})
    victim.model.double()
    assert graph.x is not None
    double = dataclasses.replace(graph)
    object.__setattr__(double, "x", graph.x.double())
    if graph.edge_weight is not None:
        object.__setattr__(double, "edge_weight", graph.edge_weight.double())
    row, which = row_of(double, 3), torch.arange(0, graph.num_nodes - 1, 3)
    p = torch.linspace(0, 0.8, len(which), dtype=torch.float64)
    gradient = row.gradient(victim, which, p, "tanh_margin")
    for i in range(len(which)):
        step = torch.zeros_like(p).index_fill(0, torch.tensor([i]), 1e-5)
        with torch.no_grad():
            high, low = (
                attack_loss("tanh_margin", row.logits(victim, which, p + s), row.y)
                for s in (step, -step)
            )
        assert float(gradient[i]) == pytest.approx(float(high - low) / 2e-5, rel=1e-4, abs=1e-7)


def test_fga_follows_the_gradient_of_the_flipped_graph(victim: graphsec.Predictor) -> None:
    """Each flip has the largest derivative where the earlier ones are edges of the graph."""
    graph = GRAPHS["blocks"]
    worlds = local("fga", victim, graph, targets=(4,), budget={"edges": 3})
    row = row_of(graph, 4)
    every, zeros = torch.arange(len(row.ends)), torch.zeros(len(row.ends))
    flipped: list[int] = []
    now = graph
    for _ in range(3):
        gradient = row_of(now, 4).gradient(victim, every, zeros, "margin")
        gradient[flipped] = -torch.inf
        flipped.append(int(gradient.argmax()))
        now = graph.flip(row.pairs[:, flipped])
    assert sorted(flipped) == sorted(row.ends.tolist().index(int(e)) for e in others(worlds[4], 4))


def others(flips: Tensor, target: int) -> Tensor:
    """The ends of flips that are not the target."""
    return flips.sum(0) - target


# -- Local PR-BCD ---------------------------------------------------------------------------------


def test_local_prbcd_finds_the_best_single_flip(victim: graphsec.Predictor) -> None:
    """Margins within .1 of the best of all flips at nine targets in ten, none above the clean."""
    graph = GRAPHS["blocks"]
    nodes = tuple(range(10))
    spec = {"name": "local-prbcd", "steps": 60}
    worlds = local(spec, victim, graph, targets=nodes, budget={"edges": 1})
    near = 0
    for node in nodes:
        row = row_of(graph, node)
        possible = [row.margin(victim, torch.tensor([i])) for i in range(len(row.ends))]
        found = margin_in_world(victim, graph, node, worlds[node])
        assert found <= row.margin(victim, torch.tensor([], dtype=torch.int64)) + 1e-5
        near += found <= min(possible) + 0.1
    assert near >= 9


def margin_in_world(victim: graphsec.Predictor, graph: Graph, node: int, flips: Tensor) -> float:
    assert graph.y is not None
    index = torch.tensor([node])
    return float(margins(victim.logits(graph.flip(flips), index), graph.y[index]))


def test_small_blocks_keep_what_has_weight() -> None:
    attack, generator = LocalPRBCD(block=10), Rng(0).torch()
    p = torch.zeros(50)
    p[[3, 7, 30]] = torch.tensor([0.5, 0.1, 1.0])
    blocks = [attack._block(p, generator) for _ in range(40)]
    for block in blocks:
        assert {3, 7, 30} <= set(block.tolist())
        assert len(set(block.tolist())) == 10
    assert len({i for block in blocks for i in block.tolist()}) == 50
    assert len(set(attack._block(torch.ones(50), generator).tolist())) == 10


def test_small_blocks_find_flips_too(victim: graphsec.Predictor) -> None:
    graph = GRAPHS["blocks"]
    threat = {"targets": tuple(range(10)), "budget": {"edges": 2}}
    for node, flips in local({"name": "local-prbcd", "block": 20}, victim, graph, **threat).items():
        clean = margin_in_world(victim, graph, node, flips[:, :0])
        assert margin_in_world(victim, graph, node, flips) < clean - 0.1


@pytest.mark.parametrize("name", ["fga", "local-prbcd"])
def test_adaptive_is_never_weaker_than_transfer(name: str) -> None:
    graph = GRAPHS["blocks"]
    victim = graphsec.fit(
        graph, {"name": "gcn", "hidden": 8}, "soft-median", training={"epochs": 30}
    )
    spec: Any = {"name": name, **({"steps": 10} if name == "local-prbcd" else {})}
    threat = {"targets": (0, 1, 2, 3), "budget": {"edges": 2}}
    adaptive = local(spec, victim, graph, **threat)
    transfer = local(spec, victim, graph, adaptive=False, **threat)
    for node in adaptive:
        mine, blind = (margin_in_world(victim, graph, node, w[node]) for w in (adaptive, transfer))
        assert mine <= blind + 1e-4


# -- brute force ----------------------------------------------------------------------------------


def margin_of(victim: graphsec.Predictor, graph: Graph, worlds: dict[int, Tensor]) -> list[float]:
    return [margin_in_world(victim, graph, node, flips) for node, flips in worlds.items()]


def test_no_local_attack_beats_brute_force_at_one_flip(graph: Graph) -> None:
    victim = graphsec.fit(graph, {"name": "gcn", "hidden": 8}, training={"epochs": 30})
    targets = (0, 12)
    threat: dict[str, Any] = {"targets": targets, "budget": {"edges": 1}}
    best = margin_of(victim, graph, local("brute-force", victim, graph, **threat))
    clean = [margin_in_world(victim, graph, t, torch.zeros(2, 0).long()) for t in targets]
    assert all(m < c - 1e-3 for m, c in zip(best, clean, strict=True))
    for name in LOCAL:
        spec = {"name": name, "steps": 40} if name == "local-prbcd" else name
        other = margin_of(victim, graph, local(spec, victim, graph, **threat))
        assert all(m <= o + 1e-5 for m, o in zip(best, other, strict=True)), name


def test_pairs_of_flips_are_tried_together() -> None:
    graph = GRAPHS["karate"]
    victim = graphsec.fit(graph, {"name": "gcn", "hidden": 8}, training={"epochs": 30})
    threat = {"targets": (20,), "budget": {"edges": 2}}
    found = local({"name": "brute-force", "depth": 2}, victim, graph, **threat)
    best = margin_of(victim, graph, found)
    greedy = local("brute-force", victim, graph, **threat)
    for name in LOCAL:
        spec = {"name": name, "steps": 40} if name == "local-prbcd" else name
        other = margin_of(victim, graph, local(spec, victim, graph, **threat))
        assert all(m <= o + 1e-5 for m, o in zip(best, other, strict=True)), name
    assert all(flips.shape[1] == 2 for flips in (*found.values(), *greedy.values()))


# -- SGA ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [0, 5, 33])
def test_the_subgraph_gives_the_row_of_the_whole_graph(graph: Graph, target: int) -> None:
    """Whatever is flipped in it, weights and common neighbours included."""
    h = torch.randn(graph.num_nodes, 3, generator=Rng(1).torch(), dtype=torch.float64)
    linear = Linear(graph, h, torch.zeros(3))
    row = row_of(graph, target, 2)
    near = linear.around(row, 12)
    everywhere = torch.stack([dense_row(graph, h, v) for v in range(graph.num_nodes)])
    torch.testing.assert_close(linear.logits, everywhere, rtol=1e-6, atol=1e-6)
    z = int(everywhere[target].index_fill(0, row.y, -torch.inf).argmax())
    generator = Rng(2).torch()
    for share in (0.0, 0.2, 0.7, 1.0):
        p = (torch.rand(len(near.ends), generator=generator) < share).double()
        flips = torch.stack([near.ends[p > 0], torch.full_like(near.ends[p > 0], target)])
        exact = dense_row(graph.flip(flips), h, target)
        wanted = float(exact[z] - exact[int(row.y)])
        assert float(near.gain(p)) == pytest.approx(wanted, rel=1e-5, abs=1e-6)


def test_candidates_are_those_of_largest_gradient() -> None:
    """Among nodes of the wrong class that share no neighbour with the target."""
    graph, target = GRAPHS["blocks"], 4
    h = torch.randn(90, 3, generator=Rng(3).torch(), dtype=torch.float64)
    linear, row = Linear(graph, h, torch.zeros(3)), row_of(graph, target)
    every = linear.around(row, 90)
    leaf = torch.zeros(len(every.ends), dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(every.gain(leaf), leaf)
    links = torch.from_numpy(graph.to_scipy().toarray())
    apart = ((links @ links + links)[target, every.ends] == 0).nonzero().ravel()
    few = linear.around(row, 6).ends
    steepest = every.ends[apart[gradient[apart].argsort(descending=True)]]
    chosen = [v for v in steepest.tolist() if v in few.tolist()]
    assert chosen == steepest.tolist()[: len(chosen)]
    assert len(chosen) >= 2
    assert graph.y is not None
    assert len(set(graph.y[few[links[target, few] == 0]].tolist())) == 1


# -- Nettack --------------------------------------------------------------------------------------


def dense_row(graph: Graph, h: Tensor, target: int) -> Tensor:
    """The target's row of Â² H from dense matrices."""
    w = torch.from_numpy(graph.to_scipy().toarray()).double() + torch.eye(graph.num_nodes)
    scale = w.sum(1).rsqrt()
    a = scale.unsqueeze(1) * w * scale
    return (a @ a @ h)[target]


@pytest.mark.parametrize("target", [0, 5, 33])
def test_rows_after_every_flip_are_exact(graph: Graph, target: int) -> None:
    """On the clean graph, and on one that is flipped already; at the target and elsewhere."""
    h = torch.randn(graph.num_nodes, 3, generator=Rng(1).torch(), dtype=torch.float64)
    row = row_of(graph, target)
    done = row.pairs[:, [1, 2, int(graph.adj.csr.indices[graph.indptr[target]] > target)]]
    for flips in (row.pairs[:, :0], done[:, :2]):
        adj = graph.adj.with_block(flips, torch.ones(flips.shape[1]))
        now, world = TargetRow(adj, h, target), graph.flip(flips)
        torch.testing.assert_close(now.now, dense_row(world, h, target), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(now.reach @ h, now.now, rtol=1e-6, atol=1e-6)
        neighbour = int(graph.adj.csr.indices[graph.indptr[target]])
        for p in (target, neighbour, int(flips.max()) if flips.numel() else 1):
            flipped = now.flipped(p)
            for v in set(row.ends.tolist()) - {p}:
                exact = dense_row(world.flip(torch.tensor([[p], [v]])), h, target)
                torch.testing.assert_close(flipped[v], exact, rtol=1e-6, atol=1e-6)


def ratio_by_hand(clean: list[int], now: list[int]) -> float:
    """The published formulas, number by number."""

    def fit(degrees: list[int]) -> float:
        d = [x for x in degrees if x >= 2]
        logs = sum(math.log(x) for x in d)
        alpha = 1 + len(d) / sum(math.log(x / 1.5) for x in d)
        return len(d) * (math.log(alpha) + alpha * math.log(2)) - (alpha + 1) * logs

    return 2 * (fit(clean) + fit(now) - fit(clean + now))


def test_degree_test_is_that_of_the_paper(graph: Graph) -> None:
    row = row_of(graph, 2)
    now = graph.flip(row.pairs[:, [0, 7]])
    change = torch.where(now.has_edges(row.pairs), -1, 1)
    ratio = likelihood_ratio(graph.degree, now.degree, 2, row.ends, change)
    for i in range(len(row.ends)):
        after = now.flip(row.pairs[:, [i]]).degree
        by_hand = ratio_by_hand(graph.degree.tolist(), after.tolist())
        assert float(ratio[i]) == pytest.approx(by_hand, abs=1e-9)


@pytest.mark.parametrize("unnoticeable", [True, False])
def test_nettack_is_greedy_on_its_surrogate(
    graph: Graph, victim: graphsec.Predictor, unnoticeable: bool
) -> None:
    """Against trying every allowed flip on the surrogate, one flip after the other."""
    spec = {"name": "nettack", "unnoticeable": unnoticeable}
    targets = (0, 12, 33)
    worlds = local(spec, victim, graph, targets=targets, budget={"edges": 2})
    linear = surrogate(graph, Rng(0)["attack"]["surrogate"])
    h, bias = linear.h, linear.bias
    for target in targets:
        row, world = row_of(graph, target), graph
        flipped: list[int] = []
        lowest = float(margins(dense_row(world, h, target).unsqueeze(0) + bias, row.y))
        for _ in range(2):
            tried = []
            for i in sorted(set(range(len(row.ends))) - set(flipped)):
                after = world.flip(row.pairs[:, [i]])
                isolates = ((after.degree == 0) & (world.degree > 0)).any()
                ratio = ratio_by_hand(graph.degree.tolist(), after.degree.tolist())
                if not isolates and (ratio < 0.004 or not unnoticeable):
                    z = dense_row(after, h, target).unsqueeze(0) + bias
                    tried.append((float(margins(z, row.y)), i))
            if not tried or min(tried)[0] >= lowest:
                break
            lowest, best = min(tried)
            flipped.append(best)
            world = graph.flip(row.pairs[:, flipped])
        assert sorted(others(worlds[target], target).tolist()) == row.ends[sorted(flipped)].tolist()


def test_nettack_keeps_degrees_unnoticed(victim: graphsec.Predictor) -> None:
    """With the test, worlds pass it; without, some would not."""
    graph = GRAPHS["karate"]
    made = graphsec.fit(graph, {"name": "gcn", "hidden": 8}, training={"epochs": 20})
    ratios = {}
    for unnoticeable in (True, False):
        worlds = local(
            {"name": "nettack", "unnoticeable": unnoticeable}, made, graph,
            targets="all", budget={"edges_per_node": 1.0},
        )  # fmt: skip
        ratios[unnoticeable] = [
            ratio_by_hand(graph.degree.tolist(), graph.flip(flips).degree.tolist())
            for flips in worlds.values()
        ]
    assert max(ratios[True]) < 0.004
    assert max(ratios[False]) > 0.004


def attacked(spec: Any, graph: Graph, **threat: Any) -> Perturbation:
    victim = graphsec.fit(graph, {"name": "gcn", "hidden": 8}, training={"epochs": 20})
    outcome = graphsec.attack(spec, victim, graph, threat=threat)
    assert isinstance(outcome, Perturbation)
    return outcome


def words_of(graph: Graph) -> Tensor:
    """(n, d) dense features."""
    assert graph.x is not None
    return graph.x.to_dense()


@pytest.mark.parametrize("influencers", [0, 2])
def test_nettack_is_greedy_over_pairs_and_words(influencers: int) -> None:
    """Against recomputing the surrogate's logits after every allowed change of either kind."""
    graph, target = GRAPHS["karate"], 5
    spec = {"name": "nettack", "influencers": influencers, "unnoticeable": False}
    found = attacked(
        spec, graph, targets=(target,), budget={"edges": 2, "features": 3, "features_per_node": 2}
    )
    linear, x, world = surrogate(graph, Rng(0)["attack"]["surrogate"]), words_of(graph), graph

    def margin(world: Graph, x: Tensor) -> float:
        z = dense_row(world, x.double() @ linear.weight, target).unsqueeze(0) + linear.bias
        assert graph.y is not None
        return float(margins(z, graph.y[target : target + 1]))

    attackers = [target]
    if influencers:
        near = graph.indices[graph.indptr[target] : graph.indptr[target + 1]].tolist()
        held = {k: margin(graph.flip(torch.tensor([[target], [k]])), x) for k in near}
        attackers = sorted(near, key=lambda k: held[k])[:influencers]
    pairs: list[tuple[int, int]] = []
    entries: list[tuple[int, int]] = []
    lowest = margin(world, x)
    while len(pairs) < 2 or len(entries) < 3:
        tried: list[tuple[float, str, tuple[int, int]]] = []
        for p in attackers:
            for v in set(range(34)) - {p, target if influencers else p}:
                pair = (min(p, v), max(p, v))
                after = world.flip(torch.tensor([[p], [v]]))
                if len(pairs) < 2 and pair not in pairs and int(after.degree.min()) > 0:
                    tried.append((margin(after, x), "pair", pair))
            for i in range(20):
                own = sum(j == p for j, _ in entries)
                if len(entries) < 3 and own < 2 and (p, i) not in entries:
                    changed = x.clone()
                    changed[p, i] = 1 - changed[p, i]
                    tried.append((margin(world, changed), "word", (p, i)))
        best = min(tried, default=(torch.inf, "", (0, 0)))
        if best[0] >= lowest:
            break
        lowest = best[0]
        if best[1] == "pair":
            pairs.append(best[2])
            world = world.flip(torch.tensor([best[2]]).T)
        else:
            entries.append(best[2])
            x[best[2]] = 1 - x[best[2]]
    assert pairs
    assert entries
    assert [tuple(pair) for pair in found.per_target[target].T.tolist()] == pairs
    assert [tuple(entry) for entry in found.features_per_target[target].T.tolist()] == entries
    assert torch.equal(words_of(found.world(graph, target)), x)
    assert torch.equal(found.world(graph, target).edge_index, world.edge_index)


@pytest.mark.parametrize("influencers", [0, 1, 3])
def test_words_are_flipped_within_their_budgets(influencers: int) -> None:
    """At the target, or at so many neighbours and not at it; 0 and 1 only; each kind apart."""
    graph = GRAPHS["karate"]
    outcome = attacked(
        {"name": "nettack", "influencers": influencers}, graph, targets="all",
        budget={"edges": 2, "edges_per_node": 1, "features": 4, "features_per_node": 2},
    )  # fmt: skip
    assert len(outcome.features_per_target) > 20
    for target, world in outcome.worlds(graph):
        changed = words_of(world) != words_of(graph)
        links = torch.from_numpy((graph.to_scipy() != world.to_scipy()).toarray())
        assert set(words_of(world).ravel().tolist()) == {0, 1}
        assert int(changed.sum()) <= (min(4, 2 * influencers) if influencers else 2)
        assert int(changed.sum(1).max()) <= 2
        assert int(links.sum()) <= 2
        assert int(links.sum(1).max()) <= 1
        near = set(graph.indices[graph.indptr[target] : graph.indptr[target + 1]].tolist())
        at = set(changed.any(1).nonzero().ravel().tolist())
        if influencers:
            assert at <= near
            assert not links[target].any()
            assert all({int(u), int(v)} & near for u, v in outcome.per_target[target].T)
            assert len(at) <= influencers
        else:
            assert at <= {target}


def test_words_alone_and_pairs_alone() -> None:
    """A budget of one kind buys nothing of the other; words that are not 0 or 1 stay."""
    graph = GRAPHS["karate"]
    words = attacked("nettack", graph, targets=(0, 5), budget={"features_per_node": 3})
    assert sum(entries.shape[1] for entries in words.features_per_target.values()) > 2
    assert not any(flips.numel() for flips in words.per_target.values())
    numbers = graphsec.score(words, graph, graphsec.fit(graph, training={"epochs": 5}))
    mean = sum(entries.shape[1] for entries in words.features_per_target.values()) / 2
    assert float(numbers["features_changed"]) == mean
    pairs = attacked("nettack", graph, targets=(0, 5), budget={"edges": 2})
    assert not pairs.features_per_target
    real = attacked("nettack", GRAPHS["blocks"], targets=(0,), budget={"features_per_node": 3})
    assert not real.features_per_target


def test_influencers_leave_the_pairs_of_the_target_alone(graph: Graph) -> None:
    """But have a neighbour of it at one end, and at each node no more flips than allowed."""
    spec = {"name": "nettack", "influencers": 2}
    worlds = attacked(spec, graph, targets=(1, 5, 30), budget={"edges_per_node": 2}).per_target
    for target, flips in worlds.items():
        near = graph.indices[graph.indptr[target] : graph.indptr[target + 1]]
        assert 0 < flips.shape[1] <= 2
        assert not (flips == target).any()
        assert torch.isin(flips, near).any(0).all()
        assert int(torch.bincount(flips.ravel()).max()) <= 2


def test_words_go_with_words_as_in_the_paper() -> None:
    """Step by step: the chance that a step from one of a node's words ends at another."""
    x = words_of(GRAPHS["karate"])
    x[3], x[3, 2] = 0, 1
    links = [[bool((x[:, i] * x[:, j]).any()) and i != j for j in range(20)] for i in range(20)]
    for node in (0, 3, 17):
        own = [j for j in range(20) if x[node, j]]
        allowed = Cooccurrence(x).may_add(x[node])
        for i in range(20):
            chance = sum(links[j][i] / sum(links[j]) for j in own) / len(own)
            most = sum(1 / sum(links[j]) for j in own) / len(own)
            assert bool(allowed[i]) == (chance > 0.5 * most)
    assert not Cooccurrence(x).may_add(torch.zeros(20)).any()


def test_a_word_that_never_goes_with_another_is_not_added() -> None:
    """However much it says: those of one class in training have it, and nothing else."""
    karate = GRAPHS["karate"]
    assert karate.y is not None
    assert karate.split is not None
    x = torch.cat([words_of(karate), torch.zeros(34, 1)], 1)
    alone = karate.split.train[karate.y[karate.split.train] == 1]
    x[alone] = 0
    x[alone, 20] = 1
    graph = karate.replace(x=x)
    targets = tuple((karate.y == 0).nonzero().ravel().tolist())
    given = {}
    for unnoticeable in (True, False):
        spec = {"name": "nettack", "unnoticeable": unnoticeable}
        outcome = attacked(spec, graph, targets=targets, budget={"features_per_node": 2})
        given[unnoticeable] = sum(
            int((entries[1] == 20).sum()) for entries in outcome.features_per_target.values()
        )
    assert given[True] == 0
    assert given[False] > 5


def test_nettack_refuses_directed_graphs(victim: graphsec.Predictor) -> None:
    base = GRAPHS["blocks"]
    graph = Graph.from_edges(
        base.edge_index[:, ::2], 90, directed=True, x=base.x, y=base.y, split=base.split
    )
    with pytest.raises(ValueError, match="undirected"):
        local("nettack", victim, graph, budget={"edges": 1})
    worlds = local("fga", victim, graph, targets=(1, 2), budget={"edges": 2})
    assert all((flips[1] == target).all() for target, flips in worlds.items())
