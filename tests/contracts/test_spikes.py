"""Four hard customers on the core, kept as contracts of what it must carry.

LiRA (the attack of that name) through ``view.train``, one-step gradient leakage, adaptive Jaccard,
and two parties with a transcript.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import graphsec
from graphsec.attacks import Attack
from graphsec.attacks.membership.lira import LiRA
from graphsec.defenses import Defense
from graphsec.graph import Graph, Split
from graphsec.models.base import Sizes
from graphsec.ops import linear, propagate
from graphsec.outcome import Perturbation, Reconstruction
from graphsec.predict import Predictor
from graphsec.registry import ATTACKS
from graphsec.rng import Rng
from graphsec.testing import some_flips, tiny_graphs
from graphsec.threat import Access, AccessDenied, Threat, Timing, View
from graphsec.train import Recipe, Release, Trace, loss_of

# -- LiRA ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def memorised() -> Graph:
    """Features without a trace of the labels: what a model knows of them it has memorised."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(120, 40)), rng.integers(0, 3, 120)
    edges = rng.integers(0, 120, (2, 100))
    order = rng.permutation(120)
    return Graph.from_edges(edges, 120, x=x, y=y, split=(order[:50], [], order[50:]))


OVERFIT = {"epochs": 100, "weight_decay": 0.0}


def test_lira_through_view_train(memorised: Graph) -> None:
    known, secret = graphsec.play("membership", memorised, seed=1)
    assert secret is not None
    victim = graphsec.fit(known, {"name": "mlp", "dropout": 0.0}, training=OVERFIT, seed=1)
    out = graphsec.attack(LiRA(shadows=8), victim, known, question=secret.question, seed=1)
    assert float(graphsec.score(out, known, victim, secret=secret)["auc"]) > 0.55


def test_shadow_trainings_are_counted_and_cached(memorised: Graph) -> None:
    known, secret = graphsec.play("membership", memorised, seed=1)
    assert secret is not None
    victim = graphsec.fit(known, "mlp", training={"epochs": 3})
    attack = LiRA(shadows=4)
    threat = Threat().resolve(attack)
    view = threat.open(victim, known, Rng(0)["view"], question=secret.question)
    first = attack.run(view, Rng(0)["attack"])
    assert (view.trainings, view.queries) == (4, len(secret.question))
    again = attack.run(view, Rng(0)["attack"])
    assert view.trainings == 4
    assert torch.equal(first.scores, again.scores)
    attack.run(view, Rng(1)["attack"])
    assert view.trainings == 8


def test_members_are_not_in_the_view(memorised: Graph) -> None:
    """The known graph's training set is the secret: only SPLIT would show it."""
    known, secret = graphsec.play("membership", memorised)
    assert secret is not None
    victim = graphsec.fit(known, "mlp", training={"epochs": 3})
    view = Threat().resolve(LiRA()).open(victim, known, Rng(0), question=secret.question)
    assert view.known.split is None
    denied = Threat(access=("scores",)).open(victim, known, Rng(0), question=secret.question)
    with pytest.raises(AccessDenied, match=r"view\.train needs access to recipe"):
        denied.train(known, Rng(0))


# -- one-step gradient leakage ------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class RankOne(Attack):
    """With one root the gradient of a layer is an outer product: a column over its bias entry.

    Source: reference notes on gradient leakage: (ÂX)_v = ∇W[:, j] / ∇b[j].
    """

    name: ClassVar[str] = "spike-rank-one"
    timing: ClassVar[Timing] = "inference"

    @property
    def needs(self) -> Access:
        return Access.GRADIENTS

    def run(self, view: View, rng: Rng) -> Reconstruction:
        sent = view.release(0).tensors
        bias = sent["bias.0"]
        j = int(bias.abs().argmax())
        row = sent["weight.0"][:, j] / bias[j]
        return Reconstruction(nodes=torch.zeros(1, dtype=torch.int64), x=row.unsqueeze(0))


