"""Sparse randomised smoothing: noise, certificate and vote, against enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import graphsec
from graphsec.defenses import build
from graphsec.defenses.certify import smoothing
from graphsec.defenses.certify.smoothing import Vote, largest_radius, lower_bound, worst_case
from graphsec.graph import Graph
from graphsec.metrics import certified_ratio
from graphsec.models.base import Sizes, inputs
from graphsec.ops import Adj
from graphsec.predict import Predictor
from graphsec.rng import Rng
from graphsec.testing import tiny_graphs
from graphsec.train import Recipe

NOISES = [(0.0, 0.6), (0.001, 0.4), (0.1, 0.3), (0.2, 0.6), (0.3, 0.0)]
NODES = 5
PAIRS = torch.triu_indices(NODES, NODES, 1)  # 10 pairs, 1,024 graphs


# -- the noise ------------------------------------------------------------------------------------


def bits(adj: Adj) -> np.ndarray:
    """(pairs,) whether each pair u < v is an edge with a weight above 0."""
    merged = adj.merged()
    dense = torch.zeros(adj.num_nodes, adj.num_nodes)
    dense[merged.csr.coo] = 1.0 if merged.weight is None else merged.weight
    assert torch.equal(dense, dense.T)
    u, v = torch.triu_indices(adj.num_nodes, adj.num_nodes, 1)
    return (dense[u, v] > 0.5).numpy()


@pytest.mark.parametrize("n", [5, 6])
def test_noise_has_the_stated_distribution(n: int) -> None:
    """Each pair's frequency and each two pairs' are those of independent flips, to 5 sigma."""
    edges = np.array([[0, 0, 1, 3], [1, 2, 4, 4]])
    graph, p_add, p_del, trials = Graph.from_edges(edges, n), 0.4, 0.3, 2500
    drawn = np.stack([bits(graph.adj.sample(p_add, p_del, Rng(1)[i])) for i in range(trials)])
    chance = np.where(bits(graph.adj), 1 - p_del, p_add)
    both = np.outer(chance, chance)
    np.fill_diagonal(both, chance)
    seen = drawn.T.astype(float) @ drawn / trials
    assert (np.abs(seen - both) < 5 * np.sqrt(both * (1 - both) / trials)).all()


def test_noise_couples_graphs() -> None:
    """Noise of a flipped graph is the noisy graph with the flips as candidate pairs at weight 1."""
    for graph in tiny_graphs().values():
        pairs = torch.triu_indices(graph.num_nodes, graph.num_nodes, 1)
        picked = torch.randperm(pairs.shape[1], generator=Rng(0).torch())[:200].sort().values
        flips = pairs[:, picked]
        for weight, other in ((0.0, graph), (1.0, graph.flip(flips))):
            adj = graph.adj.with_block(flips, torch.full((200,), weight))
            for i in range(3):
                mine = bits(adj.sample(0.1, 0.4, Rng(2)[i]))
                assert (mine == bits(other.adj.sample(0.1, 0.4, Rng(2)[i]))).all()


def test_noise_takes_weight_0_as_absent() -> None:
    """An edge of weight 0 appears like any absent pair, and taking it away changes nothing."""
    graph = tiny_graphs()["blocks"]
    row, col = graph.adj.csr.coo
    gone = graph.pairs[:, :40]
    keep = torch.ones(len(row))
    for u, v in gone.T:
        keep[((row == u) & (col == v)) | ((row == v) & (col == u))] = 0
    adj, without = graph.adj.scaled(keep, None), graph.flip(gone).adj
    block = adj.with_block(gone, torch.ones(40))
    for each in (adj, block):
        noisy = bits(each.sample(0.05, 0.4, Rng(0)))
        assert (noisy == bits(without.sample(0.05, 0.4, Rng(0)))).all()


def test_noise_refuses_what_it_does_not_fit() -> None:
    graph = tiny_graphs()["blocks"]
    with pytest.raises(ValueError, match="finished operator"):
        graph.adj.normalized().sample(0.1, 0.1, Rng(0))
    directed = Graph.from_edges(np.array([[0, 1], [1, 2]]), 3, directed=True)
    with pytest.raises(ValueError, match="undirected"):
        directed.adj.sample(0.1, 0.1, Rng(0))


# -- the certificate ------------------------------------------------------------------------------


def enumerated(p: float, added: int, deleted: int, p_add: float, p_del: float) -> float:
    """ρ by filling all noisy vectors of 6 bits one by one, by falling likelihood ratio."""
    clean = np.array([1, 1, 1, 0, 0, 0])
    attacked = clean.copy()
    attacked[:deleted] = 0
    attacked[6 - added :] = 1

    def chance(noisy: tuple[int, ...], of: np.ndarray) -> float:
        one = np.where(of == 1, 1 - p_del, p_add)
        return float(np.where(noisy, one, 1 - one).prod())

    each = [(chance(z, clean), chance(z, attacked)) for z in itertools.product((0, 1), repeat=6)]
    each.sort(key=lambda pair: -pair[0] / pair[1] if pair[1] else -np.inf)
    rho, left = 0.0, p
    for mine, theirs in each:
        if mine <= 0:
            continue
        rho += theirs * min(left / mine, 1)
        left = max(left - mine, 0.0)
    return rho


@pytest.mark.parametrize(("p_add", "p_del"), NOISES)
def test_worst_case_is_that_of_all_vectors(p_add: float, p_del: float) -> None:
    """On 6 bits, for up to 3 additions and 3 deletions and several probabilities."""
    for added, deleted in itertools.product(range(4), repeat=2):
        for p in (0.0, 0.2, 0.55, 0.8, 0.95, 0.999):
            mine = worst_case(np.array([p]), added, deleted, p_add, p_del)[0]
            wanted = enumerated(p, added, deleted, p_add, p_del)
            assert mine == pytest.approx(wanted, abs=1e-12), (added, deleted, p)


@pytest.mark.parametrize(("p_add", "p_del"), NOISES)
def test_worst_case_falls_with_the_radius(p_add: float, p_del: float) -> None:
    p = np.linspace(0, 0.999, 40)
    grid = np.stack(
        [[worst_case(p, a, d, p_add, p_del) for d in range(12)] for a in range(12)]
    )  # fmt: skip
    assert (np.diff(grid, axis=0) <= 1e-12).all()
    assert (np.diff(grid, axis=1) <= 1e-12).all()
    assert (np.diff(grid, axis=2) >= -1e-12).all()
    assert np.allclose(grid[0, 0], p)


def test_radii_end_where_the_worst_case_does() -> None:
    """Where no noise adds edges, ρ has a closed form for deletions and for additions alone."""
    p, keep = np.array([0.4, 0.6, 0.95, 0.999]), 0.8
    r = np.arange(101)[:, None]
    for (added, deleted), rho in {
        (0, 1): (p - 1 + keep**r) / keep**r,
        (1, 0): p * keep**r,
    }.items():
        wanted = (rho > 0.5).sum(0) - 1
        assert largest_radius(p, added, deleted, 0.0, keep).tolist() == wanted.tolist()
    assert largest_radius(np.array([0.999]), 1, 0, 0.4, 0.5999)[0] == smoothing.LARGEST


def test_lower_bound_is_clopper_pearson() -> None:
    """scipy's exact interval, the closed form α^(1/n) for n of n, and 0 for none."""
    hits = np.array([0, 1, 37, 99, 100])
    found = lower_bound(hits, 100, 0.01)
    for k, bound in zip(hits, found, strict=True):
        exact = stats.binomtest(int(k), 100, alternative="greater").proportion_ci(0.99, "exact")
        assert bound == pytest.approx(exact.low, abs=1e-12)
    assert found[0] == 0
    assert found[-1] == pytest.approx(0.01**0.01)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 0.99])
