"""Gradient leakage: what the game hides, what attacks find, and what they say when they can't."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import graphsec
from graphsec.attacks.leakage._leak import rounded
from graphsec.attacks.leakage._problem import posed
from graphsec.attacks.leakage.closed_form import multiplied
from graphsec.attacks.leakage.gradient_matching import GradientMatching, distance
from graphsec.game import Secret
from graphsec.graph import Graph
from graphsec.metrics.reconstruction import psnr, reconstruction_metrics, support_f1
from graphsec.models.base import inputs
from graphsec.models.maps import linear_maps, map_inputs
from graphsec.outcome import Reconstruction
from graphsec.predict import Predictor
from graphsec.registry import SpecError
from graphsec.rng import Rng
from graphsec.testing import tiny_graphs
from graphsec.threat import Threat
from graphsec.train import Release

GRAPHS = pytest.mark.parametrize("graph", tiny_graphs().values(), ids=list(tiny_graphs()))
ONE = {"epochs": 1, "expose": 1}


def played(graph: Graph, seed: int = 0, **game: Any) -> tuple[Graph, Secret]:
    known, secret = graphsec.play({"name": "gradients", **game}, graph, seed=seed)
    assert secret is not None
    return known, secret


def fitted(known: Graph, model: str = "gcn", training: Any = ONE, **fields: Any) -> Predictor:
    spec = {"name": model, **fields} if model == "sgc" else {"name": model, "dropout": 0, **fields}
    return graphsec.fit(known, spec, training=training)


def found(attack: Any, victim: Predictor, known: Graph, secret: Secret, **threat: Any) -> Any:
    return graphsec.attack(attack, victim, known, threat=threat, **secret.shown)


def numbers(outcome: Any, known: Graph, victim: Predictor, secret: Secret) -> dict[str, float]:
    scored = graphsec.score(outcome, known, victim, secret=secret)
    return {name: float(metric) for name, metric in scored.items()}


# -- the game -----------------------------------------------------------------------------------


@GRAPHS
def test_the_game_hides_roots_and_nothing_else(graph: Graph) -> None:
    known, secret = played(graph, roots=3, seed=1)
    assert graph.x is not None
    assert graph.y is not None
    assert graph.split is not None
    assert known.split is not None
    roots = secret.question
    assert torch.equal(known.split.train, roots)
    assert torch.isin(roots, graph.split.train).all()
    assert torch.equal(secret.answer, graph.y[roots])
    assert (secret.answer >= 0).all()
    public = secret.public
    assert public is not None
    assert public.x is not None
    assert public.y is not None
    assert public.x.layout == graph.x.layout
    differ = (public.x.to_dense() != graph.x.to_dense()).any(1)
    assert torch.equal(differ.nonzero().ravel(), roots)
    assert (public.x.to_dense()[roots] == 0).all()
    assert torch.equal((public.y != graph.y).nonzero().ravel(), roots)
    again = played(graph, roots=3, seed=1)[1]
    assert torch.equal(again.question, roots)


def test_neighbours_can_be_private_and_labels_known() -> None:
    graph = tiny_graphs()["blocks"]
    _, secret = played(graph, private=1, labels="known")
    root, public = int(secret.question), secret.public
    assert public is not None
    assert public.x is not None
    near = {root, *graph.indices[graph.indptr[root] : graph.indptr[root + 1]].tolist()}
    assert len(near) > 1
    assert set((public.x == 0).all(1).nonzero().ravel().tolist()) == near
    assert public.y is graph.y or torch.equal(public.y, graph.y)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "game", "message"),
    [
        ({}, {"roots": 31}, "roots must be at most the 30 labelled training nodes of 'blocks'"),
        ({"x": None}, {}, "needs features, found none in 'blocks'"),
        ({"split": None}, {}, "needs a classification with a split"),
    ],
)
def test_the_game_says_what_it_needs(changes: Any, game: Any, message: str) -> None:
    graph = tiny_graphs()["blocks"].replace(**changes)
    with pytest.raises(ValueError, match=message):
        played(graph, **game)


# -- labels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["gcn", "sage", "gat", "mlp", "sgc"])
@GRAPHS
def test_the_label_of_a_single_root_is_exact(graph: Graph, model: str) -> None:
    for seed in range(4):
        known, secret = played(graph, seed)
        victim = fitted(known, model)
        outcome = found("idlg", victim, known, secret)
        assert torch.equal(outcome.y, secret.answer)
        assert numbers(outcome, known, victim, secret)["label_accuracy"] == 1


def test_the_label_is_exact_after_steps_too() -> None:
    known, secret = played(tiny_graphs()["blocks"], step=4)
    victim = fitted(known, training={"epochs": 5, "expose": 5})
    assert torch.equal(found("idlg", victim, known, secret).y, secret.answer)


@GRAPHS
def test_counts_of_a_batch_are_near_and_whole(graph: Graph) -> None:
    shares = []
    for seed in range(5):
        known, secret = played(graph, seed, roots=8)
        victim = fitted(known)
        outcome = found("idlg", victim, known, secret)
        assert outcome.y is None
        assert int(outcome.counts.sum()) == 8
        shares.append(numbers(outcome, known, victim, secret)["label_counts"])
    assert sum(shares) / 5 > 0.85


def test_rounding_keeps_the_total() -> None:
    assert rounded(torch.tensor([1.6, -0.3, 2.3]), 4).tolist() == [2, 0, 2]
    assert rounded(torch.tensor([-1.0, -2.0]), 3).sum() == 3


# -- closed form --------------------------------------------------------------------------------


def in_double(known: Graph, secret: Secret, model: str, **fields: Any) -> Predictor:
    """A victim whose released gradient is float64: what the algebra gives, without rounding."""
    victim = fitted(known, model, **fields)
    start = victim.at(victim.trace.releases[0]).model.double()
    victim.model = start
    x, y = inputs(known).to_dense().double(), secret.answer
    loss = F.cross_entropy(start(x, known.adj)[secret.question], y)
    names, parameters = zip(*start.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters)
    sent: dict[str, Tensor] = dict(zip(names, gradients, strict=True))
    sent |= {f"parameter:{name}": p.detach() for name, p in start.named_parameters()}
    victim.trace.releases[:] = [Release(0, "gradient", sent)]
    return victim


DETERMINED = {
    "gcn": ({"layers": 1}, ["weight.0"], False),
    "deep gcn": ({"layers": 3}, ["weight.2"], False),
    "mlp": ({"layers": 3}, ["weight.0", "weight.1", "weight.2"], True),
    "sage": ({"layers": 1}, ["own.0", "near.0"], True),
    "deep sage": ({"layers": 2}, ["own.1", "near.1"], False),
    "sgc": ({"hops": 2}, ["weight.0"], False),
}


@pytest.mark.parametrize("case", DETERMINED)
@GRAPHS
def test_closed_form_is_exact_and_claims_no_more(graph: Graph, case: str) -> None:
    fields, maps, features = DETERMINED[case]
    for seed in range(3):
        known, secret = played(graph, seed)
        victim = in_double(known, secret, case.split()[-1], **fields)
        outcome = found("closed-form", victim, known, secret)
        assert list(outcome.inputs) == maps
        truth = map_inputs(
            victim.model, inputs(known).to_dense().double(), known.adj, secret.question
        )
        for name, value in outcome.inputs.items():
            assert (value - truth[name]).norm() < 1e-6 * truth[name].norm()
        assert (outcome.x is not None) == features
        if features:
            exact = inputs(known).to_dense()[secret.question].double()
            assert (outcome.x - exact).norm() < 1e-6 * exact.norm()


@pytest.mark.parametrize("model", ["gcn", "sgc", "sage"])
def test_an_isolated_root_shows_its_features(model: str) -> None:
    graph = tiny_graphs()["blocks"]
    root = 11
    edges = graph.pairs[:, (graph.pairs != root).all(0)]
    apart = Graph.from_edges(edges, 90, x=graph.x, y=graph.y, split=([root], [], [0, 1]))
    known, secret = played(apart)
    victim = in_double(known, secret, model)
    blind = found("closed-form", victim, known, secret)
    assert blind.x is None
    outcome = found({"name": "closed-form", "structure": True}, victim, known, secret)
    assert graph.x is not None
    exact = graph.x[root].double()
    assert (outcome.x[0] - exact).norm() < 1e-6 * exact.norm()


@GRAPHS
def test_a_neighbour_breaks_the_rank_of_an_inner_map(graph: Graph) -> None:
    """Why a GCN's first map is not claimed: what division gives there is far from the truth."""
    known, secret = played(graph)
    assert known.degree[secret.question] > 0
    victim = in_double(known, secret, "gcn")
    sent = victim.trace.releases[0].tensors
    row = multiplied(sent["weight.0"], sent["bias.0"])
    assert row is not None
    x = inputs(known).to_dense().double()
    truth = map_inputs(victim.model, x, known.adj, secret.question)["weight.0"][0]
    assert (row - truth).norm() > 0.1 * truth.norm()


