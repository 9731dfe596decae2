"""Bad input: one clear message that names field, value and rule, before any training.

Cases of damaged files, caches and downloads are in the tests of the datasets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch import nn

import graphsec
from graphsec.graph import Graph, GraphError, Split
from graphsec.outcome import LinkScores, MemberScores, Perturbation
from graphsec.registry import ATTACKS, DATASETS, DEFENSES, MODELS, SpecError
from graphsec.rng import Rng
from graphsec.sampling import sample
from graphsec.testing import tiny_graphs
from graphsec.testing.common import x_of
from graphsec.threat import AccessDenied, Budget, BudgetExceeded, Threat
from graphsec.train import Recipe, Training

EDGES = [[0, 1, 2], [1, 2, 3]]


@dataclass(frozen=True)
class Case:
    """What is done, the error it must raise, and what the message must say."""

    name: str
    call: Callable[[], Any]
    error: type[Exception]
    says: tuple[str, ...]


def blocks() -> Graph:
    return tiny_graphs()["blocks"]


def path(**fields: Any) -> Graph:
    return Graph.from_edges(EDGES, 4, **fields)


def raw(indptr: list[int], indices: list[int], **fields: Any) -> Graph:
    return Graph(indptr=torch.tensor(indptr), indices=torch.tensor(indices), **fields)


def nan_features() -> np.ndarray:
    x = np.ones((4, 2))
    x[1, 0] = np.nan
    return x


GRAPHS = [
    Case("NaN feature", lambda: path(x=nan_features()), GraphError, ("x", "finite", "1 NaN")),
    Case("infinite feature", lambda: path(x=np.full((4, 2), np.inf)), GraphError,
         ("x", "finite", "8")),
    Case("NaN in sparse features", lambda: path(x=sp.csr_matrix(nan_features())), GraphError,
         ("x", "finite", "1 NaN")),
    Case("too few feature rows", lambda: path(x=np.ones((3, 2))), GraphError, ("x", "4", "3")),
    Case("flat features", lambda: path(x=np.ones(4)), GraphError, ("x", "two dimensions", "(4,)")),
    Case("edge index too large", lambda: Graph.from_edges([[0, 9], [1, 2]], 4), GraphError,
         ("edge_index", "0…3", "9")),
    Case("edge index negative", lambda: Graph.from_edges([[0, -1], [1, 2]], 4), GraphError,
         ("edge_index", "0…3", "-1")),
    Case("edges as floats", lambda: Graph.from_edges([[0.5, 1.0], [1.0, 2.0]], 4), GraphError,
         ("edges", "integers", "float64")),
    Case("edges of a wrong shape", lambda: Graph.from_edges(np.zeros((3, 3), int), 4), GraphError,
         ("edges", "(2, m)", "(3, 3)")),
    Case("no nodes", lambda: Graph.from_edges([]), GraphError, ("num_nodes", "≥ 1", "0", "empty")),
    Case("zero nodes", lambda: Graph.from_edges([], 0), GraphError, ("num_nodes", "≥ 1", "0")),
    Case("negative weight", lambda: path(edge_weight=[1.0, -2.0, 1.0]), GraphError,
         ("edge_weight", "≥ 0", "-2")),
    Case("NaN weight", lambda: path(edge_weight=[1.0, np.nan, 1.0]), GraphError,
         ("edge_weight", "finite", "NaN")),
    Case("infinite weight", lambda: path(edge_weight=[1.0, np.inf, 1.0]), GraphError,
         ("edge_weight", "finite", "infinity")),
    Case("too few weights", lambda: path(edge_weight=[1.0]), GraphError,
         ("edge_weight", "3", "found 1")),
    Case("NaN in a scipy matrix", lambda: Graph.from_scipy(sp.csr_matrix([[0, np.nan], [1, 0]])),
         GraphError, ("edge_weight", "finite")),
    Case("matrix not square", lambda: Graph.from_scipy(sp.csr_matrix(np.ones((2, 3)))), GraphError,
         ("square", "(2, 3)")),
    Case("overlapping split", lambda: path(split=([0, 1], [1], [2])), GraphError,
         ("split", "disjoint", "node 1", "2 times")),
    Case("node twice in one part", lambda: path(split=([0, 0], [], [2])), GraphError,
         ("split", "disjoint", "node 0")),
    Case("split out of range", lambda: path(split=([0], [1], [7])), GraphError,
         ("split.test", "0…3", "7")),
    Case("split of floats", lambda: path(split=([0.5], [1.0], [2.0])), GraphError,
         ("split", "integers", "float")),
    Case("fractional labels", lambda: path(y=[0.5, 1.0, 0.0, 1.0]), GraphError,
         ("y", "integers", "float")),
    Case("label −2", lambda: path(y=[0, 1, -2, 1]), GraphError, ("y", "≥ 0", "-2")),
    Case("too few labels", lambda: path(y=[0, 1]), GraphError, ("y", "4", "2")),
    Case("NaN target", lambda: path(y=[0, 1, np.nan, 1], task="regression"), GraphError,
         ("y", "finite", "regression")),
    Case("self-loop in CSR", lambda: raw([0, 1, 1], [0]), GraphError, ("self-loops", "node 0")),
    Case("one direction missing", lambda: raw([0, 1, 1], [1]), GraphError, ("both directions",)),
    Case("columns not sorted", lambda: raw([0, 2, 2, 2], [2, 1], directed=True), GraphError,
         ("indices", "sorted")),
    Case("indptr too short", lambda: raw([0, 1, 1], [1, 0]), GraphError, ("indptr", "2")),
    Case("indices of a wrong type",
         lambda: Graph(indptr=torch.tensor([0, 1, 2]), indices=torch.tensor([1.0, 0.0])),
         GraphError, ("int64", "float32")),
    Case("flip of a self-loop", lambda: path().flip([[1], [1]]), GraphError,
         ("flips", "self-loops", "node 1")),
    Case("flip listed twice", lambda: path().flip([[0, 1], [1, 0]]), GraphError,
         ("flips", "twice")),
    Case("flip out of range", lambda: path().flip([[0], [9]]), GraphError, ("flips", "0…3", "9")),
]  # fmt: skip

SPECS = [
    Case("misspelt attack", lambda: ATTACKS.build("prcbd"), SpecError,
         ("attack", "'prcbd'", "did you mean 'prbcd'")),
    Case("misspelt model", lambda: MODELS.build("gnc"), SpecError, ("'gnc'", "'gcn'")),
    Case("misspelt defense", lambda: graphsec.fit(blocks(), "gcn", "jacard"), SpecError,
         ("'jacard'", "'jaccard'")),
    Case("misspelt dataset", lambda: graphsec.load("digit-knn"), SpecError,
         ("'digit-knn'", "'digits-knn'")),
    Case("misspelt game", lambda: graphsec.play("linkz", blocks()), SpecError,
         ("'linkz'", "'links'")),
    Case("spec without a name", lambda: ATTACKS.build({"steps": 3}), SpecError,
         ("attack", "name", "steps")),
    Case("misspelt field of an attack", lambda: ATTACKS.build({"name": "prbcd", "step": 3}),
         SpecError, ("prbcd", "'step'", "'steps'")),
    Case("steps below 1", lambda: ATTACKS.build({"name": "prbcd", "steps": 0}), SpecError,
         ("prbcd", "steps", "greater than or equal to 1", "0")),
    Case("share above 1", lambda: ATTACKS.build({"name": "dice", "add": 1.5}), SpecError,
         ("dice", "add", "less than or equal to 1", "1.5")),
    Case("NaN share", lambda: ATTACKS.build({"name": "random", "add": float("nan")}), SpecError,
         ("random", "add", "nan")),
    Case("unknown loss", lambda: ATTACKS.build({"name": "prbcd", "loss": "mse"}), SpecError,
         ("prbcd", "loss", "'mse'", "'tanh_margin'")),
    Case("unknown distance", lambda: ATTACKS.build({"name": "link-stealing", "distance": "l3"}),
         SpecError, ("link-stealing", "distance", "'l3'", "'combined'")),
    Case("dropout of 1", lambda: MODELS.build({"name": "gcn", "dropout": 1.0}), SpecError,
         ("gcn", "dropout", "less than 1", "1.0")),
    Case("hidden as text", lambda: MODELS.build({"name": "gcn", "hidden": "many"}), SpecError,
         ("gcn", "hidden", "integer", "'many'")),
    Case("misspelt field of a model", lambda: MODELS.build({"name": "gat", "head": 4}), SpecError,
         ("gat", "'head'", "'heads'")),
    Case("threshold above 1", lambda: DEFENSES.build({"name": "jaccard", "threshold": 2}),
         SpecError, ("jaccard", "threshold", "less than or equal to 1", "2")),
    Case("temperature 0", lambda: DEFENSES.build({"name": "soft-median", "temperature": 0}),
         SpecError, ("soft-median", "temperature", "greater than 0")),
    Case("fault inside a composition",
         lambda: graphsec.fit(blocks(), "gcn", ["gdc", {"name": "jaccard", "treshold": 0.1}]),
         SpecError, ("jaccard", "'treshold'", "'threshold'")),
    Case("misspelt field of training", lambda: Recipe.of("gcn", {"epoch": 3}), SpecError,
         ("training", "'epoch'", "'epochs'")),
    Case("epochs 0", lambda: Recipe.of("gcn", {"epochs": 0}), SpecError,
         ("training", "epochs", "greater than or equal to 1", "0")),
    Case("negative lr", lambda: Training(lr=-0.1), SpecError,
         ("training", "lr", "greater than 0", "-0.1")),
    Case("unknown selection", lambda: Training(select="best"), SpecError,  # type: ignore[arg-type]
         ("training", "select", "'best'")),
    Case("misspelt field of a threat", lambda: Threat.of({"budgets": {}}), SpecError,
         ("threat", "'budgets'", "'budget'")),
    Case("misspelt field of a budget", lambda: Threat.of({"budget": {"edge": 3}}), SpecError,
         ("threat.budget", "'edge'", "'edges'")),
    Case("misspelt access", lambda: Threat.of({"access": ["weight"]}), SpecError,
         ("threat.access", "'weight'", "'weights'")),
    Case("unknown timing", lambda: Threat.of({"timing": "before"}), SpecError,
         ("threat", "timing", "'before'", "'evasion'")),
    Case("unknown position", lambda: Threat.of({"position": "party"}), SpecError,
         ("threat", "position", "'party'")),
    Case("negative budget", lambda: Budget(edges=-1), SpecError,
         ("budget", "edges", "greater than or equal to 0", "-1")),
    Case("fraction above 1", lambda: Budget(edges=1.5), SpecError, ("budget", "edges", "1.5")),
    Case("negative seed", lambda: graphsec.load("karate", seed=-1), ValueError,
         ("seed", "≥ 0", "-1")),
    Case("seed as text", lambda: Rng("one"), TypeError,  # type: ignore[arg-type]
         ("seed", "integer", "'one'")),
    Case("cell with a misspelt attack",
         lambda: graphsec.Cell(dataset="karate", attack="dyce"), SpecError, ("'dyce'", "'dice'")),
    Case("cell with a negative seed", lambda: graphsec.Cell(dataset="karate", seed=-3), ValueError,
         ("seed", "≥ 0", "-3")),
    Case("cell with a misspelt dataset", lambda: graphsec.Cell(dataset="coar"), SpecError,
         ("dataset", "'coar'", "'cora'")),
]  # fmt: skip


def untrained(**fields: Any) -> graphsec.Predictor:
    """A victim that was never trained: enough for what must be refused before."""
    recipe = Recipe.of("gcn")
    from graphsec.models import Sizes

    made: graphsec.Predictor = DEFENSES.build("none").predictor(recipe, Sizes.of(blocks()))
    return made


def attack(name: Any, **fields: Any) -> Any:
    return graphsec.attack(name, untrained(), blocks(), **fields)


def score_links(scores: list[float]) -> None:
    pairs = torch.tensor([[0, 1], [1, 2]])
    Threat().check(LinkScores(pairs=pairs, scores=torch.tensor(scores)), blocks(), question=pairs)


def wrapped() -> graphsec.Predictor:
    return graphsec.Predictor.wrap(nn.Linear(12, 3), lambda m, x, edges, weight: m(x))


def without(**fields: Any) -> Graph:
    return blocks().replace(**dict.fromkeys(fields, None))


USES = [
    Case("budget over the graph", lambda: attack("random", threat={"budget": {"edges": 9999}}),
         SpecError, ("threat.budget.edges", "at most", "4005", "9999")),
    Case("attack is denied weights", lambda: attack("prbcd", threat={"access": ["scores"]}),
         AccessDenied, ("'prbcd'", "weights", "grants scores")),
    Case("attack is denied everything", lambda: attack("link-stealing", threat={"access": []}),
         AccessDenied, ("'link-stealing'", "scores", "nothing")),
    Case("targets out of range",
         lambda: attack("prbcd", threat={"targets": [500], "budget": {"edges": 3}}),
         SpecError, ("threat.targets", "0…89", "500")),
    Case("unknown targets", lambda: attack("prbcd", threat={"targets": "validation"}), SpecError,
         ("threat", "targets", "'validation'")),
    Case("training without features", lambda: graphsec.fit(without(x=None)), ValueError,
         ("x is missing", "blocks")),
    Case("training without labels", lambda: graphsec.fit(without(y=None)), ValueError,
         ("y is missing", "blocks")),
    Case("training without a split", lambda: graphsec.fit(without(split=None)), ValueError,
         ("split.train", "empty")),
    Case("selection without validation",
         lambda: graphsec.fit(blocks().replace(split=Split.of([0], [], [1])),
                              training={"select": "loss"}),
         ValueError, ("split.val is empty", "select", "'loss'")),
    Case("batches with too many fan-outs",
         lambda: graphsec.fit(blocks(), training={"batch_size": 8, "fanouts": [2, 2, 2]}),
         ValueError, ("training.fanouts", "(2)", "(2, 2, 2)")),
    Case("saving a wrapped model", lambda: wrapped().save("nowhere.pt"), TypeError,
         ("wrapped", "can't be saved")),
    Case("training like a wrapped model",
         lambda: Threat(access=("recipe",)).open(wrapped(), blocks(), Rng(0)).train(
             blocks(), Rng(0)),
         AccessDenied, ("view.train", "wrapped", "recipe")),
    Case("more flips than the budget",
         lambda: Threat(budget=Budget(edges=1)).check(
             Perturbation(flips=torch.tensor([[0, 0], [1, 2]])), blocks()),
         BudgetExceeded, ("budget.edges", "1 flips", "2")),
    Case("more flips at a node than allowed",
         lambda: Threat(budget=Budget(edges=9, edges_per_node=1)).check(
             Perturbation(flips=torch.tensor([[0, 0], [1, 2]])), blocks()),
         BudgetExceeded, ("budget.edges_per_node", "1 flips at node 0", "2")),
    Case("features changed without a budget",
         lambda: Threat().check(Perturbation(x=x_of(blocks()) + 1), blocks()),
         BudgetExceeded, ("budget.features", "allows 0", "1080")),
    Case("NaN scores", lambda: score_links([0.5, float("nan")]), ValueError,
         ("scores", "finite", "NaN")),
    Case("too few scores", lambda: score_links([0.5]), ValueError, ("scores", "(2)", "(1,)")),
    Case("answer to another question",
         lambda: Threat().check(
             MemberScores(nodes=torch.tensor([1]), scores=torch.tensor([0.0])), blocks(),
             question=torch.tensor([2])),
         ValueError, ("scores", "question")),
    Case("scores without the secret",
         lambda: graphsec.score(
             LinkScores(pairs=torch.tensor([[0], [1]]), scores=torch.tensor([0.0])), blocks(),
             untrained()),
         ValueError, ("secret",)),
    Case("sampling candidate pairs",
         lambda: sample(blocks().adj.with_block(torch.tensor([[0], [1]]), torch.ones(1)),
                        torch.tensor([0]), [-1], Rng(0)),
         ValueError, ("adj", "candidate pairs")),
    Case("links of a graph without edges", lambda: graphsec.play("links", Graph.from_edges([], 3)),
         ValueError, ("links", "edges")),
    Case("members without a split", lambda: graphsec.play("membership", without(split=None)),
         ValueError, ("membership", "split")),
    Case("all pairs of a large graph",
         lambda: graphsec.attack("link-stealing", untrained(), Graph.from_edges([[0], [1]], 6000)),
         ValueError, ("5000", "6000", "question")),
]  # fmt: skip

CASES = GRAPHS + SPECS + USES


@pytest.fixture(autouse=True)
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fault must be found before an optimiser takes a step."""

    def step(*args: Any, **kwargs: Any) -> None:
        pytest.fail("training had begun")

    monkeypatch.setattr(torch.optim.Adam, "step", step)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input(case: Case) -> None:
    with pytest.raises(case.error) as caught:
        case.call()
    message = str(caught.value)
    for part in case.says:
        assert part in message
    assert "\n" not in message


def test_at_least_forty_cases() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 40


def test_misfits_of_a_cell_are_found_before_it_runs() -> None:
    """All in one message, kept as the reason of a skipped record."""
    cell = graphsec.Cell(
        dataset="karate", model="mlp", attack="prbcd", threat={"access": ["scores"]}, game="links"
    )
    record = graphsec.run(cell)
    assert record.status == "skipped"
    for part in ("needs access to", "weights", "grants scores", "'mlp' ignores them", "'links'"):
        assert part in record.reason
    assert not record.metrics


def test_datasets_registry_is_not_empty() -> None:
    assert "karate" in DATASETS
