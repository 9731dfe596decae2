"""Whose model is it: tests of verdicts, marks that are learned, and records that say so."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, kstest

import graphsec
from graphsec.defenses.base import build
from graphsec.defenses.ownership.watermark import Watermark, beside
from graphsec.ownership import fingerprint_verdict, shown, watermark_verdict
from graphsec.predict import Predictor
from graphsec.registry import SpecError
from graphsec.rng import Rng
from graphsec.testing import tiny_graphs
from graphsec.threat import Threat

GRAPHS = tiny_graphs()
BLOCKS = GRAPHS["blocks"]
GCN16: Any = {"name": "gcn", "hidden": 16}


@pytest.fixture(scope="module")
def marked() -> Predictor:
    return graphsec.fit(BLOCKS, GCN16, {"name": "watermark", "nodes": 30}, training={"epochs": 120})


def test_watermark_p_value_is_the_binomial_tail() -> None:
    marks = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    answers = torch.tensor([0, 1, 2, 0, 1, 0, 1, 2])
    verdict = watermark_verdict(answers, marks, 3)
    assert verdict.score == 5 / 8
    assert verdict.p_value == pytest.approx(binomtest(5, 8, 1 / 3, alternative="greater").pvalue)
    assert not verdict.accuses()
    assert watermark_verdict(marks, marks, 3).accuses(0.001)
    with pytest.raises(ValueError, match="k ≥ 1"):
        watermark_verdict(marks[:0], marks[:0], 3)


def test_innocents_are_accused_no_more_often_than_the_level() -> None:
    """Whatever they answer: always the same class, say. The marks are what is random."""
    accused = [
        watermark_verdict(
            torch.zeros(40, dtype=torch.int64),
            Watermark(key=key).trigger(BLOCKS).y,  # type: ignore[arg-type]
            3,
        ).accuses(0.1)
        for key in range(400)
    ]
    assert 0.02 < np.mean(accused) <= 0.13


def _noise(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.from_numpy(rng.dirichlet(np.ones(4), shape))


def test_fingerprint_p_values_of_innocents_are_uniform() -> None:
    """Owners' models with modes that all share; the suspect is of another kind altogether."""
    rng, p_values = np.random.default_rng(0), []
    for _ in range(300):
        mode = torch.from_numpy(rng.normal(size=(30, 4)))
        owners = [_noise(rng, 30) + 0.5 * float(rng.normal()) * mode for _ in range(10)]
        suspect = 3 * _noise(rng, 30) + mode
        p_values.append(fingerprint_verdict(suspect, owners[0], owners[1:]).p_value)
    found = np.asarray(p_values)
    assert set(np.round(found * 10).astype(int)) == set(range(1, 11))
    assert kstest(found - rng.random(300) / 10, "uniform").pvalue > 0.01


def test_fingerprint_knows_a_copy_with_deviations_of_its_own() -> None:
    rng = np.random.default_rng(1)
    common = 3 * _noise(rng, 200)
    victim, *independent = (common + _noise(rng, 200) for _ in range(20))
    copy = 0.3 * victim + 0.7 * common + _noise(rng, 200)
    verdict = fingerprint_verdict(copy, victim, independent)
    assert verdict.p_value == 1 / 20
    assert 0.1 < verdict.score < 0.5
    assert fingerprint_verdict(victim, victim, independent).score == pytest.approx(1)
    turned = fingerprint_verdict(
        victim @ torch.from_numpy(rng.normal(size=(4, 7))), victim, independent, "embeddings"
    )
    assert turned.p_value == 1 / 20
    with pytest.raises(ValueError, match="at least one model"):
        fingerprint_verdict(victim, victim, [])


def test_a_temperature_does_not_count(marked: Predictor) -> None:
    scores = shown(marked, BLOCKS, "scores", 3)
    torch.testing.assert_close(scores.sum(1), torch.zeros(90).double())
    assert float(scores.norm()) == pytest.approx(1)
    sharper = marked.relaxed()
    sharper.present = lambda logits: 3 * logits + 1
    torch.testing.assert_close(shown(sharper, BLOCKS, "scores", 3), scores, rtol=0, atol=1e-5)
    assert shown(marked, BLOCKS, "labels", 4).sum(0)[3] == 0
    wide = shown(marked, BLOCKS, "scores", 4)
    assert torch.equal(wide[:, 3], wide.min(1).values)  # a class that it does not know
    assert shown(marked, BLOCKS, "embeddings", 3).shape == (90, 16)


