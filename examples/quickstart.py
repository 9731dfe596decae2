"""The verbs one by one, then a small matrix: python examples/quickstart.py."""

from __future__ import annotations

import graphsec


def main() -> None:
    """Attack one model by hand, then many by matrix."""
    graph = graphsec.load("digits-knn", seed=0)
    predictor = graphsec.fit(graph, model="gcn", defense="none", seed=0)

    threat = {"budget": {"edges": 0.05}}
    outcome = graphsec.attack("prbcd", predictor, graph, threat=threat, seed=0)
    numbers = graphsec.score(outcome, graph, predictor)
    print({name: round(float(metric), 3) for name, metric in numbers.items()})

    # The same as one cell, which gives a record with spec, threat, cost and versions.
    cell = graphsec.Cell(dataset="digits-knn", attack="prbcd", threat=threat)
    print(graphsec.run(cell).value("attacked_accuracy"))

    # Many cells: finished ones are kept in the store, and an interrupted run goes on.
    matrix = graphsec.Matrix(
        datasets=["digits-knn"],
        models=["gcn"],
        defenses=["none", "jaccard"],
        attacks=["none", "random", {"name": "prbcd", "steps": 20, "block": 10_000}],
        budgets=[0.01, 0.05],
        seeds=[0, 1],
    )
    results = matrix.run(store="sqlite:///runs.db", workers=2)
    print(results.frame().groupby(["model", "defense", "attack"])["attacked_accuracy"].mean())
    results.report("report.html")


if __name__ == "__main__":
    main()