def test_single_precision_is_scored_by_the_game() -> None:
    known, secret = played(tiny_graphs()["karate"], step=2)
    victim = fitted(known, training={"epochs": 3, "expose": 3})
    outcome = found("closed-form", victim, known, secret)
    assert numbers(outcome, known, victim, secret)["input_error"] < 1e-4
    moved = dataclasses.replace(outcome, inputs={k: v + 1 for k, v in outcome.inputs.items()})
    assert numbers(moved, known, victim, secret)["input_error"] > 0.1


def test_models_of_other_forms_have_no_such_map() -> None:
    graph = tiny_graphs()["blocks"]
    known, _ = played(graph)
    assert linear_maps(fitted(known, "gat").model) == []
    victim = graphsec.fit(known, {"name": "gcn", "dropout": 0}, "soft-median", training=ONE)
    assert linear_maps(victim.model) == []


def test_a_cell_plays_it() -> None:
    cell = graphsec.Cell(
        dataset={"name": "dc-sbm", "num_nodes": 60}, model={"name": "gcn", "dropout": 0.0},
        attack="closed-form", training=ONE, game={"name": "gradients"},
    )  # fmt: skip
    record = graphsec.run(cell)
    assert record.status == "done", record.reason
    assert record.value("input_error") < 1e-4
    other = dataclasses.replace(cell, game={"name": "gradients", "step": 1})
    assert other.row != cell.row
    assert "training.expose must be ≥ 2" in graphsec.run(other).reason


