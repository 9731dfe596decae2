"""The inversion influence function: its algebra, its bound, what it predicts, what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

import graphsec
from graphsec.attacks.leakage.gradient_matching import _lbfgs, distance
from graphsec.graph import Graph
from graphsec.influence import (
    LeakageRisk,
    MixedHessian,
    Step,
    Steps,
    leakage_risk,
    top_eigenvalue,
)
from graphsec.models.base import GNN, Capabilities
from graphsec.predict import Predictor
from graphsec.registry import MODELS
from graphsec.testing import tiny_graphs

BLOCKS = tiny_graphs()["blocks"]
ROOTS = torch.arange(0, 60, 6)
SMOOTH = {"name": "gcn", "dropout": 0, "activation": "tanh", "hidden": 16}


def fitted(model: Any = SMOOTH, epochs: int = 3, graph: Graph = BLOCKS) -> Predictor:
    return graphsec.fit(graph, model, training={"epochs": epochs})


def stepped(victim: Predictor, root: int, graph: Graph = BLOCKS) -> tuple[Step, MixedHessian]:
    """One root's step, and J at its true features."""
    step = Steps(victim, graph)[root]
    return step, MixedHessian(step)


def flat(tensors: Any) -> Tensor:
    return torch.cat([t.flatten() for t in tensors])


def noise(victim: Predictor, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    named = victim.model.named_parameters()
    return {name: torch.randn(p.shape, generator=generator) for name, p in named}


# -- algebra ------------------------------------------------------------------------------------


def test_products_are_those_of_the_jacobian() -> None:
    step, matrix = stepped(fitted(), 4)

    def gradient(z: Tensor) -> Tensor:
        return flat(step.gradients(z))

    whole: Any = torch.autograd.functional
    jacobian = whole.jacobian(gradient, step.truth).flatten(1).T
    assert torch.allclose(matrix.dense(), jacobian, atol=1e-12)
    delta = [torch.randn_like(p) for p in matrix.parameters]
    assert torch.allclose(matrix.push(delta), jacobian @ flat(delta), atol=1e-10)


@pytest.mark.parametrize("ridge", [1e-1, 1e-4])
def test_conjugate_gradients_solve_as_a_dense_solver_does(ridge: float) -> None:
    victim = fitted()
    delta = noise(victim)
    found = leakage_risk(victim, BLOCKS, ROOTS, perturbation=delta, ridge=ridge, tolerance=1e-13)
    for i, root in enumerate(ROOTS.tolist()):
        dense = stepped(victim, root)[1].dense()
        gram, c = dense @ dense.T, dense @ flat(delta.values()).double()
        epsilon = float(found.ridge[i])
        exact = torch.linalg.solve(
            gram + epsilon * torch.eye(len(gram), dtype=torch.float64), c
        ).norm()
        top = float(torch.linalg.eigvalsh(gram)[-1])
        assert float(found.error[i]) == pytest.approx(float(exact), rel=1e-8)
        assert float(found.pushed[i]) == pytest.approx(float(c.norm()), rel=1e-10)
        assert float(found.top[i]) == pytest.approx(top, rel=0.02)
        # The bound is the theorem's, up to the error bar of the eigenvalue.
        assert 0.9 * float(c.norm()) / (top + epsilon) <= float(found.bound[i])


def test_the_top_eigenvalue_comes_with_an_error_bar() -> None:
    generator = torch.Generator().manual_seed(0)
    half = torch.randn(30, 40, generator=generator, dtype=torch.float64)
    matrix = half @ half.T
    values = torch.linalg.eigvalsh(matrix)
    start = torch.randn(30, generator=generator, dtype=torch.float64)
    for tolerance in (0.3, 1e-2, 1e-10):
        value, residual = top_eigenvalue(matrix.mv, start, tolerance=tolerance)
        assert value <= float(values[-1]) * (1 + 1e-12)
        assert float((values - value).abs().min()) <= residual + 1e-9
    assert value == pytest.approx(float(values[-1]), rel=1e-10)
    assert top_eigenvalue(lambda u: 0 * u, start) == (0, 0)


# -- the bound ----------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 5, 1000])
@pytest.mark.parametrize("ridge", [1e-8, 1e-2, 10.0])
def test_the_estimate_is_never_below_its_bound(ridge: float, steps: int) -> None:
    """However early the solver stops, and whatever the noise is along."""
    victim = fitted(epochs=30)
    _, matrix = stepped(victim, 4)
    left = torch.linalg.svd(matrix.dense(), full_matrices=False)[0]
    names = [name for name, _ in victim.model.named_parameters()]
    along = [dict(zip(names, matrix.pull(left[:, i]), strict=True)) for i in (0, -1)]
    for given in (*along, noise(victim), 1e-200, 1e9):
        found = leakage_risk(victim, BLOCKS, ROOTS, perturbation=given, ridge=ridge, steps=steps)
        assert (found.bound <= found.error).all()
        assert (found.bound >= 0).all()


def test_the_bound_is_met_along_the_top_direction() -> None:
    victim = fitted()
    _, matrix = stepped(victim, 4)
    left, values, _ = torch.linalg.svd(matrix.dense(), full_matrices=False)
    names = [name for name, _ in victim.model.named_parameters()]
    delta = dict(zip(names, matrix.pull(left[:, 0]), strict=True))
    found = leakage_risk(victim, BLOCKS, [4], perturbation=delta, ridge=1e-3)
    assert float(found.error) == pytest.approx(1 / 1.001, rel=1e-6)
    assert float(found.error) >= float(found.bound) >= 0.9 * float(found.error)
    # With ε left out of the denominator the bound would be on the wrong side here.
    assert float(found.pushed) / float(values[0]) ** 2 > float(found.error)


# -- what it predicts ---------------------------------------------------------------------------


def test_it_ranks_nodes_as_an_attack_does() -> None:
    victim = fitted()
    delta = {name: 1e-3 * d for name, d in noise(victim).items()}
    found = leakage_risk(victim, BLOCKS, ROOTS, perturbation=delta)
    errors = []
    for root in ROOTS.tolist():
        step, matrix = stepped(victim, root)
        truth = step.truth
        seen = [g.detach() + delta[n] for g, n in zip(matrix.gradient, delta, strict=True)]
        z = torch.zeros_like(truth).requires_grad_()
        _lbfgs(lambda: distance(step.gradients(z), seen, "l2"), [z], 300)  # noqa: B023
        errors.append(float((z.detach() - truth).norm() / truth.norm()))
    assert spearmanr(errors, found.relative)[0] > 0.95
    assert torch.tensor(errors).median() == pytest.approx(float(found.relative.median()), rel=0.1)


def same(a: LeakageRisk, b: LeakageRisk) -> bool:
    return all(torch.equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))


