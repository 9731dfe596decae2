"""Ratings: held out with their pairs, learned by squared errors, scored by RMSE."""

from __future__ import annotations

import pytest
import torch

import graphsec
from graphsec.graph import GraphError, Holdout
from graphsec.metrics import rmse
from graphsec.models.base import build
from graphsec.rating import batch_loss, rated_pairs
from graphsec.rng import Rng
from graphsec.testing import tiny_rankings, tiny_ratings
from graphsec.train import Recipe, fit

GRAPH = tiny_ratings()["tastes"]


def held() -> Holdout:
    """What is held out of the graph."""
    assert GRAPH.holdout is not None
    return GRAPH.holdout


def test_ratings_stay_with_their_pairs() -> None:
    """When nodes are renumbered or left out, and when a held-out pair becomes an edge."""
    wanted = dict(zip(map(tuple, held().test.T.tolist()), held().test_y.tolist(), strict=True))  # type: ignore[union-attr]
    order = torch.cat([torch.arange(29, -1, -1), torch.arange(30, 60)[3:]])
    other = GRAPH.subgraph(order).holdout
    assert other is not None
    assert other.test_y is not None
    found = {
        (int(order[u]), int(order[v])): y
        for (u, v), y in zip(other.test.T.tolist(), other.test_y.tolist(), strict=True)
    }
    assert found == {pair: y for pair, y in wanted.items() if pair[1] >= 33}
    flipped = GRAPH.flip(held().test[:, :2]).holdout
    assert flipped is not None
    assert flipped.test_y is not None
    assert torch.equal(flipped.test_y, held().test_y[2:])  # type: ignore[index]


@pytest.mark.parametrize(
    ("val_y", "rule"),
    [
        (None, "holdout.val_y is missing: rating graphs need the ratings"),
        ([3.0], "holdout.val_y must be finite, one for each of the"),
        ([float("nan")] * held().val.shape[1], "holdout.val_y must be finite"),
    ],
)
def test_rating_graphs_keep_their_rules(val_y: list[float] | None, rule: str) -> None:
    """The message says which field, and what is needed."""
    with pytest.raises(GraphError, match=rule):
        GRAPH.replace(holdout=Holdout.of(held().val, held().test, val_y, held().test_y))


def test_held_out_ratings_are_part_of_the_content() -> None:
    """A graph with other ratings is another graph."""
    y = held().test_y
    assert y is not None
    changed = Holdout(held().val, held().test, held().val_y, y + 1)
    assert GRAPH.replace(holdout=changed).fingerprint != GRAPH.fingerprint


def test_loss_by_hand() -> None:
    """Σ (μ + b_u + b_v + ⟨z_u, z_v⟩ − y)² + λ Σ ‖e‖², a node as often as the batch holds it."""
    model = build("rating-lightgcn", GRAPH)
    pairs, y = rated_pairs(GRAPH)
    pairs, y = pairs[:, :9], y[:9]
    state = dict(model.named_parameters())
    with torch.no_grad():
        state["bias"].normal_()
        z = model(torch.zeros(60, 0), GRAPH.adj)
        table, bias, offset = state["table"], state["bias"], state["offset"]
        adj = GRAPH.adj.normalized("sym", self_loops=False)
        states: list[torch.Tensor] = [table]
        from graphsec.ops import propagate

        for _ in range(2):
            states.append(propagate(adj, states[-1]))
        mean = torch.stack(states).mean(0)
        wanted = 0.0
        for (u, v), rating in zip(pairs.T.tolist(), y.tolist(), strict=True):
            predicted = offset + bias[u] + bias[v] + mean[u] @ mean[v]
            wanted += float((predicted - rating) ** 2)
            wanted += 0.3 * float(table[u].square().sum() + table[v].square().sum())
        assert float(batch_loss(model, z, pairs, y, 0.3)) == pytest.approx(wanted, rel=1e-5)


def test_rmse_is_of_the_test_ratings() -> None:
    """And of the validation ratings beside it; answers on demand for pairs."""
    predictor = graphsec.fit(GRAPH, "rating-gcn", training={"epochs": 5})
    numbers = graphsec.score(graphsec.attack("none", predictor, GRAPH), GRAPH, predictor)
    y = held().test_y
    assert y is not None
    wanted = rmse(predictor.rate(GRAPH, held().test), y)
    assert float(numbers["rmse"]) == pytest.approx(wanted)
    assert not numbers["rmse"].higher_is_better
    assert float(numbers["val_rmse"]) > 0


def test_what_does_not_fit_is_refused() -> None:
    """A ranking model does not rate; ratings are needed; the rule of selection is checked."""
    ranks = graphsec.fit(tiny_rankings()["tastes"], "lightgcn", training={"epochs": 1})
    with pytest.raises(TypeError, match="LightGCN does not rate items"):
        ranks.rate(GRAPH, held().test)
    model, training = build("rating-gcn", GRAPH), Recipe.of("rating-gcn").training
    with pytest.raises(ValueError, match="edge_y is missing"):
        fit(model, GRAPH.replace(edge_y=None), training, Rng(0))
    with pytest.raises(ValueError, match=r"training.select must be 'last' or 'loss' for rating"):
        graphsec.fit(GRAPH, "rating-gcn", training={"select": "ndcg"})
