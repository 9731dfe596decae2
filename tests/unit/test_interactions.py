"""Who took what: the game, what a transcript says of it, and how that is scored."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

import graphsec
from graphsec.attacks.interactions._known_users import look_up, scored, taken_by, weighted
from graphsec.attacks.interactions._transcript import error_sums, heard, in_batch, windows
from graphsec.attacks.interactions.de_anonymisation import operator
from graphsec.defenses.federated.verfedgnn import VerFedGNN
from graphsec.federated import Federation, Vertical, owners, part_of
from graphsec.federated.objectives import Errors
from graphsec.game import Interactions, Secret
from graphsec.graph import Graph
from graphsec.metrics import per_user_metrics
from graphsec.predict import Predictor
from graphsec.registry import SpecError
from graphsec.rng import Rng
from graphsec.testing import tiny_graphs, tiny_ratings
from graphsec.threat import Threat, View
from graphsec.train import Recipe

GRAPH = tiny_ratings()["tastes"]
USERS = GRAPH.num_users
GAME: dict[str, Any] = {"name": "interactions", "parties": 2, "reveal": 0.4}


@cache
def victim(**fields: Any) -> Predictor:
    """A federation of two on the tiny graph."""
    training = {"epochs": fields.pop("epochs", 30), "batch_size": 60, "weight_decay": 0.0}
    model = {"name": "rating-lightgcn", "layers": fields.pop("layers", 2)}
    defense = {"name": "verfedgnn", "parties": 2, **fields}
    return graphsec.fit(GRAPH, model, defense, training=training)


def played(**fields: Any) -> Secret:
    secret = graphsec.play({**GAME, **fields}, GRAPH)[1]
    assert secret is not None
    return secret


def view(predictor: Predictor, position: str, secret: Secret | None = None) -> View:
    threat = Threat(access=("transcript", "partial_edges"), position=position)
    return threat.open(predictor, GRAPH, Rng(0), **({} if secret is None else secret.shown))


# -- the game -----------------------------------------------------------------------------------


@pytest.mark.parametrize("others", ["popular", "uniform", "all"])
def test_questions_are_true_and_matched(others: str) -> None:
    """Answers are edges; asked users, items and held-out pairs are as the game says."""
    secret = played(others=others, each=3)
    user, item = secret.question
    assert torch.equal(secret.answer.bool(), GRAPH.has_edges(secret.question))
    assert secret.examples is not None
    shown, truth = secret.examples
    assert not torch.isin(user, shown[0]).any()
    assert torch.equal(truth.bool(), GRAPH.has_edges(shown))
    items = torch.from_numpy(Interactions(parties=2).items(GRAPH))
    assert torch.isin(item, items).all()
    assert len(torch.unique(shown[0])) == round(0.4 * USERS)
    assert shown.shape[1] == len(torch.unique(shown[0])) * len(items)
    assert GRAPH.holdout is not None
    held = torch.cat([GRAPH.holdout.val, GRAPH.holdout.test], 1)
    key = secret.question[0] * 1000 + secret.question[1]
    assert not torch.isin(key, held[0] * 1000 + held[1]).any()
    assert len(torch.unique(key)) == len(key)
    if others != "all":
        for one in torch.unique(user):
            mine = secret.answer[user == one]
            assert int(mine.sum()) * 2 == len(mine) <= 6


def test_popular_others_are_as_popular_as_what_was_taken() -> None:
    """Popularity finds uniform negatives, and much less of matched ones."""
    rng = np.random.default_rng(0)
    chance = np.linspace(0.5, 0.02, 80)
    pairs = np.argwhere(rng.random((200, 80)) < chance).T + np.array([[0], [200]])
    graph = Graph.from_edges(
        pairs, 280, task="ranking", node_type=np.repeat([0, 1], [200, 80]),
        holdout=(pairs[:, :0], pairs[:, :0]),
    )  # fmt: skip
    found = {}
    for others in ("popular", "uniform"):
        game = {"name": "interactions", "victim": None, "others": others, "each": 5}
        secret = graphsec.play(game, graph)[1]
        assert secret is not None
        degree = graph.degree[secret.question[1]]
        found[others] = roc_auc_score(secret.answer.numpy(), degree.numpy())
    assert abs(found["popular"] - 0.5) < 0.05
    assert found["uniform"] > 0.65


def test_heldout_questions_come_with_their_ratings() -> None:
    """Attackers who see edges see the pairs asked about, no others, with what users thought."""
    secret = played(others="heldout", victim=None, each=100, reveal=0.0)
    public = secret.public
    assert public is not None
    assert public.edge_y is not None
    assert GRAPH.edge_y is not None
    assert GRAPH.holdout is not None
    assert GRAPH.holdout.test_y is not None
    assert public.num_edges == len(secret.answer)
    assert not public.holdout
    truth = {(int(u), int(v)): float(y)
             for (u, v), y in zip(GRAPH.edge_index.T, GRAPH.edge_y, strict=True)}  # fmt: skip
    test = zip(GRAPH.holdout.test.T, GRAPH.holdout.test_y, strict=True)
    truth |= {(int(u), int(v)): float(y) for (u, v), y in test}
    place = public.adj.csr.find(*secret.question)
    for (u, v), y in zip(secret.question.T, public.edge_y[place], strict=True):
        assert truth[int(u), int(v)] == float(y)


def test_parties_of_ten_are_parts_of_those_of_two_and_five() -> None:
    """And the game's parties are the defense's."""
    count = GRAPH.num_nodes - USERS
    for few in (2, 5):
        part = set(Interactions(parties=10).items(GRAPH))
        assert part < set(Interactions(parties=few).items(GRAPH))
    mine = VerFedGNN(parties=5, partition=3).owner(count) == 1
    items = Interactions(parties=5, victim=1, partition=3).items(GRAPH)
    assert np.array_equal(items, mine.nonzero().ravel().numpy() + USERS)


def test_what_can_not_be_asked_is_refused() -> None:
    with pytest.raises(SpecError, match="victim must be < parties = 5, got 5"):
        Interactions(victim=5)
    with pytest.raises(ValueError, match="needs users and items, found task 'classification'"):
        graphsec.play("interactions", tiny_graphs()["karate"])
    empty = GRAPH.flip(GRAPH.pairs).replace(edge_y=torch.zeros(0))
    with pytest.raises(ValueError, match="no user of 'tastes' can be asked about"):
        graphsec.play("interactions", empty)


# -- what a transcript says ---------------------------------------------------------------------


def kernel(party: int) -> Tensor:
    """Â Âᵀ of a party, its users' degrees extrapolated as in the protocol."""
    items = torch.from_numpy(Interactions(parties=2, victim=party).items(GRAPH))
    part = part_of(GRAPH, torch.cat([torch.arange(USERS), items]))
    a = torch.from_numpy(part.to_scipy().toarray())[:USERS, USERS:].double()
    factor = (GRAPH.num_nodes - USERS) / len(items)
    rows = (a.sum(1) * factor).clamp(min=1e-12) ** -0.5 * (a.sum(1) > 0)
    normal = rows[:, None] * a * a.sum(0).clamp(min=1e-12) ** -0.5
    return normal @ normal.T


