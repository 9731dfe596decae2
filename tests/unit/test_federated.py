"""Vertical federations: what is said, what it adds up to, and who is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import graphsec
from graphsec.federated import (
    Federation,
    Meddling,
    Message,
    Protocol,
    Refused,
    Sketch,
    Transport,
    Vertical,
    composed_laplace,
    composed_ternary,
    owners,
    ternary,
)
from graphsec.graph import Graph
from graphsec.metrics import hits, recall
from graphsec.models.base import Sizes
from graphsec.models.rating import Rater
from graphsec.rating import batch_loss, rated_pairs
from graphsec.registry import DEFENSES, SpecError
from graphsec.rng import Rng
from graphsec.testing import tiny_rankings, tiny_ratings
from graphsec.threat import AccessDenied, Threat
from graphsec.train import Recipe, Release

GRAPH = tiny_ratings()["tastes"]
BACKBONES = ["rating-gcn", "rating-gat", "rating-ggnn", "rating-lightgcn"]
PLAIN: dict[str, Any] = {"projection": 0.0, "quantise": False}


def federation(
    model: str = "rating-lightgcn",
    parties: int = 3,
    epochs: int = 3,
    steps: int = 2,
    around: Callable[[Transport], Transport] = lambda transport: transport,
    layers: int = 2,
    graph: Graph = GRAPH,
    **fields: Any,
) -> Federation:
    """A federation on a tiny graph."""
    spec = {"name": model, "layers": layers}
    batch = -(-graph.num_edges // steps)
    recipe = Recipe.of(spec, {"epochs": epochs, "batch_size": batch})
    defense = DEFENSES.build({"name": "verfedgnn", "parties": parties, **fields})
    protocol = defense.protocol(graph, recipe, 7)
    owner = owners(graph.num_nodes - graph.num_users, parties, Rng(0)["items"])
    return Federation(graph, owner, protocol, Rng(0)["fed"], around=around)


def joined(made: Federation, graph: Graph = GRAPH) -> Vertical:
    """The model of a federation."""
    p = made.protocol
    parts = []
    for count in p.items:
        part = p.recipe.model.build(Sizes(p.users + count, 0, 1, p.users))
        assert isinstance(part, Rater)
        parts.append(part)
    model = Vertical(parts, made.owner, p.users, p.exchange, p.rows, p.degrees == "shared")
    made.into(model)
    return model


@cache
def trained() -> Federation:
    """One that ran to its end, for tests that only read."""
    made = federation()
    made.run()
    return made


def weights(made: Federation) -> dict[str, Tensor]:
    """All parameters of all parties, and the server's."""
    found = {f"server/{n}": p for n, p in made.server.public.items()}
    for party in made.parties:
        found |= {f"{party.name}/{n}": p for n, p in party.model.state_dict().items()}
    return found


def assert_same(a: Federation, b: Federation) -> None:
    """Bit for bit the same parameters."""
    for name, value in weights(a).items():
        assert torch.equal(value, weights(b)[name]), name


# -- messages and mechanisms ------------------------------------------------------------------


def test_messages_survive_the_way() -> None:
    """Bytes and back, with values of two bits where they are ternary."""
    signs = torch.tensor([[1, 0, -1], [0, -1, 1]], dtype=torch.int8)
    real = torch.randn(4, 2)
    message = Message(
        sender="party:1", receiver="server", round=3, kind="gradient",
        tensors={"a": signs, "b": real, "c": torch.zeros(0, 2), "d": torch.tensor([2.5]).double()},
    )  # fmt: skip
    content = message.encode()
    back = Message.decode(content, "party:1")
    assert (back.sender, back.round, back.kind, back.layer) == ("party:1", 3, "gradient", -1)
    assert back.fields == message.fields
    for name, value in message.tensors.items():
        assert torch.equal(back.tensors[name], value)
    header = int.from_bytes(content[:4], "little")
    assert len(content) == 4 + header + 2 + 4 * 8 + 0 + 8  # six signs fit two bytes


@pytest.mark.parametrize("content", [b"", b"\x00" * 40, b"\xff" * 100, b"junk, not a message"])
def test_garbage_is_refused(content: bytes) -> None:
    """Whatever the bytes are, the error says who sent them."""
    with pytest.raises(Refused, match="party:4: content must be a message"):
        Message.decode(content, "party:4")