def test_triggers_look_like_the_graph_and_follow_the_key() -> None:
    for graph in GRAPHS.values():
        made = Watermark(nodes=50, density=0.1).trigger(graph)
        assert made.num_nodes == 50
        assert made.num_edges == pytest.approx(0.1 * 50 * 49 / 2, rel=0.5)
        assert graph.x is not None
        assert made.x is not None
        x = graph.x.to_dense()
        for column in range(graph.num_features):
            assert torch.isin(made.x[:, column], x[:, column]).all()
        assert made.y is not None
        assert len(torch.unique(made.y)) == graph.num_classes
        assert made.fingerprint == Watermark(nodes=50, density=0.1).trigger(graph).fingerprint
        other = Watermark(nodes=50, density=0.1, key=1).trigger(graph)
        assert made.fingerprint != other.fingerprint


def test_trained_on_both_graphs_side_by_side() -> None:
    """The two adjacencies as one: what a model says about either is what it says of it alone."""
    for graph in GRAPHS.values():
        mark = Watermark(nodes=10).trigger(graph)
        model = graphsec.fit(graph, GCN16, training={"epochs": 2})
        assert graph.x is not None
        assert mark.x is not None
        x = torch.cat([graph.x.to_dense(), mark.x])
        both = model.answer(x, beside(graph.adj, mark.adj))
        n = graph.num_nodes
        torch.testing.assert_close(both[:n], model.logits(graph))
        torch.testing.assert_close(both[n:], model.logits(mark))


def test_watermarks_are_learned_with_a_cleaned_graph_too() -> None:
    mark: Any = {"name": "watermark", "nodes": 30}
    marked = graphsec.fit(BLOCKS, GCN16, ["jaccard", mark], training={"epochs": 120})
    verify = marked.verifier(BLOCKS, Rng(0))
    assert verify(marked).p_value < 1e-4
    plain = graphsec.fit(BLOCKS, GCN16, "jaccard", training={"epochs": 120})
    assert verify(plain).p_value > 1e-3
    wrong = build({**mark, "key": 5}).verifier(marked, BLOCKS, Rng(0))
    assert wrong(marked).p_value > 1e-3  # another key proves nothing


def test_attackers_do_not_get_the_key() -> None:
    """Neither with the weights nor in the models that they train as the victim was."""
    wide = {"name": "gcn", "hidden": 64, "dropout": 0.0}
    key = {"name": "watermark", "nodes": 30, "key": 7}
    for defense in (key, ["jaccard", key]):
        victim = graphsec.fit(BLOCKS, wide, defense, training={"epochs": 120, "weight_decay": 0.0})
        view = Threat.of({"access": ["weights", "edges", "recipe", "features", "true_labels",
                                     "split"]}).open(victim, BLOCKS, Rng(0))  # fmt: skip
        verify = victim.verifier(BLOCKS, Rng(0))
        origin = view.model().origin
        assert origin is not None
        assert '"key": 7' not in json.dumps(origin.spec())
        assert verify(view.model()).accuses(0.001)
        assert not verify(view.train(view.known, Rng(1))).accuses(0.001)
        assert victim.origin is not None
        assert '"key": 7' in json.dumps(victim.origin.spec())


def test_watermark_refuses_dense_graphs() -> None:
    with pytest.raises(ValueError, match="compose it with no defense"):
        graphsec.fit(BLOCKS, GCN16, [{"name": "svd", "rank": 4}, "watermark"])


def test_who_verifies() -> None:
    plain = graphsec.fit(BLOCKS, GCN16, training={"epochs": 1})
    with pytest.raises(TypeError, match="none verifies nothing"):
        plain.verifier(BLOCKS, Rng(0))
    with pytest.raises(TypeError, match=r"jaccard|compose"):
        graphsec.fit(BLOCKS, GCN16, ["jaccard", "none"], training={"epochs": 1}).verifier(
            BLOCKS, Rng(0)
        )
    with pytest.raises(SpecError, match="one part may verify ownership"):
        build(["watermark", "fingerprint"])


@pytest.mark.parametrize("defense", ["watermark", {"name": "fingerprint", "models": 9}, "none"])
def test_records_of_thefts_hold_the_verdict(defense: Any) -> None:
    cell = graphsec.Cell(
        dataset={"name": "sbm", "num_nodes": 120}, model=GCN16, defense=defense,
        attack={"name": "model-laundering", "prune": 0.0, "epochs": 0}, training={"epochs": 60},
    )  # fmt: skip
    record = graphsec.run(cell)
    assert record.status == "done", record.reason
    assert record.value("fidelity") == 1
    assert ("ownership_p" in record.metrics) == (defense != "none")
    if defense != "none":
        assert record.value("ownership_p") <= 0.1
        assert record.cost["verify_seconds"] > 0