@pytest.mark.parametrize("model", ["gcn", "mlp"])
@pytest.mark.parametrize("graph", tiny_graphs().values(), ids=list(tiny_graphs()))
def test_one_step_leaks_aggregated_features(graph: Graph, model: str) -> None:
    """Exactly: a one-layer GCN shows (ÂX)_v of its only root, an MLP the root's features."""
    assert graph.x is not None
    root = 11
    alone = graph.replace(split=Split.of([root], [], [0, 1]))
    layers = 1 if model == "gcn" else 2
    spec = {"name": model, "layers": layers, "dropout": 0.0}
    victim = graphsec.fit(alone, spec, training={"epochs": 3, "expose": 1})
    assert len(victim.trace.releases) == 1
    outcome = graphsec.attack(RankOne(), victim, alone, threat={"position": "server"})
    assert isinstance(outcome, Reconstruction)
    assert outcome.x is not None
    x = graph.x.to_dense()
    wanted = propagate(graph.adj.normalized(), x) if model == "gcn" else x
    error = (outcome.x[0] - wanted[root]).norm() / wanted[root].norm()
    assert error < 1e-3


def test_gradients_are_denied_without_access() -> None:
    graph = tiny_graphs()["blocks"]
    victim = graphsec.fit(graph, "gcn", training={"epochs": 2, "expose": 2})
    with pytest.raises(AccessDenied, match="gradients"):
        graphsec.attack(RankOne(), victim, graph, threat={"access": ["scores"]})
    view = Threat(access=("scores",)).open(victim, graph, Rng(0))
    with pytest.raises(AccessDenied):
        view.releases()


# -- adaptive Jaccard ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def jaccard() -> tuple[Graph, Predictor]:
    graph = tiny_graphs()["blocks"]
    spec = {"name": "jaccard", "threshold": 0.1, "measure": "cosine"}
    return graph, graphsec.fit(graph, {"name": "gcn", "hidden": 16}, spec, training={"epochs": 60})


def test_adaptive_is_at_least_as_strong_as_transfer(jaccard: tuple[Graph, Predictor]) -> None:
    graph, victim = jaccard
    accuracy = {}
    for adaptive in (True, False):
        threat = {"budget": {"edges": 0.15}, "adaptive": adaptive}
        spec = {"name": "prbcd", "steps": 60}
        out = graphsec.attack(spec, victim, graph, threat=threat)
        accuracy[adaptive] = float(graphsec.score(out, graph, victim)["attacked_accuracy"])
        assert isinstance(out, Perturbation)
        if adaptive:
            # What the filter would drop again is not worth a flip.
            added = out.flips[:, ~graph.has_edges(out.flips)]
            assert added.shape[1] > 0
            assert victim.allows(graph, added).all()
    clean = float(graphsec.score(Perturbation(), graph, victim)["attacked_accuracy"])
    assert accuracy[True] <= accuracy[False] <= clean
    assert accuracy[True] < clean


def test_relaxed_reaches_pairs_and_bypass_leaves_the_filter_out(
    jaccard: tuple[Graph, Predictor],
) -> None:
    graph, victim = jaccard
    pairs = some_flips(graph, 20)
    pairs = pairs[:, ~graph.has_edges(pairs)]
    allowed = victim.allows(graph, pairs)
    assert allowed.any()
    assert not allowed.all()
    assert graph.x is not None
    weight = torch.full((pairs.shape[1],), 0.5, requires_grad=True)
    adj = graph.adj.with_block(pairs, weight)
    loss = victim.relaxed("exact").forward(graph.x, adj).square().sum()
    (gradient,) = torch.autograd.grad(loss, weight)
    assert (gradient[allowed] != 0).all()
    assert (gradient[~allowed] == 0).all()
    bypass = victim.relaxed("bypass")
    assert bypass.allows(graph, pairs).all()
    torch.testing.assert_close(bypass.logits(graph), victim.model(graph.x, graph.adj).detach())
    assert not torch.equal(bypass.logits(graph), victim.logits(graph))


