"""Fake users in ranking graphs: growth, the game, profiles, the surrogate, detectors, scoring."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import graphsec
from graphsec.attacks.shilling._profiles import draw
from graphsec.attacks.shilling.gradient import _Filter
from graphsec.defenses import build as build_defense
from graphsec.graph import Graph, GraphError
from graphsec.outcome import Injection, Perturbation
from graphsec.registry import ATTACKS, GAMES
from graphsec.rng import Rng
from graphsec.testing import tiny_graphs, tiny_rankings
from graphsec.threat import BudgetExceeded, Threat

TASTES = tiny_rankings()["tastes"]
USERS = TASTES.num_users
GAME = {"name": "promotion", "items": 2, "most": 9}
BUDGET = {"budget": {"nodes": 4, "edges_per_injected": 8}}
TRAINING = {"epochs": 40, "lr": 0.05, "patience": None, "select": "last"}
NAMES = ["random", "average", "bandwagon", "segment", "gradient"]


def shilled(name: Any, seed: int = 0, budget: Any = None) -> Perturbation:
    graph, secret = TASTES, graphsec.play(GAME, TASTES, seed=0)[1]
    assert secret is not None
    attack = ATTACKS.build(name if isinstance(name, dict) else f"shilling-{name}")
    asked = Threat.of(BUDGET if budget is None else {"budget": budget}).resolve(attack)
    view = asked.open(None, graph, Rng(seed)["view"], question=secret.question)
    outcome = attack.run(view, Rng(seed)["attack"])
    asked.check(outcome, graph)
    assert isinstance(outcome, Perturbation)
    return outcome


# -- graphs with more users -------------------------------------------------------------------


@pytest.mark.parametrize("graph", tiny_rankings().values(), ids=list(tiny_rankings()))
def test_new_users_stand_behind_the_others(graph: Graph) -> None:
    n, users = graph.num_nodes, graph.num_users
    grown = graph.grow(torch.zeros(2, 0), [[n, n, n + 1], [users, n - 1, users + 3]])
    assert grown.num_users == users + 2
    assert grown.num_nodes == n + 2
    new = {(u, v) for u, v in grown.pairs.T.tolist() if u in (users, users + 1)}
    assert new == {(users, users + 2), (users, n + 1), (users + 1, users + 5)}
    old = grown.to_scipy().todense()
    keep = np.r_[:users, users + 2 : n + 2]
    np.testing.assert_allclose(old[np.ix_(keep, keep)], graph.to_scipy().todense())
    assert graph.holdout is not None
    assert grown.holdout is not None
    assert torch.equal(grown.holdout.test[0], graph.holdout.test[0])
    assert torch.equal(grown.holdout.test[1], graph.holdout.test[1] + 2)


def test_growth_of_rankings_is_checked() -> None:
    n = TASTES.num_nodes
    blank = torch.zeros(1, 0)
    with pytest.raises(GraphError, match="edges of new users must lead to items"):
        TASTES.grow(blank, [[n], [0]])
    with pytest.raises(GraphError, match="edges of new users must lead to items"):
        TASTES.grow(torch.zeros(2, 0), [[n], [n + 1]])
    with pytest.raises(GraphError, match=r"x of new users must have shape \(m, 0\)"):
        TASTES.grow(torch.zeros(1, 3), [[n], [n - 1]])
    with pytest.raises(GraphError, match="listed twice"):
        TASTES.grow(blank, [[n, n], [n - 1, n - 1]])


def test_budgets_count_users() -> None:
    budget = Threat.of({"budget": {"nodes": 0.1}}).budget
    assert budget.injection(TASTES) == (3, -(-TASTES.num_edges // USERS))
    too_many = Perturbation(injected=Injection(
        torch.zeros(4, 0), torch.stack([torch.arange(4) + 60, torch.full((4,), 59)])
    ))  # fmt: skip
    with pytest.raises(BudgetExceeded, match=r"budget\.nodes allows 3 nodes, the outcome has 4"):
        Threat.of({"budget": {"nodes": 0.1}}).check(too_many, TASTES)


# -- the game ---------------------------------------------------------------------------------


def test_the_game_draws_items_that_few_took() -> None:
    known, secret = graphsec.play(GAME, TASTES, seed=3)
    assert secret is not None
    assert known is TASTES
    assert len(secret.question) == 2
    assert (secret.question >= USERS).all()
    assert ((TASTES.degree[secret.question] >= 1) & (TASTES.degree[secret.question] <= 9)).all()


def test_the_game_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match="needs a ranking graph, found task 'classification'"):
        GAMES.build("promotion").prepare(tiny_graphs()["blocks"], Rng(0))
    with pytest.raises(ValueError, match=r"items must be ≤ \d+, .* got 900"):
        GAMES.build({"name": "promotion", "items": 900}).prepare(TASTES, Rng(0))


# -- profiles ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_profiles(name: str) -> None:
    """All the budget, all promoted items in each, everything once."""
    secret: Any = graphsec.play(GAME, TASTES, seed=0)[1]
    new = shilled(name).injected
    assert new is not None
    assert len(new.x) == 4
    for user in range(4):
        items = new.edges[1][new.edges[0] == TASTES.num_nodes + user]
        assert len(items) == len(torch.unique(items)) == 8
        assert torch.isin(secret.question, items).all()
        assert (items >= USERS).all()


def test_promoted_items_are_dealt_where_profiles_are_small() -> None:
    new = shilled("random", budget={"nodes": 4, "edges_per_injected": 1}).injected
    assert new is not None
    assert new.edges.shape == (2, 4)
    assert len(torch.unique(new.edges[1])) == 2
    assert shilled("random", budget={"nodes": 0}).injected is None


def test_what_fills_profiles() -> None:
    """Bandwagons hold what is popular, averages more of it than random ones, segments what is
    taken by the same users."""
    degree = TASTES.degree.double()
    secret: Any = graphsec.play(GAME, TASTES, seed=0)[1]

    def mean(name: str) -> float:
        found = [shilled(name, seed=seed).injected for seed in range(20)]
        items = torch.cat([new.edges[1] for new in found if new is not None])
        return float(degree[items[~torch.isin(items, secret.question)]].mean())

    assert mean("random") < mean("average") < mean("bandwagon")
    best = degree * (torch.arange(60) >= USERS)
    best[secret.question] = 0
    new = shilled("bandwagon").injected
    assert new is not None
    assert torch.isin(best.topk(3).indices, new.edges[1]).all()


def test_segments_are_like_the_promoted_items() -> None:
    """By brute force over all items, with one promoted."""
    secret: Any = graphsec.play(GAME, TASTES, seed=0)[1]
    item = int(secret.question[0])
    taken = TASTES.to_scipy().toarray()[:USERS] != 0
    attack: Any = ATTACKS.build("shilling-segment")
    score = attack.scores(TASTES, torch.tensor([item - USERS]))
    for other in range(USERS, 60):
        both = (taken[:, item] & taken[:, other]).sum()
        sizes = max(1, taken[:, item].sum()) * max(1, taken[:, other].sum())
        assert float(score[other - USERS]) == pytest.approx(both / np.sqrt(sizes), abs=1e-6)


def test_draws_follow_their_weights() -> None:
    weight = torch.tensor([4.0, 1.0, 0.0, 3.0]).repeat(4000, 1)
    count = torch.bincount(draw(weight, 1, Rng(0)).ravel(), minlength=4) / 4000
    torch.testing.assert_close(count, torch.tensor([0.5, 0.125, 0, 0.375]), atol=0.03, rtol=0)
    both = draw(weight, 3, Rng(1))
    assert (both != 2).all()


# -- the surrogate ----------------------------------------------------------------------------


def _dense_loss(graph: Graph, promoted: Tensor, w: Tensor, filter_: _Filter) -> float:
    """The loss from dense matrices."""
    taken = torch.from_numpy((graph.to_scipy().toarray()[:USERS, USERS:] != 0).astype(np.float32))
    w = w.clone()
    w[:, promoted] = 1
    whole = torch.cat([taken, w])
    left, right = whole.sum(1).clamp(min=1).rsqrt(), whole.sum(0).clamp(min=1).rsqrt()
    normal = left[:, None] * whole * right
    scores = (normal @ normal.T @ normal)[:USERS][:, promoted]
    new = taken[:, promoted] == 0
    loss = torch.nn.functional.softplus((filter_.threshold - scores) / filter_.scale)
    return float(loss[new].mean())


def test_the_surrogate_is_the_filter_and_its_gradient_is_right() -> None:
    promoted = torch.tensor([3, 17])
    filter_ = _Filter(TASTES, promoted)
    w = torch.rand(3, 30, generator=torch.Generator().manual_seed(0))
    w[:, promoted] = 0
    assert float(filter_.loss(w)) == pytest.approx(
        _dense_loss(TASTES, promoted, w, filter_), rel=1e-5
    )
    leaf = w.clone().requires_grad_()
    (slope,) = torch.autograd.grad(filter_.loss(leaf), leaf)
    for row, column in ((0, 5), (2, 29)):
        h = torch.zeros_like(w)
        h[row, column] = 1e-2
        change = float(filter_.loss(w + h)) - float(filter_.loss(w - h))
        assert change / 2e-2 == pytest.approx(float(slope[row, column]), rel=0.02, abs=1e-5)


def test_exchanges_lower_the_surrogate_loss() -> None:
    """From the average attack, where they begin, and in more rounds further."""
    secret: Any = graphsec.play(GAME, TASTES, seed=0)[1]
    filter_ = _Filter(TASTES, secret.question - USERS)

    def loss(spec: Any) -> float:
        new = shilled(spec).injected
        assert new is not None
        w = torch.zeros(4, 30)
        w[new.edges[0] - 60, new.edges[1] - USERS] = 1
        w[:, filter_.promoted] = 0
        return float(filter_.loss(w))

    once = loss("gradient")
    more: Any = {"name": "shilling-gradient", "rounds": 3}
    assert once < min(loss("average"), loss("random"), loss("bandwagon"))
    assert loss(more) <= once


# -- scoring ----------------------------------------------------------------------------------


def test_scores_are_of_genuine_users_who_have_not_taken_the_item() -> None:
    secret: Any = graphsec.play(GAME, TASTES, seed=0)[1]
    before = graphsec.fit(TASTES, {"name": "lightgcn", "width": 8}, training=TRAINING)
    outcome = shilled("bandwagon", budget={"nodes": 15, "edges_per_injected": 8})
    attacked = outcome.apply(TASTES)
    after = graphsec.fit(attacked, {"name": "lightgcn", "width": 8}, training=TRAINING)
    found = graphsec.score(outcome, TASTES, before, secret, after)
    for graph, predictor, new, name in (
        (TASTES, before, 0, "target_hit_at_20"), (attacked, after, 15, "attacked_target_hit_at_20"),
    ):  # fmt: skip
        z = predictor.logits(graph)
        scores = z[:USERS] @ z[graph.num_users :].T
        taken = torch.from_numpy(graph.to_scipy().toarray()[:USERS, graph.num_users :] != 0)
        top = scores.masked_fill(taken, -torch.inf).topk(20, 1).indices
        shares = []
        for item in (secret.question + new - graph.num_users).tolist():
            asked = ~taken[:, item]
            shares.append(float((top[asked] == item).any(1).double().mean()))
        assert found[name].value == pytest.approx(sum(shares) / 2)
    assert found["attacked_target_hit_at_20"].value > found["target_hit_at_20"].value
    assert found["injected"].value == 15
    assert {"attacked_recall_at_20", "recall_at_20_drop", "attacked_ndcg_at_20"} <= set(found)
    assert "detection_auc" not in found


# -- detectors --------------------------------------------------------------------------------


def test_detectors_by_brute_force() -> None:
    taken = (TASTES.to_scipy()[:USERS, USERS:] != 0).astype(np.float64)
    dense = taken.toarray()
    live = dense.std(1) > 0
    z = np.zeros_like(dense)
    z[live] = (dense[live] - dense[live].mean(1, keepdims=True)) / dense[live].std(1, keepdims=True)
    vectors = np.linalg.eigh(z @ z.T)[1][:, -3:]
    pca: Any = build_defense("pca-varselect")
    np.testing.assert_allclose(-pca.suspect(taken), (vectors**2).sum(1), atol=1e-8)
    unit = dense / np.maximum(np.linalg.norm(dense, axis=1, keepdims=True), 1e-12)
    like = unit @ unit.T
    np.fill_diagonal(like, -np.inf)
    degsim: Any = build_defense({"name": "degsim", "neighbours": 4})
    wanted = np.sort(like, 1)[:, -4:].mean(1)
    np.testing.assert_allclose(degsim.suspect(taken), wanted, atol=1e-6)


def test_alike_fakes_are_found_dropped_and_do_nothing() -> None:
    """Fakes with the same profile: DegSim finds all, and the items are shown as before."""
    spec: Any = {"name": "shilling-bandwagon", "selected": 1.0}
    secret: Any = graphsec.play(GAME, TASTES, seed=0)[1]
    outcome = shilled(spec, budget={"nodes": 6, "edges_per_injected": 8})
    attacked = outcome.apply(TASTES)
    defense = {"name": "degsim", "neighbours": 5, "share": 6 / 36}
    model = {"name": "lightgcn", "width": 8}
    before = graphsec.fit(TASTES, model, defense, training=TRAINING)
    after = graphsec.fit(attacked, model, defense, training=TRAINING)
    found = graphsec.score(outcome, TASTES, before, secret, after)
    assert found["detection_auc"].value == 1
    assert after.trace.cost["dropped"] == 6
    # Answers are without them too: as if they had never taken anything.
    pairs = attacked.pairs
    bare = attacked.flip(pairs[:, (pairs[0] >= USERS) & (pairs[0] < USERS + 6)])
    with torch.no_grad():
        alone = after.model(torch.zeros(66, 0), bare.adj)
    torch.testing.assert_close(after.logits(attacked), alone)


def test_soft_median_takes_rankings() -> None:
    made = graphsec.fit(
        TASTES, {"name": "lightgcn", "width": 8}, "soft-median", training={**TRAINING, "epochs": 3}
    )
    assert torch.isfinite(made.logits(TASTES)).all()
