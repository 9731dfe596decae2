"""GIFD and its priors, and how pictures of what was recovered reach the report."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import sqlite3
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from torch import Tensor

import graphsec
from graphsec import report
from graphsec.attacks.leakage import _generator
from graphsec.attacks.leakage._generator import public_rows, vae, vgae
from graphsec.attacks.leakage._images import total_variation
from graphsec.cell import Cache, Record, run_cell
from graphsec.game import Secret
from graphsec.graph import Graph
from graphsec.ops.prox import onto_l1_ball
from graphsec.outcome import Reconstruction
from graphsec.pictures import NODES, pictures
from graphsec.predict import Predictor
from graphsec.registry import SpecError
from graphsec.report.strips import COLUMNS, png
from graphsec.rng import Rng
from graphsec.store import Store
from graphsec.testing import tiny_graphs
from graphsec.testing.common import same

ONE = {"epochs": 1, "expose": 1}
QUICK = {"name": "gifd", "epochs": 10, "steps": 45, "width": 32, "latent": 8}
GCN = {"name": "gcn", "hidden": 16, "dropout": 0.0}
PRIORS = pytest.mark.parametrize("train", [vae, vgae])


def played(graph: Graph, seed: int = 0, **game: Any) -> tuple[Graph, Secret]:
    known, secret = graphsec.play({"name": "gradients", **game}, graph, seed=seed)
    assert secret is not None
    return known, secret


def found(attack: Any, known: Graph, secret: Secret, defense: Any = "none") -> Any:
    victim = graphsec.fit(known, GCN, defense, training=ONE)
    return graphsec.attack(attack, victim, known, **secret.shown), victim


def score(outcome: Any, known: Graph, victim: Predictor, secret: Secret) -> dict[str, float]:
    scored = graphsec.score(outcome, known, victim, secret=secret)
    return {name: float(metric) for name, metric in scored.items()}


@pytest.fixture(scope="module")
def digits() -> Graph:
    return graphsec.load("digits-pixels", seed=0)


# -- the projection -----------------------------------------------------------------------------


def test_the_projection_is_the_nearest_point_of_the_ball() -> None:
    """Beside scipy's solver of the quadratic programme, with h = a − b and a, b ≥ 0."""
    from scipy.optimize import minimize

    rng = np.random.default_rng(0)
    for radius in (0.3, 1.0, 2.5):
        h = rng.normal(size=6)
        mine = onto_l1_ball(torch.from_numpy(h)[None], torch.tensor([radius]).double())[0].numpy()
        best = minimize(
            lambda v, h=h: ((v[:6] - v[6:] - h) ** 2).sum(), np.zeros(12), method="SLSQP",
            bounds=[(0, None)] * 12,
            constraints={"type": "ineq", "fun": lambda v, r=radius: r - v.sum()},
            options={"ftol": 1e-14, "maxiter": 500},
        )  # fmt: skip
        assert np.abs(mine).sum() == pytest.approx(radius)
        np.testing.assert_allclose(mine, best.x[:6] - best.x[6:], atol=1e-5)


def test_rows_have_balls_of_their_own_and_those_inside_stay() -> None:
    h = torch.tensor([[0.2, -0.1, 0.0], [3.0, -1.0, 0.5], [1.0, 1.0, 1.0], [2.0, -2.0, 0.0]])
    out = onto_l1_ball(h, torch.tensor([1.0, 2.0, 0.0, 2.0]))
    assert torch.equal(out[0], h[0])
    torch.testing.assert_close(out[1], torch.tensor([2.0, 0.0, 0.0]))
    assert torch.equal(out[2], torch.zeros(3))
    torch.testing.assert_close(out[3], torch.tensor([1.0, -1.0, 0.0]))


# -- priors -------------------------------------------------------------------------------------


def spoilt(graph: Graph, nodes: Tensor) -> Graph:
    """The graph with other features in the rows of some nodes."""
    assert graph.x is not None
    x = graph.x.to_dense().clone()
    x[nodes] = 7.0 + torch.arange(x.shape[1])
    return graph.replace(x=x if graph.x.layout == torch.strided else x.to_sparse_csr())