def test_forged_senders_are_refused() -> None:
    """The transport knows who is speaking; a message can't be signed by somebody else."""
    content = Message(sender="party:2", receiver="server", round=0, kind="ready").encode()
    with pytest.raises(Refused, match=r"party:1: sender must be 'party:1', found 'party:2'"):
        Message.decode(content, "party:1")


def test_quantised_gradients_are_unbiased() -> None:
    """The mean of many is the clamped gradient, within four standard errors."""
    gradient = torch.tensor([-2.0, -0.5, -0.1, 0.0, 0.02, 0.3, 0.5, 7.0])
    draws = 20_000
    many = ternary(gradient.repeat(draws, 1), 0.5, 3.0, Rng(0)["draw"]).double() * 3
    wanted = gradient.clamp(-0.5, 0.5).double()
    error = (3 * wanted.abs() / draws).sqrt()
    assert ((many.mean(0) - wanted).abs() <= 4 * error).all()
    assert set(many.flatten().tolist()) == {-3.0, 0.0, 3.0}


def test_decoded_projections_are_unbiased() -> None:
    """Over projections, the mean of Φᵀ Φ E is E, within four standard errors."""
    sums = torch.randn(40, 3, generator=Rng(1).torch()).double()
    draws = []
    for i in range(3000):
        sketch = Sketch.drawn(40, 8, Rng(2)[i])
        draws.append(sketch.decode(sketch.encode(sums)))
    many = torch.stack(draws)
    error = many.std(0) / len(draws) ** 0.5
    assert ((many.mean(0) - sums).abs() <= 4.5 * error).all()
    # The variance of an entry is the sum of the other rows' squares over the number of rows.
    wanted = (sums.square().sum(0) - sums.square()) / 8
    torch.testing.assert_close(many.var(0), wanted, rtol=0.25, atol=0.05)


def test_composed_figures_promise_nothing() -> None:
    """δ of a real training is 1, ε in the millions."""
    assert composed_ternary(0.5, 3.0, 1, 1) == pytest.approx(1 / 6)
    assert composed_ternary(0.5, 3.0, 943 * 7, 600) == 1.0
    assert composed_laplace(0.5, 1.0, 943 * 7, 600) > 1e6


# -- algebra ----------------------------------------------------------------------------------


@pytest.mark.parametrize("model", BACKBONES)
def test_one_party_is_plain_training(model: str) -> None:
    """Full batches at a single party: what the server and it do is what one process does.

    Few epochs: Adagrad makes steps of rounding errors where gradients are nearly 0.
    """
    made = federation(model, parties=1, epochs=3, steps=1, **PLAIN)
    recipe = Recipe.of({"name": model, "layers": 2}, {"epochs": 3, "batch_size": None})
    with torch.no_grad():
        start = made.parties[0].model.state_dict()
        start = {name: value.clone() for name, value in start.items()}
        for name, value in made.server.public.items():
            if name in ("table", "bias"):
                start[name][: GRAPH.num_users] = value
            else:
                start[name] = value.clone()
    plain = recipe.model.build(Sizes.of(GRAPH))
    # The one party's items are in another order only if the partition says so; it does not.
    plain.load_state_dict(start)
    from graphsec.train import fit

    fit(plain, GRAPH, recipe.training, Rng(5))
    made.run()
    wanted, found = plain.state_dict(), made.parties[0].model.state_dict()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model", ["rating-gcn", "rating-ggnn", "rating-lightgcn"])