# -- gradient matching --------------------------------------------------------------------------

INVERTING = {
    "name": "gradient-matching", "loss": "cosine", "optimizer": "adam", "signed": True,
    "boxed": True, "steps": 300,
}  # fmt: skip


@pytest.mark.parametrize("model", ["gcn", "sage", "gat", "mlp", "sgc"])
@pytest.mark.parametrize("name", ["blocks", "karate"])
def test_dlg_finds_the_features_of_a_root(name: str, model: str) -> None:
    known, secret = played(tiny_graphs()[name])
    victim = fitted(known, model)
    spec = {"name": "gradient-matching", "restarts": 2}
    outcome = found(spec, victim, known, secret)
    scored = numbers(outcome, known, victim, secret)
    assert scored["reconstruction_error"] < 1e-2
    assert scored["recovered_share"] == 1
    assert torch.equal(outcome.y, secret.answer)
    if name == "karate":
        assert scored["support_f1"] == 1


def test_inverting_gradients_finds_them_too() -> None:
    known, secret = played(tiny_graphs()["weighted"])
    victim = fitted(known)
    scored = numbers(found(INVERTING, victim, known, secret), known, victim, secret)
    assert scored["reconstruction_error"] < 1e-2


def test_on_the_neighbourhood_and_on_the_whole_graph_alike() -> None:
    """The step on sampled hops is the step on the whole graph: its loss at the truth is 0."""
    known, secret = played(tiny_graphs()["weighted"], roots=3)
    victim = fitted(known)
    outcome = found({"name": "gradient-matching", "steps": 1}, victim, known, secret)
    assert outcome.x.shape == (3, 12)
    assert secret.public is not None
    shown = {**secret.shown, "public": known.replace(x=known.x)}
    view = Threat(access=("gradients", "features", "edges", "train_labels")).open(
        victim, known, Rng(0), **shown
    )
    attack = GradientMatching(labels=True)
    leak = attack.leak(view)
    problem, rows = posed(view, leak, secret.question, secret.answer)
    assert rows.tolist() == [int((secret.question == r).nonzero()) for r in secret.question]
    mine = [g.detach() for g in problem.gradients(problem.x[problem.rows], None)]
    assert float(distance(mine, problem.seen, "l2")) < 1e-10
    assert float(distance(mine, problem.seen, "cosine")) < 1e-10
    off = [g.detach() for g in problem.gradients(problem.x[problem.rows] + 1, None)]
    assert float(distance(off, problem.seen, "l2")) > 1e-3


def test_known_labels_place_the_features_of_a_batch() -> None:
    graph = tiny_graphs()["blocks"]
    known, secret = played(graph, roots=3, labels="known")
    victim = fitted(known, activation="tanh")
    spec = {"name": "gradient-matching", "labels": True, "restarts": 3}
    outcome = found(spec, victim, known, secret)
    assert numbers(outcome, known, victim, secret)["recovered_share"] == 1
    known, secret = played(graph, roots=3)
    with pytest.raises(ValueError, match="labels are private in this game"):
        found(spec, fitted(known), known, secret)