@pytest.mark.parametrize("position", ["server", "wire", "party:1"])
@pytest.mark.parametrize("projection", [0.0, 0.4])
def test_sums_of_the_second_layer_give_the_operator_away(position: str, projection: float) -> None:
    """Least squares finds Φ Â Âᵀ from what is public, in spite of both mechanisms."""
    told = heard(view(victim(projection=projection), position), 0, "de-anonymisation")
    found = operator(told, 1e-12)
    model = victim(projection=projection).model
    assert isinstance(model, Vertical)
    truth, sketch = kernel(0), model.sketch
    if sketch is not None:
        truth = sketch.encode(truth).T
    assert float((found - truth).norm() / truth.norm()) < 0.02


def _shuffled(count: int, draw: np.random.Generator) -> Tensor:
    return torch.from_numpy(draw.permutation(count))


def test_who_is_in_a_batch_is_in_the_clear() -> None:
    """Without noise every user and error; quantised, some users and nobody falsely."""
    for quantise in (False, True):
        defense = VerFedGNN(parties=2, quantise=quantise)
        recipe = Recipe.of("rating-lightgcn", {"epochs": 2, "batch_size": 60})
        protocol = defense.protocol(GRAPH, recipe, 0)
        owner = owners(GRAPH.num_nodes - USERS, 2, Rng(0)["items"])
        made = Federation(GRAPH, owner, protocol, Rng(0)["fed"])
        made.run()
        party, recall = made.parties[0], []
        objective = Errors(party.graph, protocol, party.rng)
        shuffle = partial(_shuffled, len(objective.y))
        for at in range(protocol.rounds):
            batch = objective.epoch.part(at, shuffle)
            there = torch.bincount(objective.pairs[0, batch], minlength=USERS) > 0
            sent = next(
                r.tensors for r in made.transcript.releases
                if (r.round, r.topic, r.sender) == (at, "gradient", "party:0")
            )  # fmt: skip
            told = in_batch(sent)
            assert not (told & ~there).any()
            recall.append(float((told & there).sum() / there.sum()))
            if not quantise:
                assert torch.equal(told, there)
                # The offset's gradient is the sum over all users.
                assert torch.allclose(error_sums(sent).sum(), -sent["offset"].sum() / 2, atol=1e-3)
        assert np.mean(recall) == 1 if not quantise else 0.05 < np.mean(recall) < 0.4