@PRIORS
@pytest.mark.parametrize("name", ["blocks", "karate"])
def test_a_prior_never_sees_private_features(train: Any, name: str) -> None:
    """Whatever stands in private rows, the prior is the same; a public row does change it."""
    graph = tiny_graphs()[name]
    hidden = torch.tensor([3, 11])
    made = [
        train(each, hidden, 4, 8, 3, Rng(0))
        for each in (graph, spoilt(graph, hidden), spoilt(graph, torch.tensor([5])))
    ]
    assert not torch.isin(made[0].rows, hidden).any()
    states = [
        {str(i): s.state_dict() for i, s in enumerate(p.stages)} | {"mean": p.mean, "std": p.std}
        for p in made
    ]
    assert same(states[0], states[1])
    assert not same(states[0], states[2])


@PRIORS
def test_what_an_attack_trains_on_is_disjoint_from_its_targets(
    train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def watched(known: Graph, hidden: Tensor) -> Tensor:
        seen.append(public_rows(known, hidden))
        return seen[-1]

    monkeypatch.setattr(_generator, "public_rows", watched)
    known, secret = played(tiny_graphs()["blocks"], private=1)
    spec = {**QUICK, "prior": train.__name__}
    outcome, _ = found(spec, known, secret)
    assert len(outcome.nodes) > 1
    assert not torch.isin(seen[0], outcome.nodes).any()
    assert len(seen[0]) + len(outcome.nodes) == known.num_nodes


def test_a_prior_is_trained_once_for_all_defenses(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []

    def watched(known: Graph, hidden: Tensor) -> Tensor:
        trained.append(hidden)
        return public_rows(known, hidden)

    monkeypatch.setattr(_generator, "public_rows", watched)
    cache = Cache(4)
    cells = [
        graphsec.Cell(
            dataset={"name": "dc-sbm", "num_nodes": 60}, model=GCN, defense=defense,
            attack={**QUICK, "steps": steps}, game={"name": "gradients"}, training=ONE, seed=seed,
        )
        for seed in (0, 1) for defense in ("none", "sign-gradients") for steps in (6, 9)
    ]  # fmt: skip
    shared = [run_cell(cell, cache=cache) for cell in cells]
    assert len(trained) == 2
    alone = run_cell(cells[3])
    assert alone.status == "done", alone.reason
    assert alone.result() == shared[3].result()


@PRIORS
def test_a_prior_draws_what_public_rows_look_like(train: Any, digits: Graph) -> None:
    known, secret = played(digits, roots=50)
    prior = train(known, secret.question, 8, 64, 15 if train is vae else 50, Rng(0))
    z = torch.randn(200, 8, generator=Rng(1).torch(), dtype=torch.float64)
    drawn, x = prior.features(z), digits.x
    assert x is not None
    assert 0 <= float(drawn.min()) <= float(drawn.max()) <= 1
    near, noise = (
        torch.cdist(images, x.double()).min(1).values.mean()
        for images in (drawn, torch.rand(200, 64, dtype=torch.float64))
    )
    assert near < 0.7 * noise
    if train is vgae:  # neighbours tell more of a private row than the mean of all rows does
        truth = x[secret.question].double()
        assert (prior.features(prior.mean) - truth).norm() < (x.double().mean(0) - truth).norm()


def test_words_stay_words() -> None:
    graph = tiny_graphs()["karate"]
    prior = vae(graph, torch.tensor([0]), 4, 16, 40, Rng(0))
    drawn = prior.features(torch.zeros(1, 4, dtype=torch.float64))
    assert float(drawn.min()) > 0
    assert float(drawn.max()) < 1


# -- the attack ---------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", ["vae", "vgae"])
def test_layers_stay_in_their_balls_and_the_best_one_counts(prior: str, digits: Graph) -> None:
    known, secret = played(digits)
    outcome, victim = found({**QUICK, "prior": prior}, known, secret)
    losses = outcome.info["losses"]
    assert len(losses) == 3
    assert outcome.info["loss"] == min(losses)
    assert outcome.info["layer"] == losses.index(min(losses))
    assert score(outcome, known, victim, secret)["reconstruction_error"] < 1
    # A ball of radius 0 is its centre: nothing but the latent decides.
    stuck, _ = found({**QUICK, "prior": prior, "radius": 0.0}, known, secret)
    first, *others = stuck.info["losses"]
    assert others == pytest.approx([first, first])
    assert losses[-1] < first


def test_it_beats_inverting_gradients_where_gradients_are_pruned(digits: Graph) -> None:
    known, secret = played(digits)
    defense = {"name": "prune-gradients", "keep": 0.01}
    inverting = {
        "name": "gradient-matching", "loss": "cosine", "optimizer": "adam", "signed": True,
        "boxed": True, "steps": 120, "skip_zeros": True,
    }  # fmt: skip
    values = []
    for spec in ({"name": "gifd", "steps": 120, "epochs": 20, "skip_zeros": True}, inverting):
        outcome, victim = found(spec, known, secret, defense)
        values.append(score(outcome, known, victim, secret)["psnr"])
    assert values[0] > values[1] + 1


def test_several_roots_need_known_labels() -> None:
    known, secret = played(tiny_graphs()["blocks"], roots=2)
    with pytest.raises(ValueError, match="needs the labels of 2 roots"):
        found(QUICK, known, secret)
    with pytest.raises(ValueError, match="needs the labels of 2 roots"):
        found({**QUICK, "labels": True}, known, secret)
    known, secret = played(tiny_graphs()["blocks"], roots=2, labels="known")
    outcome, _ = found({**QUICK, "labels": True}, known, secret)
    assert outcome.x.shape == (2, 12)


def test_too_few_public_nodes_are_refused() -> None:
    graph = tiny_graphs()["blocks"]
    with pytest.raises(ValueError, match=r"must be ≥ 8 of them, found 7 in 'blocks'"):
        public_rows(graph, torch.arange(83))
    known, secret = played(graph, private=8)
    with pytest.raises(ValueError, match="nodes with public features"):
        found(QUICK, known, secret)


# -- total variation ----------------------------------------------------------------------------


def test_total_variation_by_hand() -> None:
    image = torch.tensor([[0.0, 1.0, 1.0, 0.0, 0.5, 1.0]])
    assert float(total_variation(image, (2, 3))) == pytest.approx((1 + 0 + 0.5 + 0.5) / 4 + 0.5 / 3)
    assert float(total_variation(torch.full((2, 9), 0.3), (3, 3))) == 0


@pytest.mark.parametrize("name", ["gradient-matching", "gifd"])
def test_total_variation_smooths_and_says_what_it_needs(name: str, digits: Graph) -> None:
    quick = QUICK if name == "gifd" else {"name": name, "optimizer": "adam", "steps": 60}
    known, secret = played(digits)
    rough, smooth = (
        float(total_variation(found({**quick, **changes}, known, secret)[0].x, (8, 8)))
        for changes in ({}, {"tv": 1.0, "grid": (8, 8)})
    )
    assert smooth < rough
    with pytest.raises(SpecError, match="total variation needs grid"):
        graphsec.Cell(dataset="cora", attack={**quick, "tv": 0.1})
    with pytest.raises(SpecError, match="at least 2 × 2"):
        graphsec.Cell(dataset="cora", attack={**quick, "tv": 0.1, "grid": (1, 64)})
    with pytest.raises(ValueError, match="8 × 8 = 64, found 12 features"):
        found({**quick, "tv": 0.1, "grid": (8, 8)}, *played(tiny_graphs()["blocks"]))


# -- pictures -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def records() -> list[Record]:
    """Two attacks on two seeds of digits; the same cell on features that are no pixels."""
    made = []
    for dataset in ("digits-pixels", "digits-knn"):
        for attack in ("gradient-guess", {**QUICK, "steps": 9, "epochs": 2}):
            for seed in (0, 1):
                cell = graphsec.Cell(
                    dataset=dataset, model=GCN, attack=attack, game={"name": "gradients"},
                    training=ONE, seed=seed,
                )  # fmt: skip
                made.append(graphsec.run(cell))
    assert [r.reason for r in made] == [""] * 8
    return made


def test_records_hold_pictures_of_pixels_alone(records: list[Record], digits: Graph) -> None:
    for record in records:
        if record.spec["dataset"]["name"] == "digits-knn":
            assert record.pictures == []
            assert "psnr" not in record.metrics
            continue
        (made,) = record.pictures
        assert digits.x is not None
        (node,) = made["nodes"]
        assert made["true"] == [(digits.x[node] * 255).round().int().tolist()]
        assert made["psnr"] == [pytest.approx(record.value("psnr"), abs=1e-3)]
        assert len(record.to_json()) < 8000


def test_pictures_are_bounded(digits: Graph) -> None:
    known, secret = played(digits, roots=12)
    assert digits.x is not None
    nodes = secret.question
    outcome = Reconstruction(nodes=nodes, x=digits.x[nodes] + 3)
    (made,) = pictures(outcome, known, secret, (8, 8))
    assert len(made["found"]) == len(made["psnr"]) == NODES
    assert made["found"] == [[255] * 64] * NODES
    assert pictures(outcome, known, secret, None) == []
    assert pictures(outcome, known, None, (8, 8)) == []
    assert pictures(outcome, known, secret, (7, 9)) == []
    wide = known.replace(x=torch.rand(known.num_nodes, 4225))
    big = Reconstruction(nodes=nodes, x=torch.zeros(12, 4225))
    assert pictures(big, wide, secret, (65, 65)) == []


def test_images_are_drawn_pixel_by_pixel() -> None:
    pixels = [0, 255, 17, 128, 1, 254]
    head, _, content = png(pixels, (2, 3)).partition(",")
    assert head == "data:image/png;base64"
    image = imread(BytesIO(base64.b64decode(content)), format="png")
    assert (image[..., :3] * 255).round().astype(int)[..., 0].ravel().tolist() == pixels
    assert png(pixels, (2, 3)) == png(pixels, (2, 3))


def test_the_report_shows_strips(records: list[Record]) -> None:
    page = report.render(records)
    assert page == report.render(records[::-1])
    assert "http" not in page
    images = re.findall(r'<img src="([^"]*)" alt="([^"]*)">', page)
    assert all(src.startswith("data:image/png;base64,") for src, _ in images)
    assert len(images) == 2 + 4  # the true ones, and two attacks
    pixels = [r for r in records if r.pictures]
    for record in pixels:
        made = record.pictures[0]
        assert png(made["true"][0], (8, 8)) in page
        assert png(made["found"][0], (8, 8)) in page
        said = f"seed {record.spec['seed']}: PSNR {record.value('psnr'):.1f} dB"
        assert any(said in alt for _, alt in images)
        assert f"<small>{record.value('psnr'):.1f} dB</small>" in page
    assert "Recovered images" not in report.render(records[4:])


def test_long_strips_are_cut(records: list[Record]) -> None:
    many = [
        dataclasses.replace(records[0], key=f"{i}", spec={**records[0].spec, "seed": i})
        for i in range(COLUMNS + 5)
    ]
    assert len(re.findall("<img", report.render(many))) == 2 * COLUMNS


def test_edges_are_drawn_beside_the_true_ones(records: list[Record]) -> None:
    graph = tiny_graphs()["blocks"]
    known, secret = played(graph)
    nodes = torch.arange(6)
    truth = graph.has_edges(nodes[torch.cartesian_prod(nodes, nodes).T]).view(6, 6).double()
    count = int(truth.sum()) // 2
    assert count > 1
    (exact,) = pictures(Reconstruction(nodes=nodes, adj=truth), known, secret, None)
    assert exact["found"] == exact["true"]
    assert len(exact["true"]) == count
    (wrong,) = pictures(Reconstruction(nodes=nodes, adj=1 - truth), known, secret, None)
    assert len(wrong["found"]) == count
    assert not {tuple(p) for p in wrong["found"]} & {tuple(p) for p in wrong["true"]}
    page = report.render([dataclasses.replace(records[0], pictures=[wrong])])
    assert f"0 of {count} edges found" in page
    assert f"0 recovered, {count} missed, {count} made up" in page
    many = Reconstruction(nodes=torch.arange(30), adj=torch.rand(30, 30))
    assert pictures(many, known, secret, None) == []


def test_pictures_survive_the_store_and_old_stores_open(
    records: list[Record], tmp_path: Path
) -> None:
    cell = graphsec.Cell.from_spec(records[0].spec)
    path = tmp_path / "runs.db"
    with Store(str(path)) as store:
        store.add([cell])
        store.claim("me", [cell.key])
        assert store.start(cell.key, "me")
        assert store.finish(records[0], "me")
        assert list(store.records()) == [records[0]]
    # As written before there were pictures.
    with sqlite3.connect(path) as old:
        (text,) = old.execute("SELECT json FROM records").fetchone()
        before = json.loads(text)
        assert before.pop("pictures")
        old.execute("UPDATE records SET json = ?", (json.dumps(before),))
        old.execute("UPDATE graphsec SET value = '1'")
    for create in (False, True):
        with Store(str(path), create=create) as store:
            (record,) = store.records()
            assert record == dataclasses.replace(records[0], pictures=[])
    with sqlite3.connect(path) as now:
        assert now.execute("SELECT value FROM graphsec").fetchone() == ("2",)