def test_states_are_those_of_the_whole_graph(model: str) -> None:
    """With shared degrees and plain sums, parties see what a model of the whole graph computes."""
    made = federation(model, degrees="shared", **PLAIN)
    made.run(4)
    made.server.finish()
    joint = joined(made)
    whole = made.protocol.recipe.model.build(Sizes.of(GRAPH))
    state = {n: p.clone() for n, p in made.server.public.items()}
    for name in ("table", "bias"):
        rows = torch.zeros(GRAPH.num_nodes, state[name].shape[1])
        rows[: GRAPH.num_users] = state[name]
        for index, party in enumerate(made.parties):
            mine = (made.owner == index).nonzero().ravel() + GRAPH.num_users
            rows[mine] = party.model.state_dict()[name][GRAPH.num_users :]
        state[name] = rows
    whole.load_state_dict(state)
    x = torch.zeros(GRAPH.num_nodes, 0)
    assert GRAPH.holdout is not None
    pairs = torch.cat([GRAPH.holdout.test, GRAPH.pairs], 1)
    with torch.no_grad():
        wanted = whole.decode(whole(x, GRAPH.adj), pairs)
        torch.testing.assert_close(
            joint.decode(joint(x, GRAPH.adj), pairs), wanted, rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("model", BACKBONES)
def test_gradients_are_those_with_the_others_sums_held(model: str) -> None:
    """One round of three parties against one autograd graph in which only those are constants."""
    made = federation(model, steps=1, epochs=1, **PLAIN)
    before = {n: p.clone() for n, p in made.server.public.items()}
    parts: list[Rater] = []
    states: list[list[Tensor]] = []
    operators = []
    for party in made.parties:
        part = made.protocol.recipe.model.build(Sizes.of(party.graph))
        assert isinstance(part, Rater)
        part.load_state_dict(party.model.state_dict())
        with torch.no_grad():
            for name, p in part.named_parameters():
                (p[: GRAPH.num_users] if name in ("table", "bias") else p).copy_(before[name])
        parts.append(part)
        states.append([part.table])
        operators.append(part.operator(replace(party.graph.adj, degree=party.degree)))
    for layer in range(2):
        sums = [p.gather(layer, s[-1], o) for p, s, o in zip(parts, states, operators, strict=True)]
        for i, (part, state) in enumerate(zip(parts, states, strict=True)):
            rest = [s[: GRAPH.num_users].detach() for j, s in enumerate(sums) if j != i]
            others = torch.stack(rest).sum(0)
            whole = sums[i] + torch.cat([others, torch.zeros_like(sums[i][GRAPH.num_users :])])
            state.append(part.update(layer, state[-1], whole))
    loss = torch.zeros(())
    decay = made.protocol.recipe.training.weight_decay
    for part, state, party in zip(parts, states, made.parties, strict=True):
        pairs, y = rated_pairs(party.graph)
        loss = loss + batch_loss(part, part.read(state), pairs, y, decay)
    loss.backward()  # type: ignore[no-untyped-call]
    made.run(1)
    for name, after in made.server.public.items():
        shared = name in ("table", "bias")
        gradients = [dict(p.named_parameters())[name].grad for p in parts]
        total = sum(
            torch.zeros_like(after) if g is None else g[: GRAPH.num_users] if shared else g
            for g in gradients
        )
        assert isinstance(total, Tensor)
        step = total / (total.abs() + 1e-10) * made.protocol.recipe.training.lr
        torch.testing.assert_close(after, before[name] - step, rtol=1e-4, atol=1e-6)


# -- the transcript ---------------------------------------------------------------------------


def told(made: Federation) -> list[Release]:
    """All messages."""
    return made.transcript.releases


def test_only_what_the_protocol_says_leaves_a_party() -> None:
    """By shape: nothing has as many rows as there are items or ratings; by kind: two kinds."""
    made = trained()
    users, rows, width = 30, 6, 6
    sent = [m for m in told(made) if m.sender != "server"]
    assert {m.topic for m in sent} == {"sums", "gradient", "ready"}
    for message in sent:
        assert message.receiver == "server"
        shapes = {name: (kind, shape) for name, kind, shape in message.fields}
        if message.topic == "sums":
            assert shapes == {"sums": ("float32", (rows, width))}
        elif message.topic == "gradient":
            assert shapes == {
                "table": ("ternary", (users, width)),
                "bias": ("ternary", (users, 1)),
                "offset": ("ternary", (1,)),
            }
        else:
            assert shapes == {}


def test_no_item_rating_or_number_of_an_item_is_said() -> None:
    """By content: no row of an item's table, no rating, no list of items, in any message."""
    seen: list[tuple[str, set[bytes]]] = []
    made = federation()

    def rows_of(table: Tensor) -> set[bytes]:
        return {row.tobytes() for row in table.detach().numpy()}

    users = made.protocol.users
    for party in made.parties:
        seen.append((party.name, rows_of(party.model.table[users:])))
    for stop in range(1, made.protocol.rounds + 1):
        made.run(stop)
        for party in made.parties:
            seen.append((party.name, rows_of(party.model.table[users:])))
    assert GRAPH.edge_y is not None
    assert len(told(made)) > 100
    for message in told(made):
        for name, tensor in message.tensors.items():
            values = tensor.reshape(-1, tensor.shape[-1]).contiguous().numpy()
            said = {row.tobytes() for row in values}
            for owner, items in seen:
                assert not said & items, (message.topic, name, owner)
            if message.sender != "server":  # real numbers here are no whole numbers, nor ternary
                whole = tensor.float() == tensor.float().round()
                allowed = tensor.dtype == torch.int8 or (tensor == 0)[whole].all()
                assert allowed, (message.topic, name)


def test_views_see_what_their_position_sees() -> None:
    """The server everything it sends or receives, a party its own, an outsider nothing."""
    predictor = graphsec.fit(
        GRAPH, "rating-lightgcn", {"name": "verfedgnn", "parties": 3}, training={"epochs": 2}
    )
    graph = GRAPH

    def view(position: str, access: tuple[str, ...] = ("transcript",)) -> list[Release]:
        threat = Threat(access=access, position=position, timing="inference")
        return threat.open(predictor, graph, Rng(0)).releases()

    wire, server, one = view("wire"), view("server"), view("party:1")
    assert len(wire) == len(server) > len(one) > 0
    assert all("party:1" in (m.sender, m.receiver) for m in one)
    assert view("outside") == []
    with pytest.raises(AccessDenied):
        view("server", ("scores",))
    assert predictor.privacy is None

    def agreed(position: str) -> dict[str, Any]:
        threat = Threat(access=("transcript",), position=position, timing="inference")
        return threat.open(predictor, graph, Rng(0)).agreed

    assert Protocol.of(agreed("party:1")).sketch(0) is not None
    assert set(agreed("server")) - set(agreed("wire")) == {"seed"}


def test_bytes_are_counted() -> None:
    """Per party and round: what the encoded messages weigh, checked by hand."""
    made = trained()
    traffic = made.transcript.traffic()
    signs = -(-30 * 6 // 4) + -(-30 // 4) + 1
    numbers = 2 * 6 * 6 * 4
    up = traffic["party:1", "server", 2]
    headers = [m for m in told(made) if (m.sender, m.round) == ("party:1", 2)]
    overhead = 0
    for message in headers:
        kind = Message(
            sender="party:1", receiver="server", round=2, kind=message.topic,
            layer=message.layer, tensors=message.tensors,
        )  # fmt: skip
        content = kind.encode()
        overhead += 4 + int.from_bytes(content[:4], "little")
    assert up == overhead + signs + numbers
    cost = made.trace().cost
    total = sum(size for (_, to, _), size in traffic.items() if to == "server")
    assert cost["bytes_up"] == pytest.approx(total / (made.protocol.rounds * 3))


def test_tensors_are_kept_as_long_as_asked() -> None:
    """Headers of all rounds, tensors of the first two."""
    made = federation()
    made.transcript.keep = 2
    made.run()
    assert all(bool(m.tensors) == (m.round < 2) for m in told(made) if m.fields)


def test_degrees_are_said_only_where_they_are_shared() -> None:
    """And then as plain counts, which the docs warn of."""
    made = federation(degrees="shared")
    made.run(1)
    degrees = [m for m in told(made) if m.topic == "degrees" and m.sender == "party:0"]
    assert torch.equal(degrees[0].tensors["degree"], made.parties[0].graph.degree[:30].float())
    assert not [m for m in told(trained()) if m.topic == "degrees"]


# -- parties that fail or lie -----------------------------------------------------------------


def _of(content: bytes) -> Message:
    return Message.decode(content, "server")


def test_a_party_that_is_away_returns() -> None:
    """Rounds 1 and 2 go on without it, and say so; afterwards it takes part again."""

    def around(inner: Transport) -> Transport:
        return Meddling(
            inner, away=lambda party, request: party == 2 and _of(request).round in (1, 2)
        )

    made = federation(around=around)
    made.run()
    assert [(i.round, i.party, i.what) for i in made.server.incidents] == [
        (1, "party:2", "absent"), (2, "party:2", "absent"),
    ]  # fmt: skip
    rounds = {m.round for m in told(made) if m.sender == "party:2" and m.topic == "gradient"}
    assert rounds == {0, 3, 4, 5}
    assert made.trace().cost["absent"] == 2
    assert "party:2 did not answer 'public' in time" in made.trace().incidents[0]
    assert all(torch.isfinite(w).all() for w in weights(made).values())


def test_one_of_five_dies() -> None:
    """From the middle of round 3 on a party is gone: the model is finished all the same."""

    def away(party: int, request: bytes) -> bool:
        message = _of(request)
        return party == 4 and (message.round > 3 or (message.round == 3 and message.layer >= 0))

    made = federation(parties=5, around=lambda inner: Meddling(inner, away=away))
    made.run()
    assert made.server.next == made.protocol.rounds
    away_in = {i.round for i in made.server.incidents if i.party == "party:4"}
    assert away_in == {3, 4, 5, 6}  # 6: the last parameters are sent to everybody


def lying(change: Callable[[Message], Message], at: int = 2) -> Federation:
    """Party 1 changes its gradient of a round; the training runs to its end."""

    def meddle(party: int, request: bytes, reply: bytes) -> list[bytes]:
        message = Message.decode(reply, f"party:{party}")
        if party == 1 and message.round == at and message.kind == "sums" and message.layer == 0:
            return [change(message).encode()]
        return [reply]

    made = federation(around=lambda inner: Meddling(inner, meddle=meddle))
    made.run()
    assert made.server.next == made.protocol.rounds
    assert all(torch.isfinite(w).all() for w in weights(made).values())
    return made


def _tensors(message: Message, sums: Tensor) -> Message:
    return replace(message, tensors={"sums": sums})


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (
            lambda m: _tensors(m, m.tensors["sums"] * torch.nan),
            r"tensors.sums must be finite, found 36 NaN",
        ),
        (
            lambda m: _tensors(m, m.tensors["sums"][:3]),
            r"tensors.sums must have shape \(6, 6\), found \(3, 6\)",
        ),
        (lambda m: _tensors(m, m.tensors["sums"].double()), r"tensors.sums must be torch.float32"),
        (lambda m: replace(m, tensors={}), r"tensors must be \['sums'\], found \[\]"),
        (lambda m: replace(m, round=1), "round must be 2, found 1: a replayed or late message"),
        (lambda m: replace(m, round=9), "round must be 2, found 9: ahead of time"),
        (lambda m: replace(m, layer=1), "kind must be 'sums' of layer 0, found 'sums' of layer 1"),
        (lambda m: replace(m, receiver="party:0"), "receiver must be 'server', found 'party:0'"),
        (lambda m: replace(m, sender="party:0"), "sender must be 'party:1', found 'party:0'"),
    ],
)  # fmt: skip
def test_lies_are_refused_by_name(change: Callable[[Message], Message], rule: str) -> None:
    """Party, field and rule; the round goes on without the party, the next one with it."""
    made = lying(change)
    (incident,) = made.server.incidents
    assert (incident.round, incident.party, incident.what) == (2, "party:1", "refused")
    assert re.match(f"party:1: {rule}", incident.reason), incident.reason
    rounds = {m.round for m in told(made) if m.sender == "party:1" and m.topic == "gradient"}
    assert rounds == {0, 1, 3, 4, 5}


