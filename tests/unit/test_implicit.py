"""Implicit layers: what they solve, what they differentiate, and what keeps them well-posed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from graphsec.graph import Graph
from graphsec.models import GNN, build
from graphsec.models.ignn import within
from graphsec.models.implicit import Implicit
from graphsec.models.problems import Minimum, Problem, anderson
from graphsec.rng import Rng
from graphsec.testing import tiny_graphs

GRAPHS = pytest.mark.parametrize("graph", tiny_graphs().values(), ids=list(tiny_graphs()))
MODELS = pytest.mark.parametrize(
    "spec",
    [
        {"name": "energy", "variant": "node"},
        {"name": "energy", "variant": "edge"},
        {"name": "energy", "variant": "attention"},
        {"name": "ignn", "hidden": 12},
        {"name": "gsdgnn", "hidden": 12},
    ],
    ids=["node", "edge", "attention", "ignn", "gsdgnn"],
)


def made(spec: Any, graph: Graph) -> Implicit:
    with Rng(0)["model"].scope():
        model: GNN = build(spec, graph).eval()
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    assert isinstance(model, Implicit)
    return model


def posed(spec: Any, graph: Graph) -> tuple[Implicit, Problem, list[Tensor]]:
    """A model, its problem, and the float64 tensors it depends on, as leaves."""
    model = made(spec, graph)
    assert graph.x is not None
    problem, tensors = model.problem(graph.x, graph.adj)
    return model, problem, [t.detach().double() for t in tensors]


@GRAPHS
@MODELS
def test_the_residual_vanishes(graph: Graph, spec: Any) -> None:
    model = made(spec, graph)
    assert graph.x is not None
    assert model.residual_norm(graph.x, graph.adj) < 1e-6


@MODELS
def test_what_nodes_compute_adds_up_to_the_residual(spec: Any) -> None:
    """The node-by-node form of the asynchronous simulator against the whole-graph form."""
    _, problem, tensors = posed(spec, tiny_graphs()["weighted"])
    h = torch.randn(problem.csr.num_rows, problem.width, dtype=torch.float64)
    own, sent = problem.local(h, h[problem.csr.coo[1]], *tensors)
    if sent is not None:
        own = own.index_add(0, problem.csr.coo[1], sent)
    torch.testing.assert_close(own, problem.residual(h, *tensors).detach())


@MODELS
def test_implicit_gradients_agree_with_unrolled_ones(spec: Any) -> None:
    """In every tensor the state depends on, edge weights among them, to 1e-6."""
    from graphsec.models.implicit import solution

    _, problem, tensors = posed(spec, tiny_graphs()["karate"])
    leaves = [t.requires_grad_() for t in tensors]
    direction = torch.randn(
        problem.csr.num_rows, problem.width, dtype=torch.float64,
        generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    rate = 4 * problem.rate([t.detach() for t in tensors])
    rate = min(rate, 1.0)
    h = problem.origin(tensors)
    for _ in range(400):
        h = h - rate * problem.residual(h, *leaves)
    # Messages of the node energy do not depend on the receiver.
    unused: Any = {"allow_unused": True, "materialize_grads": True}
    unrolled = torch.autograd.grad((h * direction).sum(), leaves, **unused)
    state = solution(problem, leaves)
    implicit = torch.autograd.grad((state * direction).sum(), leaves, **unused)
    torch.testing.assert_close(state, h, rtol=1e-6, atol=1e-7)
    for one, other in zip(implicit, unrolled, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("variant", ["node", "edge", "attention"])
def test_the_energy_is_strongly_convex(variant: str) -> None:
    """No eigenvalue of the Hessian is below β, wherever one looks."""
    graph = tiny_graphs()["karate"]
    spec = {"name": "energy", "variant": variant, "state": 3, "beta": 0.7}
    _, problem, tensors = posed(spec, graph)
    assert isinstance(problem, Minimum)
    generator = torch.Generator().manual_seed(3)
    for size in (0.1, 1.0, 10.0):
        h = size * torch.randn(34, 3, dtype=torch.float64, generator=generator)

        def gradient(flat: Tensor) -> Tensor:
            return problem.residual(flat.view(34, 3), *tensors).ravel()

        hessian = torch.func.jacrev(gradient)(h.ravel())
        torch.testing.assert_close(hessian, hessian.T)
        assert float(torch.linalg.eigvalsh(hessian)[0]) > 0.7 - 1e-9


def test_the_projection_is_the_nearest_point_of_the_ball() -> None:
    weight = torch.randn(6, 6, dtype=torch.float64) * 2
    weight[0] /= 100  # inside: stays
    near = within(weight, 0.9)
    assert torch.equal(near[0], weight[0])
    assert float(near.abs().sum(1).max()) <= 0.9 + 1e-12
    for _ in range(200):  # nearest: no angle at the projection is acute
        other = within(torch.randn(6, 6, dtype=torch.float64), 0.9)
        assert float(((weight - near) * (other - near)).sum(1).max()) <= 1e-9


def test_ignn_solves_its_equation_written_out_densely() -> None:
    graph = tiny_graphs()["weighted"]
    model: Any = made({"name": "ignn", "hidden": 5}, graph)
    assert graph.x is not None
    a = torch.from_numpy(graph.to_scipy().toarray()) + torch.eye(graph.num_nodes)
    d = a.sum(1).rsqrt()
    a = d.unsqueeze(1) * a * d
    weight = within(model.weight.T, 0.95).T
    h = torch.zeros(graph.num_nodes, 5)
    for _ in range(500):
        h = torch.relu(a @ h @ weight + a @ graph.x @ model.encoder[0])
    wanted = h @ model.readout_weight + model.readout_bias
    torch.testing.assert_close(model(graph.x, graph.adj), wanted, rtol=1e-4, atol=1e-5)


def test_gsdgnn_minimises_its_objective() -> None:
    """(I + λ L) F = f(X), solved directly."""
    graph = tiny_graphs()["blocks"]
    model: Any = made({"name": "gsdgnn", "hidden": 5, "smoothness": 4.0}, graph)
    assert graph.x is not None
    eye = torch.eye(graph.num_nodes)
    a = torch.from_numpy(graph.to_scipy().toarray()) + eye
    d = a.sum(1).rsqrt()
    signal = torch.relu(graph.x @ model.weight[0] + model.bias[0]) @ model.weight[1]
    wanted = torch.linalg.solve(eye + 4 * (eye - d.unsqueeze(1) * a * d), signal + model.bias[1])
    torch.testing.assert_close(model(graph.x, graph.adj), wanted, rtol=1e-4, atol=1e-5)


def test_the_state_training_starts_from_changes_nothing() -> None:
    """Warm started from another epoch's state, the answer is the same within the tolerance."""
    graph = tiny_graphs()["blocks"]
    assert graph.x is not None
    model = made({"name": "energy", "dropout": 0.0}, graph)
    cold = model(graph.x, graph.adj)
    model.train()
    for parameter in model.parameters():
        parameter.data *= 1.1
    model(graph.x, graph.adj)
    for parameter in model.parameters():
        parameter.data /= 1.1
    torch.testing.assert_close(model(graph.x, graph.adj), cold, rtol=1e-4, atol=1e-5)