def test_windows_are_means_of_parts() -> None:
    series = [torch.full((2, 1), float(i)) for i in range(5)]
    assert windows(series, 2).tolist() == [[1.0, 3.5]] * 2
    assert windows(series, 9).shape == (2, 5)


def test_seats_that_hear_nothing_are_told_why() -> None:
    attack = graphsec.attack
    secret = played()

    def ask(predictor: Predictor, position: str, reads: str = "operator") -> None:
        attack(
            {"name": "de-anonymisation", "reads": reads}, predictor, GRAPH,
            threat={"position": position}, **secret.shown,
        )  # fmt: skip

    cases = [
        (victim(), "outside", "operator", "position must be server, wire or party"),
        (victim(), "party:0", "operator", "must not be the victim, got 'party:0'"),
        (victim(), "wire", "sums", "needs the projection, which is not known on the wire"),
        (victim(), "party:1", "gradients", "no gradients are heard at this seat"),
        (victim(keep=0, epochs=1), "server", "operator", "the transcript holds no tensors"),
        (victim(layers=1, epochs=1), "server", "operator", "needs sums of layer 1"),
        (victim(redraw=True, epochs=1), "wire", "operator", "can't be solved for"),
        (graphsec.fit(GRAPH, "rating-bias", training={"epochs": 1}), "server", "operator",
         "needs a federation's transcript"),
    ]  # fmt: skip
    for predictor, position, reads, words in cases:
        with pytest.raises(ValueError, match=words):
            ask(predictor, position, reads)


def test_noise_in_place_of_the_sums_says_nothing() -> None:
    """With the messages' content gone the attack is no better than popularity; with it, it is."""
    secret = played(others="uniform", reveal=0.6, each=5)
    true, noise = victim(), victim()
    kept, draw = true.trace, torch.Generator().manual_seed(0)
    releases = [
        replace(r, tensors={"sums": torch.randn(r.tensors["sums"].shape, generator=draw)})
        if r.topic == "sums" else r for r in kept.releases
    ]  # fmt: skip
    popular = graphsec.attack("interaction-popularity", true, GRAPH, **secret.shown)
    base = graphsec.score(popular, GRAPH, true, secret)["user_auc"].value
    found = []
    for content in (releases, kept.releases):
        noise.trace = replace(kept, releases=content)
        try:
            out = graphsec.attack(
                "de-anonymisation", noise, GRAPH, threat={"position": "server"}, **secret.shown
            )
        finally:
            noise.trace = kept
        found.append(graphsec.score(out, GRAPH, true, secret)["user_auc"].value)
    assert found[0] < base + 0.08
    assert found[1] > base + 0.1


# -- learning from known users ------------------------------------------------------------------


def table(seed: int = 0) -> tuple[Tensor, Tensor]:
    """(300, 40) who took what, without popularity or taste, and (40, 30) embeddings."""
    rng = np.random.default_rng(seed)
    taken = torch.from_numpy((rng.random((300, 40)) < 0.2).astype(np.float64))
    return taken, torch.from_numpy(rng.normal(size=(40, 30)))


def test_a_planted_signal_is_found_and_noise_is_not() -> None:
    taken, embeddings = table()
    known, rest = torch.arange(60), slice(60, None)
    noise = torch.from_numpy(np.random.default_rng(1).normal(size=(300, 30)))
    areas = []
    for candidates in ([noise, weighted(taken) @ embeddings], [noise]):
        found = scored(candidates, known, taken[known], Rng(0))
        areas.append(roc_auc_score(taken[rest].ravel().numpy(), found[rest].ravel().numpy()))
    assert areas[0] > 0.9
    assert abs(areas[1] - 0.5) < 0.03
    assert torch.isfinite(scored([torch.ones(300, 3)], known, taken[known], Rng(0))).all()