def test_late_messages_are_refused_and_not_used() -> None:
    """A reply that comes a round late is refused by its round; nothing hangs."""
    held: list[bytes] = []

    def meddle(party: int, request: bytes, reply: bytes) -> list[bytes]:
        message = Message.decode(reply, f"party:{party}")
        if party != 0 or message.kind != "gradient":
            return [reply]
        if message.round == 1:
            held.append(reply)
            return []
        return [held.pop(), reply] if held else [reply]

    made = federation(around=lambda inner: Meddling(inner, meddle=meddle))
    made.run()
    first, second = made.server.incidents
    assert (first.round, first.what) == (1, "absent")
    assert (second.round, second.what) == (2, "refused")
    assert "a replayed or late message" in second.reason
    rounds = [m.round for m in told(made) if m.sender == "party:0" and m.topic == "gradient"]
    assert rounds == [0, 2, 3, 4, 5]


def test_parties_refuse_the_server_too() -> None:
    """A replayed round, sums out of turn, parameters of another shape, another's mail."""
    party = federation().parties[0]
    server = federation().server
    sent = dict(server.public)
    ask = Message(sender="server", receiver="party:0", round=0, kind="public", tensors=sent)
    party.answer(ask)
    with pytest.raises(Refused, match=r"server: round must be > 0, found 0"):
        party.answer(ask)
    with pytest.raises(Refused, match=r"server: kind must be 'neighbours' of layer 0"):
        party.answer(replace(ask, kind="neighbours", layer=1))
    with pytest.raises(Refused, match=r"server: receiver must be 'party:0', got 'party:1'"):
        party.answer(replace(ask, receiver="party:1", round=1))
    with pytest.raises(Refused, match=r"server: tensors.table must have shape \(30, 6\)"):
        party.answer(replace(ask, round=1, tensors={**sent, "table": torch.zeros(3, 6)}))