# -- acceleration ---------------------------------------------------------------------------------


def test_mixing_points_reaches_the_fixed_point_in_fewer_steps() -> None:
    """A contraction by .97, linear with a bend: the answer is the plain iteration's."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(40, 40, generator=generator, dtype=torch.float64)
    matrix = 0.97 * matrix / torch.linalg.matrix_norm(matrix, 2)
    offset = torch.randn(40, generator=generator, dtype=torch.float64)
    count = 0

    def change(x: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return torch.relu(matrix @ x + offset) - x

    plain = torch.zeros_like(offset)
    while float(change(plain).norm()) > 1e-11:
        plain = plain + change(plain)
    plainly, count = count, 0
    mixed = anderson(change, torch.zeros_like(offset), 1e-11, 1000)
    torch.testing.assert_close(mixed, plain, rtol=0, atol=1e-9)
    assert count < plainly / 2


def test_a_map_that_is_constant_is_solved_at_once() -> None:
    target = torch.arange(3.0, dtype=torch.float64)
    torch.testing.assert_close(anderson(lambda x: target - x, target + 1, 1e-12, 5), target)


def test_a_mixture_that_leads_away_is_given_up() -> None:
    """A map with a jump, where mixtures overshoot, is still followed to its fixed point."""

    def change(x: Tensor) -> Tensor:
        return torch.where(x > 1, x / 2, 0.9 * x) - x

    found = anderson(change, torch.full((1,), 100.0, dtype=torch.float64), 1e-10, 1000)
    assert float(found.abs()) < 1e-8
