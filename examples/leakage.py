"""What I²F predicts of gradient leakage, beside attacks: python examples/leakage.py PART [DATASET].

Parts: ``correlation`` (predicted beside measured errors, per noise level), ``directions`` (the same
amount of noise along what a gradient tells most of, and least), ``fairness`` (who is protected by
equal noise), ``init`` (how weights begin). Data sets: digits-knn (default) and planetoid/cora.
Minutes each, on one thread; the tables of docs/leakage.md.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterable
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor

import graphsec
from graphsec import Graph, Predictor, Rng
from graphsec.attacks.leakage.gradient_matching import _adam, _lbfgs, distance
from graphsec.influence import MixedHessian, Steps, leakage_risk
from graphsec.stats import mean_interval

Noise = dict[str, Tensor]
ACTIVATIONS: dict[str, Any] = {"tanh": "tanh", "sigmoid": (1.0, 1.0, 0.0), "relu": "relu"}


def victim(
    graph: Graph, activation: str = "tanh", epochs: int = 0, *, seed: int = 0, **model: Any
) -> Predictor:
    """A GCN-64 without dropout, after some epochs; after none, at its initial weights."""
    spec = {"name": "gcn", "dropout": 0, "activation": ACTIVATIONS[activation], **model}
    training = {"epochs": max(epochs, 1), "expose": int(not epochs)}
    made = graphsec.fit(graph, spec, training=training, seed=seed)
    return made if epochs else made.at(made.trace.releases[0])


def drawn(graph: Graph, k: int, seed: int = 1) -> list[int]:
    """Training nodes."""
    assert graph.split is not None
    train = graph.split.train.numpy()
    nodes: list[int] = Rng(seed)["roots"].numpy().choice(train, k, replace=False).tolist()
    return nodes


def noise(predictor: Predictor, node: int, seed: int = 0) -> Noise:
    """Standard normal, for each parameter."""
    generator = Rng(seed)["noise"][node].torch()
    named = predictor.model.named_parameters()
    return {k: torch.randn(p.shape, generator=generator, dtype=torch.float64) for k, p in named}


class Attacked:
    """The steps of single roots, and the strongest attacks on them that are run here."""

    def __init__(self, predictor: Predictor, graph: Graph) -> None:
        self.predictor, self.graph = predictor, graph
        self.steps = Steps(predictor, graph)

    def errors(self, node: int, delta: Noise, kinks: bool = False) -> dict[str, float]:
        """‖x̂ − x‖ of L-BFGS from the "truth" and from "zero", and of the "best", of least loss.

        L-BFGS stops at kinks: where there are any, the best also goes on by small steps of Adam,
        which hop over them, and by L-BFGS again.
        """
        step = self.steps[node]
        truth = step.truth
        clean = step.gradients(truth)
        seen = [g.detach() + d for g, d in zip(clean, delta.values(), strict=True)]
        ends: dict[str, tuple[float, Tensor]] = {}

        def run(name: str, start: Tensor, adam: float | None = None) -> None:
            z = start.clone().requires_grad_()

            def objective() -> Tensor:
                return distance(step.gradients(z), seen, "l2")

            if adam is not None:
                _adam(objective, [z], 200, adam, False, None)
            _lbfgs(objective, [z], 300)
            ends[name] = objective().item(), z.detach()

        run("truth", truth)
        run("zero", torch.zeros_like(truth))
        best = min(ends.values(), key=lambda end: end[0])[1]
        if kinks:
            for lr in (1e-2, 1e-3):
                run(f"adam {lr}", best, lr * float(truth.std()))
            best = min(ends.values(), key=lambda end: end[0])[1]
        found = {"truth": ends["truth"][1], "zero": ends["zero"][1], "best": best}
        return {name: float((z - truth).norm()) for name, z in found.items()}

    def predicted(self, node: int, delta: Noise) -> tuple[float, float]:
        """I²F and its bound."""
        risk = leakage_risk(self.predictor, self.graph, [node], perturbation=delta)
        return float(risk.error), float(risk.bound)


def scaled(delta: Noise, by: float) -> Noise:
    """The same direction, another length."""
    return {name: by * d for name, d in delta.items()}


def rank(a: Iterable[float], b: Iterable[float]) -> str:
    """Spearman's correlation."""
    return f"{float(spearmanr(list(a), list(b))[0]):.3f}"


