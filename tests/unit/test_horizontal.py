"""Horizontal federations: partitions, rounds, personal layers, aggregation, clients that lie."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import graphsec
from graphsec.defenses import build as build_defense
from graphsec.federated import Meddling, Message, Transcript
from graphsec.federated.aggregation import (
    AGGREGATIONS,
    aggregate,
    geometric_median,
    krum,
    krum_scores,
    median,
    trimmed_mean,
)
from graphsec.federated.byzantine import ALittle, InnerProduct, Lying, Noise, SignFlip, Tailored
from graphsec.federated.byzantine import little as little_z
from graphsec.federated.horizontal import Client, Coordinator, Horizontal, personal_names
from graphsec.federated.partition import partition
from graphsec.federated.transport import InProcess
from graphsec.models.base import Sizes
from graphsec.outcome import Takeover
from graphsec.registry import MODELS, SpecError
from graphsec.rng import Rng
from graphsec.testing import tiny_graphs
from graphsec.threat import BudgetExceeded, Threat
from graphsec.train import Recipe
from graphsec.train import fit as train_model

BLOCKS = tiny_graphs()["blocks"]
PLAIN = {"epochs": 12, "optimizer": "sgd", "lr": 0.3, "weight_decay": 0.0}
GCN = {"name": "gcn", "hidden": 8, "dropout": 0.0}


def updates(k: int = 9, d: int = 7, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(k, d))).float()


# -- aggregation ------------------------------------------------------------------------------


def test_mean_counts_clients_by_their_nodes() -> None:
    rows = torch.tensor([[0.0, 4.0], [1.0, 0.0]])
    made = aggregate("mean", rows, torch.tensor([1.0, 3.0]), 0)
    assert torch.allclose(made, torch.tensor([0.75, 1.0]))


def test_krum_scores_by_brute_force() -> None:
    rows, f = updates(), 2
    for i, score in enumerate(krum_scores(rows, f).tolist()):
        far = sorted(float((rows[i] - rows[j]).double().square().sum()) for j in range(9) if j != i)
        assert math.isclose(score, sum(far[: 9 - f - 2]), rel_tol=1e-6)
    assert torch.equal(krum(rows, f), rows[krum_scores(rows, f).argmin()])


def test_trimmed_mean_and_median_by_coordinate() -> None:
    rows = updates()
    ordered = np.sort(rows.numpy(), 0)
    np.testing.assert_allclose(trimmed_mean(rows, 2), ordered[2:7].mean(0), rtol=1e-6)
    np.testing.assert_allclose(median(rows), np.median(rows, 0), rtol=1e-6)
    np.testing.assert_allclose(median(rows[:8]), np.median(rows[:8], 0), rtol=1e-6)


def test_geometric_median_has_the_least_sum_of_distances() -> None:
    rows, rng = updates().double(), np.random.default_rng(1)
    best = geometric_median(rows)
    least = float((rows - best).norm(dim=1).sum())
    for _ in range(50):
        other = best + torch.from_numpy(rng.normal(size=7)) * 0.03
        assert float((rows - other).norm(dim=1).sum()) > least
    assert torch.equal(geometric_median(torch.ones(4, 3)), torch.ones(3))


@pytest.mark.parametrize("rule", [r for r in AGGREGATIONS if r != "mean"])
def test_robust_rules_stay_among_honest_updates(rule: Any) -> None:
    """Two of nine send something a million times as far away; the mean follows them."""
    honest, lies = updates(7), torch.full((2, 7), 1e6)
    rows = torch.cat([honest, lies])
    made = aggregate(rule, rows, torch.ones(9), 2)
    assert float((made - honest.mean(0)).norm()) < 2 * float(honest.norm(dim=1).max())
    assert float(aggregate("mean", rows, torch.ones(9), 2).norm()) > 1e5


@pytest.mark.parametrize("f", [0, 1, 2])
def test_as_flower_does(f: int) -> None:
    """Flower's own functions, where it is installed."""
    flower = pytest.importorskip(
        "flwr.server.strategy.aggregate", reason="flwr is not installed here"
    )
    rows = updates(9, 12, seed=f)
    sent = [([row.numpy()[:5], row.numpy()[5:].reshape(7, 1)], 1) for row in rows]

    def whole(parts: list[np.ndarray]) -> np.ndarray:
        return np.concatenate([part.ravel() for part in parts])

    for mine, theirs in (
        ("krum", flower.aggregate_krum(sent, f, 0)),
        ("multi-krum", flower.aggregate_krum(sent, f, 9 - f)),
        ("trimmed-mean", flower.aggregate_trimmed_avg(sent, f / 9 + 1e-9)),
        ("median", flower.aggregate_median(sent)),
        ("mean", flower.aggregate(sent)),
    ):
        made = aggregate(mine, rows, torch.ones(9), f)  # type: ignore[arg-type]
        np.testing.assert_allclose(made, whole(theirs), rtol=1e-5, atol=1e-6)


