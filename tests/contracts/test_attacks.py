"""Every registered attack keeps the contract of attacks."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import graphsec
from graphsec.graph import Graph
from graphsec.outcome import Perturbation
from graphsec.registry import ATTACKS
from graphsec.testing import AttackContract, tiny_graphs, tiny_rankings, tiny_ratings
from graphsec.testing.common import TRAINING

BASELINES = (
    "fa-gnn",
    "interaction-popularity",
    "none",
    "property-loss-test",
    "random",
    "random-features",
    "random-injection",
    "structure-similarity",
)  # what the others are compared with
# These do their harm to a victim trained on their flips: compared with random ones in tests/unit.
POISONING = ("meta-pgd", "meta-prbcd", "metattack")
AIMED = ("degree",)  # at one kind of defense, the same
# Need a federation, which the contract's victim is not: compared in tests/unit/test_byzantine.py.
# Do their harm to a recommender trained with their users: compared in tests/unit/test_shilling.py.
SHILLING = (
    "shilling-average",
    "shilling-bandwagon",
    "shilling-gradient",
    "shilling-random",
    "shilling-segment",
)
BYZANTINE = (
    "alie",
    "byzantine-noise",
    "byzantine-sign-flip",
    "byzantine-tailored",
    "inner-product",
)

LOCAL = ("brute-force", "fga", "local-prbcd", "nettack", "sga")  # a world for each target
FEW = {"budget": {"edges_per_node": 0.5}, "targets": tuple(range(0, 33, 4))}

FEATURES = {"budget": {"features_per_node": 2}}
NODES = {"budget": {"nodes": 0.1}}


def binary_graphs() -> dict[str, Graph]:
    """Graphs whose features are 0 and 1: dense ones and sparse ones."""
    graphs = tiny_graphs()
    blocks = graphs["blocks"]
    assert blocks.x is not None
    return {"signs": blocks.replace(x=blocks.x > 0, name="signs"), "karate": graphs["karate"]}


def real_graphs() -> dict[str, Graph]:
    """Graphs whose features are real."""
    return {name: graph for name, graph in tiny_graphs().items() if name != "karate"}


def small_graphs() -> dict[str, Graph]:
    """Graphs on which every flip can be tried."""
    return {name: graph for name, graph in tiny_graphs().items() if name != "blocks"}


def noise_graphs() -> dict[str, Graph]:
    """Graphs whose features tell nothing: what a model knows of labels it has memorised."""
    rng = np.random.default_rng(0)
    graphs = {}
    for name, graph in tiny_graphs().items():
        noise = torch.from_numpy(rng.normal(size=(graph.num_nodes, 40))).float()
        graphs[name] = graph.replace(x=noise.relu().to_sparse_csr() if name == "karate" else noise)
    return graphs


# Classes that features and edges tell apart badly: what is left is how frequent each is.
CROWD = {"name": "dc-sbm", "num_nodes": 240, "classes": 2, "signal": 0.3, "homophily": 0.5}


@cache
def crowds() -> dict[str, Graph]:
    """Graphs large enough to be divided in three, whose group says much about features."""
    graphs = {}
    for seed, name in enumerate(("dense", "sparse")):
        graph = graphsec.load(CROWD, seed=seed)
        assert graph.y is not None
        assert graph.x is not None
        odd = torch.from_numpy(np.random.default_rng(seed).random(240) < 0.1)
        group = ((graph.y == 0) ^ odd).long()
        x = graph.x if name == "dense" else graph.x.relu().to_sparse_csr()
        split = graphsec.splits(graph, 1, fractions=[0.5, 0, 0.5])[0].split
        graphs[name] = graph.replace(x=x, sensitive=group, split=split, name=name)
    return graphs


@cache
def unfair_graphs() -> dict[str, Graph]:
    """Graphs of two classes, one of which mostly goes with a group."""
    graphs = {}
    for seed, name in enumerate(("dense", "sparse")):
        graph = graphsec.load({**CROWD, "signal": 0.5, "homophily": 0.8}, seed=seed)
        assert graph.y is not None
        assert graph.x is not None
        odd = torch.from_numpy(np.random.default_rng(seed).random(240) < 0.3)
        x = graph.x if name == "dense" else graph.x.relu().to_sparse_csr()
        split = graphsec.splits(graph, 1, fractions=[0.5, 0, 0.5])[0].split
        group = ((graph.y == 1) ^ odd).long()
        graphs[name] = graph.replace(x=x, sensitive=group, split=split, name=f"unfair-{name}")
    return graphs


# Membership of nodes in the training of a victim without dropout or decay.
MEMBERS = {
    "graphs": noise_graphs,
    "model": {"name": "gcn", "hidden": 16, "dropout": 0.0},
    "training": {"epochs": 30, "weight_decay": 0.0},
}

LARGE = {"graphs": crowds}

# The gradient of one step, of a victim without dropout.
LEAKING = {
    "model": {"name": "gcn", "hidden": 16, "dropout": 0.0},
    "training": {"epochs": 1, "expose": 1},
}

# Fake users among those of a ranking graph.
FAKES = {
    "graphs": tiny_rankings,
    "game": {"name": "promotion", "items": 2, "most": 9},
    "model": {"name": "lightgcn", "width": 8},
    "training": {"epochs": 5, "patience": None, "select": "last"},
    "threat": {"budget": {"nodes": 3, "edges_per_injected": 7}},
}

FAIR = {"graphs": unfair_graphs, "harm": "attacked_delta_sp"}


@cache
def molecule_sets() -> dict[str, Graph]:
    """Sets of small graphs, of which a whole one is private."""
    spec = {"name": "molecules", "graphs": 30, "smallest": 4, "largest": 7}
    return {f"molecules-{s}": graphsec.load(spec, seed=s).replace(name=f"m{s}") for s in (0, 1)}


WHOLE = {**LEAKING, "graphs": molecule_sets}


@cache
def atoms() -> dict[str, Graph]:
    """Sets of small graphs with labels of nodes, of which a whole neighbourhood is private."""
    spec = {"name": "molecules", "graphs": 40, "smallest": 4, "largest": 9, "labels": "atoms"}
    return {f"atoms-{s}": graphsec.load(spec, seed=s).replace(name=f"a{s}") for s in (0, 1)}


AROUND = {**LEAKING, "graphs": atoms}


def tasteful_users() -> dict[str, Graph]:
    """Rating graphs whose users have a private attribute: their taste."""
    graphs = {}
    for name, graph in tiny_ratings().items():
        taste = torch.arange(graph.num_nodes) % 3
        taste[graph.num_users :] = -1
        graphs[name] = graph.replace(sensitive=taste)
    return graphs


# Users and items, of two parties.
FEDERATED: dict[str, Any] = {
    "graphs": tasteful_users,
    "model": {"name": "rating-lightgcn"},
    "training": {"epochs": 40, "batch_size": 1000, "weight_decay": 0.0},
    "defense": {"name": "verfedgnn", "parties": 2},
    "threat": {"position": "server"},
}
KNOWN_USERS = {"name": "interactions", "parties": 2, "reveal": 0.4}

OTHERS: dict[str, dict[str, Any]] = {
    "de-anonymisation": {**FEDERATED, "game": KNOWN_USERS},
    "interaction-popularity": {**FEDERATED, "game": KNOWN_USERS, "defense": "none"},
    "interaction-membership": {
        **FEDERATED,
        "defense": "none",
        "game": {"name": "interactions", "others": "heldout", "victim": None},
    },
    "user-attributes": {
        **FEDERATED,
        "defense": {"name": "verfedgnn", "parties": 2, "quantise": False},
    },
    **dict.fromkeys(("confidence", "lira", "rmia", "shadow-mlp"), MEMBERS),
    **dict.fromkeys(
        ("closed-form", "gifd", "gradient-guess", "gradient-matching", "idlg"), LEAKING
    ),
    **dict.fromkeys(("structure-matching", "structure-similarity"), LEAKING),
    **dict.fromkeys(("grain", "graph-guess", "graph-matching"), WHOLE),
    **dict.fromkeys(("grain-nodes", "neighbourhood-guess"), AROUND),
    **dict.fromkeys(("property-loss-test", "property-shadow", "property-threshold"), LARGE),
    **dict.fromkeys(SHILLING, FAKES),
    **dict.fromkeys(("fa-gnn", "fair-prbcd", "g-fairattack"), FAIR),
    "brute-force": {
        "threat": {"budget": {"edges": 4}, "targets": (0, 7, 12, 30)},
        "graphs": small_graphs,
    },
    "random-features": {"threat": FEATURES},
    "feature-pgd": {"threat": FEATURES, "trivial": "random-features", "graphs": real_graphs},
    "random-injection": {"threat": NODES},
    "tdgia": {"threat": NODES, "trivial": "random-injection"},
    "feature-prbcd": {"threat": FEATURES, "trivial": "random-features", "graphs": binary_graphs},
}

SPECS: dict[str, dict[str, Any]] = {  # enough for tiny graphs
    "degree": {"name": "degree", "steps": 10},
    "property-shadow": {"name": "property-shadow", "shadows": 8},
    "property-threshold": {"name": "property-threshold", "shadows": 8},
    "gifd": {"name": "gifd", "epochs": 20, "steps": 60, "width": 32, "latent": 8},
    "gradient-matching": {"name": "gradient-matching", "steps": 40},
    "graph-matching": {"name": "graph-matching", "steps": 15, "restarts": 1},
    "grain": {"name": "grain", "steps": 500},
    "grbcd": {"name": "grbcd", "steps": 8},
    "brute-force": {"name": "brute-force", "stop": True},
    "fa-gnn": {"name": "fa-gnn", "epochs": 50},
    "fair-prbcd": {"name": "fair-prbcd", "steps": 15, "samples": 3},
    "g-fairattack": {"name": "g-fairattack", "epochs": 500, "candidates": 5000},
    "feature-pgd": {"name": "feature-pgd", "steps": 20},
    "feature-prbcd": {"name": "feature-prbcd", "steps": 15, "samples": 3},
    "lira": {"name": "lira", "shadows": 4},
    "local-prbcd": {"name": "local-prbcd", "steps": 10},
    "lrbcd": {"name": "lrbcd", "steps": 15, "samples": 3},
    "pgd": {"name": "pgd", "steps": 15, "samples": 3},
    "prbcd": {"name": "prbcd", "steps": 15, "samples": 3},
    "meta-pgd": {"name": "meta-pgd", "inner_steps": 10, "steps": 8, "samples": 2},
    "meta-prbcd": {"name": "meta-prbcd", "inner_steps": 10, "steps": 8, "samples": 2},
    "metattack": {"name": "metattack", "inner_steps": 20},
    "query-search": {"name": "query-search", "steps": 60},
    "rmia": {"name": "rmia", "shadows": 2},
    "structure-matching": {"name": "structure-matching", "steps": 40},
    "model-extraction": {"name": "model-extraction", "training": TRAINING},
    "model-laundering": {"name": "model-laundering", "epochs": 20, "labels": 1.0},
    "shadow-mlp": {"name": "shadow-mlp", "shadows": 2},
    "subgraph-extraction": {"name": "subgraph-extraction", "copies": 5, "training": TRAINING},
    "tdgia": {"name": "tdgia", "rounds": 2, "steps": 20},
}

for _name in ATTACKS:
    _fields: dict[str, Any] = {
        "spec": SPECS.get(_name, _name),
        "beats_random": _name not in BASELINES + POISONING + AIMED + BYZANTINE + SHILLING,
        **({"threat": FEW} if _name in LOCAL else {}),
        **{k: staticmethod(v) if callable(v) else v for k, v in OTHERS.get(_name, {}).items()},
    }
    _class = f"Test_{_name.replace('-', '_')}"
    globals()[_class] = type(_class, (AttackContract,), _fields)


# What link stealing may know beside the posteriors.
SHADOW = {"name": "dc-sbm", "num_nodes": 120}
KNOWN: dict[str, tuple[str, ...]] = {
    "features": ("features",),
    "partial": ("partial",),
    "shadow": ("shadow",),
    "all": ("features", "partial", "shadow"),
}
for _name, _knows in KNOWN.items():
    _class = f"Test_link_stealing_{_name}"
    globals()[_class] = type(
        _class,
        (AttackContract,),
        {
            "spec": {
                "name": "link-stealing",
                "knows": _knows,
                "shadow": SHADOW if "shadow" in _knows else None,
            },
            "game": {"name": "links", "reveal": 0.2},
        },
    )


# What is known of nodes whose private attribute is asked for, and where it is to be found.
ATTRIBUTES: dict[str, dict[str, Any]] = {
    "hidden": {"spec": {"name": "attribute-inference", "knows": ("hidden",)}},
    "all": {
        "spec": {
            "name": "attribute-inference", "classifier": "mlp",
            "knows": ("features", "hidden", "outputs", "labels"),
        },
        "game": {"name": "attributes", "trained": True},
    },
    "column": {
        "spec": "attribute-inference", "game": {"name": "attributes", "attribute": 3},
        "graphs": staticmethod(binary_graphs), "beats_random": False,  # 17 examples of noise
    },
}  # fmt: skip
for _name, _fields in ATTRIBUTES.items():
    _class = f"Test_attribute_inference_{_name}"
    globals()[_class] = type(_class, (AttackContract,), _fields)


# What of a transcript, and what beside it, may be read.
READ: dict[str, dict[str, Any]] = {
    "de_anonymisation_sums": {
        "spec": {"name": "de-anonymisation", "reads": "sums"}, "game": KNOWN_USERS,
        "threat": {"position": "party:1"},
    },
    "user_attributes_ratings": {"spec": {"name": "user-attributes", "knows": ("ratings",)}},
}  # fmt: skip
for _name, _fields in READ.items():
    _whole = {k: staticmethod(v) if callable(v) else v for k, v in (FEDERATED | _fields).items()}
    globals()[f"Test_{_name}"] = type(f"Test_{_name}", (AttackContract,), _whole)


WEIGHTS = {
    "spec": {"name": "property-shadow", "knows": "weights", "shadows": 8},
    "graphs": staticmethod(crowds),
    "beats_random": False,  # eight shadow models are too few for some hundred numbers
}
Test_property_shadow_weights = type("Test_property_shadow_weights", (AttackContract,), WEIGHTS)
# What thieves may know, and be told.
STOLEN: dict[str, dict[str, Any]] = {
    "labels": {"answers": "labels", "edges": 0.5},
    "own": {"query": "own", "features": 0.5},
    "features": {"edges": 0, "rebuild": "features", "neighbours": 3},
    "answers": {"edges": 0, "rebuild": "answers", "neighbours": 3},
    "shadow": {"shadow": 0.4, "edges": 0.2, "features": 0.5},
}
for _name, _known in STOLEN.items():
    _class = f"Test_model_extraction_{_name}"
    globals()[_class] = type(
        _class, (AttackContract,), {"spec": {**SPECS["model-extraction"], **_known}}
    )


@pytest.fixture(scope="module", params=tiny_graphs().values(), ids=list(tiny_graphs()))
def graph(request: pytest.FixtureRequest) -> Graph:
    made: Graph = request.param
    return made


@pytest.fixture(scope="module")
def victim(graph: Graph) -> graphsec.Predictor:
    return graphsec.fit(graph, {"name": "gcn", "hidden": 8}, training={"epochs": 5})


def flips_of(*args: Any, **kwargs: Any) -> Perturbation:
    outcome = graphsec.attack(*args, **kwargs)
    assert isinstance(outcome, Perturbation)
    return outcome


@pytest.mark.parametrize("add", [0.0, 0.3, 1.0])
def test_random_uses_up_the_budget(graph: Graph, victim: graphsec.Predictor, add: float) -> None:
    outcome = flips_of(
        {"name": "random", "add": add}, victim, graph, threat={"budget": {"edges": 10}}
    )
    added = ~graph.has_edges(outcome.flips)
    assert outcome.flips.shape[1] == 10
    assert int(added.sum()) == round(10 * add)


def test_random_fills_in_when_one_kind_runs_out(graph: Graph, victim: graphsec.Predictor) -> None:
    pairs = graph.num_nodes * (graph.num_nodes - 1) // 2
    for add in (0.0, 1.0):
        threat = {"budget": {"edges": pairs}}
        outcome = flips_of({"name": "random", "add": add}, victim, graph, threat=threat)
        assert outcome.apply(graph).num_edges == pairs - graph.num_edges


def test_random_is_uniform() -> None:
    """Over many seeds every absent pair of a small graph is drawn about equally often."""
    karate = tiny_graphs()["karate"]
    victim = graphsec.fit(karate, {"name": "gcn", "hidden": 8}, training={"epochs": 1})
    small = Graph.from_edges([[0, 1], [1, 2]], 5, x=torch.ones(5, karate.num_features))
    counts = torch.zeros(5, 5)
    for seed in range(400):
        u, v = flips_of("random", victim, small, threat={"budget": {"edges": 2}}, seed=seed).flips
        counts[u, v] += 1
    absent = ~torch.eye(5, dtype=torch.bool).triu(1)
    drawn = counts[counts > 0]
    assert absent.any()
    assert len(drawn) == 8
    assert drawn.sum() == 800
    assert drawn.min() > 65  # mean 100, standard deviation 8.7
    assert drawn.max() < 135


def test_dice_shares_and_labels(graph: Graph, victim: graphsec.Predictor) -> None:
    outcome = flips_of("dice", victim, graph, threat={"budget": {"edges": 10}})
    assert graph.y is not None
    u, v = graph.y[outcome.flips]
    added = ~graph.has_edges(outcome.flips)
    assert int(added.sum()) == 6
    assert len(added) == 10
    assert (u[added] != v[added]).all()
    assert (u[~added] == v[~added]).all()
    assert (graph.y[outcome.flips] >= 0).all()


def test_dice_says_when_it_runs_out(
    graph: Graph, victim: graphsec.Predictor, caplog: pytest.LogCaptureFixture
) -> None:
    """It returns every fitting pair there is, and a warning."""
    assert graph.y is not None
    n, y = graph.num_nodes, graph.y
    pairs = n * (n - 1) // 2
    outcome = flips_of("dice", victim, graph, threat={"budget": {"edges": pairs}})
    u, v = torch.triu_indices(n, n, 1)
    edge = graph.has_edges(torch.stack([u, v]))
    known = (y[u] >= 0) & (y[v] >= 0)
    fitting = known & ((~edge & (y[u] != y[v])) | (edge & (y[u] == y[v])))
    assert outcome.flips.shape[1] == int(fitting.sum())
    assert f"budget of {pairs} flips" in caplog.text


@pytest.mark.parametrize("name", ["random", "dice", "prbcd"])
def test_edges_of_directed_graphs(name: str) -> None:
    undirected = tiny_graphs()["blocks"]
    graph = Graph.from_edges(
        undirected.edge_index[:, ::2], 90, directed=True, x=undirected.x, y=undirected.y,
        split=undirected.split,
    )  # fmt: skip
    victim = graphsec.fit(graph, {"name": "gcn", "hidden": 8}, training={"epochs": 20})
    threat = {"budget": {"edges": 20, "edges_per_node": 3}}
    outcome = flips_of(name, victim, graph, threat=threat)
    assert 0 < outcome.flips.shape[1] <= 20
    changed = graph.to_scipy() != outcome.apply(graph).to_scipy()
    assert changed.sum() == outcome.flips.shape[1]
