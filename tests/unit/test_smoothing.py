"""Sparse randomised smoothing: noise, certificate and vote, against enumeration."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from torch import Tensor

import graphsec
from graphsec.defenses import build
from graphsec.defenses.certify.regions import (
    LARGEST,
    best_case,
    certified,
    frontier,
    lower_bound,
    radii,
    vote_bounds,
    worst_case,
)
from graphsec.defenses.certify.smoothing import Vote
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


def enumerated(
    p: float, added: int, deleted: int, p_add: float, p_del: float, *, best: bool = False
) -> float:
    """ρ by filling all noisy vectors of 6 bits one by one, by falling (rising) likelihood ratio."""
    clean = np.array([1, 1, 1, 0, 0, 0])
    attacked = clean.copy()
    attacked[:deleted] = 0
    attacked[6 - added :] = 1

    def chance(noisy: tuple[int, ...], of: np.ndarray) -> float:
        one = np.where(of == 1, 1 - p_del, p_add)
        return float(np.where(noisy, one, 1 - one).prod())

    each = [(chance(z, clean), chance(z, attacked)) for z in itertools.product((0, 1), repeat=6)]
    each.sort(key=lambda pair: (-pair[0] / pair[1] if pair[1] else -np.inf) * (-1 if best else 1))
    rho, left = 0.0, p
    for mine, theirs in each:
        if mine <= 0:
            rho += theirs * best  # never seen on the clean graph: free for the best classifier
            continue
        rho += theirs * min(left / mine, 1)
        left = max(left - mine, 0.0)
    return rho


@pytest.mark.parametrize(("p_add", "p_del"), NOISES)
def test_worst_case_is_that_of_all_vectors(p_add: float, p_del: float) -> None:
    """On 6 bits, for up to 3 additions and 3 deletions and several probabilities."""
    for added, deleted in itertools.product(range(4), repeat=2):
        for p in (0.0, 0.001, 0.2, 0.55, 0.8, 0.95, 0.999, 1.0):
            where = added, deleted, p_add, p_del
            for case, best in ((worst_case, False), (best_case, True)):
                mine = case(np.array([p]), *where)[0]
                # At 1 the enumeration's own rounding decides about regions of 1e-11.
                near = 1e-12 if p < 1 else 1e-9
                assert mine == pytest.approx(enumerated(p, *where, best=best), abs=near), (p, best)


@pytest.mark.parametrize(("p_add", "p_del"), NOISES)
def test_certificate_is_the_best_that_the_bounds_allow(p_add: float, p_del: float) -> None:
    """The least lead over all classifiers of 4 bits with three classes, by linear programming."""
    world = np.array(list(itertools.product((0, 1), repeat=4)))
    clean = np.array([1, 1, 0, 0])

    def chances(graph: np.ndarray) -> np.ndarray:
        one = np.where(graph == 1, 1 - p_del, p_add)
        return np.asarray(np.where(world == 1, one, 1 - one).prod(1))

    before = chances(clean)
    for (added, deleted), (low, up) in itertools.product(
        itertools.product(range(3), repeat=2), [(0.6, 0.4), (0.7, 0.1), (0.45, 0.3), (0.97, 0.02)]
    ):
        attacked = clean.copy()
        attacked[:deleted], attacked[4 - added :] = 0, 1
        after = chances(attacked)
        least = optimize.linprog(
            np.r_[after, -after],
            A_ub=np.c_[np.eye(16), np.eye(16)], b_ub=np.ones(16),
            A_eq=np.stack([np.r_[before, 0 * before], np.r_[0 * before, before]]), b_eq=[low, up],
            bounds=(0, 1),
        ).fun  # fmt: skip
        noise = (added, deleted, p_add, p_del)
        mine, theirs = np.array([low]), np.array([up])
        lead = (worst_case(mine, *noise) - best_case(theirs, *noise))[0]
        assert lead == pytest.approx(least, abs=1e-9)
        if abs(least) > 1e-9:
            assert certified(mine, theirs, *noise)[0] == (least > 0)


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
    found = radii(p, 1 - p, 0.0, keep)
    for column, rho in enumerate((p * keep**r, (p - 1 + keep**r) / keep**r)):
        wanted = (rho > 0.5).sum(0) - 1
        assert found[:, column].tolist() == wanted.tolist()
    assert radii(np.array([0.999]), np.array([0.001]), 0.4, 0.5999)[0].tolist() == [LARGEST] * 3


@pytest.mark.parametrize(("p_add", "p_del"), NOISES)
def test_radii_and_frontier_agree_with_the_certificate_everywhere(
    p_add: float, p_del: float
) -> None:
    lower = np.array([0.3, 0.45, 0.55, 0.7, 0.9, 0.99])
    upper = np.array([0.4, 0.2, 0.44, 0.15, 0.02, 0.01])
    most = 40
    holds = np.stack([[certified(lower, upper, a, d, p_add, p_del) for d in range(most)]
                      for a in range(most)])  # fmt: skip
    found, columns = radii(lower, upper, p_add, p_del), frontier(lower, upper, p_add, p_del)
    a, d = np.indices((most, most))
    for k, (additions, deletions, flips) in enumerate(found):
        assert max(additions, deletions) < most
        assert holds[:, 0, k].sum() - 1 == additions
        assert holds[0, :, k].sum() - 1 == deletions
        failing = (a + d)[~holds[:, :, k]]
        assert failing.min() - 1 == flips <= min(additions, deletions)
        assert [c[k] for c in columns] == (holds[: len(columns), :, k].sum(1) - 1).tolist()
    assert all((c == -1).all() for c in columns[-1:])


def test_bounds_of_answer_and_rivals_hold_together() -> None:
    """In a simulation of four classes any bound of a node is wrong in at most alpha of all."""
    p = np.array([0.45, 0.3, 0.2, 0.05])
    votes = np.random.default_rng(0).multinomial(300, p, 20_000)
    answers = np.zeros(len(votes), int)
    lower, upper = vote_bounds(votes, answers, 0.1)
    wrong = ((lower > p[0]) | (upper < p[1])).mean()
    assert 0.01 < wrong <= 0.1 + 4 * (0.1 * 0.9 / 20_000) ** 0.5
    assert (lower + upper <= 1 + 1e-12).all()
    # A clear lead without a majority is certified now; in vain where only that counts.
    found = vote_bounds(np.array([[4500, 3000, 2500]]), np.array([0]), 0.01)
    assert radii(*found, 0.01, 0.7)[0].min() >= 0
    assert radii(found[0], 1 - found[0], 0.01, 0.7)[0].max() == -1
    # Two classes: the majority, with the whole of alpha.
    two = np.array([[30, 270], [160, 140]])
    lower, upper = vote_bounds(two, np.array([1, 0]), 0.05)
    assert lower == pytest.approx(lower_bound(np.array([270, 160]), 300, 0.05))
    assert upper == pytest.approx(1 - lower)


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


def tiny(edges: int, seed: int, classes: int = 2) -> Graph:
    """5 nodes, with as many edges at random."""
    order = torch.randperm(10, generator=Rng(seed).torch())[:edges]
    x = torch.randn(NODES, 4, generator=Rng(seed)["x"].torch())
    y = torch.arange(NODES) % classes
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
    edges: np.ndarray,
    world: np.ndarray,
    classes: np.ndarray,
    p_add: float,
    p_del: float,
    kinds: int = 2,
) -> np.ndarray:
    """(5, kinds) probability of each in the smoothed classifier on the graph with these bits."""
    one = np.where(edges == 1, 1 - p_del, p_add)
    return shares(np.where(world == 1, one, 1 - one).prod(1), classes, kinds)


def shares(weight: np.ndarray, classes: np.ndarray, kinds: int) -> np.ndarray:
    """(…, 5, kinds) probability of each where graphs appear with ``weight`` (…, 1024)."""
    return np.stack([weight @ (classes == c) for c in range(kinds)], -1)


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


def exact_bounds(clean: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(answers, their probabilities, those of their strongest rivals) of shares (5, classes)."""
    ordered = np.sort(clean, 1)
    return clean.argmax(1), ordered[:, -1], ordered[:, -2]