def test_features_of_neighbours_can_be_looked_for_too() -> None:
    known, secret = played(tiny_graphs()["blocks"], private=1)
    victim = fitted(known)
    outcome = found({"name": "gradient-matching", "steps": 60}, victim, known, secret)
    root = int(secret.question)
    near = {root, *known.indices[known.indptr[root] : known.indptr[root + 1]].tolist()}
    assert set(outcome.nodes.tolist()) == near
    assert len(outcome.x) == len(near) > 1
    assert numbers(outcome, known, victim, secret)["reconstruction_error"] < 10


def test_more_unknowns_than_numbers_are_refused() -> None:
    known, secret = played(tiny_graphs()["blocks"], roots=10)
    with pytest.raises(ValueError, match=r"looks for 150 numbers, of which a gradient of 39"):
        found("gradient-matching", fitted(known, layers=1), known, secret)


@GRAPHS
def test_guesses(graph: Graph) -> None:
    known, secret = played(graph)
    victim = fitted(known)
    zero = found({"name": "gradient-guess", "guess": "zero"}, victim, known, secret)
    scored = numbers(zero, known, victim, secret)
    assert (scored["reconstruction_error"], scored["reconstruction_gain"]) == (1, 0)
    mean = found("gradient-guess", victim, known, secret)
    x, y = inputs(known).to_dense(), known.y
    assert y is not None
    others = y == secret.answer
    others[secret.question] = False
    torch.testing.assert_close(mean.x[0], x[others].mean(0))
    near = found({"name": "gradient-guess", "guess": "neighbours"}, victim, known, secret)
    root = int(secret.question)
    around = slice(int(known.indptr[root]), int(known.indptr[root + 1]))
    weight = torch.ones(known.num_nodes) if known.edge_weight is None else known.edge_weight[around]
    rows = x[known.indices[around]]
    weight = weight[: len(rows)].unsqueeze(1)
    torch.testing.assert_close(near.x[0], (rows * weight).sum(0) / weight.sum())


# -- defenses of the release --------------------------------------------------------------------


def sent(known: Graph, defense: Any) -> tuple[Predictor, dict[str, Tensor]]:
    victim = graphsec.fit(known, {"name": "gcn", "dropout": 0}, defense, training=ONE)
    released = victim.trace.releases[0].tensors
    return victim, {k: v for k, v in released.items() if not k.startswith("parameter:")}


def test_release_defenses_change_what_leaves_and_only_so_far() -> None:
    known, _ = played(tiny_graphs()["blocks"])
    plain = sent(known, "none")[1]
    pruned = sent(known, {"name": "prune-gradients", "keep": 0.25})[1]
    signs, noisy = sent(known, "sign-gradients")[1], sent(known, "noisy-gradients")[1]
    for name, gradient in plain.items():
        kept = pruned[name] != 0
        assert int(kept.sum()) <= max(1, round(0.25 * gradient.numel()))
        assert torch.equal(pruned[name][kept], gradient[kept])
        assert gradient[~kept].abs().max() <= gradient[kept].abs().min()
        assert torch.equal(signs[name].sign(), gradient.sign())
        assert len(set(signs[name].abs().ravel().tolist())) <= 2
        assert 0 < float((noisy[name] - gradient).abs().max()) < 6e-3
    off = torch.cat([(noisy[n] - plain[n]).ravel() for n in plain])
    assert off.std() == pytest.approx(1e-3, rel=0.1)


def test_who_knows_of_pruning_is_less_hindered() -> None:
    """Kept entries are exact, and so are closed forms and matches that go by them alone."""
    known, secret = played(tiny_graphs()["blocks"])
    victim, gradient = sent(known, {"name": "prune-gradients", "keep": 0.3})
    assert (gradient["weight.1"] == 0).any()
    found_ = multiplied(gradient["weight.1"], gradient["bias.1"])
    truth = map_inputs(
        victim.at(victim.trace.releases[0]).model, inputs(known), known.adj, secret.question
    )["weight.1"][0]
    assert found_ is not None
    shown = found_ != 0
    assert 1 < int(shown.sum()) < len(shown)
    torch.testing.assert_close(found_[shown], truth[shown].double(), rtol=1e-4, atol=1e-6)
    errors = [
        numbers(found(spec, victim, known, secret), known, victim, secret)["reconstruction_error"]
        for spec in (
            "gradient-matching", {"name": "gradient-matching", "skip_zeros": True, "restarts": 3}
        )
    ]  # fmt: skip
    assert errors[1] < 1e-2 < errors[0]


