"""Properties of the training graph: how worlds are drawn, what tells them apart, and scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import graphsec
from graphsec.attacks.properties._worlds import PropertyAttack
from graphsec.attacks.properties.mean_threshold import PropertyThreshold, gaussian_odds
from graphsec.attacks.properties.shadow_worlds import PropertyShadow, over_hidden, quantiles
from graphsec.cell import Cell
from graphsec.game import Property
from graphsec.graph import Graph
from graphsec.metrics import property_metrics
from graphsec.outcome import PropertyGuess
from graphsec.predict import Predictor
from graphsec.rng import Rng
from graphsec.sampling.worlds import divided, room, with_share
from graphsec.testing import tiny_graphs
from graphsec.threat import Threat

WHAT = pytest.mark.parametrize("what", ["group", "edges", "homophily"])


@pytest.fixture(scope="module")
def crowd() -> Graph:
    """240 nodes; the first feature of each is its number, so that it is known again."""
    graph = graphsec.load({"name": "dc-sbm", "num_nodes": 240, "classes": 2, "signal": 0.3})
    assert graph.y is not None
    assert graph.x is not None
    odd = torch.from_numpy(np.random.default_rng(0).random(240) < 0.1)
    x = torch.cat([torch.arange(240).float().unsqueeze(1), graph.x], 1)
    split = graphsec.splits(graph, 1, fractions=[0.5, 0, 0.5])[0].split
    return graph.replace(x=x, sensitive=((graph.y == 0) ^ odd).long(), split=split, name="crowd")


def numbers(graph: Graph) -> set[int]:
    assert graph.x is not None
    return set(graph.x[:, 0].long().tolist())


def level_of(graph: Graph, what: str, whole: Graph) -> float:
    if what == "group":
        assert graph.sensitive is not None
        return float((graph.sensitive == 1).double().mean())
    if what == "edges":
        return graph.num_edges / whole.num_edges
    assert graph.y is not None
    u, v = graph.y[graph.pairs]
    return float((u == v).double().mean())


# -- the game -----------------------------------------------------------------------------------


@WHAT
def test_the_property_holds_and_nothing_else_differs(crowd: Graph, what: Any) -> None:
    game = Property(what=what)
    worlds = [game.world(crowd, bit, Rng(3)) for bit in (0, 1)]
    for world, level in zip(worlds, game.levels, strict=True):
        assert level_of(world, what, crowd) == pytest.approx(level, abs=0.01)
        numbered = torch.tensor(sorted(numbers(world)))
        assert crowd.y is not None
        assert world.y is not None
        assert torch.equal(world.y, crowd.y[numbered])
        assert world.split is not None
        assert len(world.split.train) > 0
    assert worlds[0].num_nodes == worlds[1].num_nodes
    if what == "homophily":
        assert abs(worlds[0].num_edges - worlds[1].num_edges) <= 1
    if what != "group":
        assert worlds[0].num_nodes == 240
        assert crowd.has_edges(worlds[1].pairs).all()


@WHAT
def test_attackers_have_a_graph_of_their_own(crowd: Graph, what: Any) -> None:
    game = Property(what=what)
    known, secret = game.prepare(crowd, Rng(1))
    assert secret is not None
    assert secret.public is not None
    assert not numbers(known) & numbers(secret.public)
    assert secret.public.num_nodes == pytest.approx(0.6 * 240, abs=1)
    again, _ = game.prepare(crowd, Rng(1))
    assert again.fingerprint == known.fingerprint
    holds = int(secret.answer)
    if what != "edges":
        assert level_of(known, what, crowd) == pytest.approx(game.levels[holds], abs=0.02)
    # All that is granted of "the graph" is the attacker's own; the victim's stays behind.
    view = Threat(access=("features", "edges", "true_labels")).open(
        None, known, Rng(0), **secret.shown
    )
    assert numbers(view.known) == numbers(secret.public)
    assert view.rules is game


def test_the_coin_is_fair(crowd: Graph) -> None:
    bits = []
    for seed in range(100):
        secret = Property().prepare(crowd, Rng(seed)["game"])[1]
        assert secret is not None
        bits.append(int(secret.answer))
    assert 32 <= sum(bits) <= 68  # 3.6 standard deviations


@pytest.mark.parametrize(
    ("fields", "change", "message"),
    [
        ({}, {"sensitive": None}, "needs a sensitive attribute"),
        ({"what": "homophily"}, {"y": None, "split": None}, "needs classes"),
        ({"nodes": 90}, {}, "27 inside and 63 outside are needed|63 inside and 27 outside"),
        ({"levels": (0.7, 0.3)}, {}, "levels must rise"),
    ],
)
def test_what_can_not_be_played_is_said(
    crowd: Graph, fields: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        graphsec.play({"name": "property", **fields}, crowd.replace(**change))


def test_parts_are_disjoint_and_hold_every_group() -> None:
    groups = np.repeat([0, 1], [80, 20])
    parts = divided(groups, (0.4, 0.35, 0.25), np.random.default_rng(0))
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(100))
    assert [len(part) for part in parts] == [40, 35, 25]
    assert [int(groups[part].sum()) for part in parts] == [8, 7, 5]


def test_room_is_what_both_levels_allow(crowd: Graph) -> None:
    assert room(30, 60, (0.3, 0.7)) == 42  # 30 / .7
    assert room(0, 60, (0.0,)) == 60
    inside = np.arange(240) < 30
    for share in (0.3, 0.7):
        with_share(crowd, inside, share, 42, np.random.default_rng(0))
    with pytest.raises(ValueError, match="33 inside and 14 outside are needed"):
        with_share(crowd, inside, 0.7, 47, np.random.default_rng(0))


# -- attackers ----------------------------------------------------------------------------------


def open_view(crowd: Graph, attack: Any, trained: dict[Any, Predictor] | None = None) -> Any:
    known, secret = graphsec.play("property", crowd)
    assert secret is not None
    victim = graphsec.fit(known, {"name": "gcn", "hidden": 8}, training={"epochs": 5})
    threat = Threat().resolve(attack)
    return threat.open(victim, known, Rng(0)["view"], trained=trained, **secret.shown)


def test_nobody_is_asked_about_nodes_it_was_trained_on(crowd: Graph) -> None:
    view = open_view(crowd, PropertyThreshold())
    rules, asked, pool = PropertyAttack.own(PropertyThreshold(), view, Rng(0))
    assert rules == Property()
    assert numbers(asked) | numbers(pool) == numbers(view.known)
    assert not numbers(asked) & numbers(pool)
    # Worlds of the attacker are as large as the victim's, up to rounding.
    mine = rules.world(pool, 1, Rng(0))
    assert abs(mine.num_nodes - view._graph.num_nodes) <= 3


def test_attacks_of_one_seed_share_their_shadow_models(crowd: Graph) -> None:
    trained: dict[Any, Predictor] = {}
    counts = []
    for attack in (
        PropertyThreshold(shadows=4),
        PropertyShadow(shadows=4),
        PropertyShadow(shadows=6, knows="weights"),
    ):
        view = open_view(crowd, attack, trained)
        attack.run(view, Rng(0)["attack"])
        counts.append(view.trainings)
    assert counts == [4, 0, 2]


def test_rules_are_needed(crowd: Graph) -> None:
    known, secret = graphsec.play("property", crowd)
    assert secret is not None
    victim = graphsec.fit(known, {"name": "gcn", "hidden": 8}, training={"epochs": 1})
    with pytest.raises(ValueError, match="rules are missing"):
        graphsec.attack("property-loss-test", victim, known, public=secret.public)


def test_the_order_of_nodes_and_units_means_nothing() -> None:
    rng = np.random.default_rng(0)
    values = torch.from_numpy(rng.normal(size=(50, 3)))
    order = torch.from_numpy(rng.permutation(50))
    torch.testing.assert_close(quantiles(values), quantiles(values[order]))
    assert quantiles(values).shape == (60,)
    first, last = (
        torch.from_numpy(rng.normal(size=(7, 50))),
        torch.from_numpy(rng.normal(size=(50, 2))),
    )
    seen = over_hidden([first, last, torch.ones(2)], (7, 2))
    torch.testing.assert_close(
        seen, over_hidden([first[:, order], last[order], torch.ones(2)], (7, 2))
    )
    assert seen.shape == (2 * 7 + 2 * 2 + 2,)
    assert not torch.allclose(seen, over_hidden([first.flip(0), last, torch.ones(2)], (7, 2)))


def test_the_threshold_lies_between_the_kinds() -> None:
    rng = np.random.default_rng(0)
    holds = torch.arange(40) % 2
    shadows = torch.from_numpy(rng.normal(size=(40, 3)))
    shadows[:, 1] += 4 * holds
    for value, sign in ((4.0, 1), (0.0, -1)):
        victim = torch.tensor([9.0, value, -9.0]).double()  # the others are noise
        odds = gaussian_odds(victim, shadows, holds)
        assert np.sign(odds) == sign
        assert abs(odds) == pytest.approx(8, rel=0.5)  # (4 − 2) · 4 / 1²


def test_without_a_difference_nothing_is_found(crowd: Graph) -> None:
    """Where the two levels are nearly the same, the bit is guessed about half of the time."""
    game = {"name": "property", "levels": [0.5, 0.51]}
    right = []
    for seed in range(24):
        known, secret = graphsec.play(game, crowd, seed=seed)
        assert secret is not None
        victim = graphsec.fit(
            known, {"name": "gcn", "hidden": 8}, training={"epochs": 10}, seed=seed
        )
        attack = {"name": "property-threshold", "shadows": 4}
        out = graphsec.attack(attack, victim, known, seed=seed, **secret.shown)
        right.append(float(graphsec.score(out, known, victim, secret=secret)["property_right"]))
    assert 0.2 <= np.mean(right) <= 0.8  # 2.9 standard deviations


# -- scores -------------------------------------------------------------------------------------


@pytest.mark.parametrize("holds", [False, True])
@pytest.mark.parametrize("odds", [-700.0, -1.0, 0.0, 2.0])
def test_metrics_by_hand(odds: float, holds: bool) -> None:
    found = property_metrics(odds, holds)
    right = 0.5 if odds == 0 else float((odds > 0) == holds)
    assert float(found["property_right"]) == right
    chance = 1 / (1 + np.exp(-odds)) if holds else 1 / (1 + np.exp(odds))
    loss = -np.log(chance) if chance > 1e-300 else 700
    assert float(found["property_loss"]) == pytest.approx(loss)
    assert found["property_loss"].higher_is_better
    assert not found["property_right"].higher_is_better


def test_log_odds_are_finite() -> None:
    with pytest.raises(ValueError, match="log_odds must be finite, found nan"):
        Threat().check(PropertyGuess(log_odds=float("nan")), tiny_graphs()["blocks"])


def test_a_cell_is_one_game() -> None:
    for game in ({"what": "homophily", "levels": [0.5, 0.9]}, {"what": "edges"}):
        record = graphsec.run(
            Cell(
                dataset={"name": "sbm", "num_nodes": 120}, model={"name": "gcn", "hidden": 8},
                attack={"name": "property-loss-test"}, game={"name": "property", **game},
                training={"epochs": 5},
            )
        )  # fmt: skip
        # Of both properties the loss test needs no sensitive attribute.
        assert record.status == "done", record.reason
        assert record.metrics["property_right"]["value"] in (0.0, 0.5, 1.0)
        assert record.cost["trainings"] == 0