def correlation(
    dataset: str, activation: str, epochs: int, levels: list[float], k: int = 50
) -> None:
    """One line a noise level: how I²F ranks the roots, beside what attacks find."""
    graph = graphsec.load(dataset, seed=0)
    attacked = Attacked(victim(graph, activation, epochs), graph)
    nodes = drawn(graph, k)
    units = {node: noise(attacked.predictor, node) for node in nodes}
    told = {node: attacked.predicted(node, units[node]) for node in nodes}
    other = [attacked.predicted(n, noise(attacked.predictor, n, 1))[0] for n in nodes]
    steps = [attacked.steps[node] for node in nodes]
    size = [
        float(torch.cat([g.detach().ravel() for g in s.gradients(s.truth)]).norm()) for s in steps
    ]
    predicted = [told[node][0] for node in nodes]  # I²F and its bound are linear in the noise
    for std in levels:
        found = [
            attacked.errors(node, scaled(units[node], std), activation == "relu") for node in nodes
        ]
        errors = {start: [each[start] for each in found] for start in found[0]}
        best = errors["best"]
        ratio = statistics.median(std * p / e for p, e in zip(predicted, best, strict=True))
        cells = [
            dataset, activation, epochs, f"{std:g}", f"{statistics.median(best):.3g}",
            *(rank(predicted, errors[start]) for start in errors), f"{ratio:.2f}",
            rank(other, best), rank([b for _, b in told.values()], best),
            rank([-each for each in size], best),
        ]  # fmt: skip
        assert all(p >= b for p, b in told.values())
        print("|", " | ".join(map(str, cells)), "|", flush=True)


def directions(dataset: str, epochs: int = 0, k: int = 20) -> None:
    """Noise of one length along the right singular vectors of J that are largest, or smallest."""
    graph = graphsec.load(dataset, seed=0)
    attacked = Attacked(victim(graph, epochs=epochs), graph)
    std = 1e-5 if epochs else 1e-3
    rows: dict[str, list[tuple[float, float]]] = {}
    for node in drawn(graph, k):
        truth = attacked.steps[node].truth
        unit = noise(attacked.predictor, node)
        length = std * float(torch.cat([d.ravel() for d in unit.values()]).norm())
        left, values, _ = torch.linalg.svd(MixedHessian(attacked.steps[node]).dense(), False)
        matrix = MixedHessian(attacked.steps[node])
        signs = torch.randn(8, generator=Rng(0)["signs"][node].torch(), dtype=torch.float64)
        deltas = {"anywhere": scaled(unit, std)}
        for name, which in (("top 8", slice(0, 8)), ("bottom 8", slice(-8, None))):
            along = matrix.pull(left[:, which] @ (signs / values[which]))
            size = float(torch.cat([d.ravel() for d in along]).norm())
            deltas[name] = dict(zip(unit, (length / size * d for d in along), strict=True))
        for name, delta in deltas.items():
            measured = attacked.errors(node, delta)["best"] / float(truth.norm())
            predicted = attacked.predicted(node, delta)[0] / float(truth.norm())
            rows.setdefault(name, []).append((predicted, measured))
    for name, pairs in rows.items():
        told, found = zip(*pairs, strict=True)
        cells = [mean_interval(told).text(4), mean_interval(found).text(4)]
        print("|", " | ".join([dataset, str(epochs), name, *cells]), "|", flush=True)


