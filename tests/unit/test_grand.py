"""GRAND: its equation written out densely, its solvers, its stopping time."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import pytest
import scipy.sparse
import torch
from torch import Tensor

from graphsec.graph import Graph
from graphsec.models import GNN, build
from graphsec.models.ode import Method, Solver, steps
from graphsec.ops import personalized_pagerank
from graphsec.predict import Predictor
from graphsec.registry import SpecError
from graphsec.rng import Rng
from graphsec.testing import tiny_graphs
from graphsec.train import Recipe, fit

BLOCKS = tiny_graphs()["blocks"]
GRAPHS = pytest.mark.parametrize("graph", tiny_graphs().values(), ids=list(tiny_graphs()))
NAMES = pytest.mark.parametrize("name", ["grand-l", "grand-nl", "grand-nl-rw"])


def made(name: str, graph: Graph, **fields: Any) -> Any:
    small = {"hidden": 12, "heads": 2, "attention": 8, "time": 3.0, **fields}
    with Rng(0)["model"].scope():
        model: GNN = build({"name": name, **small}, graph).double().eval()
        for parameter in model.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def x_of(graph: Graph) -> Tensor:
    assert graph.x is not None
    return graph.x.to_dense().double()


def dense_attention(model: Any, a: Tensor, x: Tensor) -> Tensor:
    """The mean over heads of w·f(s) / Σ w·f(s), written out."""
    heads, spec = model.spec.heads, model.spec
    q, k = (layer(x).view(len(x), heads, -1) for layer in (model.scores.query, model.scores.key))
    q, k = q[:, None], k[None]
    if spec.kernel == "scaled-dot":
        scores = (q * k).sum(-1) / q.shape[-1] ** 0.5
    elif spec.kernel == "exponential":
        distance, length = (q - k).square().sum(-1), model.scores.length
        scores = model.scores.variance**2 * (-distance / (2 * length**2)).exp()
    elif spec.kernel == "cosine":
        scores = torch.cosine_similarity(q, k, dim=-1)
    else:
        q, k = (v - v.mean(-1, keepdim=True) for v in (q, k))
        scores = torch.cosine_similarity(q, k, dim=-1)
    grown = scores.exp()
    if spec.normalizer == "squareplus":
        grown = (scores + (scores.square() + 4).sqrt()) / 2
    share = a[..., None] * grown
    mean: Tensor = (share / share.sum(1, keepdim=True)).mean(2)
    return mean


def with_loops(graph: Graph) -> Tensor:
    a = torch.from_numpy(graph.to_scipy().toarray()).double()
    return a + torch.eye(len(a))


# -- the equation ---------------------------------------------------------------------------------


@GRAPHS
@pytest.mark.parametrize("name", ["grand-l", "grand-nl"])
def test_the_right_hand_side_is_the_papers(name: str, graph: Graph) -> None:
    model, a = made(name, graph), with_loops(graph)
    start = model.encoder(x_of(graph))
    later = start + torch.randn_like(start)
    attention = dense_attention(model, a, start if name == "grand-l" else later)
    wanted = model.alpha.sigmoid() * (attention @ later - later) + model.beta * start
    torch.testing.assert_close(model.diffusion(start, graph.adj)(later), wanted)


@GRAPHS
@pytest.mark.parametrize("normalizer", ["softmax", "squareplus"])
@pytest.mark.parametrize("kernel", ["scaled-dot", "exponential", "cosine", "pearson"])
def test_every_kernel_scores_as_written_out(kernel: str, normalizer: str, graph: Graph) -> None:
    model = made("grand-nl", graph, kernel=kernel, normalizer=normalizer)
    start = model.encoder(x_of(graph))
    attention = dense_attention(model, with_loops(graph), start)
    found = model.diffusion(start, graph.adj).attention(start)
    weights = found.weight.detach().numpy()
    pattern = (weights, found.csr.indices.numpy(), found.csr.indptr.numpy())
    dense = scipy.sparse.csr_array(pattern, shape=attention.shape).toarray()
    torch.testing.assert_close(torch.from_numpy(dense), attention.detach())


@pytest.mark.parametrize("kernel", ["exponential", "cosine", "pearson"])
def test_every_kernel_has_a_gradient_in_its_scores_and_in_edges(kernel: str) -> None:
    model = made("grand-nl", BLOCKS, kernel=kernel, normalizer="squareplus")
    x, weight = x_of(BLOCKS), torch.ones(BLOCKS.adj.csr.nnz, dtype=torch.float64)
    weight.requires_grad_()
    inputs = (weight, *model.scores.parameters())

    def answer(*inputs: Tensor) -> Tensor:
        out: Tensor = model(x, replace(BLOCKS.adj, weight=inputs[0]))[:3]
        return out

    assert torch.autograd.gradcheck(answer, inputs, fast_mode=True)


@GRAPHS
def test_linear_grand_agrees_with_the_matrix_exponential(graph: Graph) -> None:
    """d/dt [X; X(0)] = [[α(A − I), βI], [0, 0]] [X; X(0)]."""
    model, n = made("grand-l", graph, method="rk4", step=0.05), graph.num_nodes
    start = model.encoder(x_of(graph))
    attention = dense_attention(model, with_loops(graph), start)
    system = torch.zeros(2 * n, 2 * n, dtype=torch.float64)
    system[:n, :n] = model.alpha.sigmoid() * (attention - torch.eye(n))
    system[:n, n:] = model.beta * torch.eye(n)
    end = (torch.linalg.matrix_exp(3.0 * system) @ torch.cat([start, start]))[:n]
    before, after, logits = model.hidden(x_of(graph), graph.adj)
    torch.testing.assert_close(before, start)
    torch.testing.assert_close(after, end, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(logits, model.decoder(end.relu()), rtol=1e-6, atol=1e-6)


def test_rewired_grand_keeps_the_most_attended_links() -> None:
    model = made("grand-nl-rw", BLOCKS, links=10, keep=0.3)
    start = model.encoder(x_of(BLOCKS))
    links = personalized_pagerank(BLOCKS.adj, 0.05, 10)
    assert links.weight is not None
    row, col = links.csr.coo
    a = torch.zeros(90, 90, dtype=torch.float64)
    a[row, col] = links.weight.double()
    attended = dense_attention(model, a, start)
    floor = attended[row, col].sort().values[round(0.7 * 899)]
    kept = a * (attended >= floor)
    operator = model.diffusion(start, BLOCKS.adj).attention(start)
    assert int((operator.weight > 0).sum()) == int((kept > 0).sum()) == pytest.approx(270, abs=1)
    share = dense_attention(model, kept, start).nan_to_num()
    torch.testing.assert_close(operator.weight, share[row, col])


def test_pagerank_is_kept_with_an_adjacency_without_gradients() -> None:
    links = personalized_pagerank(BLOCKS.adj, 0.1, 90)
    assert personalized_pagerank(BLOCKS.adj, 0.1, 90) is links
    assert personalized_pagerank(BLOCKS.adj, 0.1, 5) is not links


def test_adjacencies_without_gradient_keep_no_candidate_pairs_between_attacks() -> None:
    pairs = torch.tensor([[0, 1], [50, 60]])
    one = BLOCKS.adj.with_block(pairs, torch.ones(2))
    two = BLOCKS.adj.with_block(pairs, torch.zeros(2))
    first, second = (personalized_pagerank(adj, 0.1, 5).weight for adj in (one, two))
    assert first is not None
    assert not torch.equal(first, second)  # type: ignore[arg-type]


# -- solvers --------------------------------------------------------------------------------------


def ended(name: str, **fields: Any) -> Tensor:
    after: Tensor = made(name, BLOCKS, **fields).hidden(x_of(BLOCKS), BLOCKS.adj)[1].detach()
    return after


@NAMES
@pytest.mark.parametrize("method", ["dopri5", "implicit-adams"])
def test_torchdiffeq_agrees_with_our_steps(name: str, method: Method) -> None:
    pytest.importorskip("torchdiffeq")
    exact = ended(name, method="rk4", step=0.02)
    out = ended(name, method=method, step=0.04, tol_scale=1.0)
    torch.testing.assert_close(out, exact, rtol=1e-5, atol=1e-5)


@NAMES
@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_the_adjoint_gradient_is_the_direct_one(name: str, method: Method) -> None:
    pytest.importorskip("torchdiffeq")
    gradients = []
    for adjoint in (False, True):
        model = made(
            name,
            BLOCKS,
            method=method,
            step=0.1,
            tol_scale=1.0,
            adjoint=adjoint,
            input_dropout=0.0,
            dropout=0.0,
        ).train()  # evaluation never takes the adjoint
        loss = model(x_of(BLOCKS), BLOCKS.adj).log_softmax(1)[:, 0].sum()
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    for direct, adjoined in zip(*gradients, strict=True):
        torch.testing.assert_close(adjoined, direct, rtol=1e-4, atol=1e-4)


def test_without_torchdiffeq_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    with pytest.raises(ImportError, match=r'needs torchdiffeq: pip install "graphsec\[ode\]"'):
        ended("grand-l", method="dopri5")
    for method in ("euler", "rk4", "implicit-euler"):
        assert torch.isfinite(ended("grand-l", method=method)).all()


@pytest.mark.parametrize(("time", "step", "count"), [(3, 1, 3), (3.01, 1, 4), (0.3, 1, 1)])
def test_steps_are_equal_and_no_longer_than_allowed(time: float, step: float, count: int) -> None:
    assert steps(time, step) == count
    # Whole multiples of a shortened step stay whole, whatever their rounding.
    assert steps(7 * (18.29 / 19), 18.29 / 19) == 7


def test_no_time_changes_nothing() -> None:
    model = made("grand-l", BLOCKS)
    start = model.encoder(x_of(BLOCKS))
    assert Solver().advance(model.diffusion(start, BLOCKS.adj), start, 0.0) is start


# -- stopping time --------------------------------------------------------------------------------


@NAMES
def test_the_settled_time_has_the_best_validation_accuracy(name: str) -> None:
    model, x, y = made(name, BLOCKS), x_of(BLOCKS), BLOCKS.y
    assert y is not None
    assert BLOCKS.split is not None
    val = BLOCKS.split.val
    model.settle(x, BLOCKS.adj, y, val)
    settled = float(model.time)
    found = {}
    for i in range(1, 10):
        model.time.fill_(i * 1.0)
        with torch.no_grad():
            logits = model(x, BLOCKS.adj)[val]
        loss = torch.nn.functional.cross_entropy(logits, y[val])
        found[float(i)] = (float((logits.argmax(1) == y[val]).float().mean()), -float(loss))
    assert settled == max(found, key=lambda time: found[time])
    assert len({accuracy for accuracy, _ in found.values()}) > 1


def test_settling_sees_no_labels_but_those_of_its_nodes() -> None:
    assert BLOCKS.y is not None
    assert BLOCKS.split is not None
    other = BLOCKS.y.clone()
    hidden = torch.cat([BLOCKS.split.train, BLOCKS.split.test])
    other[hidden] = (other[hidden] + 1) % 3
    model = made("grand-l", BLOCKS)
    model.time.fill_(9.0)
    last = model(x_of(BLOCKS), BLOCKS.adj).argmax(1)
    settled = []
    for y in (BLOCKS.y, other, last):
        model.settle(x_of(BLOCKS), BLOCKS.adj, y, BLOCKS.split.val)
        settled.append(float(model.time))
    assert settled[0] == settled[1]
    assert settled[2] != settled[0]  # the labels it may see do matter here


def test_training_settles_and_test_labels_change_nothing() -> None:
    assert BLOCKS.y is not None
    assert BLOCKS.split is not None
    states = []
    for shift in (0, 1):
        y = BLOCKS.y.clone()
        y[BLOCKS.split.test] = (y[BLOCKS.split.test] + shift) % 3
        recipe = Recipe.of({"name": "grand-l", "time": 4.0, "step": 2.0}, {"epochs": 10})
        with Rng(0).scope():
            model = build(recipe.model, BLOCKS)
        fit(model, BLOCKS.replace(y=y), recipe.training, Rng(0))
        states.append(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(*(s.values() for s in states), strict=True))


def test_every_look_at_the_validation_nodes_is_at_the_best_time_of_its_epoch() -> None:
    """The kept parameters are the best over epochs and stopping times together."""
    recipe = Recipe.of({"name": "grand-l", "time": 4.0, "step": 2.0}, {"epochs": 10})
    with Rng(0).scope():
        model: Any = build(recipe.model, BLOCKS)
    assert BLOCKS.split is not None
    val, times, reached = BLOCKS.split.val, [], []
    y = torch.randint(
        3, (90,), generator=torch.Generator().manual_seed(0)
    )  # no time is clearly best

    def look(epoch: int, figures: dict[str, float]) -> bool:
        settled = float(model.time)
        for i in range(1, 7):
            model.time.fill_(i * 2.0)
            with torch.no_grad():
                right = model(x_of(BLOCKS).float(), BLOCKS.adj)[val].argmax(1) == y[val]
            assert float(right.float().mean()) <= figures["val_accuracy"]
        model.time.fill_(settled)
        times.append(settled)
        reached.append(figures["val_accuracy"])
        return False

    fit(model, BLOCKS.replace(y=y), recipe.training, Rng(0), on_epoch=look)
    assert float(model.time) == times[reached.index(max(reached))]
    assert len(set(times)) > 1


def test_regression_settles_on_the_loss() -> None:
    graph = BLOCKS.replace(y=torch.randn(90), task="regression")
    model = made("grand-l", graph)
    assert graph.y is not None
    assert graph.split is not None
    model.settle(x_of(graph), graph.adj, graph.y.double(), graph.split.val)
    losses = []
    for i in range(1, 10):
        model.time.fill_(i * 1.0)
        out = model(x_of(graph), graph.adj).squeeze(-1)[graph.split.val]
        losses.append(float((out - graph.y[graph.split.val]).square().mean().detach()))
    model.settle(x_of(graph), graph.adj, graph.y.double(), graph.split.val)
    assert float(model.time) == 1.0 + losses.index(min(losses))


def test_the_settled_time_is_saved(tmp_path: Any) -> None:
    import graphsec

    predictor = graphsec.fit(
        BLOCKS, {"name": "grand-l", "time": 4.0, "step": 2.0}, training={"epochs": 5}, seed=0
    )
    predictor.model.time.fill_(10.0)  # type: ignore[operator]
    again = Predictor.load(predictor.save(tmp_path / "grand.pt"))
    assert float(again.model.time) == 10.0  # type: ignore[arg-type]
    torch.testing.assert_close(again.forward(x_of(BLOCKS).float(), BLOCKS.adj),
                               predictor.forward(x_of(BLOCKS).float(), BLOCKS.adj))  # fmt: skip


# -- the rest -------------------------------------------------------------------------------------


def test_heads_divide_the_width_of_attention() -> None:
    with pytest.raises(SpecError, match=r"attention must be a multiple of heads \(3\), got 8"):
        build({"name": "grand-nl", "heads": 3, "attention": 8}, BLOCKS)


def test_correlation_needs_two_entries_a_head() -> None:
    with pytest.raises(SpecError, match=r"attention must be at least twice heads \(8\)"):
        build({"name": "grand-l", "kernel": "pearson", "heads": 8, "attention": 8}, BLOCKS)


def test_decay_first_reaches_the_encoder_alone() -> None:
    model = made("grand-l", BLOCKS)
    decayed, free = model.groups(0.1, "first")
    assert {id(p) for p in decayed["params"]} == {id(p) for p in model.encoder.parameters()}
    assert len(decayed["params"]) + len(free["params"]) == len(list(model.parameters()))
    assert free["weight_decay"] == 0


def test_source_gradients_reach_the_features() -> None:
    """The published code detaches X(0) in the source term; attackers need the true gradient."""
    model, x = made("grand-l", BLOCKS), x_of(BLOCKS)[:, :12].requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: model(x, BLOCKS.adj)[:3, 0], (x,), eps=1e-6, atol=1e-5, fast_mode=True
    )