# -- the rest of a training -------------------------------------------------------------------


def test_resumed_training_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    """Stopped after round 4 and gone on with by new objects, bit for bit."""
    whole = trained()
    first = federation()
    first.run(4)
    first.save(tmp_path)
    second = federation()
    second.resume(tmp_path)
    second.run()
    assert_same(whole, second)


def test_checkpoints_fit_together(tmp_path: Path) -> None:
    """A party's file of a later round is refused."""
    made = federation()
    made.run(2)
    made.save(tmp_path)
    made.run(4)
    from graphsec.federated.federation import write_whole

    write_whole(tmp_path / "party-1.pt", made.parties[1].state())
    with pytest.raises(ValueError, match=r"party-1\.pt must be of a round before 2"):
        federation().resume(tmp_path)


def test_partial_participation_scales_sums_and_gradients() -> None:
    """Two of four parties a round, others' sums scaled to all of the others' items."""
    made = federation(parties=4, participation=0.5)
    for round in range(6):
        assert len(made.server.asked(round)) == 2
    assert {tuple(made.server.asked(round)) for round in range(20)} != {(0, 1)}
    sums = {0: torch.ones(2, 2), 3: 2 * torch.ones(2, 2)}
    items = made.protocol.items
    out = made.server.others(sums)
    torch.testing.assert_close(out[0], 2 * torch.ones(2, 2) * (sum(items) - items[0]) / items[3])
    assert torch.equal(made.server.others({1: torch.ones(2, 2)})[1], torch.zeros(2, 2))
    made.run()
    assert not made.server.incidents