def test_lower_bound_covers(p: float) -> None:
    """It exceeds the truth in at most alpha of all cases: exactly, and in a simulation."""
    k = np.arange(201)
    wrong = stats.binom.pmf(k, 200, p)[lower_bound(k, 200, 0.05) > p].sum()
    assert wrong <= 0.05
    hits = np.random.default_rng(0).binomial(200, p, 20_000)
    assert (lower_bound(hits, 200, 0.05) > p).mean() <= 0.05 + 4 * (0.05 * 0.95 / 20_000) ** 0.5


# -- the vote, where all noisy graphs can be listed -----------------------------------------------


def tiny(edges: int, seed: int) -> Graph:
    """5 nodes, with as many edges at random."""
    order = torch.randperm(10, generator=Rng(seed).torch())[:edges]
    x = torch.randn(NODES, 4, generator=Rng(seed)["x"].torch())
    y = torch.arange(NODES) % 2
    return Graph.from_edges(PAIRS[:, order].numpy(), NODES, x=x, y=y)


def untrained(graph: Graph, seed: int, **fields: float) -> Predictor:
    defense = build({"name": "smoothing", "certify_samples": 400, **fields})
    recipe = Recipe.of({"name": "gcn", "hidden": 8}, {"epochs": 1})
    with Rng(seed)["weights"].scope():
        predictor = defense.predictor(recipe, Sizes.of(graph))
        for parameter in predictor.model.parameters():
            torch.nn.init.normal_(parameter)
    return predictor


