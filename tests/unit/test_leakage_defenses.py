"""Releases under defenses, over local steps, clients and rounds: what leaks to whom."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import graphsec
from graphsec.defenses import build
from graphsec.defenses.release.local_dp import LocalDP, gaussian_std
from graphsec.game import Secret
from graphsec.graph import Graph
from graphsec.models.base import inputs
from graphsec.predict import Predictor
from graphsec.registry import SpecError
from graphsec.testing import tiny_graphs
from graphsec.threat import Threat

FIVE = {"epochs": 5, "expose": 5}
DLG = {"name": "gradient-matching", "steps": 120}
LOCAL = {"optimizer": "sgd", "lr": 0.1, "weight_decay": 5e-4}
CLIPPED = {"name": "dp-gnn", "noise_multiplier": 0.0, "rate": 1.0, "clip": 0.1, "unit": False}


def played(name: str = "blocks", seed: int = 0, **game: Any) -> tuple[Graph, Secret]:
    known, secret = graphsec.play({"name": "gradients", **game}, tiny_graphs()[name], seed=seed)
    assert secret is not None
    return known, secret


def trained(known: Graph, defense: Any = "none", model: str = "gcn", training: Any = FIVE) -> Any:
    return graphsec.fit(known, {"name": model, "dropout": 0}, defense, training=training)


def error(attack: Any, victim: Predictor, known: Graph, secret: Secret, **fields: Any) -> float:
    spec = attack if isinstance(attack, str) else {**attack, **fields}
    outcome = graphsec.attack(spec, victim, known, **secret.shown)
    return float(graphsec.score(outcome, known, victim, secret=secret)["reconstruction_error"])


# -- local steps --------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 5])
def test_an_update_is_what_local_steps_moved(steps: int) -> None:
    """Ten steps in rounds move the weights as ten plain steps do."""
    known, _ = played()
    plain = trained(known, training={"epochs": 10, "expose": 10, **LOCAL})
    rounds = trained(known, training={"epochs": 10, "expose": 10, "local_steps": steps, **LOCAL})
    assert [r.kind for r in rounds.trace.releases] == ["update"] * (10 // steps)
    for name, parameter in plain.model.named_parameters():
        torch.testing.assert_close(dict(rounds.model.named_parameters())[name], parameter)
        began = plain.trace.releases[0].tensors[f"parameter:{name}"]
        moved = sum((r.tensors[name] for r in rounds.trace.releases), torch.zeros(1))
        torch.testing.assert_close(began + moved, parameter, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("model", ["gcn", "mlp"])
def test_dlg_unrolls_local_steps(steps: int, model: str) -> None:
    known, secret = played()
    victim = trained(known, model=model, training={**FIVE, "local_steps": steps, **LOCAL})
    assert error(DLG, victim, known, secret) < 1e-2
    idlg = graphsec.attack("idlg", victim, known, **secret.shown)
    assert torch.equal(idlg.y, secret.answer)  # type: ignore[attr-defined]


def test_closed_form_takes_one_local_step_and_refuses_more() -> None:
    known, secret = played()
    victim = trained(known, model="mlp", training={**FIVE, "local_steps": 1, **LOCAL})
    assert error("closed-form", victim, known, secret) < 1e-2
    victim = trained(known, model="mlp", training={**FIVE, "local_steps": 5, **LOCAL})
    with pytest.raises(ValueError, match=r"training\.local_steps must be 1, got 5"):
        error("closed-form", victim, known, secret)


def test_local_steps_are_plain() -> None:
    known, _ = played()
    with pytest.raises(SpecError, match=r"training\.optimizer must be 'sgd'.*got 'adam'"):
        trained(known, training={"local_steps": 2})
    with pytest.raises(SpecError, match=r"training\.local_steps must be None with 'dp-gnn'"):
        trained(known, CLIPPED, training={"local_steps": 2, **LOCAL})


# -- what is released ---------------------------------------------------------------------------


def sent(known: Graph, defense: Any) -> dict[str, Tensor]:
    tensors = trained(known, defense).trace.releases[0].tensors
    return {k: v for k, v in tensors.items() if not k.startswith("parameter:")}


def test_clipping_scales_and_ternary_rounds() -> None:
    known, _ = played()
    plain, clipped = sent(known, "none"), sent(known, {"name": "clip-gradients", "norm": 0.1})
    whole = torch.cat([g.ravel() for g in plain.values()])
    assert whole.norm() > 0.1
    assert torch.cat([g.ravel() for g in clipped.values()]).norm() == pytest.approx(0.1)
    for name, g in clipped.items():
        torch.testing.assert_close(g, plain[name] * 0.1 / whole.norm())
    for name, g in sent(known, "ternary-gradients").items():
        values = set(g.ravel().tolist())
        assert len(values) <= 3
        assert ((g == 0) | (g.sign() == plain[name].sign())).all()
    defense = build("ternary-gradients")
    g = torch.tensor([0.5, -0.25, 0.1, 0.0])
    torch.manual_seed(0)
    mean = torch.stack([defense.release([g])[0] for _ in range(1000)]).mean(0)
    torch.testing.assert_close(mean, g, rtol=0, atol=0.05)


@pytest.mark.parametrize("distribution", ["gaussian", "laplace"])
def test_noise_has_its_deviation(distribution: str) -> None:
    defense = build({"name": "noisy-gradients", "std": 0.1, "distribution": distribution})
    torch.manual_seed(0)
    noise = defense.release([torch.zeros(20_000)])[0]
    assert noise.std() == pytest.approx(0.1, rel=0.05)
    tail = float((noise.abs() > 0.3).float().mean())  # e^(−3 √2) of Laplace, .0027 of Gaussian
    assert (tail > 0.008) == (distribution == "laplace")


def test_clients_release_apart_and_the_server_sees_their_mean() -> None:
    known, secret = played(roots=4)
    alone = sent(known, {"name": "secure-aggregation", "clients": 2})
    for name, g in sent(known, "none").items():
        torch.testing.assert_close(alone[name], g, rtol=1e-4, atol=1e-6)
    parts = [{"name": "clip-gradients", "norm": 0.1}, {"name": "secure-aggregation", "clients": 4}]
    by_client = sent(known, parts)
    assert len(secret.question) == 4
    assert torch.cat([g.ravel() for g in by_client.values()]).norm() <= 0.1 + 1e-6
    with pytest.raises(ValueError, match="clients must be at most 4"):
        sent(known, {"name": "secure-aggregation", "clients": 5})


# -- who allows for the defense -----------------------------------------------------------------

FALLS: dict[str, tuple[Any, dict[str, Any]]] = {
    "prune": ({"name": "prune-gradients", "keep": 0.3}, {"restarts": 2}),
    "clip": ({"name": "clip-gradients", "norm": 0.05}, {}),
    "key": ("key-protected", {"loss": "cosine", "restarts": 2}),
    "dp-gnn": (CLIPPED, {"rounds": 5}),
}


@pytest.mark.parametrize("case", FALLS)
def test_defenses_that_fall_to_who_knows_them(case: str) -> None:
    defense, fields = FALLS[case]
    known, secret = played()
    victim = trained(known, defense)
    blind = error(DLG, victim, known, secret)
    knowing = error(DLG, victim, known, secret, through=True, **fields)
    assert knowing < 0.1 < blind


def test_clients_that_clip_are_matched_one_by_one() -> None:
    known, secret = played(roots=2, labels="known")
    parts = [{"name": "clip-gradients", "norm": 0.05}, {"name": "secure-aggregation", "clients": 2}]
    victim = trained(known, parts)
    fields = {"labels": True, "steps": 200, "restarts": 2}
    blind = error(DLG, victim, known, secret, **fields)
    assert error(DLG, victim, known, secret, through=True, **fields) < 0.1 < blind


def test_steps_together_take_noise_off() -> None:
    one, five = [], []
    for seed in range(3):
        known, secret = played(seed=seed)
        victim = trained(known, {"name": "noisy-gradients", "std": 0.01})
        one.append(error(DLG, victim, known, secret, through=True))
        five.append(error(DLG, victim, known, secret, through=True, rounds=5))
    assert sorted(five)[1] < sorted(one)[1]


def test_keys_are_the_clients_alone() -> None:
    known, secret = played()
    victim = trained(known, "key-protected", "mlp")
    assert error("closed-form", victim, known, secret) < 1e-2  # whatever the keys are
    threat = Threat(access=("gradients", "features", "edges", "weights"))
    shown = {**secret.shown}
    view = threat.open(victim, known, graphsec.Rng(0), **shown)
    true = victim.model.keys
    for model in (view.moment(view.release(0)).model, view.model().model):
        assert not torch.allclose(model.keys, true)  # type: ignore[arg-type]
    assert all("keys" not in name for name in view.release(0).tensors)
    with pytest.raises(ValueError, match="Keyed has none"):
        graphsec.attack("idlg", victim, known, **secret.shown)


@pytest.mark.parametrize("noise", ["laplace", "gaussian"])
def test_local_noise_is_drawn_once_and_shown_to_nobody(noise: str) -> None:
    known, secret = played()
    spec = {"name": "local-dp", "epsilon": 50.0, "bound": 5.0, "noise": noise}
    victim = trained(known, spec)
    root, x = secret.question, inputs(known)
    assert victim.origin is not None
    assert isinstance(victim.origin.defense, LocalDP)
    noisy = victim.sanitise(x, known.adj)[0]
    assert torch.equal(noisy, victim.sanitise(x * 0, known.adj)[0] + x * (noisy == x))
    threat = Threat(access=("gradients", "features", "edges"))
    view = threat.open(victim, known, graphsec.Rng(0), **secret.shown)
    seen = view.moment(view.release(0)).sanitise(inputs(view.known), view.known.adj)[0]
    assert (seen[root] == 0).all()  # type: ignore[index]
    assert victim.privacy is None
    made = graphsec.fit(known, "gcn", {**spec, "secure": True}, training=FIVE)
    assert made.privacy is not None
    assert (made.privacy.epsilon, made.privacy.delta > 0) == (50.0, noise == "gaussian")


def test_the_gaussian_noise_is_the_least_that_is_private() -> None:
    assert gaussian_std(1.0, 1e-5) == pytest.approx(3.7304, abs=1e-3)  # 4.84 by the classic bound
    assert gaussian_std(100.0, 1e-5) < gaussian_std(10.0, 1e-5) < gaussian_std(1.0, 1e-5)


@pytest.mark.parametrize("model", ["gcn", "gat", "sage", "mlp"])
@pytest.mark.parametrize("roots", [1, 2])
def test_models_and_batches(model: str, roots: int) -> None:
    known, secret = played(roots=roots, labels="known")
    fields = {"labels": True, "restarts": 2, "steps": 200}
    spec = {"name": model, "dropout": 0}
    if roots > 1 and model != "gat":
        spec["activation"] = "tanh"  # of relu, runs end in other patterns of what is active
    victim = graphsec.fit(known, spec, training=FIVE)
    assert error(DLG, victim, known, secret, **fields) < 0.05


def test_guesses_by_neighbours_need_no_gradient() -> None:
    known, secret = played()
    found = graphsec.attack(
        {"name": "gradient-guess", "guess": "neighbours"}, trained(known), known, **secret.shown
    )
    root = int(secret.question)
    near = known.indices[known.indptr[root] : known.indptr[root + 1]]
    torch.testing.assert_close(found.x[0], inputs(known)[near].mean(0))  # type: ignore[attr-defined]


# -- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("defense", "message"),
    [
        ({**CLIPPED, "rate": 0.5}, r"draws the roots of a step in secret: its rate must be 1"),
        ({**CLIPPED, "sampler": "published"}, "its sampler must be 'bounded'"),
        ({"name": "dp-subgraphs", "noise_multiplier": 0.0}, "trains in a way of its own"),
        (["none", {**CLIPPED, "rate": 0.5}], "has a part 'dp-gnn' that draws the roots"),
    ],
)
def test_steps_that_are_not_on_all_roots_are_refused(defense: Any, message: str) -> None:
    known, secret = played()
    victim = trained(known, defense)
    for attack in ("idlg", "closed-form", "gradient-matching", "gradient-guess"):
        with pytest.raises(ValueError, match=message):
            error(attack, victim, known, secret)


def test_bad_rounds_and_weights_are_refused() -> None:
    known, secret = played()
    victim = trained(known, training={"epochs": 3, "expose": 3})
    with pytest.raises(ValueError, match=r"training\.expose must be ≥ 5.*step 3"):
        error(DLG, victim, known, secret, rounds=5)
    del victim.trace.releases[0].tensors["bias.1"]
    with pytest.raises(ValueError, match=r"bias of the logits|lacks"):
        error("closed-form", victim, known, secret)
    victim = trained(known)
    victim.trace.releases[0].tensors["parameter:bias.0"][0] = float("nan")
    with pytest.raises(ValueError, match=r"parameter 'bias\.0' must be finite"):
        error(DLG, victim, known, secret)
    with pytest.raises(ValueError, match=r"threat\.adaptive must be true"):
        graphsec.attack(
            {**DLG, "through": True}, trained(known), known,
            threat={"adaptive": False}, **secret.shown,
        )  # fmt: skip
