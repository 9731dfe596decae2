"""Defenses of the edges and of the answers: mechanisms, what is shown to whom, MC-GPB's penalty."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, ks_2samp, laplace

import graphsec
from graphsec.defenses.base import build
from graphsec.defenses.private.mc_gpb import MCGPB, thinned
from graphsec.defenses.private.noisy_graph import EdgeRand, LapGraph, NoisyGraph, largest_laplace
from graphsec.graph import Graph
from graphsec.models.base import inputs
from graphsec.ops.noise import distinct_pairs, edge_keys, flipped
from graphsec.predict import Predictor
from graphsec.registry import DEFENSES, SpecError
from graphsec.rng import Rng
from graphsec.testing import tiny_graphs
from graphsec.threat import Access, Threat

KARATE = tiny_graphs()["karate"]
NOISY = [EdgeRand(epsilon=2.0), LapGraph(epsilon=2.0)]
GCN: Any = {"name": "gcn", "hidden": 8}


def released(defense: NoisyGraph, graph: Graph) -> np.ndarray:
    """Keys of the edges that the model sees."""
    return edge_keys(defense.sanitise(inputs(graph), graph.adj)[1])


def keys_of(graph: Graph) -> np.ndarray:
    return edge_keys(graph.adj)


def ring(n: int) -> Graph:
    nodes = np.arange(n)
    y = nodes % 2
    thirds = np.split(nodes, [n // 3, n // 2])
    edges = np.stack([nodes, (nodes + 1) % n])
    return Graph.from_edges(edges, n, x=np.eye(n), y=y, split=thirds)


# -- the noisy graphs -----------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [0.5, 2.0, 5.0])
def test_edge_rand_flips_each_pair_as_often_as_it_says(epsilon: float) -> None:
    """Edges and non-edges alike, with the odds e^ε that randomised response needs."""
    graph = ring(500)
    defense = EdgeRand(epsilon=epsilon).drawn(graph, Rng(1))
    assert isinstance(defense, EdgeRand)
    edges, seen = keys_of(graph), released(defense, graph)
    total, rate = 500 * 499 // 2, 1 / (1 + np.exp(epsilon))
    gone = len(np.setdiff1d(edges, seen))
    new = len(np.setdiff1d(seen, edges))
    assert binomtest(gone, len(edges), rate).pvalue > 1e-4
    assert binomtest(new, total - len(edges), rate).pvalue > 1e-4


def test_lap_graph_is_the_dense_mechanism() -> None:
    """As many edges released and true ones kept as by noise on every cell, in distribution."""
    graph, epsilon, draws = ring(24), 3.0, 1500
    edges, total = keys_of(graph), 24 * 23 // 2
    rng, defense = np.random.default_rng(0), LapGraph(epsilon=epsilon, count_share=0.3)
    mine, dense = [], []
    for i in range(draws):
        flips = defense.flips(edges, 24, Rng(i))
        assert len(np.unique(flips)) == len(flips)
        seen = np.setxor1d(edges, flips)
        mine.append((len(seen), len(np.intersect1d(seen, edges))))
        cells = np.zeros(total)
        cells[: len(edges)] = 1
        cells += rng.laplace(0, 1 / (0.7 * epsilon), total)
        count = int(np.clip(np.rint(len(edges) + rng.laplace(0, 1 / (0.3 * epsilon))), 0, total))
        top = np.argsort(-cells)[:count]
        dense.append((count, int((top < len(edges)).sum())))
    for column in (0, 1):
        assert ks_2samp(np.array(mine)[:, column], np.array(dense)[:, column]).pvalue > 1e-3


def test_lap_graph_draws_count_and_cells_apart() -> None:
    """Each from a stream of its own: the count from one, the edges that stay by another."""
    graph, defense = ring(30), LapGraph(epsilon=2.0, count_share=0.5)
    edges, drawn = keys_of(graph), []
    for i in range(300):
        seen = np.setxor1d(edges, defense.flips(edges, 30, Rng(i)))
        count = Rng(i)["count"].numpy().laplace(0, 1.0)
        assert len(seen) == np.clip(np.rint(len(edges) + count), 0, 435)
        noise = Rng(i)["edges"].numpy().laplace(0, 1.0, len(edges))
        stays = np.isin(edges, seen)
        assert noise[stays].min(initial=np.inf) >= noise[~stays].max(initial=-np.inf)
        drawn.append((count, noise[0]))
    assert abs(np.corrcoef(np.array(drawn).T)[0, 1]) < 4 / np.sqrt(300)


@pytest.mark.parametrize(("count", "k"), [(1, 1), (40, 1), (40, 7), (40, 40)])
def test_largest_of_many_laplace_variables(count: int, k: int) -> None:
    generator = np.random.default_rng(0)
    mine = np.array([np.sort(largest_laplace(count, k, generator)) for _ in range(2000)])
    plain = np.sort(laplace.rvs(size=(2000, count), random_state=generator), 1)[:, -k:]
    for place in {0, k - 1}:
        assert ks_2samp(mine[:, place], plain[:, place]).pvalue > 1e-3
    assert largest_laplace(count, 0, generator).shape == (0,)


@pytest.mark.parametrize("n", [2, 3, 6, 7])
def test_pairs_are_all_pairs_once(n: int) -> None:
    keys = distinct_pairs(n, n * (n - 1) // 2, np.random.default_rng(0))
    u, v = np.triu_indices(n, 1)
    assert sorted(keys) == (u * n + v).tolist()


@pytest.mark.parametrize("defense", NOISY, ids=lambda d: d.name)
def test_noise_is_drawn_once_a_fit(defense: NoisyGraph) -> None:
    """The same seed gives the same noise, another fit other noise, an answer none of its own."""
    fits = [graphsec.fit(KARATE, GCN, defense, seed=s, training={"epochs": 2}) for s in (0, 0, 1)]
    kept = [fit.origin.defense for fit in fits if fit.origin]
    first, again, other = (released(each, KARATE) for each in kept)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, keys_of(KARATE))
    assert torch.equal(fits[0].answer(inputs(KARATE), KARATE.adj), fits[0].logits(KARATE))


@pytest.mark.parametrize("defense", NOISY, ids=lambda d: d.name)
def test_training_sees_nothing_but_the_release(defense: NoisyGraph) -> None:
    """Plain training on the released graph gives the same weights and answers."""
    made = graphsec.fit(KARATE, GCN, defense, seed=3, training={"epochs": 10})
    assert made.origin is not None
    seen = released(made.origin.defense, KARATE)
    pairs = torch.from_numpy(np.stack([seen // 34, seen % 34]))
    noisy = Graph.from_edges(pairs, 34, x=KARATE.x, y=KARATE.y, split=KARATE.split)
    plain = graphsec.fit(noisy, GCN, seed=3, training={"epochs": 10})
    assert torch.equal(plain.logits(noisy), made.logits(KARATE))


@pytest.mark.parametrize("name", ["edge-rand", "lap-graph"])
def test_no_noise_in_the_limit(name: str) -> None:
    for graph in tiny_graphs().values():
        defense = DEFENSES.build({"name": name, "epsilon": 1e9}).drawn(graph, Rng(0))
        assert np.array_equal(released(defense, graph), keys_of(graph))


@pytest.mark.parametrize("name", ["edge-rand", "lap-graph"])
def test_a_statement_needs_noise_that_cannot_be_replayed(name: str) -> None:
    seeded = graphsec.fit(KARATE, GCN, name, training={"epochs": 2})
    assert seeded.privacy is None
    spec = {"name": name, "epsilon": 3.0, "secure": True}
    first, again = (graphsec.fit(KARATE, GCN, spec, training={"epochs": 2}) for _ in range(2))
    assert first.privacy is not None
    assert (first.privacy.epsilon, first.privacy.delta) == (3.0, 0.0)
    assert "edge" in first.privacy.relation
    assert not torch.equal(first.logits(KARATE), again.logits(KARATE))
    mixed = graphsec.fit(KARATE, GCN, [spec, "label-only"], training={"epochs": 2})
    assert mixed.privacy is None


@pytest.mark.parametrize("name", ["edge-rand", "lap-graph"])
def test_the_noise_stays_with_the_curator(name: str) -> None:
    """The weights come without it, unless to who sees the edges."""
    made = graphsec.fit(KARATE, GCN, {"name": name, "epsilon": 1.0}, training={"epochs": 2})
    outsider = Threat(access=("weights", "features")).open(made, KARATE, Rng(0)).model()
    _, adj = outsider.sanitise(inputs(KARATE), KARATE.adj)
    assert np.array_equal(edge_keys(adj), keys_of(KARATE))
    assert outsider.origin is not None
    assert outsider.origin.defense._flips is None
    assert not any(
        isinstance(value, np.ndarray) for value in vars(outsider.origin.defense).values()
    )
    insider = Threat(access=("weights", "features", "edges")).open(made, KARATE, Rng(0)).model()
    assert torch.equal(insider.logits(KARATE), made.logits(KARATE))


def test_a_noisy_graph_comes_first() -> None:
    with pytest.raises(SpecError, match="'edge-rand' must be the first"):
        build(["jaccard", "edge-rand"])
    made = graphsec.fit(KARATE, GCN, ["edge-rand", "jaccard"], training={"epochs": 2})
    alone = graphsec.fit(KARATE, GCN, "edge-rand", training={"epochs": 2})
    assert made.origin is not None
    assert alone.origin is not None
    seen = released(made.origin.defense.parts[0], KARATE)
    assert np.array_equal(seen, released(alone.origin.defense, KARATE))


def test_directed_graphs_are_refused() -> None:
    graph = Graph.from_edges(
        [[0, 1, 2], [1, 2, 0]], 3, directed=True, x=np.eye(3), y=[0, 1, 0], split=([0, 1], [], [2])
    )
    with pytest.raises(ValueError, match="undirected"):
        graphsec.fit(graph, GCN, "edge-rand")


def test_flipped_twice_is_the_graph() -> None:
    flips = distinct_pairs(34, 60, np.random.default_rng(1))
    assert np.array_equal(edge_keys(flipped(flipped(KARATE.adj, flips), flips)), keys_of(KARATE))


# -- answers --------------------------------------------------------------------------------------

SHOWN = ["label-only", "round-scores", "noisy-scores", "top-k-scores"]


def fitted(defense: Any) -> Predictor:
    return graphsec.fit(tiny_graphs()["blocks"], GCN, defense, training={"epochs": 30})


@pytest.mark.parametrize("name", SHOWN)
def test_only_answers_are_changed(name: str) -> None:
    """Hidden states, the model and what attackers differentiate are those without the defense."""
    graph, made, plain = tiny_graphs()["blocks"], fitted(name), fitted("none")
    assert not torch.equal(made.logits(graph), plain.logits(graph))
    proba = made.predict_proba(graph)
    assert torch.isfinite(made.logits(graph)).all()
    torch.testing.assert_close(proba.sum(1), torch.ones(90))
    view = Threat(access=("hidden", "scores", "weights")).open(made, graph, Rng(0))
    for state, wanted in zip(view.hidden(), plain.hidden(inputs(graph), graph.adj), strict=True):
        assert torch.equal(state, wanted)
    assert torch.equal(view.logits(), made.logits(graph))
    assert torch.equal(view.model().logits(graph), plain.logits(graph))


def test_label_only_tells_the_label_and_nothing_else() -> None:
    graph, made, plain = tiny_graphs()["blocks"], fitted("label-only"), fitted("none")
    label = plain.predict(graph)
    assert torch.equal(made.predict(graph), label)
    rows = made.logits(graph)
    for c in set(label.tolist()):
        assert len(np.unique(rows[label == c].numpy(), axis=0)) == 1  # a function of the label
    wanted = torch.nn.functional.one_hot(label, 3).to(torch.float32)
    torch.testing.assert_close(made.predict_proba(graph), wanted, atol=1e-20, rtol=0)
    view = Threat(access=("scores", "query_input")).open(made, graph, Rng(0))
    adj = graph.flip([[0, 0], [1, 2]]).adj
    assert (
        len(np.unique(view.logits(adj=adj).numpy(), axis=0)) <= 3
    )  # own questions are answered no better


def test_rounding_changes_no_answer_but_ties() -> None:
    graph, plain = tiny_graphs()["blocks"], fitted("none")
    made = fitted({"name": "round-scores", "decimals": 1})
    shown, proba = made.predict_proba(graph), plain.predict_proba(graph)
    ties = made.predict(graph) != plain.predict(graph)
    top = proba.round(decimals=1).topk(2, 1).values
    assert (top[ties, 0] == top[ties, 1]).all()
    sizes = proba.round(decimals=1).clamp(min=1e-30)
    torch.testing.assert_close(shown, sizes / sizes.sum(1, keepdim=True))


def test_top_k_keeps_the_largest_and_levels_the_rest() -> None:
    defense = DEFENSES.build({"name": "top-k-scores", "k": 2})
    p = torch.tensor([[0.5, 0.1, 0.3, 0.1], [0.05, 0.15, 0.2, 0.6]])
    wanted = torch.tensor([[0.5, 0.1, 0.3, 0.1], [0.1, 0.1, 0.2, 0.6]])
    torch.testing.assert_close(defense.shown(p), wanted)
    assert torch.equal(dataclasses.replace(defense, k=9).shown(p), p)


def test_noise_belongs_to_the_answer() -> None:
    """The same answer comes with the same noise, whoever else is asked about."""
    defense = DEFENSES.build({"name": "noisy-scores", "scale": 0.05})
    p = torch.full((4000, 4), 0.25) + torch.rand(4000, 4, generator=Rng(0).torch()) * 1e-4
    p = p / p.sum(1, keepdim=True)
    shown = defense.shown(p)
    assert torch.equal(defense.shown(p[7:9]), shown[7:9])
    noise = (shown - p)[:, 0]  # of z - mean(z), about: std sqrt(3/4) of one
    assert abs(float(noise.std()) / (0.05 * 0.75**0.5) - 1) < 0.06
    assert abs(float(noise.mean())) < 0.004


def test_reconstructions_with_hidden_states_pass_scores_by() -> None:
    graph, made, plain = tiny_graphs()["blocks"], fitted("label-only"), fitted("none")
    outcomes = [graphsec.attack("chain-inversion", each, graph, seed=0) for each in (made, plain)]
    first, second = outcomes
    assert isinstance(first, graphsec.outcome.LinkScores)
    assert isinstance(second, graphsec.outcome.LinkScores)
    assert torch.equal(first.scores, second.scores)


# -- MC-GPB ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", ["kde", "cka", "hsic"])
def test_penalty_gradient_is_numerically_right(measure: Any) -> None:
    generator = Rng(5).torch()
    states = [torch.randn(9, w, generator=generator, dtype=torch.float64) for w in (4, 3)]
    ends = torch.tensor([[0, 1, 2, 3, 4, 5, 8], [1, 2, 3, 4, 0, 7, 6]])
    defense = MCGPB(beta=0.7, gamma=0.3, measure=measure)
    for state in states:
        state.requires_grad_()
    assert torch.autograd.gradcheck(lambda *h: defense.leakage([*h], ends), tuple(states))


@pytest.mark.parametrize("measure", ["kde", "cka"])
def test_penalty_knows_dependence(measure: Any) -> None:
    """Ends that are alike cost more than ends that have nothing to do with each other."""
    defense = MCGPB(gamma=0.0, measure=measure)
    h = torch.randn(400, 3, generator=Rng(0).torch())
    near = torch.stack([torch.arange(200), torch.arange(200, 400)])
    alike = torch.cat([h[:200], h[:200] + 0.1 * h[200:]])
    assert float(defense.leakage([alike], near)) > 2 * float(defense.leakage([h], near))


def test_without_weights_it_is_plain_training_up_to_its_checkpoint() -> None:
    graph = tiny_graphs()["blocks"].replace()
    off = MCGPB(beta=0, gamma=0, auxiliary=0, drop=0)
    made = graphsec.fit(graph, GCN, off, training={"epochs": 25})
    scores = [epoch["val_accuracy"] for epoch in made.trace.history]
    last = max(range(25), key=lambda i: (scores[i], i))
    assert made.model.__class__.__name__ == "GCN"
    assert graph.split is not None
    with torch.no_grad():
        right = made.predict(graph, graph.split.val) == graph.y[graph.split.val]  # type: ignore[index]
    assert float(right.float().mean()) == pytest.approx(scores[last])
    assert scores[last] == max(scores)


def test_penalties_lower_what_they_count() -> None:
    graph = tiny_graphs()["blocks"]

    def leak(defense: MCGPB) -> float:
        made = graphsec.fit(graph, GCN, defense, training={"epochs": 60, "select": "last"})
        ends = graph.edge_index
        with torch.no_grad():
            states = made.hidden(inputs(graph), graph.adj)
        return float(MCGPB(gamma=0.0).leakage(states, ends))

    assert leak(MCGPB(beta=2.0)) < leak(MCGPB(beta=0.0, gamma=0.0)) - 0.05


def test_thinning_takes_both_directions() -> None:
    adj = thinned(ring(3000).adj, 0.3, Rng(0)).pruned()
    assert adj.csr.symmetric
    assert binomtest(adj.csr.nnz // 2, 3000, 0.7).pvalue > 1e-4


def test_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="whole graph"):
        graphsec.fit(KARATE, GCN, "mc-gpb", training={"batch_size": 4})


def test_access_to_the_edges_is_what_noise_is_for() -> None:
    """Nothing that the reconstructions ask for by default brings the noise."""
    from graphsec.registry import ATTACKS

    for name in ("pair-similarity", "graphmi", "mc-gra", "chain-inversion"):
        assert Access.EDGES not in ATTACKS.build(name).needs