def base_classes(predictor: Predictor, graph: Graph) -> tuple[np.ndarray, np.ndarray]:
    """((1024, 10) all graphs as bits, (1024, 5) classes of the base model on them)."""
    world = np.array(list(itertools.product((0, 1), repeat=10)))
    assert graph.x is not None
    assert isinstance(predictor.model, Vote)
    which, pair = world.nonzero()  # all of them side by side, as one graph of many parts
    edges = PAIRS.numpy()[:, pair] + NODES * which
    together = Graph.from_edges(edges, NODES * len(world))
    with torch.no_grad():
        logits = predictor.model.base(graph.x.repeat(len(world), 1), together.adj)
    return world, logits.argmax(1).view(-1, NODES).numpy()


def exact_shares(
    edges: np.ndarray, world: np.ndarray, classes: np.ndarray, p_add: float, p_del: float
) -> np.ndarray:
    """(5, 2) probability of each class in the smoothed classifier on the graph with these bits."""
    one = np.where(edges == 1, 1 - p_del, p_add)
    weight = np.where(world == 1, one, 1 - one).prod(1)
    return np.stack([(weight[:, None] * (classes == c)).sum(0) for c in (0, 1)], 1)


def test_votes_are_draws_of_the_smoothed_classifier() -> None:
    graph = tiny(5, 1)
    predictor = untrained(graph, 1, p_add=0.2, p_del=0.5, samples=400)
    world, classes = base_classes(predictor, graph)
    exact = exact_shares(bits(graph.adj), world, classes, 0.2, 0.5).clip(0, 1)
    assert ((exact > 0.05) & (exact < 0.95)).any()  # else every sampler would do
    assert isinstance(predictor.model, Vote)
    votes = predictor.model.count(inputs(graph), graph.adj, 3000, Rng(0)).numpy() / 3000
    assert (np.abs(votes - exact) <= 5 * np.sqrt(exact * (1 - exact) / 3000) + 1e-6).all()
    share = predictor.logits(graph).exp()
    assert torch.allclose(share.sum(1), torch.ones(NODES))
    assert np.abs(share.numpy() - exact).max() < 0.15


def test_certified_nodes_keep_their_class_under_every_perturbation() -> None:
    """Exhaustively, with exact probabilities; so certified accuracy bounds the attacked one."""
    positive = 0
    for seed, (p_add, p_del) in itertools.product(range(4), [(0.2, 0.6), (0.0, 0.7), (0.3, 0.5)]):
        graph = tiny(3 + seed, seed)
        predictor = untrained(graph, seed, p_add=p_add, p_del=p_del)
        world, classes = base_classes(predictor, graph)
        edges, nodes = bits(graph.adj).astype(int), torch.arange(NODES)
        radii = predictor.certify(graph, nodes, Rng(5))
        assert radii.shape == (NODES, 2)
        answers, y = predictor.predict(graph), graph.y
        assert y is not None
        positive += int((radii > 0).sum())
        worst = {}
        for column, kind in enumerate((0, 1)):  # additions flip zeros, deletions ones
            spots = np.flatnonzero(edges == kind)
            safe = np.ones(NODES, dtype=bool)
            right = 1.0
            for r in range(len(spots) + 1):
                for flips in itertools.combinations(spots, r):
                    attacked = edges.copy()
                    attacked[list(flips)] ^= 1
                    shares = exact_shares(attacked, world, classes, p_add, p_del)
                    safe &= shares[np.arange(NODES), answers.numpy()] > 0.5
                    right = min(right, float((shares.argmax(1) == y.numpy()).mean()))
                assert safe[(radii[:, column] >= r).numpy()].all()
                worst[column, r] = right
            curve = certified_ratio(radii[:, column], answers == y)
            for radius, share in zip(curve.x, curve.y, strict=True):
                if (column, radius) in worst:
                    assert share <= worst[column, int(radius)] + 1e-12
    assert positive > 10