@pytest.mark.parametrize(("p_add", "p_del"), [(0.2, 0.6), (0.0, 0.7), (0.1, 0.3)])
@pytest.mark.parametrize("kinds", [2, 3])
def test_certified_nodes_keep_their_class_under_every_perturbation(
    p_add: float, p_del: float, kinds: int
) -> None:
    """All 1,024 graphs, with exact probabilities; so certified accuracy bounds the attacked one."""
    positive, fallen = np.zeros(3, int), 0
    # Pairs are flipped independently: the noise of all graphs is a Kronecker product.
    flip = np.array([[1 - p_add, p_add], [p_del, 1 - p_del]])
    noise: np.ndarray = functools.reduce(np.kron, [flip] * 10)
    for seed in range(5):
        graph = tiny(4 + seed, seed + 2, kinds)
        world, classes = base_classes(untrained(graph, seed), graph)
        edges = bits(graph.adj).astype(int)
        answers, lower, upper = exact_bounds(
            exact_shares(edges, world, classes, p_add, p_del, kinds)
        )
        found = radii(lower, upper, p_add, p_del)
        jointly = np.stack(frontier(lower, upper, p_add, p_del), 1)
        positive += (found > 0).sum(0)
        added, deleted = (world & (1 - edges)).sum(1), (edges & (1 - world)).sum(1)
        # The graphs that each kind of certificate speaks of.
        spoken = np.stack([deleted == 0, added == 0, np.full(len(world), True)], 1)
        attacked = shares(noise, classes, kinds)
        keeps = attacked.argmax(2) == answers
        assert graph.y is not None
        right = attacked.argmax(2) == graph.y.numpy()
        for column, r in itertools.product(range(3), range(11)):
            worlds = spoken[:, column] & (added + deleted <= r)
            safe = found[:, column] >= r
            assert keeps[worlds][:, safe].all()
            reached = torch.from_numpy(found[:, column])
            curve = certified_ratio(reached, torch.from_numpy(answers) == graph.y)
            certified_accuracy = dict(zip(curve.x, curve.y, strict=True)).get(r, 0.0)
            assert certified_accuracy <= right[worlds].mean(1).min() + 1e-12
        for a, d in itertools.product(range(min(11, jointly.shape[1])), range(11)):
            worlds = (added == a) & (deleted == d)
            safe = jointly[:, a] >= d
            assert keeps[worlds][:, safe].all()
            fallen += int((~keeps[worlds][:, ~safe]).sum())
    assert (positive[:2] > 0).all()
    assert fallen > 0  # where nothing is certified answers do change: the check can fail


@pytest.mark.parametrize("kinds", [2, 3])
def test_votes_certify_no_more_than_exact_probabilities(kinds: int) -> None:
    for seed in range(2):
        graph = tiny(5, seed, kinds)
        predictor = untrained(graph, seed, p_add=0.2, p_del=0.6)
        world, classes = base_classes(predictor, graph)
        exact = exact_shares(bits(graph.adj).astype(int), world, classes, 0.2, 0.6, kinds)
        answers, lower, upper = exact_bounds(exact)
        nodes = torch.tensor([4, 0, 2])
        same = (predictor.predict(graph)[nodes] == torch.from_numpy(answers)[nodes]).unsqueeze(1)
        found = predictor.certify(graph, nodes, Rng(5))
        assert found.shape == (3, 3)
        assert (
            found <= torch.from_numpy(radii(lower, upper, 0.2, 0.6))[nodes].where(same, -1)
        ).all()
        assert predictor.origin is not None
        jointly = predictor.origin.defense.certify_jointly(predictor, graph, nodes, Rng(5))
        assert torch.equal(jointly[:, 0], found[:, 1])
        assert torch.equal((jointly >= 0).sum(1) - 1, found[:, 0])
        assert found.max() > 0


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
