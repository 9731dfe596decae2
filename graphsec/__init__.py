"""graphsec: a laboratory for the security and privacy of learning on graphs.

The public verbs, loaded on first use so that importing graphsec costs nothing::

    graph = graphsec.load("planetoid/cora", seed=0)
    known, secret = graphsec.play("membership", graph, seed=0)
    predictor = graphsec.fit(graph, model="gcn", defense="none", seed=0)
    outcome = graphsec.attack("prbcd", predictor, graph, threat={"budget": {"edges": 0.05}})
    numbers = graphsec.score(outcome, graph, predictor)
    record = graphsec.run(graphsec.Cell(dataset="digits-knn"))
    risk = graphsec.leakage_risk(predictor, graph, [0, 1], perturbation=1e-3)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "load": "graphsec.verbs",
    "play": "graphsec.verbs",
    "fit": "graphsec.verbs",
    "attack": "graphsec.verbs",
    "splits": "graphsec.verbs",
    "run": "graphsec.verbs",
    "leakage_risk": "graphsec.influence",
    "score": "graphsec.cell",
    "Cell": "graphsec.cell",
    "Record": "graphsec.cell",
    "Runtime": "graphsec.cell",
    "Matrix": "graphsec.matrix",
    "Results": "graphsec.matrix",
    "Graph": "graphsec.graph",
    "Split": "graphsec.graph",
    "Threat": "graphsec.threat",
    "Budget": "graphsec.threat",
    "Access": "graphsec.threat",
    "Predictor": "graphsec.predict",
    "Rng": "graphsec.rng",
}

__all__ = [
    "Access",
    "Budget",
    "Cell",
    "Graph",
    "Matrix",
    "Predictor",
    "Record",
    "Results",
    "Rng",
    "Runtime",
    "Split",
    "Threat",
    "__version__",
    "attack",
    "fit",
    "leakage_risk",
    "load",
    "play",
    "run",
    "score",
    "splits",
]

if TYPE_CHECKING:
    from graphsec.cell import Cell, Record, Runtime, score
    from graphsec.graph import Graph, Split
    from graphsec.influence import leakage_risk
    from graphsec.matrix import Matrix, Results
    from graphsec.predict import Predictor
    from graphsec.rng import Rng
    from graphsec.threat import Access, Budget, Threat
    from graphsec.verbs import attack, fit, load, play, run, splits


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'graphsec' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