# What flwr 1.42.0 gives for the updates k = 7, d = 3 of seed 5 with f = 2 (see the docs page).
FLOWER = {
    "krum": [-0.62928808, -0.48800582, -0.71331340],
    "multi-krum": [-0.65911132, -0.30895895, -0.25328976],
    "trimmed-mean": [-0.66128898, -0.09964442, -0.28398955],
    "median": [-0.62928808, -0.08369619, -0.24836162],
}


@pytest.mark.parametrize("rule", list(FLOWER))
def test_as_flower_did(rule: Any) -> None:
    """The same, written down once, for where it is not installed."""
    made = aggregate(rule, updates(7, 3, seed=5), torch.ones(7), 2)
    np.testing.assert_allclose(made, FLOWER[rule], rtol=1e-5)


def test_too_few_clients_are_refused_before_training() -> None:
    with pytest.raises(SpecError, match=r"'krum' needs ≥ 7 clients a round .* 2 liars, found 5"):
        build_defense({"name": "fedavg", "clients": 5, "aggregation": "krum", "liars": 2})
    with pytest.raises(ValueError, match="'trimmed-mean' needs ≥ 5"):
        aggregate("trimmed-mean", updates(4), torch.ones(4), 2)


# -- partitions -------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["uniform", "labels", "communities"])
def test_every_node_has_a_client(how: Any) -> None:
    owner = partition(BLOCKS, how, 4, 0.5, Rng(0))
    assert owner.shape == (90,)
    assert 0 <= int(owner.min()) <= int(owner.max()) < 4
    assert torch.equal(owner, partition(BLOCKS, how, 4, 0.5, Rng(0)))
    if how == "uniform":
        assert owner.bincount().max() - owner.bincount().min() <= 1


def test_partitions_do_what_they_say() -> None:
    def inside(how: Any) -> float:
        owner = partition(BLOCKS, how, 3, 0.5, Rng(1))
        u, v = BLOCKS.pairs
        return float((owner[u] == owner[v]).double().mean())

    def evenness(skew: float) -> float:
        owner = partition(BLOCKS, "labels", 3, skew, Rng(1))
        assert BLOCKS.y is not None
        table = np.histogram2d(owner, BLOCKS.y, bins=(3, 3))[0]
        return float(table.std())

    assert inside("communities") > inside("uniform") + 0.2
    assert evenness(0.05) > 2 * evenness(100)
    with pytest.raises(ValueError, match="clients must be ≤ 90"):
        partition(BLOCKS, "uniform", 91, 0.5, Rng(0))


# -- training ---------------------------------------------------------------------------------


def test_one_client_is_plain_training() -> None:
    """With one client and one round FedAvg is training in one place, to rounding."""
    made = graphsec.fit(BLOCKS, GCN, {"name": "fedavg", "clients": 1, "local_steps": 12},
                        training=PLAIN)  # fmt: skip
    assert isinstance(made.model, Horizontal)
    again = graphsec.fit(BLOCKS, GCN, "none", training={**PLAIN, "epochs": 1})
    model = again.model
    with Rng(0)["defense"]["init"].scope():
        model = Recipe.of(GCN).model.build(Sizes.of(BLOCKS))
    train_model(model, BLOCKS, Recipe.of(GCN, PLAIN).training, Rng(0))
    for mine, plain in zip(made.model.parts[0].parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-4, atol=1e-6)


def test_one_local_step_with_all_edges_is_a_step_on_all_nodes() -> None:
    """E = 1, plain SGD, cross edges kept: the mean by training nodes is the whole gradient."""
    fields = {"name": "fedavg", "clients": 3, "local_steps": 1, "cross": True}
    made = graphsec.fit(BLOCKS, GCN, fields, training=PLAIN)
    whole = graphsec.fit(BLOCKS, GCN, "none", training=PLAIN)
    torch.testing.assert_close(made.logits(BLOCKS), whole.logits(BLOCKS), rtol=1e-3, atol=1e-4)


