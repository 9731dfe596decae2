"""Canaries: what they are, that they catch broken training, and let honest training pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import norm
from torch import Tensor

from graphsec.audit import many_runs, one_run
from graphsec.audit.scores import reach
from graphsec.audit.spec import AuditSpec
from graphsec.audit.trials import AUDITS, Canaries, Lab, claimed
from graphsec.defenses.base import build as build_defense
from graphsec.dp.accountant import Ledger
from graphsec.dp.canaries import plant, removed
from graphsec.dp.gradients import Clip
from graphsec.dp.step import PrivateSteps
from graphsec.graph import Graph, Split
from graphsec.models.base import GNN, Capabilities, Sizes, inputs
from graphsec.models.mlp import MLP, MLPSpec
from graphsec.registry import SpecError
from graphsec.rng import Rng
from graphsec.testing import tiny_graphs
from graphsec.train import Recipe

GRAPH = tiny_graphs()["blocks"]
DELTA = 1e-5
DP = {
    "name": "dp-gnn", "epsilon": 1.0, "delta": DELTA, "steps": 2, "rate": 1.0, "optimizer": "sgd",
    "lr": 0.1, "max_degree": 11, "nodes": 100, "clip": 0.3, "unit": False,
}  # fmt: skip
MODELS: dict[str, Any] = {
    "gcn": {"name": "gcn", "layers": 1, "dropout": 0.0},
    "gcn2": {"name": "gcn", "layers": 2, "hidden": 8, "dropout": 0.0},
    "mlp": {"name": "mlp", "layers": 1, "dropout": 0.0},
    "sage": {"name": "sage", "layers": 1, "dropout": 0.0},
}
TRAINING = {"select": "last", "patience": None}


def lab_of(audit: Canaries, model: Any = "gcn", graph: Graph = GRAPH, **fields: Any) -> Lab:
    recipe = Recipe.of(MODELS.get(model, model) if isinstance(model, str) else model, TRAINING)
    defense = build_defense({**DP, **fields})
    audit.check(recipe, defense)
    return audit.lab(graph, recipe, defense)


def bound(audit: Canaries, lab: Lab, seed: int = 0, tests: int = 1) -> float:
    """Lower bound on ε from all trainings of an audit, one of several tests."""
    trials = [audit.trial(lab, Rng(seed)[i]) for i in range(audit.trainings)]
    scores, truth = (torch.cat([getattr(t, n) for t in trials]) for n in ("scores", "truth"))
    level = 1 - 0.05 / tests
    if audit.bound == "many-runs":
        inside, outside = scores[truth > 0], scores[truth == 0]
        found = many_runs(inside, outside, DELTA, thresholds=[0.0], confidence=level)
    else:
        found = one_run(scores, truth, DELTA, np.random.default_rng(seed), confidence=level)
    assert found.epsilon <= found.ceiling
    return found.epsilon


# -- what is planted ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["blocks", "karate"])
@pytest.mark.parametrize("hops", [1, 2])
def test_hubs_keep_the_bound_and_their_neighbourhoods_do_not_meet(name: str, hops: int) -> None:
    graph = tiny_graphs()[name]
    planted = plant(graph, 5, "hub", degree=4, hops=hops, scale=20.0)
    new = planted.graph
    assert new.num_nodes == graph.num_nodes + 5 * (1 + 4 + (12 if hops == 2 else 0))
    assert int(new.degree[graph.num_nodes :].max()) == 4
    assert torch.equal(new.degree[: graph.num_nodes], graph.degree)
    assert torch.equal(new.degree[planted.canaries], torch.full((5,), 4))
    dense = inputs(new).to_dense()
    held = dense[:, planted.columns] != 0  # who has which canary's feature
    assert not held[: graph.num_nodes].any()
    assert (held[graph.num_nodes :].sum(1) == 1).all()
    row, col = new.edge_index
    assert torch.equal(held[row], held[col])
    old = inputs(graph).to_dense()
    torch.testing.assert_close(dense[: graph.num_nodes, : graph.num_features], old)


def test_out_is_the_whole_node() -> None:
    planted = plant(GRAPH, 3, "hub", degree=4, hops=1, scale=20.0)
    coins = torch.tensor([1, 0, 1])
    out, gone = planted.drawn(coins), planted.canaries[1]
    assert int(out.degree[gone]) == 0
    assert not inputs(out)[gone].any()
    assert out.y is not None
    assert out.split is not None
    assert int(out.y[gone]) == -1
    assert gone not in out.split.train
    assert out.num_edges == planted.graph.num_edges - 4
    assert planted.drawn(torch.ones(3)) is planted.graph
    assert removed(planted.graph, torch.zeros(0, dtype=torch.int64)) is planted.graph


@pytest.mark.parametrize("model", ["gcn", "gcn2"])
def test_training_reads_nothing_of_a_node_that_is_not_trained_on(model: str) -> None:
    """So the game "membership", where nodes stay, asks about whole nodes too."""
    lab = lab_of(Canaries(shape="hub", count=10), model)
    assert lab.planted is not None
    absent = lab.planted.drawn(torch.tensor([1, 0] * 5))
    unused = lab.planted.graph.replace(split=absent.split)
    one, other = (lab.defense.fit(g, lab.recipe, Rng(3)) for g in (absent, unused))
    for mine, theirs in zip(one.trace.releases, other.trace.releases, strict=True):
        for name, value in mine.tensors.items():
            torch.testing.assert_close(value, theirs.tensors[name])


@pytest.mark.parametrize(
    ("model", "shape", "degree", "least", "most"),
    [
        ("mlp", "lone", 11, 0.8, 1),
        ("gcn", "lone", 11, 0.8, 1),
        ("gcn", "hub", 11, 15, 2 * 11 + 1),
        ("sage", "hub", 11, 11, 2 * 11 + 1),
        ("gcn2", "hub", 11, 80, 2 * 11 * 11 + 1),
    ],
)
def test_canaries_move_a_sum_nearly_as_far_as_is_claimed(
    model: str, shape: Any, degree: int, least: float, most: float
) -> None:
    lab = lab_of(Canaries(shape=shape, count=10), model, max_degree=degree)
    assert lab.planted is not None
    with Rng(0).scope():
        made = lab.defense.predictor(lab.recipe, Sizes.of(lab.planted.graph)).model
    trainer: Any = lab.defense
    assert least <= reach(lab.planted, trainer, made) <= most


def test_without_noise_scores_tell_the_coins() -> None:
    for shape in ("lone", "hub"):
        lab = lab_of(Canaries(shape=shape, count=30), steps=3)
        lab.defense = replace(lab.defense, noise_multiplier=1e-3)  # type: ignore[call-arg]
        trial = Canaries(shape=shape, count=30).trial(lab, Rng(1))
        assert torch.equal(trial.scores > 0, trial.truth > 0)
        assert 5 < int(trial.truth.sum()) < 25


# -- honest training passes, with power ---------------------------------------------------------


@pytest.mark.parametrize("epsilon", [1.0, 4.0])
def test_honest_training_is_not_contradicted(epsilon: float) -> None:
    """Lone canaries and hubs, gradients and answers, sampled and whole steps: one family."""
    cases: list[tuple[str, Canaries, dict[str, Any]]] = [
        ("mlp", Canaries(count=400), {}),
        ("mlp", Canaries(count=400), {"rate": 0.5, "steps": 5}),
        ("mlp", Canaries(count=400, sees="answer"), {}),
        ("gcn", Canaries(shape="hub", count=200), {}),
        ("gcn", Canaries(shape="hub", count=200), {"rate": 0.5, "clipping": "automatic"}),
        ("gcn2", Canaries(shape="hub", count=40, trainings=2), {}),
        ("gcn", Canaries(shape="hub", count=1, bound="many-runs", trainings=40), {}),
    ]
    for model, audit, fields in cases:
        lab = lab_of(audit, model, epsilon=epsilon, **fields)
        assert bound(audit, lab, tests=2 * len(cases)) <= epsilon


def gaussian(mu: float, delta: float) -> float:
    """ε of a shift by μ standard deviations (Balle and Wang, ICML 2018, theorem 8)."""
    return float(
        brentq(
            lambda e: norm.cdf(mu / 2 - e / mu) - np.exp(e) * norm.cdf(-mu / 2 - e / mu) - delta,
            0.0, 100.0,
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("model", "shape", "noise", "share"), [("mlp", "lone", 1.0, 0.5), ("gcn", "hub", 23.0, 0.4)]
)
def test_half_of_epsilon_is_found_in_one_step_at_the_worst(
    model: str, shape: Any, noise: float, share: float
) -> None:
    """One canary, and noise of the claimed sensitivity: μ = 1, if the canary is as bad as any.

    The step's own sums and noise, many times at the same weights, so that many runs are cheap. A
    hub is a bit less than the worst: the gradients of its neighbours do not quite turn around.
    """
    lab = lab_of(Canaries(shape=shape, count=1, trainings=10), model)
    assert lab.planted is not None
    trainer: Any = lab.defense
    with Rng(0).scope():
        made = trainer.predictor(lab.recipe, Sizes.of(lab.planted.graph)).model
    ways = []
    for seed, graph in enumerate((lab.planted.graph, lab.planted.drawn(torch.zeros(1)))):
        generator = np.random.default_rng(seed)
        step = trainer.private_steps(made, graph, inputs(graph), graph.adj, generator, Ledger())
        step.noise_multiplier = noise
        ways.append((step, torch.cat([v.ravel() for v in step.total(step.roots.nodes).values()])))
    gap = ways[0][1] - ways[1][1]
    inside, outside = (
        torch.cat([step.noisy(total.expand(10_000, -1)) @ gap for _ in range(20)])
        for step, total in ways
    )
    true = gaussian(1.0, 1e-5)
    assert true == pytest.approx(4.377, abs=1e-3)
    assert share * true <= many_runs(inside, outside, 1e-5).epsilon <= true


# -- broken training is caught at a claim of ε = 1 ----------------------------------------------


def weak_noise(patch: pytest.MonkeyPatch) -> None:
    noisy = PrivateSteps.noisy

    def tenth(self: PrivateSteps, total: Tensor) -> Tensor:
        return total + (noisy(self, total) - total) / 10

    patch.setattr(PrivateSteps, "noisy", tenth)


def no_clipping(patch: pytest.MonkeyPatch) -> None:
    def ones(self: Clip, squares: Any) -> Any:
        for square in squares.values():
            assert isinstance(square, Tensor)
        return {name: torch.ones_like(square) for name, square in squares.items()}

    patch.setattr(Clip, "factors", ones)


@pytest.mark.parametrize("break_it", [weak_noise, no_clipping])
@pytest.mark.parametrize(
    ("model", "audit"),
    [
        ("mlp", Canaries(count=300)),
        ("gcn", Canaries(shape="hub", count=100)),
        pytest.param(
            "mlp", Canaries(count=1, bound="many-runs", trainings=300), marks=pytest.mark.slow
        ),
    ],
    ids=["lone", "hub", "lone in many runs"],
)
def test_weak_noise_and_missing_clipping_are_caught(
    model: str, audit: Canaries, break_it: Callable[[pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    # Of one canary all numbers are looked at: features may be small, and untrained answers unsure.
    lab = lab_of(audit, model, steps=1, clip=0.1 if audit.count == 1 else 0.3)
    assert bound(audit, lab, tests=6) <= 1.0
    break_it(monkeypatch)
    assert bound(audit, lab, tests=6) > 1.0


def test_the_canaries_of_missing_clipping_are_ten_times_too_long() -> None:
    lab = lab_of(Canaries(count=300), "mlp")
    assert lab.planted is not None
    with Rng(0).scope():
        model = lab.defense.predictor(lab.recipe, Sizes.of(lab.planted.graph)).model
    graph, at = lab.planted.graph, lab.planted.canaries
    assert graph.y is not None
    logits = model.at(inputs(graph), graph.adj, at)
    loss = torch.nn.functional.cross_entropy(logits, graph.y[at], reduction="none")
    norms = []
    for one in loss:
        found = torch.autograd.grad(one, list(model.parameters()), retain_graph=True)
        norms.append(float(torch.cat([g.ravel() for g in found]).norm()))
    assert np.quantile(norms, 0.1) >= 10 * 0.3  # of the clip norm


class Normed(MLP):
    """A perceptron with BatchNorm before its hidden units."""

    capabilities = Capabilities(uses_edges=False, batch_statistics=True)

    def activate(self, i: int, h: Tensor) -> Tensor:
        if i == 0:
            h = (h - h.mean(0)) / (h.var(0, unbiased=False) + 1e-5).sqrt()
        return super().activate(i, h)


@dataclass(frozen=True, kw_only=True)
class NormedSpec(MLPSpec):
    """Of the test alone."""

    name: ClassVar[str] = "normed"
    module: ClassVar[type[GNN]] = Normed


def test_batch_statistics_are_refused_and_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    audit = Canaries(count=1, bound="many-runs", trainings=60, scale=1000.0)
    everybody = GRAPH.replace(split=Split.of(torch.arange(90), [], []))
    normed = NormedSpec(hidden=8, dropout=0.0)
    plain = {"name": "mlp", "hidden": 8, "dropout": 0.0}
    with pytest.raises(ValueError, match="batch_statistics"):
        lab_of(audit, normed)
    monkeypatch.setattr("graphsec.dp.gradients.beyond_roots", lambda *_: None)
    monkeypatch.setattr("graphsec.dp.step.check_model", lambda model: None)
    assert bound(audit, lab_of(audit, plain, everybody), tests=2) <= 1.0
    assert bound(audit, lab_of(audit, normed, everybody), tests=2) > 1.0


# -- the published sampler ----------------------------------------------------------------------


def test_a_crowd_contradicts_the_accountant_of_the_published_sampler() -> None:
    """Not claimed, and rightly: ε by the paper's accountant is 1, the audit shows more.

    It is the thinning that gives the hub away, as lone canaries under the same noise show.
    """
    fields: dict[str, Any] = {"sampler": "published", "max_degree": 5, "steps": 1, "nodes": None}
    crowd, lone = Canaries(shape="crowd", count=100), Canaries(count=400)
    lab = lab_of(crowd, **fields)
    trial = crowd.trial(lab, Rng(0))
    assert claimed(trial.predictor, DELTA) == pytest.approx(1.0, abs=0.01)
    assert trial.predictor.privacy is None
    found = one_run(trial.scores, trial.truth, DELTA, np.random.default_rng(0), confidence=0.975)
    assert found.epsilon > 1.5
    assert bound(lone, lab_of(lone, **fields), tests=2) <= 1.0


# -- specs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"audits": []}, "audits must not be empty"),
        ({"audits": ["canary"]}, "did you mean 'canaries'"),
        ({"audits": [{"name": "canaries", "count": 0}]}, "count: .*greater than or equal to 1"),
        ({"audits": [{"name": "canaries", "bound": "many-runs"}]}, "trainings must be ≥ 20"),
        (
            {"audits": [{"name": "canaries", "bound": "many-runs", "trainings": 50}]},
            "count must be 1 with bound = 'many-runs', got 500",
        ),
        ({"audits": [{"name": "canaries", "count": 3}]}, "must be ≥ 10"),
        ({"audits": [{"name": "membership", "attack": "prbcd"}]}, "one on membership, got 'prbcd'"),
        ({"audits": [{"name": "canaries", "shape": "crowd"}]}, "'crowd' for 'published'"),
        (
            {"audits": [{"name": "canaries", "shape": "hub"}], "model": "mlp"},
            "shape must be 'lone' with 'mlp'",
        ),
        ({"defense": "jaccard"}, "needs a defense of private steps, such as 'dp-gnn'"),
        ({"defense": "dp-subgraphs"}, "needs a defense of private steps, such as 'dp-gnn'"),
        ({"defense": "jaccard", "audits": ["membership"]}, "delta is missing"),
        ({"confidence": 1.0}, "confidence: .*less than 1"),
        (
            {
                "audits": [{"name": "canaries", "shape": "hub", "count": 100_000}],
                "defense": {**DP, "max_degree": 50},
            },
            "take fewer",
        ),
    ],
)
def test_specs_are_refused_before_anything_is_trained(changes: dict[str, Any], named: str) -> None:
    spec: dict[str, Any] = {"dataset": "karate", "defense": DP, "audits": ["canaries"]}
    with pytest.raises(SpecError, match=named):
        AuditSpec(**{**spec, **changes})


def test_every_audit_is_documented() -> None:
    assert list(AUDITS) == ["canaries", "membership"]
    assert all(AUDITS[name].__doc__ for name in AUDITS)