def test_signs_still_show_the_label() -> None:
    known, secret = played(tiny_graphs()["blocks"])
    victim, _ = sent(known, "sign-gradients")
    assert torch.equal(found("idlg", victim, known, secret).y, secret.answer)


# -- bad input ----------------------------------------------------------------------------------


def broken(change: Any) -> tuple[Predictor, Graph, Secret]:
    known, secret = played(tiny_graphs()["blocks"])
    victim = fitted(known)
    change(victim.trace.releases[0].tensors)
    return victim, known, secret


def _wrong_shape(sent: dict[str, Tensor]) -> None:
    sent["weight.1"] = sent["weight.1"][1:]


def _nan(sent: dict[str, Tensor]) -> None:
    sent["bias.0"][3] = float("nan")


def _other_weights(sent: dict[str, Tensor]) -> None:
    sent["parameter:bias.1"] = torch.zeros(1)


def _empty(sent: dict[str, Tensor]) -> None:
    for name in [name for name in sent if not name.startswith("parameter:")]:
        del sent[name]


@pytest.mark.parametrize("attack", ["idlg", "closed-form", "gradient-matching"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_wrong_shape, r"'weight.1' must have the parameter's shape \(64, 3\), got \(63, 3\)"),
        (_nan, "gradient of 'bias.0' must be finite"),
        (_other_weights, r"parameter 'bias.1' must have shape \(3,\), found \(1,\)"),
        (_empty, "the release holds no gradient"),
    ],
)
def test_bad_gradients_are_refused(attack: str, change: Any, message: str) -> None:
    victim, known, secret = broken(change)
    with pytest.raises(ValueError, match=message):
        found(attack, victim, known, secret)


def test_what_the_theory_does_not_allow_is_refused() -> None:
    graph = tiny_graphs()["blocks"]
    known, secret = played(graph, roots=2)
    with pytest.raises(ValueError, match="roots must be 1, got 2"):
        found("closed-form", fitted(known), known, secret)
    known, secret = played(graph)
    with pytest.raises(ValueError, match="GAT has none"):
        found("closed-form", fitted(known, "gat"), known, secret)
    with pytest.raises(ValueError, match=r"training\.expose must be ≥ 1"):
        found("idlg", fitted(known, training={"epochs": 1}), known, secret)
    with pytest.raises(ValueError, match=r"training\.batch_size must be None, got 4"):
        found("idlg", fitted(known, training={**ONE, "batch_size": 4}), known, secret)
    with pytest.raises(ValueError, match=r"rules=secret\.rules"):
        graphsec.attack("idlg", fitted(known), known, question=secret.question)
    with pytest.raises(SpecError, match="roots"):
        played(graph, roots=0)


def test_the_scorer_refuses_nodes_that_were_not_private() -> None:
    graph = tiny_graphs()["blocks"]
    known, secret = played(graph)
    other = (secret.question + 1) % graph.num_nodes
    assert graph.x is not None
    outcome = Reconstruction(nodes=other, x=graph.x[other])
    with pytest.raises(ValueError, match="private features"):
        graphsec.score(outcome, known, fitted(known), secret=secret)


# -- metrics ------------------------------------------------------------------------------------


def test_metrics_of_reconstructions() -> None:
    truth = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
    zero = {k: float(v) for k, v in reconstruction_metrics(torch.zeros(2, 4), truth).items()}
    assert zero == {
        "reconstruction_error": 1, "reconstruction_gain": 0, "recovered_share": 0
    }  # fmt: skip
    close = truth.clone()
    close[1] += 1
    half = reconstruction_metrics(close, truth, sparse=True, pixels=True)
    assert float(half["recovered_share"]) == 0.5
    assert float(half["reconstruction_error"]) == pytest.approx(2 / 1.5**0.5)
    assert support_f1(truth + 0.1, truth) == 1
    assert support_f1(torch.zeros(2, 4), truth) == 0
    assert support_f1(torch.ones(2, 4), truth) == pytest.approx(2 * 3 / (8 + 3))
    assert psnr(truth, truth) == 120
    assert psnr(truth * 0.9, truth) == pytest.approx(-10 * torch.tensor(0.015 / 8).log10().item())
