"""The tables of docs/leakage_discrete.md: `python examples/graph_leakage.py depth 20 1000`.

Arguments are the table (a key of ``TABLES``), the number of seeds and the first of them; a seed
draws the private graph (or node) and the weights. "edges" needs the files of planetoid/cora, the
others those of molecules/aids. A refusal counts as nothing found.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from scipy.stats import binomtest

import graphsec
from graphsec.game.graph_gradients import truth

Row = tuple[str, dict[str, Any]]
GCN = {"name": "gcn", "dropout": 0.0, "layers": 3}
GAT = {"name": "gat", "dropout": 0.0, "layers": 3}
GRAIN = {"name": "grain", "steps": 10_000}
MATCHING = {"name": "graph-matching", "restarts": 1}


def game(**fields: Any) -> dict[str, Any]:
    """Graphs of at most 15 atoms, unless said otherwise."""
    return {"name": "graph-gradients", "largest": 15, **fields}


def depth() -> Iterator[Row]:
    """By model and number of layers."""
    for base, layers in ((GCN, 2), (GCN, 3), (GCN, 4), (GAT, 3), (GAT, 4)):
        model = {**base, "layers": layers}
        yield f"grain, {base['name']}, {layers} layers", {"model": model, "attack": GRAIN}


def baselines() -> Iterator[Row]:
    """Attacks that know the number of atoms, and else what grain does."""
    known = game(sizes="known")
    zero = {"name": "graph-guess", "guess": "zero"}
    yield "zeros, no edges", {"model": GCN, "attack": zero, "game": known}
    yield "graph-guess", {"model": GCN, "attack": "graph-guess", "game": known}
    yield "graph-matching, gcn, 3 layers", {"model": GCN, "attack": MATCHING, "game": known}
    yield "graph-matching, gat, 3 layers", {"model": GAT, "attack": MATCHING, "game": known}


def trained() -> Iterator[Row]:
    """After so many steps on the private graph."""
    for model in (GCN, GAT):
        for step in (0, 5, 20, 100):
            parts = {"model": model, "attack": GRAIN, "game": game(step=step)}
            after = {"training": {"epochs": step + 1, "expose": step + 1}}
            yield f"{model['name']}, {step} steps", {**parts, **after}


def activations() -> Iterator[Row]:
    """By activation of a GCN; the last is tanh(8 z), which is linear in a smaller range."""
    kinds: dict[str, Any] = {"relu": "relu", "tanh": "tanh", "tanh(8 z)": (2.0, 16.0, 1.0)}
    for name, kind in kinds.items():
        yield f"gcn, {name}", {"model": {**GCN, "activation": kind}, "attack": GRAIN}


def misses(seeds: int, first: int = 0) -> None:
    """Print why grain misses: a graph of the same gradient was found first, or none was reached."""
    print("| | exact | another graph of the same gradient | none reached |\n|---|---|---|---|")
    for layers in (2, 3):
        count = [0, 0, 0]
        for seed in range(first, first + seeds):
            known, secret, victim = _played({**GCN, "layers": layers}, 0, seed)
            outcome = graphsec.attack(GRAIN, victim, known, **secret.shown)
            scored = graphsec.score(outcome, known, victim, secret=secret)
            right = float(scored["exact_share"]) == 1
            count[0 if right else 1 if outcome.info["exact"] else 2] += 1
        print(f"| gcn, {layers} layers | {' | '.join(map(str, count))} |", flush=True)


def ranks(seeds: int, first: int = 0) -> None:
    """Print how often the gradient of the second layer has the rank of what the layer was given."""
    print("| | full rank | rank ÷ that of the rows | units on at some nodes |\n|---|---|---|---|")
    tanh, steep = {**GCN, "activation": "tanh"}, {**GCN, "activation": (2.0, 16.0, 1.0)}
    models = {"gcn, relu": GCN, "gcn, tanh": tanh, "gcn, tanh(8 z)": steep, "gat": GAT}
    for name, model in models.items():
        for step in (0, 5, 20):
            found = [_rank(model, step, seed) for seed in range(first, first + seeds)]
            shares, mixed = (list(each) for each in zip(*found, strict=True))
            full = interval([float(share == 1) for share in shares])
            row = f"{name}, {step} steps | {full} | {interval(shares)} | {interval(mixed)}"
            print(f"| {row} |", flush=True)


def _played(model: dict[str, Any], step: int, seed: int) -> tuple[graphsec.Graph, Any, Any]:
    graph = graphsec.load("molecules/aids", seed=seed)
    known, secret = graphsec.play(game(step=step), graph, seed=seed)
    training = {"epochs": step + 1, "expose": step + 1}
    return known, secret, graphsec.fit(known, model, training=training, seed=seed)


def _rank(model: dict[str, Any], step: int, seed: int) -> tuple[float, float]:
    """Share of the rank that the second layer's gradient has; of units that some nodes use."""
    known, secret, victim = _played(model, step, seed)
    sent = victim.trace.releases[step]
    x, adj = truth(known, secret)[0]
    alone = graphsec.Graph.from_edges(adj.nonzero().T, len(x), x=x)
    given, after = victim.at(sent).model.double().hidden(x.double(), alone.adj)[:2]
    given, used = given.detach(), after > 0
    rows = np.unique(given.numpy().round(9), axis=0)
    sizes = [np.linalg.svd(each, compute_uv=False) for each in (
        sent.tensors["weight.1"].double().numpy(), rows,
    )]  # fmt: skip
    rank, possible = (int((s > 1e-6 * s[0]).sum()) for s in sizes)
    return rank / possible, float((used.any(0) & ~used.all(0)).double().mean())