def test_a_party_needs_nothing_but_its_own() -> None:
    """Built from its graph, the protocol as JSON and its seed, it answers alike."""
    import json

    from graphsec.federated import Party
    from graphsec.federated.federation import seed_of

    made = federation()
    spec = json.loads(json.dumps(made.protocol.spec()))
    alone = Party(1, made.parties[1].graph, Protocol.of(spec), Rng(seed_of(Rng(0)["fed"], 1)))
    request = Message(
        sender="server", receiver="party:1", round=0, kind="public",
        tensors=dict(made.server.public),
    ).encode()  # fmt: skip
    assert alone.handle(request) == made.parties[1].handle(request)
    assert GRAPH.holdout is not None
    assert alone.graph.holdout is None
    assert alone.graph.num_nodes == 30 + made.protocol.items[1]


def test_parts_hold_every_rating_once() -> None:
    """The parties' edges and ratings are the graph's."""
    made = federation()
    found = {}
    for index, party in enumerate(made.parties):
        pairs, y = rated_pairs(party.graph)
        mine = (made.owner == index).nonzero().ravel()
        for user, item, rating in zip(
            pairs[0].tolist(), pairs[1].tolist(), y.tolist(), strict=True
        ):
            found[user, int(mine[item - 30]) + 30] = rating
    pairs, y = rated_pairs(GRAPH)
    assert found == dict(zip(map(tuple, pairs.T.tolist()), y.tolist(), strict=True))


@pytest.mark.parametrize(
    ("spec", "model", "rule"),
    [
        ({"name": "verfedgnn", "level": 0.1}, "rating-gcn", "level must be ≥ clip"),
        ({"name": "verfedgnn", "parties": 31}, "rating-gcn", "parties must be ≤ 30"),
        ("verfedgnn", "lightgcn", "needs a model that parties can share out"),
    ],
)
def test_wrong_specs_are_refused(spec: Any, model: str, rule: str) -> None:
    """Before anything is trained."""
    with pytest.raises(SpecError, match=rule):
        graphsec.fit(GRAPH, model, spec, training={"epochs": 1})


def test_records_say_what_it_cost() -> None:
    """Bytes, seconds and incidents are in the trace that records take their cost from."""
    cost = trained().trace().cost
    assert set(cost) == {
        "rounds", "seconds_per_round", "bytes_up", "bytes_down", "absent", "refused",
    }  # fmt: skip
    assert cost["rounds"] == 6
    assert np.isfinite(list(cost.values())).all()