# -- two parties --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TwoParties(Defense):
    """Vertical training: each party holds half of the columns and sends partial hidden sums.

    Source: the usual split learning of vertically partitioned features, reduced to its messages.
    """

    name: ClassVar[str] = "spike-parties"

    rounds: int = 3

    def fit(
        self, graph: Graph, recipe: Recipe, rng: Rng, *, runtime: Any = None, on_epoch: Any = None
    ) -> Predictor:
        assert graph.x is not None
        assert graph.y is not None
        assert graph.split is not None
        with rng["init"].scope():
            predictor = self.predictor(recipe, Sizes.of(graph))
        model: Any = predictor.model
        x, operator, train = graph.x.to_dense(), model.operator(graph.adj), graph.split.train
        columns = torch.arange(graph.num_features).chunk(2)
        trace = Trace()
        for round_ in range(self.rounds):
            parts = [
                propagate(operator, linear(x[:, mine], model.weight[0][mine])) for mine in columns
            ]
            received = [part.detach().requires_grad_() for part in parts]
            hidden = (sum(received) + model.bias[0]).relu()
            logits = model.layer(1, hidden, operator, x)
            loss = loss_of(graph.task, logits[train], graph.y[train])
            torch.autograd.backward([loss])
            for p, (part, mine) in enumerate(zip(parts, received, strict=True)):
                assert mine.grad is not None
                trace.releases += [
                    Release(round_, "message", {"sum": part.detach()}, f"party:{p}", "server"),
                    Release(round_, "message", {"gradient": mine.grad}, "server", f"party:{p}"),
                ]
            torch.autograd.backward(parts, [mine.grad for mine in received])
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= 0.5 * parameter.grad
                    parameter.grad = None
        predictor.trace = trace
        return predictor


@pytest.fixture(scope="module")
def parties() -> tuple[Graph, Predictor]:
    graph = tiny_graphs()["blocks"]
    return graph, graphsec.fit(graph, {"name": "gcn", "hidden": 8, "dropout": 0.0}, TwoParties())


def _seen(victim: Predictor, graph: Graph, position: str) -> list[Release]:
    threat = Threat(access=("transcript",), position=position)
    return threat.open(victim, graph, Rng(0)).releases()


def test_transcript_by_position(parties: tuple[Graph, Predictor]) -> None:
    """A party sees what it sent and received, the server all of its own, the wire everything."""
    graph, victim = parties
    everything = victim.trace.releases
    assert len(everything) == 12
    for me in ("party:0", "party:1"):
        mine = _seen(victim, graph, me)
        assert len(mine) == 6
        assert all(me in (release.sender, release.receiver) for release in mine)
    assert _seen(victim, graph, "server") == everything  # no party talks to another
    assert _seen(victim, graph, "wire") == everything
    assert _seen(victim, graph, "party:2") == []
    assert _seen(victim, graph, "outside") == []
    assert everything[0].bytes == 90 * 8 * 4


def test_transcript_is_denied_without_access(parties: tuple[Graph, Predictor]) -> None:
    graph, victim = parties
    for access in ((), ("scores", "weights")):
        with pytest.raises(AccessDenied, match="transcript"):
            Threat(access=access, position="wire").open(victim, graph, Rng(0)).releases()
    # Access to gradients is not access to messages.
    only = Threat(access=("gradients",), position="wire").open(victim, graph, Rng(0))
    assert only.releases() == []


def test_parties_train_the_joint_model(parties: tuple[Graph, Predictor]) -> None:
    """The messages add up to the gradient steps of one trainer who holds all columns."""
    graph, victim = parties
    with Rng(0)["defense"]["init"].scope():
        plain: Any = Recipe.of({"name": "gcn", "hidden": 8, "dropout": 0.0}).model.build(
            Sizes.of(graph)
        )
    assert graph.y is not None
    assert graph.split is not None
    train = graph.split.train
    for _ in range(3):
        loss = F.cross_entropy(plain(graph.x, graph.adj)[train], graph.y[train])
        gradients = torch.autograd.grad(loss, list(plain.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(plain.parameters(), gradients, strict=True):
                parameter -= 0.5 * gradient
    with torch.no_grad():
        torch.testing.assert_close(victim.logits(graph), plain(graph.x, graph.adj))


def test_spikes_are_not_registered() -> None:
    assert not any(name.startswith("spike") for name in ATTACKS)