def test_perturbations_are_numbers_tensors_or_defenses() -> None:
    victim = fitted()
    by_number = leakage_risk(victim, BLOCKS, ROOTS, perturbation=1e-2)
    spec = {"name": "noisy-gradients", "std": 1e-2}
    assert torch.allclose(
        by_number.error, leakage_risk(victim, BLOCKS, ROOTS, perturbation=spec).error
    )
    assert same(by_number, leakage_risk(victim, BLOCKS, ROOTS, perturbation=1e-2))
    assert not same(by_number, leakage_risk(victim, BLOCKS, ROOTS, perturbation=1e-2, seed=1))
    # A root's numbers don't depend on who else is asked about.
    alone = leakage_risk(victim, BLOCKS, ROOTS[3:4], perturbation=1e-2)
    assert torch.equal(alone.error, by_number.error[3:4])
    double = leakage_risk(victim, BLOCKS, ROOTS, perturbation=2e-2)
    assert torch.allclose(double.error, 2 * by_number.error)
    pruned = leakage_risk(victim, BLOCKS, ROOTS, perturbation="prune-gradients")
    assert (pruned.error > 0).all()


def test_the_default_is_the_predictors_own_defense() -> None:
    plain = leakage_risk(fitted(), BLOCKS, ROOTS)
    assert (plain.error == 0).all()
    assert (plain.bound == 0).all()
    spec = {"name": "noisy-gradients", "std": 1e-2}
    behind = graphsec.fit(BLOCKS, SMOOTH, spec, training={"epochs": 1})
    assert (leakage_risk(behind, BLOCKS, ROOTS).error > 0).all()