def sizes() -> Iterator[Row]:
    """By number of atoms."""
    for low, high in ((2, 8), (9, 12), (13, 18), (19, 40)):
        for model in (GCN, GAT):
            parts = {"model": model, "attack": GRAIN, "game": game(smallest=low, largest=high)}
            yield f"{model['name']}, {low}–{high} atoms", parts


def batches() -> Iterator[Row]:
    """By number of graphs in a step, of at most 8 atoms."""
    for graphs in (1, 2, 3, 4):
        attack = {**GRAIN, "largest": 8, "steps": 3_000}
        parts = {"model": GAT, "attack": attack, "game": game(graphs=graphs, largest=8)}
        yield f"gat, {graphs} graphs", parts


def defenses() -> Iterator[Row]:
    """Behind what a release may do to the gradient."""
    releases: list[dict[str, Any]] = [
        *({"name": "prune-gradients", "keep": keep} for keep in (0.99, 0.9, 0.5, 0.1)),
        *({"name": "noisy-gradients", "std": std} for std in (1e-7, 1e-5, 1e-3)),
        {"name": "sign-gradients"},
    ]
    for model in (GCN, GAT):
        for defense in releases:
            said = ", ".join(str(value) for value in defense.values())
            parts = {"model": model, "attack": GRAIN, "defense": defense}
            yield f"{model['name']}, {said}", parts


def adaptive() -> Iterator[Row]:
    """By an attacker who knows of the defense: complete columns, or thresholds above the noise."""
    for model in (GCN, GAT):
        for keep in (0.9, 0.5, 0.1):
            defense: dict[str, Any] = {"name": "prune-gradients", "keep": keep}
            attack = {**GRAIN, "skip_zeros": True}
            parts = {"model": model, "attack": attack, "defense": defense}
            yield f"{model['name']}, prune-gradients, {keep}, skip_zeros", parts
        defense = {"name": "noisy-gradients", "std": 1e-5}
        attack = {**GRAIN, "cut": 1e-3, "threshold": 0.03, "match": 0.01}
        parts = {"model": model, "attack": attack, "defense": defense}
        yield f"{model['name']}, noisy-gradients, 1e-05, cut 1e-3, threshold .03", parts


def around(hops: int, attack: Any = "grain-nodes", **fields: Any) -> dict[str, Any]:
    """A game about what surrounds an atom, and a GCN of as many layers as edges are asked about."""
    return {
        "dataset": {"name": "molecules/aids", "labels": "atoms"},
        "game": {"name": "neighbourhood-gradients", "hops": hops, **fields},
        "model": {**GCN, "layers": hops}, "attack": attack,
    }  # fmt: skip


def nodes() -> Iterator[Row]:
    """What surrounds an atom, by depth, beside baselines."""
    for hops in (2, 3, 4):
        yield f"grain-nodes, {hops} layers", around(hops)
        yield f"commonest, {hops} edges deep", around(hops, "neighbourhood-guess")
    yield "zeros", around(2, {"name": "neighbourhood-guess", "guess": "zero"})


