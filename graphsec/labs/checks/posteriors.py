"""Lab 1: link stealing."""

from __future__ import annotations

import torch
from torch import Tensor

from graphsec.labs.checking import Names, close, function, number, require, tensor
from graphsec.metrics.privacy import ranking_metrics


def _pairs(n: int, k: int) -> Tensor:
    return torch.randint(n, (2, k), generator=torch.Generator().manual_seed(1))


def _posteriors() -> Tensor:
    drawn = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    return (2 * drawn).softmax(1)


def link_score(names: Names) -> None:
    """Exercise 1."""
    p, pairs = _posteriors(), _pairs(12, 30)
    found = tensor(function(names, "link_score")(p, pairs), (30,), "link_score")
    distance = (p[pairs[0]] - p[pairs[1]]).double().norm(dim=1)
    require(
        not close(found, distance),
        "these are the distances: far apart must score low, so the sign is wrong",
    )
    require(
        not close(found, -distance.square(), 1e-5),
        "these are squared distances: a right order, but asked for was the distance itself",
    )
    require(
        not close(found, -(p[pairs[0]] - p[pairs[1]]).abs().sum(1)),
        "this sums absolute differences; the Euclidean distance is the root of the summed squares",
    )
    require(close(found, -distance), "not minus the Euclidean distance of the two rows of a pair")


def auc(names: Names) -> None:
    """Exercise 2."""
    answer = function(names, "auc")
    truth = torch.tensor([1, 0, 1, 0, 0, 1, 0])
    distinct = torch.tensor([0.9, 0.1, 0.4, 0.6, 0.2, 0.8, 0.3])
    found, wanted = (
        float(tensor(answer(distinct, truth), (), "auc")),
        float(ranking_metrics(distinct, truth)["auc"]),
    )
    require(
        not close(found, 1 - wanted),
        "this is 1 − AUC: count edges whose score is *above* a non-edge's",
    )
    require(
        close(found, wanted),
        f"for scores {distinct.tolist()} and truth {truth.tolist()} the AUC is {wanted:.4f}, "
        f"yours {found:.4f}: of the 3 × 4 pairs (edge, non-edge), how many are in order?",
    )
    ties = float(tensor(answer(torch.zeros(7), truth), (), "auc"))
    require(
        close(ties, 0.5), f"with all scores equal the AUC is 1/2, yours {ties:g}: ties count half"
    )


def feature_score(names: Names) -> None:
    """Exercise 3."""
    answer = function(names, "feature_score")
    x = torch.randn(12, 5, generator=torch.Generator().manual_seed(2))
    pairs = _pairs(12, 30)
    a, b = x[pairs[0]], x[pairs[1]]
    found = tensor(answer(x, pairs), (30,), "feature_score")
    require(
        not close(found, (a * b).sum(1)),
        "this is the inner product: long rows win. Divide by both lengths",
    )
    wanted = torch.cosine_similarity(a.double(), b.double())
    require(
        not close(found, 1 - wanted) and not close(found, -wanted),
        "this is a distance: alike must score high",
    )
    require(close(found, wanted), "not the cosine of the two rows of each pair")
    x[0] = 0
    zero = answer(x, torch.tensor([[0], [1]]))
    require(
        close(zero, torch.zeros(1)),
        "a row of zeros has no direction: its pairs must score 0, not nan",
    )


def base_rate(names: Names) -> None:
    """Exercise 4."""
    found, graph = number(names, "base_rate"), names["graph"]
    n, m = graph.num_nodes, graph.num_edges
    require(
        not close(found, m / n**2, 1e-5) and not close(found, m / (n * (n - 1)), 1e-5),
        "half of it: you counted each pair of nodes twice, but each edge once",
    )
    require(
        not close(found, 200 * m / (n * (n - 1))), "a share, not a percentage: leave out the 100"
    )
    require(
        close(found, 2 * m / (n * (n - 1)), 1e-5),
        f"{n} nodes have {n}·{n - 1}/2 pairs, {m} of which are edges",
    )


def label_score(names: Names) -> None:
    """Exercise 5."""
    classes, pairs = _posteriors().argmax(1), _pairs(12, 30)
    found = tensor(function(names, "label_score")(classes, pairs), (30,), "label_score")
    same = (classes[pairs[0]] == classes[pairs[1]]).double()
    require(not close(found, 1 - same), "the other way round: the same class scores 1")
    require(close(found, same), "must be 1 where the classes of the two nodes are equal, else 0")


CHECKS = {1: link_score, 2: auc, 3: feature_score, 4: base_rate, 5: label_score}