def test_answers_see_no_edges_between_clients() -> None:
    made = graphsec.fit(BLOCKS, GCN, {"name": "fedavg", "clients": 3}, training=PLAIN)
    assert isinstance(made.model, Horizontal)
    owner = made.model.owner
    for client in range(3):
        nodes = (owner == client).nonzero().ravel()
        part = BLOCKS.subgraph(nodes)
        assert part.x is not None
        with torch.no_grad():
            alone = made.model.parts[0](part.x, part.adj)
        torch.testing.assert_close(made.logits(BLOCKS, nodes), alone, rtol=1e-4, atol=1e-5)


def test_fedper_shares_all_but_the_last_layer() -> None:
    made = graphsec.fit(
        BLOCKS, GCN, {"name": "fedper", "clients": 3, "partition": "uniform", "keep": None},
        training=PLAIN,
    )  # fmt: skip
    assert isinstance(made.model, Horizontal)
    first, second = (dict(made.model.parts[i].named_parameters()) for i in (0, 1))
    assert torch.equal(first["weight.0"], second["weight.0"])
    assert not torch.equal(first["weight.1"], second["weight.1"])
    sent = {name for r in made.trace.releases for name in r.tensors}
    assert sent == {"weight.0", "bias.0"}


@pytest.mark.parametrize("name", ["gat", "sage", "gin", "appnp", "gcnii", "sgc", "gprgnn", "mlp"])
def test_other_models(name: str) -> None:
    """FedAvg trains them, and the last layer of those with two can be kept."""
    for kind in ("fedavg", "fedper"):
        made = graphsec.fit(
            BLOCKS, name, {"name": kind, "clients": 2, "partition": "uniform"},
            training={"epochs": 5, "patience": None, "select": "last"},
        )  # fmt: skip
        assert torch.isfinite(made.logits(BLOCKS)).all()


def test_last_layers_by_name() -> None:
    def names(model: str, layers: int) -> set[str]:
        made = MODELS.build(model).build(Sizes(90, 12, 3))
        return set(personal_names(made, layers))

    assert names("gcn", 1) == {"weight.1", "bias.1"}
    assert {n.split(".")[-1] for n in names("gat", 1)} == {"1"}
    with pytest.raises(ValueError, match="personal must be < 2"):
        names("gcn", 2)


def test_clients_that_are_not_asked_send_nothing() -> None:
    made = graphsec.fit(
        BLOCKS, GCN, {"name": "fedavg", "clients": 4, "participation": 0.5}, training=PLAIN
    )
    for index, of in itertools.groupby(made.trace.releases, key=lambda r: r.round):
        senders = [r.sender for r in of if r.sender != "server"]
        assert len(senders) == len(set(senders)) == 2, index
    assert made.trace.cost["rounds"] == 3


def test_what_leaves_a_client_is_an_update() -> None:
    """Nothing but weights and their changes is in the transcript: no features, labels, indices."""
    made = graphsec.fit(BLOCKS, GCN, {"name": "fedavg", "clients": 3, "keep": None}, training=PLAIN)
    shapes = {n: tuple(p.shape) for n, p in made.model.parts[0].named_parameters()}  # type: ignore[union-attr,index]
    for release in made.trace.releases:
        assert release.topic == ("weights" if release.sender == "server" else "update")
        assert {n: tuple(t.shape) for n, t in release.tensors.items()} == shapes


def _server(meddle: Any = None, rule: Any = "mean", liars: int = 0) -> Coordinator:
    defense: Any = build_defense({"name": "fedavg", "clients": 3, "partition": "uniform"})
    recipe = Recipe.of(GCN, PLAIN)
    with Rng(0)["init"].scope():
        model = defense.predictor(recipe, Sizes.of(BLOCKS)).model
    model.owner.copy_(partition(BLOCKS, "uniform", 3, 1, Rng(0)))
    clients: list[Client] = defense._clients(model, BLOCKS, recipe, Rng(0), defense)
    transport: Any = InProcess(clients)
    if meddle is not None:
        transport = Meddling(transport, meddle=meddle)
    return Coordinator(
        clients[0].shared(), [c.samples for c in clients], rule, liars, 1.0, transport,
        Rng(0)["server"], Transcript(None),
    )  # fmt: skip


