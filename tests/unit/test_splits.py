"""Split strategies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from graphsec.datasets import splits
from graphsec.datasets.splits import SplitError, checked, draw, reshuffle
from graphsec.graph import Graph, Split
from graphsec.registry import SpecError
from graphsec.rng import Rng

LABELS = torch.tensor([0] * 60 + [1] * 100 + [2] * 40 + [-1] * 10)


def counts(part: torch.Tensor, labels: torch.Tensor = LABELS) -> list[int]:
    return torch.bincount(labels[part], minlength=3).tolist()


def disjoint(split: Split) -> bool:
    together = torch.cat([part for _, part in split.items()])
    return len(together) == len(set(together.tolist()))


def graph(**fields: Any) -> Graph:
    n = len(LABELS)
    ring = np.stack([np.arange(n), (np.arange(n) + 1) % n])
    return Graph.from_edges(ring, n, **({"y": LABELS} | fields))


def test_per_class_counts() -> None:
    split = draw(LABELS, {"per_class": 20, "val_per_class": 15}, Rng(0))
    assert counts(split.train) == [20, 20, 20]
    assert counts(split.val) == [15, 15, 15]
    assert counts(split.test) == [25, 65, 5]
    assert disjoint(split)


def test_fractions_are_stratified() -> None:
    split = draw(LABELS, {"fractions": [0.1, 0.2, 0.7]}, Rng(0))
    assert counts(split.train) == [6, 10, 4]
    assert counts(split.val) == [12, 20, 8]
    assert counts(split.test) == [42, 70, 28]
    assert disjoint(split)


def test_fractions_may_leave_nodes_out() -> None:
    split = draw(LABELS, {"fractions": [0.1, 0.1, 0.1]}, Rng(0))
    assert counts(split.test) == [6, 10, 4]


def test_every_class_has_a_training_node() -> None:
    labels = torch.tensor([0] * 50 + [1] * 3)
    split = draw(labels, {"fractions": [0.1, 0.1, 0.8]}, Rng(0))
    assert torch.bincount(labels[split.train]).tolist() == [5, 1]
    assert disjoint(split)


def test_unlabelled_nodes_are_in_no_part() -> None:
    split = draw(LABELS, {"per_class": 1, "val_per_class": 0}, Rng(0))
    used = torch.cat([part for _, part in split.items()])
    assert (LABELS[used] >= 0).all()
    assert len(used) == 200


def test_regression_splits_all_nodes() -> None:
    targets = torch.linspace(-1, 1, 50)
    split = draw(targets, {"fractions": [0.2, 0.2, 0.6]}, Rng(0), regression=True)
    assert [len(part) for _, part in split.items()] == [10, 10, 30]
    assert disjoint(split)


def test_same_stream_same_split_and_another_stream_another() -> None:
    strategy = {"per_class": 10, "val_per_class": 10}
    one, two, other = (draw(LABELS, strategy, Rng(seed)) for seed in (0, 0, 1))
    assert torch.equal(one.train, two.train)
    assert torch.equal(one.test, two.test)
    assert not torch.equal(one.train, other.train)


def test_every_node_is_drawn_equally_often() -> None:
    seen = np.zeros(len(LABELS))
    for seed in range(400):
        seen[draw(LABELS, {"per_class": 10}, Rng(seed)).train.numpy()] += 1
    rate = seen[60:160] / 400  # class of 100 nodes, 10 drawn: mean 0.1, standard error 0.015
    assert abs(rate.mean() - 0.1) < 1e-9
    assert rate.max() < 0.17
    assert rate.min() > 0.04


def test_reshuffle_keeps_the_counts_of_every_class() -> None:
    given = graph(split=draw(LABELS, {"fractions": [0.1, 0.2, 0.3]}, Rng(0)))
    fresh = reshuffle(given, Rng(5))
    assert given.split is not None
    for (_, old), (_, new) in zip(given.split.items(), fresh.items(), strict=True):
        assert counts(old) == counts(new)
    assert not torch.equal(given.split.train, fresh.train)
    assert disjoint(fresh)


def test_splits_differ_from_each_other_and_repeat() -> None:
    given = graph()
    one = splits.splits(given, 3, Rng(0), per_class=5, val_per_class=5)
    two = splits.splits(given, 3, Rng(0), per_class=5, val_per_class=5)
    assert [g.fingerprint for g in one] == [g.fingerprint for g in two]
    assert len({g.fingerprint for g in one}) == 3
    # The first of many is the first of few: streams don't depend on k.
    assert splits.splits(given, 1, Rng(0), per_class=5, val_per_class=5)[0].fingerprint == (
        one[0].fingerprint
    )


BAD: list[tuple[Any, str]] = [
    ("pubic", "did you mean 'public'"),
    (3, "must be a name or a dictionary, got 3"),
    ({"per_clas": 20}, "did you mean 'per_class'"),
    ({}, "must be one of stored, per_class"),
    ({"per_class": 20, "fractions": [0.1, 0.1, 0.8]}, "must be one of"),
    ({"per_class": 0}, "per_class must be an integer ≥ 1, got 0"),
    ({"per_class": 2.5}, "per_class must be an integer ≥ 1, got 2.5"),
    ({"per_class": True}, "per_class must be an integer"),
    ({"per_class": 5, "val_per_class": -1}, "val_per_class must be an integer ≥ 0, got -1"),
    ({"stored": -1}, "stored must be an integer ≥ 0, got -1"),
    ({"fractions": [0.5, 0.5, 0.5]}, "must add up to at most 1, add up to 1.5"),
    ({"fractions": [0.5, 0.5]}, "must be three numbers"),
    ({"fractions": [0.5, -0.1, 0.5]}, "must lie in 0…1"),
    ({"fractions": [0.5, float("nan"), 0.5]}, "must lie in 0…1"),
    ({"fractions": [0, 0.5, 0.5]}, "something to train on"),
    ({"fractions": "abc"}, "must be three numbers"),
]


@pytest.mark.parametrize(("strategy", "message"), BAD)
def test_bad_strategy(strategy: Any, message: str) -> None:
    with pytest.raises(SpecError, match=r"^split") as caught:
        checked(strategy)
    assert message in str(caught.value)


def test_class_too_small_names_class_count_and_rule() -> None:
    with pytest.raises(SplitError, match=r"class 2 has 40 nodes, 30 \+ 20 asked for"):
        draw(LABELS, {"per_class": 30, "val_per_class": 20}, Rng(0))


def test_no_classes_in_regression() -> None:
    with pytest.raises(SplitError, match="regression targets; use fractions"):
        draw(torch.rand(10), {"per_class": 2}, Rng(0), regression=True)


def test_public_split_is_not_drawn() -> None:
    with pytest.raises(SplitError, match="'public' belongs to a dataset"):
        draw(LABELS, "public", Rng(0))


@pytest.mark.parametrize("k", [0, -1, 1.5, True])
def test_number_of_splits(k: Any) -> None:
    with pytest.raises(SplitError, match="k must be an integer ≥ 1"):
        splits.splits(graph(), k, Rng(0), per_class=5)


def test_nothing_to_redraw() -> None:
    with pytest.raises(SplitError, match="has no split to redraw"):
        splits.splits(graph(), 2, Rng(0))
    with pytest.raises(SplitError, match="has no labels"):
        splits.splits(graph(y=None), 2, Rng(0), per_class=5)