def test_gradient_is_that_of_the_mean_probabilities() -> None:
    """Value of the votes; derivative of the relaxed vote in the pairs, by finite differences."""
    graph = tiny(5, 2)
    predictor = untrained(graph, 2, p_add=0.2, p_del=0.5, samples=40)
    model, flips = predictor.model.double(), PAIRS
    assert isinstance(model, Vote)
    assert graph.x is not None
    x = graph.x.double()

    def relaxed(weight: Tensor) -> Tensor:
        adj = graph.adj.with_block(flips, weight)
        outputs = model._outputs(x, adj, 40, Rng(0)["smoothing"])
        mean = torch.stack([out.softmax(1) for out in outputs]).sum(0)
        return ((mean + 1) / 42).log()[0, 0]

    weight = torch.full((10,), 0.3, dtype=torch.float64, requires_grad=True)
    out = model(x, graph.adj.with_block(flips, weight))
    (gradient,) = torch.autograd.grad(out[0, 0], weight)
    votes = out.detach().exp() * 42 - 1
    assert torch.allclose(votes, votes.round(), atol=1e-6)
    step = 1e-6 * torch.eye(10, dtype=torch.float64)
    with torch.no_grad():
        start = weight.detach()
        moved = [(relaxed(start + s) - relaxed(start - s)) / 2e-6 for s in step]
    torch.testing.assert_close(gradient, torch.stack(moved), rtol=1e-4, atol=1e-7)
    assert gradient.abs().max() > 0


# -- the defense ----------------------------------------------------------------------------------


def test_fields_and_misuse() -> None:
    with pytest.raises(ValueError, match="p_add \\+ p_del must be below 1"):
        build({"name": "smoothing", "p_add": 0.5, "p_del": 0.5})
    graph = tiny_graphs()["blocks"]
    fitted = graphsec.fit(graph, "gcn", ["smoothing", "none"], training={"epochs": 1})
    with pytest.raises(TypeError, match="compose certifies nothing"):
        fitted.certify(graph, torch.arange(3), Rng(0))


def test_certifies_a_trained_model_repeatably() -> None:
    graph = tiny_graphs()["karate"]
    spec = {"name": "smoothing", "p_add": 0.02, "samples": 20, "certify_samples": 300}
    fitted = graphsec.fit(graph, "gcn", spec, training={"epochs": 60})
    nodes = torch.tensor([3, 0, 33])
    radii = fitted.certify(graph, nodes, Rng(1))
    assert torch.equal(radii, fitted.certify(graph, nodes, Rng(1)))
    assert torch.equal(radii[[1]], fitted.certify(graph, nodes[[1]], Rng(1)))
    assert (radii >= -1).all()
    assert (radii > 0).any()


def test_an_aggregation_behind_it_reaches_the_base_model() -> None:
    graph = tiny_graphs()["blocks"]
    fitted = graphsec.fit(graph, "gcn", ["smoothing", "soft-median"], training={"epochs": 1})
    assert isinstance(fitted.model, Vote)
    assert "soft_median" in str(fitted.model.base.aggregate)


# -- the metric -----------------------------------------------------------------------------------


def test_certified_ratio_counts_nodes() -> None:
    radii, correct = torch.tensor([-1, 0, 2, 2]), torch.tensor([True, True, True, False])
    curve = certified_ratio(radii)
    assert list(curve.x) == [0, 1, 2, 3]
    assert list(curve.y) == [0.75, 0.5, 0.5, 0]
    assert list(certified_ratio(radii, correct).y) == [0.5, 0.25, 0.25, 0]
    assert list(certified_ratio(torch.tensor([-1])).y) == [0, 0]
    with pytest.raises(ValueError, match="radii must be"):
        certified_ratio(torch.zeros(3, 2, dtype=torch.int64))