def degrees() -> Iterator[Row]:
    """What surrounds an atom, by its number of neighbours."""
    for hops in (2, 3):
        for degree in (1, 2, 3, 4):
            yield f"{hops} layers, degree {degree}", around(hops, degree=degree)


def roots() -> Iterator[Row]:
    """What surrounds several atoms in a step, by depth."""
    for hops in (2, 3):
        for count in (1, 2, 3):
            yield f"{hops} layers, {count} roots", around(hops, roots=count)


def later() -> Iterator[Row]:
    """What surrounds an atom, after so many steps on it, and behind defenses."""
    for step in (5, 20, 100):
        after = {"training": {"epochs": step + 1, "expose": step + 1}}
        yield f"{step} steps", {**around(2, step=step), **after}
    defenses: list[dict[str, Any]] = [
        {"name": "noisy-gradients", "std": 1e-5}, {"name": "prune-gradients", "keep": 0.5},
    ]  # fmt: skip
    for defense in defenses:
        said = ", ".join(str(value) for value in defense.values())
        yield f"{said} (not adaptive)", {**around(2), "defense": defense}


def edges() -> Iterator[Row]:
    """Edges at one node of Cora."""
    matching: dict[str, Any] = {"name": "structure-matching", "steps": 100}
    for layers in (2, 1, 3):
        parts = {
            "model": {**GCN, "layers": layers}, "game": "edge-gradients", "dataset": "cora",
        }  # fmt: skip
        yield f"structure-matching, gcn, {layers} layers", {**parts, "attack": matching}
    yield "structure-similarity", {**parts, "attack": "structure-similarity"}


TABLES = {
    "depth": depth, "baselines": baselines, "sizes": sizes, "batches": batches,
    "trained": trained, "activations": activations, "defenses": defenses, "adaptive": adaptive,
    "nodes": nodes, "degrees": degrees, "roots": roots, "later": later, "edges": edges,
}  # fmt: skip


def interval(values: list[float]) -> str:
    """Mean, and for shares of 0 and 1 Wilson's 95 % interval, else the standard error."""
    n, mean = len(values), sum(values) / len(values)
    if set(values) <= {0.0, 1.0}:
        low, high = binomtest(int(sum(values)), n).proportion_ci(method="wilson")
        return f"{mean:.2f} ({low:.2f}–{high:.2f})"
    spread = (sum((v - mean) ** 2 for v in values) / max(n - 1, 1)) ** 0.5
    return f"{mean:.2f} ± {spread / n**0.5:.2f}"


def main(table: str, seeds: int, first: int = 0) -> None:
    """Print one table."""
    graphs = ["exact_share", "placed_share", "neighbourhood_share", "edge_f1"]
    metrics = graphs
    if table == "edges":
        metrics = ["auc", "average_precision", "precision_at_count"]
    if table in ("nodes", "degrees", "roots", "later"):
        metrics = ["exact_share", "placed_share", "neighbourhood_share", "root_share"]
    print(f"| | {' | '.join(metrics)} | refused | seconds |\n|---|{'---|' * (len(metrics) + 2)}")
    rows = TABLES[table]()
    for name, parts in rows:
        records = [_run(parts, seed) for seed in range(first, first + seeds)]
        done = [r for r in records if r.status == "done"]
        values = {m: [r.value(m) if r.status == "done" else 0.0 for r in records] for m in metrics}
        cost = sum(r.cost["attack_seconds"] for r in done) / max(len(done), 1)
        shown = " | ".join(interval(values[m]) for m in metrics)
        print(f"| {name} | {shown} | {len(records) - len(done)} | {cost:.1f} |", flush=True)


def _run(parts: Mapping[str, Any], seed: int) -> graphsec.Record:
    start = {"dataset": "molecules/aids", "game": game(), **parts}
    cell = graphsec.Cell(**{"training": {"epochs": 1, "expose": 1}, **start}, seed=seed)
    record = graphsec.run(cell)
    if record.status == "failed" and "ValueError: attack" not in record.reason:
        raise RuntimeError(record.reason)
    return record


if __name__ == "__main__":
    apart = {"ranks": ranks, "misses": misses}
    numbers = [int(number) for number in sys.argv[2:]]
    if sys.argv[1] in apart:
        apart[sys.argv[1]](*numbers)
    else:
        main(sys.argv[1], *numbers)
