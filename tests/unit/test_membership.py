"""Membership of nodes: how they are asked about, what they are compared with, and scores."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch
from scipy.stats import norm

import graphsec
from graphsec.attacks.membership._asking import confidence, halves, logit_confidence
from graphsec.attacks.membership.confidence import Confidence, Score
from graphsec.attacks.membership.lira import LiRA, gaussians
from graphsec.attacks.membership.rmia import RMIA, dominated
from graphsec.graph import Graph
from graphsec.metrics import auc_interval
from graphsec.outcome import MemberScores
from graphsec.predict import Predictor
from graphsec.registry import SpecError
from graphsec.rng import Rng
from graphsec.testing import tiny_graphs
from graphsec.threat import AccessDenied, Threat

SHORT = {"epochs": 20, "weight_decay": 0.0}
Played = tuple[Graph, Any, Predictor]


@pytest.fixture(scope="module")
def played() -> Played:
    known, secret = graphsec.play("membership", tiny_graphs()["blocks"])
    assert secret is not None
    victim = graphsec.fit(known, {"name": "gcn", "hidden": 8, "dropout": 0.0}, training=SHORT)
    return known, secret, victim


def scores_of(attack: Any, played: Played, **kwargs: Any) -> torch.Tensor:
    known, secret, victim = played
    out = graphsec.attack(attack, victim, known, question=secret.question, **kwargs)
    assert isinstance(out, MemberScores)
    return out.scores


# -- signals ------------------------------------------------------------------------------------


def test_logit_confidence_never_saturates() -> None:
    logits = torch.tensor([[0.3, -1.0, 2.0], [900.0, 0.0, 1.0], [0.0, 900.0, 0.0]])
    y = torch.tensor([2, 0, 2])
    p = confidence(logits, y)
    found = logit_confidence(logits, y)
    assert float(found[0]) == pytest.approx(float(torch.logit(p[0])))
    assert float(found[1]) == pytest.approx(900 - float(np.log(1 + np.e)))
    assert float(found[2]) == pytest.approx(-900 - float(np.log1p(np.exp(-900))))


@pytest.mark.parametrize(("count", "shadows"), [(10, 6), (7, 6), (9, 5)])
def test_halves_balance_every_node(count: int, shadows: int) -> None:
    inside = halves(count, shadows, Rng(0))
    assert inside.shape == (shadows, count)
    for i in range(0, shadows - 1, 2):
        assert torch.equal(inside[i], ~inside[i + 1])
        assert int(inside[i].sum()) == count // 2
    spread = inside.sum(0) - (~inside).sum(0)
    assert (spread.abs() == shadows % 2).all()
    assert not torch.equal(inside[0], inside[2])


def test_one_node_is_nothing_to_divide() -> None:
    with pytest.raises(SpecError, match="at least 2 nodes in question, got 1"):
        halves(1, 2, Rng(0))


@pytest.mark.parametrize("score", get_args(Score))
def test_confidence_by_hand(played: Played, score: Score) -> None:
    known, secret, victim = played
    assert known.y is not None
    y = known.y[secret.question].numpy()
    p = victim.logits(known, secret.question).double().softmax(1).numpy()
    mine = p[np.arange(len(y)), y]
    if score == "modified-entropy":
        rest = np.stack([np.delete(row, c) for row, c in zip(p, y, strict=True)])
        wanted = (1 - mine) * np.log(mine) + (rest * np.log(1 - rest)).sum(1)
    else:
        wanted = {
            "confidence": mine,
            "loss": np.log(mine),
            "margin": np.log(mine / (1 - mine)),
            "entropy": (p * np.log(p)).sum(1),
        }[score]
    found = scores_of(Confidence(score=score), played)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-6, atol=1e-9)


def test_entropy_needs_no_labels(played: Played) -> None:
    threat = {"access": ["scores"]}
    assert len(scores_of(Confidence(score="entropy"), played, threat=threat))
    with pytest.raises(AccessDenied, match="true_labels"):
        scores_of(Confidence(), played, threat=threat)


# -- queries ------------------------------------------------------------------------------------


def test_a_wide_subgraph_is_answered_as_the_whole_graph(played: Played) -> None:
    full = scores_of(Confidence(score="margin"), played)
    wide = scores_of(Confidence(score="margin", query="subgraph", hops=3), played)
    narrow = scores_of(Confidence(score="margin", query="subgraph", hops=2), played)
    torch.testing.assert_close(wide, full, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(narrow, full, rtol=1e-4, atol=1e-4)  # degrees at its rim differ


@pytest.mark.parametrize("graph", tiny_graphs().values(), ids=list(tiny_graphs()))
def test_a_node_alone_has_no_edges(graph: Graph) -> None:
    known, secret = graphsec.play("membership", graph)
    assert secret is not None
    assert known.y is not None
    victim = graphsec.fit(known, {"name": "gcn", "hidden": 8}, training=SHORT)
    bare = Graph.from_edges(torch.zeros(2, 0), known.num_nodes, x=known.x)
    wanted = logit_confidence(victim.logits(bare, secret.question), known.y[secret.question])
    attack = Confidence(score="margin", query="subgraph", hops=0)
    threat = {"access": ["scores", "query_input", "features", "true_labels"]}  # and no edges
    found = scores_of(attack, (known, secret, victim), threat=threat)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_queries_are_counted_and_granted(played: Played) -> None:
    asked = len(played[1].question)
    for attack in (Confidence(), Confidence(query="subgraph")):
        assert len(scores_of(attack, played, threat={"budget": {"queries": asked}})) == asked
        with pytest.raises(ValueError, match=f"allows {asked - 1} answers"):
            scores_of(attack, played, threat={"budget": {"queries": asked - 1}})
    with pytest.raises(AccessDenied, match="query_input"):
        scores_of(Confidence(query="subgraph"), played, threat={"access": ["scores", "features"]})


@pytest.mark.parametrize("attack", [LiRA(shadows=4), RMIA(shadows=2)])
def test_shadow_models_are_asked_as_the_victim_is(played: Played, attack: Any) -> None:
    """With subgraphs that hold all that is looked at, nothing changes."""
    full = scores_of(attack, played)
    wide = scores_of(type(attack)(shadows=attack.shadows, query="subgraph", hops=3), played)
    torch.testing.assert_close(wide, full, rtol=1e-2, atol=1e-2)


# -- shadow models ------------------------------------------------------------------------------


def test_attacks_of_one_seed_share_their_shadow_models(played: Played) -> None:
    known, secret, victim = played
    trained: dict[Any, Predictor] = {}
    counts = []
    sizes = (RMIA(shadows=4), LiRA(shadows=4), LiRA(shadows=6))
    for attack in (*sizes, LiRA(shadows=6, query="subgraph")):
        threat, stream = Threat().resolve(attack), Rng(0)["view"]
        view = threat.open(victim, known, stream, question=secret.question, trained=trained)
        attack.run(view, Rng(0)["attack"])
        counts.append(view.trainings)
    assert counts == [4, 0, 2, 0]
    assert not any(model is victim for model in trained.values())


def test_recipes_that_stop_by_validation_find_it_outside_the_question() -> None:
    graph = tiny_graphs()["blocks"]
    known, secret = graphsec.play({"name": "membership", "members": 12}, graph)
    victim = graphsec.fit(known, "gcn", training={"epochs": 5, "patience": 2, "select": "loss"})
    assert len(scores_of(RMIA(shadows=2), (known, secret, victim))) == 24


def test_a_node_without_a_label_can_not_be_asked_about() -> None:
    graph = tiny_graphs()["weighted"]
    victim = graphsec.fit(graph, {"name": "gcn", "hidden": 8}, training={"epochs": 2})
    with pytest.raises(ValueError, match="needs the label of every node in question"):
        graphsec.attack("confidence", victim, graph, question=torch.tensor([3, 47]))
    everyone = graphsec.attack("confidence", victim, graph)
    assert isinstance(everyone, MemberScores)
    assert everyone.nodes.tolist() == list(range(47))


# -- LiRA and RMIA ------------------------------------------------------------------------------


def _noise(models: int, nodes: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    values = rng.normal(rng.normal(size=nodes), rng.uniform(0.5, 2, nodes), (models, nodes))
    return torch.from_numpy(values), halves(nodes, models, Rng(1))


def test_gaussians_are_fitted_to_each_node() -> None:
    values, inside = _noise(8, 50)
    mean, variance = gaussians(values, inside, False)
    pooled = gaussians(values, inside, True)[1]
    each = [values[inside[:, k], k].numpy() for k in range(50)]
    np.testing.assert_allclose(mean.numpy(), [v.mean() for v in each])
    np.testing.assert_allclose(variance.numpy(), [v.var(ddof=1) for v in each])
    np.testing.assert_allclose(pooled.numpy(), np.mean([v.var(ddof=1) for v in each]))
    # With one model a node, nothing but the spread over nodes is left.
    single = gaussians(values[:2], inside[:2], True)[1]
    assert float(single[0]) == pytest.approx(float(values[:2][inside[:2]].var()))


@pytest.mark.parametrize("online", [True, False])
def test_lira_by_hand(played: Played, monkeypatch: pytest.MonkeyPatch, online: bool) -> None:
    k = len(played[1].question)
    values, inside = _noise(9, k)
    mine, shadows, inside = values[8], values[:8], inside[:8]
    monkeypatch.setattr(LiRA, "compare", lambda *_: (mine, shadows, inside))
    found = scores_of(LiRA(online=online), played).numpy()
    for node in range(k):
        into, out = (shadows[m[:, node], node].numpy() for m in (inside, ~inside))
        ratio = norm.logpdf(mine[node], into.mean(), into.std(ddof=1)) - norm.logpdf(
            mine[node], out.mean(), out.std(ddof=1)
        )
        standard = (float(mine[node]) - out.mean()) / out.std(ddof=1)
        assert found[node] == pytest.approx(ratio if online else standard, rel=1e-6)


def test_a_fit_with_the_victim_inside_would_overstate() -> None:
    """Of noise nothing can be inferred, unless the judged answer is in the fit that judges it."""
    values, inside = _noise(18, 3000)
    mine, truth = values[16], inside[16]

    def attacked(models: int) -> Any:
        shadows, chosen = values[:models], inside[:models]
        far = [
            ((mine - mean).square() / variance + variance.log())
            for mean, variance in (gaussians(shadows, m, False) for m in (~chosen, chosen))
        ]
        return auc_interval(far[0] - far[1], truth, np.random.default_rng(0), level=0.999)

    fair, trap = attacked(16), attacked(17)
    assert fair.low is not None
    assert fair.high is not None
    assert trap.low is not None
    assert fair.low < 0.5 < fair.high
    assert trap.low > 0.6


def test_lira_says_how_many_shadows_it_needs() -> None:
    with pytest.raises(SpecError, match="shadows must be ≥ 4"):
        LiRA(shadows=3)
    assert LiRA(shadows=2, fixed_variance=True).shadows == 2


@pytest.mark.parametrize("gamma", [1.0, 1.3])
def test_rmia_dominates_pair_by_pair(gamma: float) -> None:
    ratio = torch.from_numpy(np.random.default_rng(0).uniform(0.2, 2, 60))
    ratio[5] = ratio[6]
    wanted = ((ratio[:, None] / ratio[None, :]) >= gamma).double().mean(1)
    torch.testing.assert_close(dominated(ratio, gamma), wanted)


@pytest.mark.parametrize("online", [True, False])
def test_rmia_by_hand(played: Played, monkeypatch: pytest.MonkeyPatch, online: bool) -> None:
    known, secret, _ = played
    k, n = len(secret.question), known.num_nodes
    rng = np.random.default_rng(0)
    mine, shadows = (torch.from_numpy(rng.uniform(0.1, 1, s)) for s in ((n,), (4, n)))
    inside = torch.cat([halves(k, 4, Rng(0)), torch.zeros(4, n - k, dtype=torch.bool)], 1)
    monkeypatch.setattr(RMIA, "compare", lambda *_: (mine, shadows, inside))
    found = scores_of(RMIA(a=0.4, online=online), played)
    ratio = []
    for node in range(n):
        out = float(shadows[~inside[:, node], node].mean())
        into = 0.4 * out + 0.6
        if online and node < k:
            into = float(shadows[inside[:, node], node].mean())
        ratio.append(float(mine[node]) / ((into + out) / 2))
    wanted = [np.mean([x / z >= 1 for z in ratio]) for x in ratio[:k]]
    np.testing.assert_allclose(found.numpy(), wanted)


def test_random_scores_say_nothing(played: Played) -> None:
    """The interval of their AUC holds .5 about as often as it says."""
    known, secret, victim = played
    held = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        scores = torch.from_numpy(rng.normal(size=len(secret.question)))
        out = MemberScores(nodes=secret.question, scores=scores)
        numbers = graphsec.score(out, known, victim, secret=secret)
        interval = auc_interval(scores, secret.answer, rng, resamples=200)
        assert float(numbers["auc"]) == pytest.approx(interval.mean)
        assert interval.low is not None
        assert interval.high is not None
        held.append(interval.low <= 0.5 <= interval.high)
    assert np.mean(held) >= 0.85