def fairness(dataset: str, k: int = 300, std: float = 1e-4) -> None:
    """Log₁₀ of predicted errors under equal noise, by class and degree; some of them measured."""
    graph = graphsec.load(dataset, seed=0)
    assert graph.y is not None
    assert graph.split is not None
    nodes = drawn(graph, min(k, len(graph.split.train)))
    degree = graph.indptr.diff()[nodes]
    for epochs in (0, 200):
        attacked = Attacked(victim(graph, "tanh", epochs), graph)
        risk = leakage_risk(attacked.predictor, graph, nodes, perturbation=std).relative.log10()
        cuts = degree.double().quantile(torch.tensor([1 / 3, 2 / 3], dtype=torch.float64))
        third = torch.bucketize(degree.double(), cuts)
        groups = {f"class {c}": graph.y[nodes] == c for c in range(graph.num_classes)}
        names = (f"degree ≤ {cuts[0]:g}", f"degree in between, ≤ {cuts[1]:g}", "larger degree")
        groups |= {name: third == i for i, name in enumerate(names)}
        for name, inside in {"all": torch.ones(len(nodes), dtype=torch.bool), **groups}.items():
            values = risk[inside].tolist()
            if len(values) > 1:
                text = mean_interval(values).text(2)
                print("|", " | ".join([dataset, str(epochs), name, str(len(values)), text]), "|")
        some = nodes[:40]
        delta = {node: scaled(noise(attacked.predictor, node), std) for node in some}
        truth = {node: float(attacked.steps[node].truth.norm()) for node in some}
        found = [attacked.errors(node, delta[node])["best"] / truth[node] for node in some]
        print(f"{dataset}, {epochs} epochs: rank of I²F under other noise with errors measured at "
              f"{len(some)} of them {rank(risk[:40].tolist(), found)}; with degree "
              f"{rank(risk.tolist(), degree.tolist())}", flush=True)  # fmt: skip


def init(dataset: str, k: int = 20, std: float = 1e-2) -> None:
    """Relative errors at the initial weights, and what training makes of them; three seeds."""
    graph = graphsec.load(dataset, seed=0)
    assert graph.split is not None
    assert graph.y is not None
    test = graph.split.test
    for activation in ("tanh", "relu"):
        for kind in ("glorot", "glorot-normal", "kaiming", "kaiming-normal", "orthogonal"):
            rows = []
            for seed in range(3):
                model = victim(graph, activation, seed=seed, init=kind)
                attacked = Attacked(model, graph)
                nodes = drawn(graph, k)
                risk = leakage_risk(model, graph, nodes, perturbation=std, seed=seed)
                found = []
                for node in nodes:
                    delta = scaled(noise(model, node, seed), std)
                    size = float(attacked.steps[node].truth.norm())
                    found.append(attacked.errors(node, delta)["best"] / size)
                trained = victim(graph, activation, 200, seed=seed, init=kind)
                right = (trained.predict(graph, test) == graph.y[test]).double().mean()
                middle = statistics.median(risk.relative.tolist())
                rows.append((middle, statistics.median(found), float(right)))
            cells = [mean_interval(column).text() for column in zip(*rows, strict=True)]
            print("|", " | ".join([dataset, activation, kind, *cells]), "|", flush=True)


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["correlation", "directions", "fairness", "init"])
    parser.add_argument("dataset", nargs="?", default="digits-knn")
    parser.add_argument("--activation", choices=list(ACTIVATIONS), help="One of correlation's.")
    parser.add_argument("--epochs", type=int, default=0, help="Training before it.")
    parser.add_argument("--levels", type=float, nargs="+", default=[1e-4, 1e-3, 1e-2])
    parser.add_argument("--roots", type=int, help="Number of roots.")
    given = parser.parse_args()
    k = {} if given.roots is None else {"k": given.roots}
    if given.part == "correlation":
        chosen = [given.activation] if given.activation else list(ACTIVATIONS)
        for activation in chosen:
            correlation(given.dataset, activation, given.epochs, given.levels, **k)
    elif given.part == "directions":
        directions(given.dataset, given.epochs, **k)
    else:
        {"fairness": fairness, "init": init}[given.part](given.dataset, **k)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
