"""ELEGANT: the bounds, what they are compared with, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm

import graphsec
from graphsec.defenses.fair._training import groups_of
from graphsec.defenses.fair.elegant import FairnessCertificate, certify_fairness, copies, parity
from graphsec.defenses.fair.statement import FairnessStatement, check, commitment, state
from graphsec.graph import Graph
from graphsec.metrics import FairnessError
from graphsec.rng import Rng

NOISE: dict[str, Any] = {"threshold": 0.1, "alpha": 0.01, "sigma": 0.5, "p_add": 0.01, "p_del": 0.4}


def certificate(hits: int = 950, samples: int = 1000, **fields: Any) -> FairnessCertificate:
    return FairnessCertificate(hits=hits, samples=samples, **{**NOISE, **fields})


def graph_of(seed: int = 0) -> Graph:
    spec = {"name": "dc-sbm", "num_nodes": 120, "classes": 2, "signal": 0.6, "homophily": 0.8}
    graph = graphsec.load(spec, seed=seed)
    assert graph.y is not None
    odd = torch.from_numpy(np.random.default_rng(seed).random(120) < 0.4)
    split = graphsec.splits(graph, 1, fractions=[0.4, 0.2, 0.4])[0].split
    return graph.replace(sensitive=((graph.y == 1) ^ odd).long(), split=split)


def test_the_bound_for_features_is_reached_by_a_half_space() -> None:
    """1{u · x ≤ t} has exactly the least probability after a shift along u."""
    made = certificate()
    t = norm.ppf(made.probability)  # in standard deviations
    for shift in (0.1, 0.4, 1.0):
        assert made.least(norm=shift) == pytest.approx(norm.cdf(t - shift / 0.5))


def test_the_bound_for_flips_is_reached_by_a_classifier_that_sees_the_pair() -> None:
    """Small gaps where one deleted edge shows, and in a share of the rest: the worst there is."""
    made = certificate()
    q, p_add, p_del = made.probability, 0.01, 0.4
    shown = 1 - p_del  # the likelier where the edge is there
    share = (q - shown) / (1 - shown)  # of the noises that hide it
    assert made.least(deleted=1) == pytest.approx(p_add + share * (1 - p_add))
    share = (q - (1 - p_add)) / p_add if q > 1 - p_add else 0
    wanted = p_del + share * (1 - p_del) if share else q / (1 - p_add) * p_del
    assert made.least(added=1) == pytest.approx(wanted)


def test_bounds_fall_with_changes_and_rise_with_draws() -> None:
    made = certificate()
    values = [made.least(a, d, x) for a, d, x in ((0, 0, 0), (0, 1, 0), (1, 1, 0), (1, 1, 0.2))]
    assert values == sorted(values, reverse=True)
    assert values[0] == made.probability < 0.95
    assert made.succeeds(10, 1) > made.succeeds(1, 1) == pytest.approx(made.least(1))
    assert made.radius() == pytest.approx(0.5 * norm.ppf(made.probability))
    assert made.radius(20) == -1.0
    assert certificate(hits=0).least() == 0


def test_the_share_of_small_gaps_under_random_changes_is_above_the_bound() -> None:
    graph = graph_of()
    assert graph.split is not None
    assert graph.x is not None
    nodes = graph.split.test
    made = graphsec.fit(graph, model="gcn", training={"epochs": 40})
    noise: dict[str, Any] = {"threshold": 0.3, "sigma": 0.3, "p_del": 0.5, "samples": 150}
    found = certify_fairness(made, graph, nodes, Rng(0)["a"], **noise)
    assert 0.3 < found.probability < 1
    rng = np.random.default_rng(0)
    edges = torch.from_numpy(rng.choice(graph.pairs.numpy(), 2, replace=False, axis=1))
    step = torch.from_numpy(rng.normal(size=graph.x.shape)).float()
    changed = graph.flip(edges).replace(x=graph.x + 0.1 * step / step.norm())
    after = certify_fairness(made, changed, nodes, Rng(0)["b"], **noise)
    assert after.hits / after.samples >= found.least(deleted=2, norm=0.1)


def test_answers_are_those_of_the_fairest_copy() -> None:
    graph = graph_of()
    assert graph.split is not None
    assert graph.x is not None
    made = graphsec.fit(
        graph, model="gcn", defense={"name": "elegant", "tries": 8}, training={"epochs": 40}
    )
    defense: Any = made.origin.defense  # type: ignore[union-attr]
    nodes, group = graph.split.test, groups_of(graph, "test")
    inner: Any = made.model
    found = [
        parity(inner.base(x, adj)[nodes].argmax(1), group[nodes])
        for x, adj in copies(graph.x, graph.adj, defense, 8, Rng(0)["elegant"])
    ]
    assert len(set(found)) > 1
    assert parity(made.predict(graph, nodes), group[nodes]) == min(found)
    certified = defense.certificate(made, graph, nodes, Rng(1))
    assert certified.samples == defense.samples


def test_refused() -> None:
    graph = graph_of()
    assert graph.split is not None
    assert graph.sensitive is not None
    made = graphsec.fit(graph, model="gcn", training={"epochs": 2})
    nodes, rng = graph.split.test, Rng(0)
    with pytest.raises(FairnessError, match="needs a sensitive attribute"):
        certify_fairness(made, graph.replace(sensitive=None), nodes, rng)
    with pytest.raises(FairnessError, match="two groups or more"):
        certify_fairness(made, graph, nodes[graph.sensitive[nodes] == 0], rng)
    weight = np.ones(graph.pairs.shape[1])
    weighted = Graph.from_edges(
        graph.pairs.numpy(), graph.num_nodes, edge_weight=weight, x=graph.x, y=graph.y,
        sensitive=graph.sensitive,
    )  # fmt: skip
    with pytest.raises(ValueError, match="undirected, unweighted"):
        certify_fairness(made, weighted, nodes, rng)
    with pytest.raises(ValueError, match="must be ≥ 0, got -1"):
        certificate().least(added=-1)
    with pytest.raises(ValueError, match="p_add \\+ p_del must be below 1"):
        certify_fairness(made, graph, nodes, rng, p_add=0.5, p_del=0.5)
    with pytest.raises(FairnessError, match="found none"):
        graphsec.fit(graph.replace(sensitive=None), model="gcn", defense="elegant")


# -- statements -------------------------------------------------------------------------------

NONCE, CHALLENGE = bytes(range(32)), bytes(16)
QUICK: dict[str, Any] = {"samples": 30, "threshold": 0.3}


def test_a_statement_holds_of_what_was_committed_to_and_of_nothing_else() -> None:
    graph = graph_of()
    assert graph.split is not None
    nodes = graph.split.test
    made, other = (
        graphsec.fit(graph, model="gcn", training={"epochs": 20}, seed=seed) for seed in (0, 1)
    )
    said = state(made, NONCE, CHALLENGE, graph, nodes, **QUICK)
    assert FairnessStatement.from_json(said.to_json()) == said
    assert said.commitment == commitment(made, NONCE)
    assert check(said, made, NONCE, graph, nodes) == []

    def differs(*args: Any) -> set[str]:
        return {line.split(":")[0] for line in check(*args)}

    assert "commitment" in differs(said, other, NONCE, graph, nodes)
    assert "commitment" in differs(said, made, bytes(32), graph, nodes)
    assert "graph" in differs(said, made, NONCE, graph.flip(graph.pairs[:, :1]), nodes)
    assert "nodes" in differs(said, made, NONCE, graph, nodes[1:])
    better = replace(said, certificate=replace(said.certificate, hits=said.certificate.hits + 1))
    assert differs(better, made, NONCE, graph, nodes) == {"certificate"}


def test_draws_follow_the_challenge_and_the_commitment() -> None:
    graph = graph_of()
    assert graph.split is not None
    made = graphsec.fit(graph, model="gcn", training={"epochs": 20})
    noise: dict[str, Any] = {"samples": 200, "threshold": 0.2}
    hits = {
        state(made, nonce, challenge, graph, graph.split.test, **noise).certificate.hits
        for nonce in (NONCE, bytes(32))
        for challenge in (CHALLENGE, bytes(range(16)))
    }
    assert len(hits) > 1


def test_one_weight_changes_the_commitment() -> None:
    made = graphsec.fit(graph_of(), model="gcn", training={"epochs": 2})
    before = commitment(made, NONCE)
    with torch.no_grad():
        next(made.model.parameters()).view(-1)[0] += 1e-6
    assert commitment(made, NONCE) != before
    with pytest.raises(ValueError, match="nonce must be 32 bytes, got 8"):
        commitment(made, bytes(8))