def _forged(**changes: Any) -> Any:
    def meddle(party: int, request: bytes, reply: bytes) -> list[bytes]:
        message = Message.decode(reply, f"party:{party}")
        fields = {name: getattr(message, name) for name in ("sender", "receiver", "round", "kind")}
        tensors = dict(message.tensors)
        for name, value in changes.items():
            if name in tensors:
                tensors[name] = value(tensors[name])
            else:
                fields[name] = value
        return [reply if party else Message(**fields, tensors=tensors).encode()]

    return meddle


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"round": 7}, "party:0: round must be 0, found 7"),
        ({"kind": "gradient"}, "party:0: kind must be 'update', found 'gradient'"),
        ({"bias.0": lambda t: t[:3]}, r"party:0: tensors.bias.0 must be torch.float32 of shape"),
        ({"bias.0": lambda t: t * math.nan}, "party:0: tensors.bias.0 must be finite, found 8 NaN"),
        ({"sender": "party:2"}, "party:0: sender must be 'party:0', found 'party:2'"),
    ],
)  # fmt: skip
def test_lies_that_break_a_rule_are_refused_by_name(changes: Any, rule: str) -> None:
    server, honest = _server(_forged(**changes)), _server()
    server.round()
    honest.round()
    assert [i.what for i in server.incidents] == ["refused"]
    assert rule.replace("\\", "") in server.incidents[0].reason
    assert not honest.incidents
    assert all(torch.isfinite(t).all() for t in server.weights.values())


def test_training_goes_on_when_too_few_answer_for_the_rule() -> None:
    server = _server(lambda party, request, reply: [] if party else [reply], "trimmed-mean", 1)
    before = {name: t.clone() for name, t in server.weights.items()}
    server.round()
    assert [i.what for i in server.incidents] == ["absent", "absent"]
    assert all(torch.equal(t, before[name]) for name, t in server.weights.items())
    assert server.next == 1


def test_compositions_release_and_harden() -> None:
    """Each client's update is clipped, and the aggregation of all parts is replaced."""
    made = graphsec.fit(
        BLOCKS, GCN,
        [{"name": "fedavg", "clients": 3, "keep": None}, {"name": "clip-gradients", "norm": 0.01},
         "soft-median"],
        training=PLAIN,
    )  # fmt: skip
    assert isinstance(made.model, Horizontal)
    assert made.model.parts[0].aggregate.keywords  # type: ignore[union-attr]
    for release in made.trace.releases:
        if release.topic == "update":
            total = sum(float(t.square().sum()) for t in release.tensors.values())
            assert math.sqrt(total) <= 0.01 * (1 + 1e-5)


@pytest.mark.parametrize(
    ("training", "word"),
    [({"local_steps": 2, "optimizer": "sgd"}, "local_steps"), ({"expose": 1}, "expose"),
     ({"select": "loss"}, "select")],
)  # fmt: skip
def test_recipes_that_do_not_fit_are_refused(training: dict[str, Any], word: str) -> None:
    with pytest.raises(SpecError, match=word):
        graphsec.fit(BLOCKS, GCN, "fedavg", training=training)


def test_pruners_see_validation() -> None:
    seen: list[dict[str, float]] = []

    def stop(epoch: int, figures: dict[str, float]) -> bool:
        seen.append(figures)
        return epoch == 1

    made = graphsec.fit(BLOCKS, GCN, {"name": "fedavg", "clients": 2}, training=PLAIN,
                        on_epoch=stop)  # fmt: skip
    assert made.trace.cost["rounds"] == 2
    assert 0 <= seen[0]["val_accuracy"] <= 1


# -- clients that lie -------------------------------------------------------------------------


def _mean(rows: Tensor) -> Tensor:
    return rows.mean(0)


def test_what_liars_send() -> None:
    honest, own, rng = updates(7), updates(2, seed=1), Rng(0)
    assert torch.equal(SignFlip(scale=2)(honest, own, _mean, rng), -2 * own)
    ipm = InnerProduct(scale=0.5)(honest, own, _mean, rng)
    torch.testing.assert_close(ipm, -0.5 * honest.mean(0).expand(2, -1))
    alie = ALittle()(honest, own, _mean, rng)
    wanted = honest.mean(0) - little_z(9, 2) * honest.std(0, correction=0)
    torch.testing.assert_close(alie, wanted.expand(2, -1))
    noise = Noise(scale=5)(honest, torch.zeros(2, 4000), _mean, rng)
    assert float(noise.norm(dim=1).mean()) == pytest.approx(
        5 * float(honest.norm(dim=1).mean()), rel=0.05
    )