def test_implicit_feedback_is_federated_too() -> None:
    """By BPR on the parties' own items: it ranks the training items far better than chance."""
    graph = tiny_rankings()["tastes"]
    spec = {"name": "verfedgnn", "parties": 3}
    training = {"epochs": 80, "batch_size": 70}
    predictor = graphsec.fit(graph, "rating-lightgcn", spec, training=training)
    users = torch.unique(graph.pairs[0])
    ranked = predictor.rank(graph, users, 6, exclude=graph.pairs[:, :0])
    found = recall(*hits(ranked, users, graph.pairs))
    assert found > 1.5 * 6 / 30
    numbers = graphsec.score(graphsec.attack("none", predictor, graph), graph, predictor)
    assert 0 < numbers["recall_at_20"].value <= 1


# -- across processes: what can be tested without Flower (the rest: test_flower.py) -------------


def test_flower_is_asked_for_before_work_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without flwr the cell is refused by name; TLS inside one process is, too."""
    from graphsec.defenses.federated import _vertical

    monkeypatch.setattr(_vertical, "find_spec", lambda name: None)
    with pytest.raises(SpecError, match=r"needs flwr for transport 'flower': pip install"):
        graphsec.fit(GRAPH, "rating-gcn", {"name": "verfedgnn", "transport": "flower"})
    with pytest.raises(SpecError, match="secure must be false with transport 'process'"):
        graphsec.fit(GRAPH, "rating-gcn", {"name": "fedgnn", "secure": True})


def test_sweeps_leave_the_transport_alone() -> None:
    """It changes no answer, and may not be there."""
    optuna = pytest.importorskip("optuna")
    from graphsec.sweep import suggest

    chosen = suggest(optuna.create_study().ask(), "verfedgnn", kind="defense")
    assert "level" in chosen
    assert not {"transport", "secure", "timeout"} & set(chosen)


def test_a_node_shows_its_ticket(tmp_path: Path) -> None:
    """Only who has a party's ticket, and its key where keys are registered, is that party."""
    from graphsec.federated.flower.processes import Processes

    made = Processes(tmp_path, 2, secure=False, patience=1.0, programs={})
    made.parties = dict.fromkeys(range(2))  # type: ignore[assignment]
    ticket = made.tickets[1]
    assert made._introduced(77, {"party": 1, "ticket": ticket}) == 1
    for said in ({}, {"party": 1}, {"party": 0, "ticket": ticket}, {"party": 1, "ticket": "ö"},
                 {"party": 5, "ticket": ticket}, {"party": "1", "ticket": ticket}):  # fmt: skip
        assert made._introduced(77, said) is None
    made.nodes = {1: 78}  # the node of party 1's key
    assert made._introduced(77, {"party": 1, "ticket": ticket}) is None


def test_a_partys_folder_is_enough(tmp_path: Path) -> None:
    """Packed and unpacked it answers alike; a state is kept, the newest before a round is found."""
    from graphsec.federated.federation import seed_of
    from graphsec.federated.flower import parts

    whole = federation()
    protocol = whole.protocol
    settings = parts.Settings(
        index=1, protocol=protocol.spec(), seed=seed_of(Rng(0)["fed"], 1), ticket="t"
    )
    parts.pack(tmp_path, whole.parties[1].graph, settings)
    party, _ = parts.unpack(tmp_path)
    for round in range(3):
        ask = Message(
            sender="server", receiver="party:1", round=round, kind="public",
            tensors=dict(whole.server.public),
        )  # fmt: skip
        assert party.handle(ask.encode()) == whole.parties[1].handle(ask.encode())
        parts.keep(tmp_path, party)
    assert sorted(path.name for path in tmp_path.glob("state-*")) == [
        "state-000001.pt", "state-000002.pt",
    ]  # fmt: skip
    found = parts.latest(tmp_path, before=2)
    assert found is not None
    assert found["round"] == 1
    parts.pack(tmp_path, whole.parties[1].graph, replace(settings, resume=2))
    assert parts.unpack(tmp_path)[0].round == 1
    parts.pack(tmp_path, whole.parties[1].graph, settings)
    assert parts.latest(tmp_path) is None
