"""Graph reconstruction: measures of dependence, dense adjacencies, and what attacks recover."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

import graphsec
from graphsec.attacks.reconstruction import mc_gra
from graphsec.attacks.reconstruction._knowledge import combined
from graphsec.attacks.reconstruction._relaxed import Relaxed
from graphsec.attacks.reconstruction.graphmi import GraphMI
from graphsec.attacks.reconstruction.mc_gra import MCGRA
from graphsec.graph import Graph
from graphsec.models.base import inputs
from graphsec.ops import Adj, symmetric
from graphsec.ops.dependence import alignment, cka, gaussian_kernel, hsic, information
from graphsec.ops.symmetric import Symmetric, mirror
from graphsec.registry import ATTACKS, GAMES, SpecError
from graphsec.rng import Rng
from graphsec.testing import tiny_graphs
from graphsec.threat import Threat, View

ALL = {"name": "links", "ask": "all"}
KARATE = tiny_graphs()["karate"]


def sparse_world(model: Any = None, seed: int = 0) -> tuple[Graph, Any, graphsec.Predictor]:
    """120 nodes of mean degree 4, a trained victim, and the truth about all pairs."""
    graph = graphsec.load({"name": "csbm", "num_nodes": 120, "degree": 4}, seed=seed)
    known, secret = graphsec.play(ALL, graph, seed=seed)
    assert secret is not None
    return known, secret, graphsec.fit(known, model or {"name": "gcn", "hidden": 16}, seed=seed)


def view_of(attack: Any, victim: graphsec.Predictor, graph: Graph) -> View:
    return Threat.of({}).resolve(attack).open(victim, graph, Rng(0)["view"])


def numbers(spec: Any, world: Any) -> dict[str, float]:
    known, secret, victim = world
    outcome = graphsec.attack(spec, victim, known, question=secret.question, seed=0)
    scored = graphsec.score(outcome, known, victim, secret=secret)
    return {name: float(metric) for name, metric in scored.items()}


# -- dependence ---------------------------------------------------------------------------------


def random(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(st.integers(0, 10_000))
def test_hsic_is_the_trace_of_centred_kernels(seed: int) -> None:
    a, b = random(11, 3, seed), random(11, 5, seed + 1)
    k, m, h = a @ a.T, b @ b.T, torch.eye(11).double() - 1 / 11
    trace = torch.trace(k @ h @ m @ h) / 100
    assert torch.allclose(hsic(a, b), trace)
    assert torch.allclose(alignment(k, m), cka(a, b))
    plain = torch.trace(k @ h @ m @ h) / (h @ k @ h).norm() / 11
    assert torch.allclose(alignment(k, m, scaled=False), plain)


@given(st.integers(0, 10_000))
def test_cka_knows_neither_scale_nor_rotation(seed: int) -> None:
    a, b = random(12, 4, seed), random(12, 4, seed + 1)
    turn = torch.linalg.qr(random(4, 4, seed + 2))[0]
    assert torch.allclose(cka(3 * a @ turn + 1, a), torch.ones(()).double())
    assert 0 <= float(cka(a, b)) <= 1
    assert float(cka(a, torch.ones(12, 2).double())) == 0


def test_information_is_0_without_dependence_and_grows_with_it() -> None:
    a, b = random(400, 1, 0), random(400, 1, 1)
    k = gaussian_kernel(a)
    assert float(information(k, torch.ones_like(k))) == pytest.approx(0, abs=1e-9)
    mixed = [float(information(k, gaussian_kernel(a + noise * b))) for noise in (0.1, 0.5, 2.0)]
    assert mixed == sorted(mixed, reverse=True)
    assert mixed[0] > float(information(k, gaussian_kernel(b))) + 0.3


def test_measures_are_differentiable() -> None:
    a, b = random(6, 2, 0).requires_grad_(), random(6, 3, 1).requires_grad_()
    assert gradcheck(hsic, (a, b))
    assert gradcheck(cka, (a, b))
    assert gradcheck(lambda a, b: alignment(a @ a.T, b @ b.T), (a, b))
    assert gradcheck(lambda a, b: information(gaussian_kernel(a), gaussian_kernel(b)), (a, b))


# -- dense adjacencies --------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["gcn", "sage", "gat", "gin", "appnp", "sgc"])
def test_a_dense_adjacency_is_the_same_graph(model: str) -> None:
    victim = graphsec.fit(KARATE, {"name": model}, training={"epochs": 5})
    matrix = torch.from_numpy(np.asarray(KARATE.to_scipy().todense())).float()
    x = inputs(KARATE)
    with torch.no_grad():
        wanted = victim.forward(x, KARATE.adj)
        assert torch.allclose(victim.forward(x, Adj.dense(matrix)), wanted, atol=1e-5)


def test_derivatives_of_a_dense_adjacency_are_those_of_candidate_pairs() -> None:
    victim = graphsec.fit(KARATE, "gcn", training={"epochs": 5})
    attack = GraphMI()
    relaxed = Relaxed(view_of(attack, victim, KARATE), inputs(KARATE), "graphmi")
    matrix = torch.from_numpy(np.asarray(KARATE.to_scipy().todense())).float()
    slope = relaxed.gradient(lambda a: relaxed.states(a)[-1].square().sum(), matrix)
    pairs = torch.triu_indices(KARATE.num_nodes, KARATE.num_nodes, 1)
    weight = torch.zeros(pairs.shape[1], requires_grad=True)
    out = victim.forward(inputs(KARATE), KARATE.adj.with_block(pairs, weight))
    (by_pair,) = torch.autograd.grad(out.square().sum(), weight)
    sign = torch.where(matrix[pairs[0], pairs[1]] > 0, -1.0, 1.0)  # a flip takes an edge away
    assert torch.allclose(slope[pairs[0], pairs[1]], sign * by_pair, atol=1e-4, rtol=1e-4)
    assert not slope.diagonal().any()


def test_leaves_of_a_dense_adjacency_can_be_exchanged() -> None:
    adj = Adj.dense(torch.rand(4, 4))
    (leaf,) = adj.tensors()
    assert torch.equal(adj.with_tensors([2 * leaf]).merged().weight, 2 * leaf.ravel())  # type: ignore[arg-type]


# -- the game -----------------------------------------------------------------------------------


def test_all_pairs_are_asked_about_once() -> None:
    _, secret = GAMES.build(ALL).prepare(KARATE, Rng(0))
    assert torch.equal(secret.question, torch.triu_indices(34, 34, 1))
    assert int(secret.answer.sum()) == KARATE.num_edges
    assert torch.equal(secret.answer.bool(), KARATE.has_edges(secret.question))


@pytest.mark.parametrize("directed", [False, True])
def test_a_sample_of_pairs_is_uniform(directed: bool) -> None:
    graph = Graph.from_edges(torch.tensor([[0, 1, 2], [1, 2, 0]]), 9, directed=directed)
    count = torch.zeros(9, 9)
    for seed in range(200):
        _, secret = GAMES.build({**ALL, "pairs": 12}).prepare(graph, Rng(seed))
        u, v = secret.question
        assert len(set(zip(u.tolist(), v.tolist(), strict=True))) == 12
        assert bool((u != v).all()) if directed else bool((u < v).all())
        assert torch.equal(secret.answer.bool(), graph.has_edges(secret.question))
        count[u, v] += 1
    pairs = 72 if directed else 36
    p = 12 / pairs
    drawn = count[count > 0]
    assert len(drawn) == pairs
    assert bool(((drawn - 200 * p).abs() < 5 * (200 * p * (1 - p)) ** 0.5).all())


def test_a_matrix_entry_may_say_what_is_asked() -> None:
    attacks: list[Any] = [
        "pair-similarity", {"name": "pair-similarity", "game": {"ask": "all"}},
    ]  # fmt: skip
    cells = graphsec.Matrix(datasets=["karate"], attacks=attacks, mlp_line=False).cells()
    assert [cell.parts.game.spec()["ask"] for cell in cells] == ["balanced", "all"]
    assert cells[0].row == cells[1].row
    assert cells[0].key != cells[1].key
    wrong = graphsec.Matrix(
        datasets=["karate"], attacks=[{"name": "pair-similarity", "game": {"asks": "all"}}]
    )
    assert "asks" in " ".join(wrong.problems())


# -- attacks ------------------------------------------------------------------------------------


@settings(deadline=None)  # a busy machine is no failure
@given(st.integers(0, 10_000))
def test_combining_knows_no_scales(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (torch.from_numpy(rng.integers(0, 5, 30).astype(float)) for _ in range(2))
    together = combined([a, b])
    assert torch.allclose(together, combined([7 * a - 3, b**3 + b]))
    one = combined([a])
    assert torch.equal(one.argsort(stable=True), a.argsort(stable=True))


def test_what_is_known_is_what_is_asked_for() -> None:
    names = {
        ("features",): {"features"},
        ("hidden",): {"hidden"},
        ("outputs", "labels"): {"scores", "true_labels"},
    }
    for knows, needed in names.items():
        attack = ATTACKS.build({"name": "pair-similarity", "knows": list(knows)})
        assert set(attack.needs.names) == needed
    for name, few in (("mc-gra", ["labels"]), ("chain-inversion", ["features", "labels"])):
        with pytest.raises(SpecError, match="knows must hold"):
            ATTACKS.build({"name": name, "knows": few})


class Plain(Symmetric):
    """All left to autograd."""

    def __matmul__(self, h: Tensor) -> Tensor:
        return self.matrix @ h

    def inner(self, kernel: Tensor) -> Tensor:
        return (self.matrix * kernel).sum()

    @property
    def square(self) -> Tensor:
        return self.matrix.square().sum()


@pytest.mark.parametrize("model", ["gcn", "sage", "gat"])
@pytest.mark.parametrize("measure", ["hsic", "cka", "kde", "mse"])
@pytest.mark.parametrize("narrow", [0, 10_000])
def test_derivatives_in_factors_are_those_of_autograd(
    measure: Any, model: str, narrow: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mc_gra, "NARROW", narrow)
    known, _, victim = sparse_world(model)
    attack = MCGRA(measure=measure)
    view = view_of(attack, victim, known)
    have = attack.known(view)
    assert have.x is not None
    relaxed = Relaxed(view, have.x, "mc-gra")
    loss = attack.loss(relaxed, have)
    a = mirror(torch.rand(120, 120) / 10)
    plain = Plain(a)
    (entry,) = torch.autograd.grad(loss(plain), plain.matrix)
    wanted = (entry + entry.T).fill_diagonal_(0)
    assert torch.allclose(relaxed.gradient(loss, a), wanted, atol=1e-5 * float(wanted.abs().max()))
    with torch.no_grad():
        assert torch.allclose(loss(Symmetric(a)), loss(plain), rtol=1e-5)


@pytest.mark.parametrize("narrow", [0, 10_000])
def test_the_mse_of_kernels_is_that_of_their_entries(
    narrow: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mc_gra, "NARROW", narrow)
    rows, a = torch.randn(30, 4), mirror(torch.rand(30, 30))
    kernel = rows @ rows.T
    wanted = -(kernel - a).square().sum() / kernel.square().sum()
    with torch.no_grad():
        assert torch.allclose(mc_gra._topology("mse", rows)(Symmetric(a)), wanted, rtol=1e-5)


def test_blocks_of_a_derivative_cover_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symmetric, "ROWS", 7)
    a, h, kernel = (torch.rand(30, 30, dtype=torch.float64) for _ in range(3))
    a, kernel, found = mirror(a), mirror(kernel), torch.zeros_like(a)

    def loss(a: Symmetric) -> Tensor:
        return (a @ (a @ h)).sin().sum() + a.inner(kernel) ** 2 + a.norm() + a.matrix.exp().sum()

    leaf, plain = Symmetric(a), Plain(a)
    for rows, slope in leaf.blocks(loss(leaf)):
        found[rows, rows.start :] = slope
    (entry,) = torch.autograd.grad(loss(plain), plain.matrix)
    assert torch.allclose(mirror(found), (entry + entry.T).fill_diagonal_(0))
    nothing = Symmetric(torch.zeros(5, 5))
    assert not any(bool(slope.any()) for _, slope in nothing.blocks(nothing.norm()))


@pytest.mark.parametrize("measure", ["hsic", "cka", "kde", "mse"])
def test_mc_gra_lowers_its_loss(measure: Any) -> None:
    known, _, victim = sparse_world()
    attack = MCGRA(measure=measure, steps=40, lr=0.02)
    view = view_of(attack, victim, known)
    have = attack.known(view)
    assert have.x is not None
    relaxed = Relaxed(view, have.x, "mc-gra")
    loss = attack.loss(relaxed, have)
    found = relaxed.adam(loss, relaxed.constant(0.01), attack.steps, attack.lr)
    assert torch.equal(found, found.T)
    assert ((found >= 0) & (found <= 1)).all()
    with torch.no_grad():
        begin = float(loss(Symmetric(relaxed.constant(0.01))))
        assert float(loss(Symmetric(found))) < begin - 0.01


def test_reconstructions_beat_their_prior_knowledge() -> None:
    world = sparse_world()
    prior = numbers("pair-similarity", world)
    for name in ("mc-gra", "chain-inversion"):
        assert numbers(name, world)["average_precision"] > prior["average_precision"] + 0.05, name


@pytest.mark.parametrize("model", ["gcn", "sage"])
@pytest.mark.parametrize("knows", [("hidden",), ("hidden", "outputs")])
def test_states_of_a_wide_layer_give_a_sparse_graph_away(model: str, knows: Any) -> None:
    """More equations than a row has neighbours: all edges come before all other pairs."""
    world = sparse_world({"name": model, "hidden": 64})
    spec = {"name": "chain-inversion", "knows": ["features", *knows], "steps": 400}
    assert numbers(spec, world)["auc"] > 0.999


def test_a_model_of_one_layer_needs_no_hidden_states() -> None:
    world = sparse_world({"name": "gcn", "layers": 1})
    spec = {"name": "chain-inversion", "knows": ["features", "outputs"]}
    prior = {"name": "pair-similarity", "knows": ["features", "outputs"]}
    assert numbers(spec, world)["auc"] > numbers(prior, world)["auc"] + 0.02


def test_inversion_says_what_it_cannot_invert() -> None:
    for model, knows, why in (
        ("gat", ("features", "hidden"), "layer 0 of GAT"),
        ("gcn", ("features", "outputs"), "input and the output of a layer"),
    ):
        known, secret, victim = sparse_world(model)
        with pytest.raises(ValueError, match=why):
            graphsec.attack(
                {"name": "chain-inversion", "knows": knows}, victim, known,
                question=secret.question,
            )  # fmt: skip


def test_dense_attacks_refuse_what_they_cannot_hold() -> None:
    wide = Graph.from_edges(
        [[0], [1]], 10_001, x=torch.ones(10_001, 2), y=torch.zeros(10_001).long()
    )
    victim = graphsec.fit(KARATE, "gcn", training={"epochs": 1})
    with pytest.raises(ValueError, match=r"num_nodes of .* must be ≤ 10,000, got 10,001"):
        Relaxed(view_of(GraphMI(), victim, wide), inputs(wide), "graphmi")
    turned = KARATE.replace(directed=True)
    with pytest.raises(ValueError, match="is directed"):
        Relaxed(view_of(GraphMI(), victim, turned), inputs(turned), "graphmi")
