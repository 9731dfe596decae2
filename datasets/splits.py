"""Split strategies: pure functions from labels to training, validation and test nodes.

A strategy is a string or a one-purpose dictionary, so that it fits in TOML and in a cell's key:

* ``"public"``: the split published with the dataset;
* ``{"stored": k}``: the k-th of the splits stored in the file;
* ``{"per_class": 20, "val_per_class": 20}``: so many nodes of every class, the rest tests;
* ``{"fractions": [0.1, 0.1, 0.8]}``: shares of every class (of all nodes in regression);
* ``"none"``: no split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
from torch import Tensor

from graphsec.graph import Graph, Split
from graphsec.registry import SpecError, did_you_mean
from graphsec.rng import Rng

Strategy = str | dict[str, Any]

_NAMES = ["public", "none"]
_KEYS = ["stored", "per_class", "val_per_class", "fractions"]


class SplitError(ValueError):
    """A strategy can't be carried out on these labels."""


def checked(strategy: Any, field: str = "split") -> Strategy:
    """A strategy in its normal form.

    Args:
        strategy: See the module.
        field: Name for messages.

    Raises:
        SpecError: It isn't one.
    """
    if isinstance(strategy, str):
        if strategy not in _NAMES:
            raise SpecError(f"{field}: no strategy {strategy!r}; {did_you_mean(strategy, _NAMES)}")
        return strategy
    if not isinstance(strategy, Mapping):
        _wrong(field, "must be a name or a dictionary", strategy)
    for key in strategy:
        if key not in _KEYS:
            raise SpecError(f"{field} has no field {key!r}; {did_you_mean(str(key), _KEYS)}")
    keys = set(strategy)
    if keys == {"stored"}:
        return {"stored": _whole(strategy["stored"], 0, f"{field}.stored")}
    if keys in ({"per_class"}, {"per_class", "val_per_class"}):
        train = _whole(strategy["per_class"], 1, f"{field}.per_class")
        val = _whole(strategy.get("val_per_class", 0), 0, f"{field}.val_per_class")
        return {"per_class": train, "val_per_class": val}
    if keys == {"fractions"}:
        return {"fractions": _fractions(strategy["fractions"], f"{field}.fractions")}
    _wrong(field, "must be one of stored, per_class (with val_per_class) or fractions", strategy)


def is_drawn(strategy: Strategy) -> bool:
    """Whether the strategy draws nodes at random (rather than taking a published split)."""
    return isinstance(strategy, dict) and "stored" not in strategy


def draw(labels: Tensor, strategy: Strategy, rng: Rng, *, regression: bool = False) -> Split:
    """Draw a split.

    Args:
        labels: (n,) classes, −1 for nodes that may be in no part; or targets in regression.
        strategy: Per-class counts or fractions.
        rng: Stream that decides.
        regression: Whether labels are targets: then there are no classes.

    Raises:
        SplitError: A class is too small, or there are no classes to count.
    """
    made = checked(strategy)
    if not isinstance(made, dict) or "stored" in made:
        raise SplitError(f"split {made!r} belongs to a dataset and can't be drawn from labels")
    if regression:
        if "per_class" in made:
            raise SplitError(
                "split.per_class needs classes, found regression targets; use fractions"
            )
        groups = [np.arange(len(labels))]
    else:
        groups = _groups(labels)
    generator = rng.numpy()
    parts: tuple[list[np.ndarray], ...] = ([], [], [])
    for group in groups:
        order = generator.permutation(group)
        label = None if regression else int(labels[group[0]])
        cuts = np.cumsum([0, *_counts(made, len(group), label)])
        for number, part in enumerate(parts):
            part.append(order[cuts[number] : cuts[number + 1]])
    return Split.of(*(np.sort(np.concatenate(part)) for part in parts))


def reshuffle(graph: Graph, rng: Rng) -> Split:
    """Draw a split with as many nodes of every class in every part as the graph's own.

    Raises:
        SplitError: The graph has no split or no labels.
    """
    if graph.split is None or graph.y is None:
        raise SplitError(f"{graph.name} has no split to redraw; give fractions or per_class")
    classes = graph.task != "regression"
    groups = _groups(graph.y) if classes else [np.arange(graph.num_nodes)]
    generator = rng.numpy()
    part_of = np.full(graph.num_nodes, -1)
    for number, (_, index) in enumerate(graph.split.items()):
        part_of[index.numpy()] = number
    fresh = np.full(graph.num_nodes, -1)
    for group in groups:
        fresh[group] = generator.permutation(part_of[group])
    return Split.of(*((fresh == number).nonzero()[0] for number in range(3)))


def splits(graph: Graph, k: int, rng: Rng, **strategy: Any) -> list[Graph]:
    """The graph k times, each with a split from its own stream.

    Args:
        graph: A graph with labels.
        k: How many.
        rng: Parent of the streams; the i-th graph uses ``rng[i]``.
        **strategy: ``fractions=…`` or ``per_class=…, val_per_class=…``; without any, the
            graph's own split is redrawn with the same counts of every class in every part.

    Raises:
        SplitError: The strategy can't be carried out.
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise SplitError(f"k must be an integer ≥ 1, got {k!r}")
    if graph.y is None:
        raise SplitError(f"{graph.name} has no labels, so there is nothing to split")
    made = []
    for number in range(k):
        stream = rng[number]
        part = (
            draw(graph.y, strategy, stream, regression=graph.task == "regression")
            if strategy
            else reshuffle(graph, stream)
        )
        made.append(graph.replace(split=part))
    return made


def _groups(labels: Tensor) -> list[np.ndarray]:
    """Nodes of each class, in the order of classes; unlabelled nodes are in none."""
    values = labels.cpu().numpy()
    order = np.argsort(values, kind="stable")
    classes, first = np.unique(values[order], return_index=True)
    groups = np.split(order, first[1:])
    return [group for label, group in zip(classes, groups, strict=True) if label >= 0]


def _counts(strategy: dict[str, Any], found: int, label: int | None) -> tuple[int, int, int]:
    """How many nodes of a class of ``found`` go into each part."""
    if "per_class" in strategy:
        train, val = strategy["per_class"], strategy["val_per_class"]
        if train + val > found:
            raise SplitError(
                f"split.per_class + split.val_per_class must be at most the size of every class: "
                f"class {label} has {found} nodes, {train} + {val} asked for"
            )
        return train, val, found - train - val
    ends = np.cumsum(strategy["fractions"]) * found
    train, val, test = (int(np.floor(end + 0.5 + 1e-9)) for end in ends)
    # No class may be without a training node where it can have one.
    train = max(train, 1)
    val, test = max(val, train), max(test, train)
    return train, val - train, test - val


def _fractions(value: Any, field: str) -> list[float]:
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 3:
        _wrong(field, "must be three numbers (train, validation, test)", value)
    for share in value:
        number = isinstance(share, int | float) and not isinstance(share, bool)
        if not number or not 0 <= share <= 1:
            _wrong(field, "must lie in 0…1", value)
    if value[0] <= 0:
        _wrong(field, "must leave something to train on", value)
    if sum(value) > 1 + 1e-9:
        _wrong(field, f"must add up to at most 1, add up to {sum(value):g}", value)
    return [float(share) for share in value]


def _whole(value: Any, low: int, field: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        _wrong(field, f"must be an integer ≥ {low}", value)
    return value


def _wrong(field: str, rule: str, value: object) -> NoReturn:
    raise SpecError(f"{field} {rule}, got {value!r}")
