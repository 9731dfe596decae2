"""Proximal operators against closed forms, and what Pro-GNN learns and answers."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

import graphsec
from graphsec.defenses.robust.prognn import Learner, ProGNN, Structured, operand
from graphsec.graph import Graph
from graphsec.models.base import Sizes, inputs
from graphsec.ops import propagate
from graphsec.ops.dense import dense, smoothness
from graphsec.ops.prox import SpectrumShrinker, shrink
from graphsec.rng import Rng
from graphsec.testing import some_flips, tiny_graphs
from graphsec.train import Recipe

BLOCKS = tiny_graphs()["blocks"]
GCN = {"name": "gcn", "hidden": 16}
QUIET: dict[str, Any] = {"nuclear": 0.0, "l1": 0.0, "smooth": 0.0, "gamma": 0.0}


@pytest.fixture(params=["blocks", "weighted", "karate"])
def graph(request: pytest.FixtureRequest) -> Graph:
    return tiny_graphs()[request.param]


def fitted(graph: Graph, epochs: int = 30, model: Any = GCN, **fields: Any) -> graphsec.Predictor:
    return graphsec.fit(graph, model, {"name": "prognn", **fields}, training={"epochs": epochs})


def learned(predictor: graphsec.Predictor) -> Tensor:
    assert isinstance(predictor.model, Structured)
    return predictor.model.learned


def thresholded(matrix: Tensor, tau: float) -> Tensor:
    """Singular values moved by τ, by a full decomposition in float64."""
    u, s, vt = torch.linalg.svd(matrix.double())
    made: Tensor = (u * (s - tau).clamp(min=0)) @ vt
    return made


# -- proximal operators ---------------------------------------------------------------------------


def test_shrink_solves_its_problem() -> None:
    """½ (z − m)² + τ |z| is least there, on a grid."""
    grid = torch.linspace(-3, 3, 6001, dtype=torch.float64)
    for m in (-2.0, -0.3, 0.0, 0.4, 1.7):
        best = grid[(0.5 * (grid - m).square() + 0.5 * grid.abs()).argmin()]
        assert float(shrink(torch.tensor([m]), 0.5)) == pytest.approx(float(best), abs=1e-3)


@pytest.mark.parametrize("tau", [0.0, 0.4, 2.0, 100.0])
def test_the_spectrum_shrinks_as_singular_values_do(graph: Graph, tau: float) -> None:
    """Eigenvalues of both signs."""
    matrix = dense(graph.adj)
    assert float(torch.linalg.eigvalsh(matrix).min()) < -1
    made = SpectrumShrinker()(matrix, tau)
    torch.testing.assert_close(made.double(), thresholded(matrix, tau), atol=2e-5, rtol=1e-4)


def run_of_matrices() -> list[Tensor]:
    """Low rank and noise, drifting, with thirty new directions in the third one."""
    generator = torch.Generator().manual_seed(0)
    n = 560
    factors = torch.randn(n, 30, generator=generator)
    sign = torch.where(torch.arange(30) % 2 == 0, 1.0, -1.0)
    noise = torch.randn(n, n, generator=generator)
    noise = (noise + noise.T) / n**0.5
    matrices = []
    for step in range(4):
        factors = factors + 0.02 * torch.randn(n, 30, generator=generator)
        matrix = (factors * sign) @ factors.T / 40 + noise
        if step >= 2:
            new = torch.randn(n, 30, generator=generator)
            matrix = matrix + new @ new.T / 40
        matrices.append(matrix)
    return matrices


def test_following_the_eigenvectors_is_as_good_as_finding_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Within the promised distance; and a subspace that becomes too small is found anew."""
    shrinker, full = SpectrumShrinker(), []
    eigh = torch.linalg.eigh

    def counted(matrix: Tensor) -> Any:
        full.append(len(matrix) == 560)
        return eigh(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", counted)
    found = []
    for matrix in run_of_matrices():
        full.clear()
        made = shrinker(matrix, 4.0)
        found.append(any(full))
        far = float((made.double() - thresholded(matrix, 4.0)).norm())
        assert far <= 2**0.5 * shrinker.tolerance * float(matrix.norm()) + 1e-3
    assert found == [True, False, True, False]


def test_a_matrix_that_hardly_changed_gets_the_same_answer() -> None:
    """Measured from the matrix decomposed last, so that small changes can't add up."""
    matrix, shrinker = dense(BLOCKS.adj), SpectrumShrinker()
    change = torch.diag(torch.ones(len(matrix)))
    change *= 0.8e-3 * matrix.norm() / change.norm()
    first = shrinker(matrix, 1.0)
    assert shrinker(matrix + change, 1.0) is first
    again = shrinker(matrix + 2 * change, 1.0)
    assert again is not first
    assert float((again - first).norm()) <= float((2 * change).norm()) * 1.001
    assert shrinker(matrix + 2 * change, 1.1) is not again


def test_smoothness_is_the_trace(graph: Graph) -> None:
    s, x = dense(graph.adj).double(), inputs(graph).to_dense().double()
    root = (s.sum(1) + 1e-3).rsqrt()
    laplacian = root[:, None] * (s.sum(1).diag() - s) * root
    wanted = (x.T @ laplacian @ x).trace()
    torch.testing.assert_close(smoothness(s, x @ x.T), wanted)
    edges = s[:6, :6].clone().requires_grad_()
    assert gradcheck(lambda e: smoothness(e, x[:6] @ x[:6].T), edges)


# -- what is learned ------------------------------------------------------------------------------


def test_one_step_is_the_closed_form(graph: Graph) -> None:
    """With nothing but the norms: both thresholds of A at half their weights, cut, no diagonal."""
    made = fitted(graph, epochs=1, **{**QUIET, "nuclear": 1.2, "l1": 0.1})
    a = dense(graph.adj)
    wanted = (thresholded(a, 0.6) - 0.05).clamp(0, max(1.0, float(a.max()))).fill_diagonal_(0)
    torch.testing.assert_close(learned(made).double(), wanted, atol=2e-5, rtol=1e-4)


def test_a_small_step_goes_a_part_of_the_way() -> None:
    """Steps of .1 from another start: the distance to A shrinks by 1 − 2 · .1 each."""
    model = Structured(Recipe.of(GCN).model.build(Sizes.of(BLOCKS)))
    defense = ProGNN(**{**QUIET, "lr": 0.1})
    learner = Learner(defense, model, BLOCKS, inputs(BLOCKS), BLOCKS.adj)
    far = torch.full_like(model.given, 0.5).fill_diagonal_(0)
    model.learn(model.given, far)
    learner.step()
    wanted = (far + 0.2 * (model.given - far)).fill_diagonal_(0)
    torch.testing.assert_close(model.learned, wanted)


def test_without_pulls_it_is_the_plain_model(graph: Graph) -> None:
    """The structure stays what was given, and training is that of the model alone."""
    made = fitted(graph, **QUIET)
    torch.testing.assert_close(learned(made), dense(graph.adj), atol=1e-6, rtol=0)
    plain = graphsec.fit(graph, GCN, training={"epochs": 30})
    torch.testing.assert_close(made.logits(graph), plain.logits(graph), atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("fields", [{"nuclear": 10.0}, {"smooth": 0.05}])
def test_planted_edges_get_less_weight_than_true_ones(fields: dict[str, float]) -> None:
    """Edges between blocks, added at random, by either prior on its own; three graphs."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        n, y = 150, np.arange(150) % 3
        edges = np.argwhere(np.triu(rng.random((n, n)) < 0.25 * (y[:, None] == y), 1))
        noise = rng.permutation(np.argwhere(np.triu(y[:, None] != y, 1)))[:200]
        x = np.eye(3)[y] @ rng.normal(size=(3, 16)) + rng.normal(size=(n, 16))
        split = tuple(np.split(rng.permutation(n), [30, 60]))
        graph = Graph.from_edges(np.r_[edges, noise].T, n, x=x, y=y, split=split)
        s = learned(fitted(graph, **{**QUIET, "gamma": 1.0, **fields}))
        true, planted = (s[tuple(torch.from_numpy(pairs.T))] for pairs in (edges, noise))
        assert float((true[:, None] > planted).double().mean()) > 0.8
        assert torch.equal(s, s.T)
        assert 0 <= float(s.min()) <= float(s.max()) <= 1


def test_the_training_loss_moves_the_structure() -> None:
    """Among training nodes, edges within a class gain against those between classes."""
    strong, without = (
        learned(fitted(BLOCKS, **{**QUIET, "gamma": gamma})) for gamma in (300.0, 0.0)
    )
    assert BLOCKS.split is not None
    assert BLOCKS.y is not None
    u, v = BLOCKS.pairs[:, torch.isin(BLOCKS.pairs, BLOCKS.split.train).all(0)]
    same = BLOCKS.y[u] == BLOCKS.y[v]
    change = (strong - without)[u, v]
    assert float(change[same].mean()) > float(change[~same].mean()) + 0.01


# -- answers on other graphs ----------------------------------------------------------------------


def test_flips_are_applied_to_the_learned_structure(graph: Graph) -> None:
    """Deleted edges are gone, added ones whole, all other pairs as learned."""
    made, flips = fitted(graph, nuclear=4.0), some_flips(graph)
    s = learned(made)
    assert float((s - dense(graph.adj)).abs().max()) > 0.1
    assert isinstance(made.model, Structured)
    seen = dense(made.model.seen(graph.flip(flips).adj))
    wanted, (u, v) = s.clone(), flips
    wanted[u, v] = wanted[v, u] = (~graph.has_edges(flips)).float()
    torch.testing.assert_close(seen, wanted, atol=1e-6, rtol=1e-5)
    assert torch.equal(dense(made.model.seen(graph.adj)), s)


def test_gradient_at_evasion_is_exact(graph: Graph) -> None:
    """Numerically, through the learned structure and a GCN, halfway through flips."""
    made, flips = fitted(graph, epochs=5, nuclear=4.0), some_flips(graph, 3)
    made.model.double()
    x, adj = inputs(graph).to_dense().double(), graph.adj
    adj = dataclasses.replace(
        adj, weight=torch.ones(adj.csr.nnz) if adj.weight is None else adj.weight
    )
    adj = adj.with_tensors([weight.double() for weight in adj.tensors()])

    def call(weight: Tensor) -> Tensor:
        return made.forward(x, adj.with_block(flips, weight))[:6]

    assert gradcheck(call, torch.full((6,), 0.4, dtype=torch.float64, requires_grad=True))


def test_an_operand_is_its_matrix(graph: Graph) -> None:
    """Sparse or not."""
    h = torch.randn(graph.num_nodes, 3)
    for matrix in (dense(graph.adj), dense(graph.adj) + 0.01):
        made = operand(matrix)
        assert (made.factors is None) == bool((matrix == 0).any())
        torch.testing.assert_close(propagate(made, h), matrix @ h, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(made.degrees(), matrix.sum(1), atol=1e-5, rtol=1e-5)


def test_a_composition_learns_from_the_sanitised_graph() -> None:
    karate = tiny_graphs()["karate"]
    jaccard = {"name": "jaccard", "threshold": 0.15}
    made = graphsec.fit(karate, GCN, [jaccard, {"name": "prognn", **QUIET}], training={"epochs": 4})
    assert isinstance(made.model, Structured)
    _, kept = made.sanitise(inputs(karate), karate.adj)
    assert 0 < float(dense(kept).sum()) < float(dense(karate.adj).sum())
    torch.testing.assert_close(learned(made), dense(kept), atol=1e-6, rtol=0)


def test_one_part_of_a_composition_may_train_its_own_way() -> None:
    with pytest.raises(ValueError, match="one part may train its own way, got 'prognn', 'prognn'"):
        graphsec.fit(BLOCKS, GCN, ["prognn", "prognn"])


def test_what_it_cannot_learn_is_refused_before_it_starts() -> None:
    edges = BLOCKS.pairs
    directed = Graph.from_edges(
        edges, 90, directed=True, x=BLOCKS.x, y=BLOCKS.y, split=BLOCKS.split
    )
    with pytest.raises(ValueError, match="needs an undirected graph, 'graph' is directed"):
        fitted(directed.replace(name="graph"))
    n = 5_001
    large = Graph.from_edges(
        edges, n, x=torch.ones(n, 1), y=torch.zeros(n).long(), split=BLOCKS.split, name="large"
    )
    with pytest.raises(ValueError, match="num_nodes of 'large' must be at most 5000, found 5001"):
        fitted(large)
    for changes, what in (({"batch_size": 8}, "batch_size"), ({"sampler": "shadow"}, "sampler")):
        with pytest.raises(ValueError, match=f"training.{what} must be None"):
            graphsec.fit(BLOCKS, GCN, "prognn", training=changes)
    made = fitted(BLOCKS, epochs=2)
    with pytest.raises(ValueError, match=r"answers about the 90 nodes .* got 34 nodes"):
        made.logits(tiny_graphs()["karate"])
    with pytest.raises(TypeError, match="gnnguard needs a model with layers"):
        graphsec.fit(BLOCKS, GCN, ["prognn", "gnnguard"])


def test_training_is_repeatable_with_a_poisoned_graph() -> None:
    """Poisoning trains again on the attacked graph: the structure starts from that one."""
    poisoned = BLOCKS.flip(some_flips(BLOCKS))
    first, second = (fitted(poisoned, epochs=12) for _ in range(2))
    assert torch.equal(learned(first), learned(second))
    assert isinstance(first.model, Structured)
    assert torch.equal(first.model.given, dense(poisoned.adj))
    other = ProGNN().fit(poisoned, Recipe.of(GCN, {"epochs": 12}), Rng(9)["defense"])
    assert not torch.equal(learned(other), learned(first))