def test_z_of_a_little() -> None:
    """The example of the paper: 50 clients, 24 liars: s = 2, Φ(z) = 24 / 26."""
    assert little_z(50, 24) == pytest.approx(1.4261, abs=1e-3)
    assert little_z(10, 1) == 0  # too few to hide anything


@pytest.mark.parametrize("rule", ["krum", "trimmed-mean", "median", "multi-krum"])
def test_who_knows_the_rule_moves_it_furthest(rule: Any) -> None:
    """At equal numbers tailored lies move the aggregate further back than those that are not."""
    honest = updates(8, 30) * 0.5 + 1
    own = honest[:2]

    def server(rows: Tensor) -> Tensor:
        return aggregate(rule, rows, torch.ones(len(rows)), 2)

    def moved(forge: Any) -> float:
        made = server(torch.cat([honest, forge(honest, own, server, Rng(0))]))
        mean = honest.mean(0)
        return float((made - mean) @ -mean / mean.norm())

    others = [moved(f) for f in (SignFlip(), Noise(), InnerProduct(), ALittle())]
    assert moved(Tailored(steps=40)) >= max(others) - 1e-5


def test_min_max_stays_as_near_as_honest_updates_are() -> None:
    honest = updates(8, 30)
    sent = Tailored(knows=False)(honest, honest[:2], _mean, Rng(0))[0]
    widest = float(torch.cdist(honest, honest).max())
    far = float((honest - sent).norm(dim=1).max())
    assert 0.99 * widest < far <= widest * (1 + 1e-5)


def _attacked(attack: Any, defense: dict[str, Any], clients: Any = 2, seed: int = 0) -> float:
    fields = {"name": "fedavg", "clients": 7, "partition": "uniform", "cross": True, **defense}
    data = {"name": "dc-sbm", "num_nodes": 240, "split": {"fractions": [0.6, 0.1, 0.3]}}
    made = graphsec.run(graphsec.Cell(
        dataset=data, model=GCN, defense=fields, attack=attack, seed=seed,
        threat={"budget": {"clients": clients}},
        training={"epochs": 40, "lr": 0.03, "weight_decay": 0.0},
    ))  # fmt: skip
    assert made.status == "done", made.reason
    assert made.value("clients_taken") == (2 if clients else 0)
    return made.value("accuracy_drop")


def test_the_mean_breaks_and_the_median_holds() -> None:
    flip = {"name": "byzantine-sign-flip", "scale": 10}
    assert _attacked(flip, {}) > 0.2
    assert _attacked(flip, {"aggregation": "median"}) < 0.1
    assert _attacked(flip, {}, clients=0) == 0


def test_attacks_need_a_federation_and_keep_to_their_clients() -> None:
    cell = graphsec.Cell(dataset="dc-sbm", attack="alie", threat={"budget": {"clients": 1}})
    made = graphsec.run(cell)
    assert made.status == "skipped"
    assert "takes over clients of a federation" in made.reason
    victim = graphsec.fit(BLOCKS, GCN, {"name": "fedavg", "clients": 5}, training=PLAIN)
    threat = Threat.of({"budget": {"clients": 0.4}}).resolve(graphsec.attacks.Attack())
    threat.check(Takeover(clients=2, forge=SignFlip()), BLOCKS, victim)
    with pytest.raises(BudgetExceeded, match=r"budget\.clients allows 2 clients, .* has 3"):
        threat.check(Takeover(clients=3, forge=SignFlip()), BLOCKS, victim)


def test_budgets_without_clients_keep_their_spec() -> None:
    """Keys of cells from before there were clients."""
    assert "clients" not in Threat.of({"budget": {"edges": 3}}).spec()["budget"]
    assert Threat.of({"budget": {"clients": 3}}).spec()["budget"]["clients"] == 3


def test_liars_alone_are_honest() -> None:
    """Without an honest update there is nothing to hide behind: replies pass as they are."""
    server = _server()
    inner = server.transport
    server.transport = Lying(inner, frozenset(range(3)), SignFlip(), _mean, Rng(0))
    plain = _server()
    server.round()
    plain.round()
    assert all(torch.equal(t, plain.weights[n]) for n, t in server.weights.items())
