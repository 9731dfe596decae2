"""Solvers on an equation that has a closed form, and GRAND's gradients through them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from graphsec.models import build
from graphsec.models.grand import GRAND
from graphsec.models.ode import Method, Solver
from graphsec.ops import personalized_pagerank
from graphsec.registry import MODELS, SpecError
from graphsec.rng import Rng
from graphsec.testing import tiny_graphs

WEIGHTED = tiny_graphs()["weighted"].subgraph(torch.arange(12))
SHARES = pytest.mark.parametrize("shares", ["received", "sent"])


@dataclasses.dataclass
class Linear:
    """dy/dt = M y + s."""

    matrix: Tensor
    source: Tensor

    def __call__(self, y: Tensor) -> Tensor:
        return self.matrix @ y + self.source

    def implicit(self, y: Tensor, step: float) -> Tensor:
        eye = torch.eye(len(self.matrix), dtype=y.dtype)
        end: Tensor = torch.linalg.solve(eye - step * self.matrix, y + step * self.source)
        return end

    def tensors(self) -> list[Tensor]:
        return [self.matrix, self.source]

    def exact(self, y: Tensor, time: float) -> Tensor:
        """By the exponential of [[M, s], [0, 0]]."""
        n = len(self.matrix)
        block = torch.zeros(n + 1, n + 1, dtype=y.dtype)
        block[:n, :n], block[:n, n:] = self.matrix, self.source
        power: Tensor = torch.linalg.matrix_exp(time * block)
        return power[:n, :n] @ y + power[:n, n:]


def linear_flow() -> tuple[Linear, Tensor]:
    generator = torch.Generator().manual_seed(3)
    walk = torch.rand(6, 6, generator=generator, dtype=torch.float64)
    walk = walk / walk.sum(1, keepdim=True) - torch.eye(6)
    return Linear(walk, torch.rand(6, 1, generator=generator, dtype=torch.float64)), walk[:, :1]


@pytest.mark.parametrize(
    ("method", "step", "tolerance"),
    [
        ("euler", 1e-3, 1e-3),
        ("implicit-euler", 1e-3, 1e-3),
        ("rk4", 0.1, 1e-6),
        ("dopri5", 1.0, 1e-6),
        ("implicit-adams", 0.1, 1e-5),
    ],
)
def test_solvers_reach_the_matrix_exponential(
    method: Method, step: float, tolerance: float
) -> None:
    if method in ("dopri5", "implicit-adams"):
        pytest.importorskip("torchdiffeq")
    flow, start = linear_flow()
    out = Solver(method=method, step=step).advance(flow, start, 2.35)
    torch.testing.assert_close(out, flow.exact(start, 2.35), rtol=tolerance, atol=tolerance)
    assert not torch.allclose(out, start, atol=0.1)


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("implicit-euler", 1), ("rk4", 4)])
def test_half_the_step_gives_the_order_of_the_method(method: Method, order: int) -> None:
    flow, start = linear_flow()
    wanted = flow.exact(start, 2.0)
    errors = [
        float((Solver(method=method, step=h).advance(flow, start, 2.0) - wanted).abs().max())
        for h in (0.1, 0.05)
    ]
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.1)


@pytest.mark.parametrize("method", ["euler", "rk4"])
def test_equal_steps_are_those_of_torchdiffeq(method: Method) -> None:
    """On a linear equation, where all Runge–Kutta methods of four stages and order agree."""
    ode = pytest.importorskip("torchdiffeq")
    flow, start = linear_flow()
    wanted = ode.odeint(
        lambda _, y: flow(y), start, torch.tensor([0.0, 3.0], dtype=start.dtype),
        method=method, options={"step_size": 0.5},
    )[-1]  # fmt: skip
    out = Solver(method=method, step=0.5).advance(flow, start, 3.0)
    torch.testing.assert_close(out, wanted, rtol=1e-12, atol=1e-12)


def made(kind: str, **fields: Any) -> GRAND:
    with Rng(0)["model"].scope():
        small = {"hidden": 6, "attention": 8, "heads": 2, "time": 3.0, "input_dropout": 0.0}
        spec = {"name": kind, **small, "dropout": 0.0, **fields}
        model = build(spec, WEIGHTED).double().eval()
        for parameter in model.parameters():  # attention would be uniform, and there'd be no source
            parameter.data += 0.3 * torch.randn_like(parameter)
    assert isinstance(model, GRAND)
    return model


def dense_x() -> Tensor:
    assert WEIGHTED.x is not None
    return WEIGHTED.x.to_dense().double()


def edge_weight() -> Tensor:
    assert WEIGHTED.edge_weight is not None
    return WEIGHTED.edge_weight.double().requires_grad_()


@pytest.mark.parametrize("kind", ["grand-l", "grand-nl"])
@SHARES
def test_shares_add_up_to_one_where_the_spec_says(kind: str, shares: str) -> None:
    model = made(kind, shares=shares)
    start = model.encoder(dense_x())
    operator = model.diffusion(start, WEIGHTED.adj).attention(start)
    assert operator.weight is not None
    n = WEIGHTED.num_nodes
    dense = torch.zeros(n, n, dtype=torch.float64).index_put(operator.csr.coo, operator.weight)
    one, other = dense.sum(1), dense.sum(0)
    if shares == "sent":
        one, other = other, one
    torch.testing.assert_close(one, torch.ones(n, dtype=torch.float64))
    assert (other - 1).abs().max() > 0.1


@pytest.mark.parametrize("kind", ["grand-l", "grand-nl", "grand-nl-rw"])
@SHARES
def test_implicit_euler_satisfies_its_equation_either_way(kind: str, shares: str) -> None:
    model = made(kind, shares=shares)
    start = model.encoder(dense_x())
    flow = model.diffusion(start, WEIGHTED.adj)
    for step in (0.5, 1.0, 4.0):
        end = flow.implicit(start, step)
        held = flow.aggregate(flow.attention(start), end)
        residual = end - start - step * (flow.alpha * (held - end) + flow.source)
        assert residual.abs().max() < 1e-6 * (end - start).abs().max()


@pytest.mark.parametrize("method", ["euler", "rk4", "implicit-euler", "dopri5"])
@SHARES
def test_edge_gradients_agree_with_differences(method: Method, shares: str) -> None:
    if method == "dopri5":
        pytest.importorskip("torchdiffeq")
    model, x = made("grand-nl", method=method, tol_scale=1e-3, shares=shares), dense_x()

    def logits(weight: Tensor) -> Tensor:
        out: Tensor = model(x, dataclasses.replace(WEIGHTED.adj, weight=weight))
        return out

    assert torch.autograd.gradcheck(
        logits, (edge_weight(),), eps=1e-5, atol=1e-4, rtol=1e-4, fast_mode=True
    )


def test_gradients_in_edges_never_take_the_adjoint(monkeypatch: pytest.MonkeyPatch) -> None:
    ode = pytest.importorskip("torchdiffeq")
    real, called = ode.odeint_adjoint, []

    def watched(*args: Any, **kwargs: Any) -> Any:
        called.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(ode, "odeint_adjoint", watched)
    direct, backward = (made("grand-l", method="dopri5", adjoint=a).train() for a in (False, True))
    backward(dense_x(), WEIGHTED.adj)
    assert called
    called.clear()
    slopes = []
    for model in (direct, backward):
        weight = edge_weight()
        out = model(dense_x(), dataclasses.replace(WEIGHTED.adj, weight=weight))
        slopes.append(torch.autograd.grad(out.square().sum(), weight)[0])
    assert not called
    torch.testing.assert_close(slopes[1], slopes[0])


def test_the_source_is_constant_in_training_only() -> None:
    def slope(model: GRAND) -> Tensor:
        out = model(dense_x(), WEIGHTED.adj)[:, 0].sum()
        return torch.autograd.grad(out, model.encoder.weight)[0]

    held, free = made("grand-l"), made("grand-l", detach=False)
    torch.testing.assert_close(slope(held), slope(free))
    assert not torch.allclose(slope(held.train()), slope(free.train()))


def test_implicit_euler_has_no_adjoint() -> None:
    with pytest.raises(SpecError, match="adjoint"):
        MODELS.build({"name": "grand-l", "method": "implicit-euler", "adjoint": True})


@pytest.mark.parametrize("symmetric", [True, False])
def test_pagerank_is_the_inverse_in_any_direction(symmetric: bool) -> None:
    """And its gradient, which moves single directions beside symmetric weights too."""
    n, generator = WEIGHTED.num_nodes, torch.Generator().manual_seed(1)
    weight = torch.rand(WEIGHTED.adj.csr.nnz, generator=generator, dtype=torch.float64) + 0.5
    weight = weight + weight[WEIGHTED.adj._reverse] if symmetric else weight

    def rows(weight: Tensor) -> Tensor:
        links = personalized_pagerank(dataclasses.replace(WEIGHTED.adj, weight=weight), 0.2, n)
        assert links.weight is not None
        return links.weight

    eye = torch.eye(n, dtype=torch.float64)
    a = torch.zeros_like(eye).index_put(WEIGHTED.adj.csr.coo, weight) + eye
    factor = a.sum(1).rsqrt()
    p = 0.2 * torch.linalg.inv(eye - 0.8 * factor.unsqueeze(1) * a * factor)
    torch.testing.assert_close(rows(weight).view(n, n), p / p.sum(1, keepdim=True))
    assert torch.autograd.gradcheck(rows, (weight.requires_grad_(),), fast_mode=True)
