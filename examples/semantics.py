"""Do models follow when a node's meaning changes? python examples/semantics.py (minutes)."""

from __future__ import annotations

import statistics

import torch

import graphsec
from graphsec.datasets.synthetic import LabelledSBM
from graphsec.semantics import Bayes, closest_first, semantic_robustness

TARGETS, MOST, SEEDS = 40, 20, (0, 1, 2)


def main() -> None:
    """Compare models with the Bayes classifier of the graphs they are trained on."""
    print("distance  model  accuracy  Bayes  adversarial robustness  over-robustness  F1  censored")
    for distance in (0.5, 1.5, 3.0):
        dataset = LabelledSBM(distance=distance, split={"fractions": [0.4, 0.1, 0.5]})
        bayes = Bayes.of(dataset)
        for model in ("mlp", "gcn", "appnp"):
            rows = []
            for seed in SEEDS:
                graph = graphsec.load(dataset.spec(), seed=seed)
                assert graph.split is not None
                assert graph.y is not None
                training = {"select": "loss", "patience": 50}
                predictor = graphsec.fit(graph, model, seed=seed, training=training)
                test = graph.split.test
                # Edges to nodes of the other class that look alike: the meaning changes first.
                worlds = closest_first(graph, test[:TARGETS], MOST)
                found = semantic_robustness(predictor, bayes, graph, worlds)
                right, best = (
                    float((one.predict(graph, test) == graph.y[test]).double().mean())
                    for one in (predictor, bayes)
                )
                rows.append((right, best, found.adversarial, found.over, found.f1, found.censored))
            cells = [
                f"{statistics.mean(values):.3f} ±{statistics.stdev(values):.3f}"
                for values in zip(*rows, strict=True)
            ]
            print(distance, model, *cells, sep="  ", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