def test_features_of_neighbours_can_be_private_and_the_model_is_left_alone() -> None:
    victim = fitted()
    before = {k: v.clone() for k, v in victim.model.state_dict().items()}
    one = leakage_risk(victim, BLOCKS, ROOTS[:2], perturbation=1e-3)
    more = leakage_risk(victim, BLOCKS, ROOTS[:2], perturbation=1e-3, private=1, ridge=1e-3)
    assert (more.error >= one.error).all()
    for name, value in victim.model.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name])


CLASSIFIERS = [n for n in MODELS if "classification" in MODELS[n].module.capabilities.tasks]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_models_of_the_zoo_are_served_or_refused(name: str) -> None:
    graph = tiny_graphs()["karate"]
    victim = graphsec.fit(graph, name, training={"epochs": 1})
    if not victim.model.capabilities.second_order:
        with pytest.raises(ValueError, match="does not allow"):
            leakage_risk(victim, graph, [0, 5], perturbation=1e-3)
        return
    found = leakage_risk(victim, graph, [5], perturbation=1e-3, steps=3)
    assert (found.error > 0).all()
    assert (found.bound <= found.error).all()


# -- refusals -----------------------------------------------------------------------------------


class _FirstOrder(GNN):
    capabilities = Capabilities(second_order=False)

    def __init__(self) -> None:
        super().__init__(1)
        self.w = nn.Parameter(torch.ones(8, 3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"roots": []}, r"roots must be \(k,\) integers"),
        ({"roots": torch.tensor([0.5])}, r"roots must be \(k,\) integers"),
        ({"roots": [0, 90]}, r"roots must lie in 0…89, found 0…90"),
        ({"perturbation": float("nan")}, "perturbation must be finite and ≥ 0, got nan"),
        ({"perturbation": -1}, "perturbation must be finite and ≥ 0, got -1"),
        ({"perturbation": True}, "got a bool"),
        ({"perturbation": {"weight.0": torch.zeros(1)}}, "must name the parameters"),
        ({"perturbation": "noisy-gradient"}, "did you mean 'noisy-gradients'"),
        ({"ridge": 0}, "ridge must be > 0, got 0"),
        ({"tolerance": float("nan")}, "tolerance must be > 0, got nan"),
        ({"steps": 0}, "steps must be > 0, got 0"),
    ],
)
def test_bad_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    arguments = {"roots": [0], "perturbation": 1e-3, **changes}
    with pytest.raises(ValueError, match=message):
        leakage_risk(fitted(), BLOCKS, **arguments)


def test_bad_tensors_are_named() -> None:
    victim = fitted()
    delta = noise(victim)
    with pytest.raises(ValueError, match=r"of 'bias\.0' must have the parameter's shape"):
        leakage_risk(victim, BLOCKS, [0], perturbation={**delta, "bias.0": torch.zeros(3)})
    with pytest.raises(ValueError, match="perturbation of node 0 must be finite"):
        leakage_risk(victim, BLOCKS, [0], perturbation={**delta, "bias.0": delta["bias.0"] / 0})
    with torch.no_grad():
        victim.model.weight[0][0, 0] = float("nan")  # type: ignore[index]
    with pytest.raises(ValueError, match="the gradient of node 0 must be finite"):
        leakage_risk(victim, BLOCKS, [0], perturbation=delta)


def test_what_cannot_be_predicted_is_said() -> None:
    victim = fitted()
    assert BLOCKS.y is not None
    y = BLOCKS.y.clone()
    y[5] = -1
    with pytest.raises(ValueError, match="roots must have labels, node 5 has none"):
        leakage_risk(victim, BLOCKS.replace(y=y), [0, 5], perturbation=1e-3)
    with pytest.raises(ValueError, match="_FirstOrder does not allow"):
        leakage_risk(Predictor(_FirstOrder()), BLOCKS, [0], perturbation=1e-3)
    with pytest.raises(ValueError, match="perturbation must be given"):
        leakage_risk(Predictor(victim.model), BLOCKS, [0])