def test_what_is_known_must_be_whole_users() -> None:
    pairs = torch.tensor([[0, 0, 1, 1], [5, 7, 5, 7]])
    users, items, taken = taken_by((pairs, torch.tensor([1, 0, 0, 1])))
    assert (users.tolist(), items.tolist(), taken.tolist()) == ([0, 1], [5, 7], [[1, 0], [0, 1]])
    with pytest.raises(ValueError, match="all pairs of 2 users and 2 items, found 3"):
        taken_by((pairs[:, :3], torch.tensor([1, 0, 0])))
    with pytest.raises(ValueError, match="items that the examples are about"):
        look_up(taken, items, torch.tensor([[0], [6]]))
    with pytest.raises(ValueError, match="at least 2 users, found 1"):
        scored([torch.ones(3, 1)], torch.tensor([0]), taken[:1], Rng(0))


# -- members ------------------------------------------------------------------------------------


def test_errors_are_of_the_ratings_asked_about() -> None:
    predictor = graphsec.fit(GRAPH, "rating-lightgcn", training={"epochs": 5})
    secret = played(others="heldout", victim=None, reveal=0.0)
    out = graphsec.attack("interaction-membership", predictor, GRAPH, **secret.shown)
    assert isinstance(out, graphsec.outcome.LinkScores)
    assert secret.public is not None
    assert secret.public.edge_y is not None
    y = secret.public.edge_y[secret.public.adj.csr.find(*secret.question)]
    wanted = -(predictor.rate(GRAPH, secret.question) - y).square()
    assert torch.allclose(out.scores, wanted.double(), atol=1e-5)
    other = played(others="uniform", victim=None)
    with pytest.raises(ValueError, match="others = 'heldout'"):
        graphsec.attack("interaction-membership", predictor, GRAPH, **other.shown)


def test_references_are_trained_on_half_of_the_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """With their ratings, in complementary halves."""
    predictor = graphsec.fit(GRAPH, "rating-bias", training={"epochs": 1})
    secret, seen = played(others="heldout", victim=None, reveal=0.0), []
    train = View.train

    def watched(self: View, graph: Graph, rng: Rng) -> Predictor:
        seen.append(graph)
        return train(self, graph, rng)

    monkeypatch.setattr(View, "train", watched)
    spec = {"name": "interaction-membership", "references": 2}
    out = graphsec.attack(spec, predictor, GRAPH, **secret.shown)
    assert isinstance(out, graphsec.outcome.LinkScores)
    first, second = (graph.has_edges(secret.question) for graph in seen)
    assert torch.equal(first, ~second)
    assert torch.isfinite(out.scores).all()
    public = secret.public
    assert public is not None
    assert public.edge_y is not None
    for graph in seen:
        assert graph.edge_y is not None
        place = public.adj.csr.find(*graph.edge_index)
        assert torch.equal(graph.edge_y, public.edge_y[place])


# -- scores and data ----------------------------------------------------------------------------


def test_user_metrics_are_means_of_each_users_own() -> None:
    rng = np.random.default_rng(0)
    users = torch.from_numpy(np.repeat(np.arange(5), 8)[rng.permutation(40)])
    scores = torch.from_numpy(rng.integers(0, 6, 40)).double()
    truth = torch.from_numpy((rng.random(40) < 0.4).astype(np.int64))
    truth[users == 4] = 1  # one kind only: does not count
    found = per_user_metrics(scores, truth, users)
    areas = [roc_auc_score(truth[users == u].numpy(), scores[users == u].numpy()) for u in range(4)]
    assert found["user_auc"].value == pytest.approx(np.mean(areas))
    one = per_user_metrics(
        torch.tensor([3.0, 2, 2, 2, 1]), torch.tensor([1, 1, 0, 0, 0]), torch.zeros(5)
    )
    assert one["user_precision"].value == pytest.approx((1 + 1 / 3) / 2)
    with pytest.raises(ValueError, match="no user has pairs"):
        per_user_metrics(scores[:2], torch.ones(2), users[:2])


def test_private_attributes_of_films_users(data_dir: Any) -> None:
    """As u.user has them; items have none, and the ratings are those of rating/ml-100k."""
    plain = graphsec.load("rating/ml-100k")
    rows = [r.split("|") for r in (data_dir / "ml-100k" / "u.user").read_text().splitlines()]
    for attribute, counts in {
        "gender": [670, 273], "age": [234, 310, 274, 125], "occupation": None
    }.items():  # fmt: skip
        graph = graphsec.load({"name": "rating/ml-100k-users", "attribute": attribute})
        assert graph.sensitive is not None
        assert graph.replace(sensitive=None, name=plain.name).fingerprint == plain.fingerprint
        assert bool((graph.sensitive[943:] == -1).all())
        found = graph.sensitive[:943]
        if counts is None:
            jobs = sorted({row[3] for row in rows})
            assert [jobs[i] for i in found] == [row[3] for row in rows]
        else:
            assert found.bincount().tolist() == counts
