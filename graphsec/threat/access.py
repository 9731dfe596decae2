"""What an attacker may see and change."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from graphsec.graph import Graph
from graphsec.registry import Component, SpecError, did_you_mean


class Access(enum.Flag):
    """What an attacker may see or do.

    Parts of the graph: FEATURES, EDGES, TRAIN_LABELS, TRUE_LABELS (of every node), SPLIT (who
    is in training), SENSITIVE, EDGE_COUNT, PARTIAL_EDGES (examples of edges and of non-edges,
    where the game reveals some), PARTIAL_ATTRIBUTES (the private attribute of some nodes, where
    the game reveals it). Of the victim: LABELS (predicted classes), SCORES (logits), HIDDEN
    (states of the layers), WEIGHTS (and so gradients through the model), GRADIENTS (of
    training), TRANSCRIPT (messages between parties), QUERY_INPUT (queries with own features or
    edges), RECIPE (may train models the same way).
    """

    NONE = 0
    FEATURES = enum.auto()
    EDGES = enum.auto()
    TRAIN_LABELS = enum.auto()
    TRUE_LABELS = enum.auto()
    SPLIT = enum.auto()
    SENSITIVE = enum.auto()
    EDGE_COUNT = enum.auto()
    LABELS = enum.auto()
    SCORES = enum.auto()
    HIDDEN = enum.auto()
    WEIGHTS = enum.auto()
    GRADIENTS = enum.auto()
    TRANSCRIPT = enum.auto()
    QUERY_INPUT = enum.auto()
    RECIPE = enum.auto()
    PARTIAL_EDGES = enum.auto()
    PARTIAL_ATTRIBUTES = enum.auto()

    @staticmethod
    def of(names: Access | str | list[str] | tuple[str, ...]) -> Access:
        """Access from names ("scores", ["weights", "edges"])."""
        if isinstance(names, Access):
            return names
        access = Access.NONE
        for name in [names] if isinstance(names, str) else names:
            if str(name).upper() not in Access.__members__:
                hint = did_you_mean(str(name).lower(), [n.lower() for n in Access.__members__])
                raise SpecError(f"threat.access: no access {name!r}; {hint}")
            access |= Access[str(name).upper()]
        return access

    @property
    def names(self) -> list[str]:
        """Names of the granted flags."""
        return [str(flag.name).lower() for flag in Access if flag and flag in self]


WHITE_BOX = (
    Access.FEATURES | Access.EDGES | Access.TRAIN_LABELS | Access.TRUE_LABELS | Access.SPLIT
    | Access.EDGE_COUNT | Access.LABELS | Access.SCORES | Access.HIDDEN | Access.WEIGHTS
    | Access.RECIPE | Access.QUERY_INPUT
)  # fmt: skip


class AccessDenied(PermissionError):
    """An attack asked for what its threat does not grant."""


class BudgetExceeded(ValueError):
    """An outcome goes beyond the threat's budget."""


Amount = Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class Budget(Component):
    """How much an attacker may change or ask; None means nothing may be changed, or no limit.

    A float from 0 to 1 is a fraction (of the edges, of a node's degree, of the nodes), an
    integer an absolute number. A local attack has the budgets of edges and of features anew for
    each target. ``edges`` and ``edges_per_node`` count pairs of nodes that are there; the edges of
    injected nodes have a limit of their own. What is changed or injected must look like what is
    there (``feature_range``).

    Attributes:
        edges: Edges flipped (None: no limit beyond ``edges_per_node`` where that is given).
        edges_per_node: Flips at any one node (None: no limit beyond ``edges``).
        nodes: Nodes injected; in ranking graphs users, a fraction being one of the users.
        edges_per_injected: Edges of an injected node (None: the mean degree, rounded up; of users
            in ranking graphs).
        features: Feature entries changed (None: no limit where another limit of features is
            given).
        features_per_node: Entries changed at any one node, as a fraction of all of its entries
            (None: no limit beyond ``features``); of an injected node the entries that are not 0
            (None: as many as the node with most of them has).
        feature_change: Largest distance by which the features of any one node move, in their
            own unit (None: no limit beyond the others).
        feature_norm: What the distance is: the largest entry ("linf") or the length ("l2").
        feature_range: Least and largest value of changed and injected entries. None: those of
            the column in the clean graph, 0 among them, and nothing but 0 and 1 where the
            clean features are nothing else.
        queries: Answers asked for (None: no limit).
        clients: Clients of a federation that are the attacker's.
        utility_drop: Largest loss of accuracy that goes unnoticed (None: no limit).
    """

    name: ClassVar[str] = "budget"
    kind: ClassVar[str] = "threat"

    edges: Amount | None = None
    edges_per_node: Amount | None = None
    nodes: Amount | None = None
    edges_per_injected: Annotated[int, Field(ge=1)] | None = None
    features: Amount | None = None
    features_per_node: Amount | None = None
    feature_change: Annotated[float, Field(ge=0)] | None = None
    feature_norm: Literal["linf", "l2"] = "linf"
    feature_range: tuple[float, float] | None = None
    queries: Annotated[int, Field(ge=0)] | None = None
    utility_drop: Annotated[float, Field(ge=0, le=1)] | None = None
    clients: Amount | None = None

    def spec(self) -> dict[str, Any]:
        """Without ``clients`` where there are none: cells from before it was there keep keys."""
        fields = super().spec()
        if self.clients is None:
            del fields["clients"]
        return fields

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.feature_range or (0, 0)
        if not -math.inf < low <= high < math.inf:
            raise SpecError(
                f"threat.budget.feature_range must rise and be finite, got {low:g}…{high:g}"
            )

    def edge_count(self, graph: Graph) -> int:
        """Largest number of flips in ``graph``: ``edges``, or what the node budgets can hold.

        Raises:
            SpecError: The graph has fewer pairs than ``edges``.
        """
        n = graph.num_nodes
        pairs = n * (n - 1) // (1 if graph.directed else 2)
        if self.edges is None:
            each = self.node_count(graph)
            return 0 if each is None else min(pairs, int(each.sum()) // 2)  # a flip has two ends
        count = share(self.edges, graph.num_edges)
        if count > pairs:
            raise SpecError(
                f"threat.budget.edges must be at most the {pairs} pairs of {graph.name!r}, "
                f"got {count}"
            )
        return count

    def node_count(self, graph: Graph) -> Tensor | None:
        """(n,) largest number of flips at each node, None without a limit."""
        if self.edges_per_node is None:
            return None
        if isinstance(self.edges_per_node, float):
            return (graph.degree * self.edges_per_node).floor().to(torch.int64)
        return torch.full((graph.num_nodes,), self.edges_per_node, dtype=torch.int64)

    def injection(self, graph: Graph) -> tuple[int, int]:
        """Largest number of injected nodes, and of edges at each of them."""
        if graph.task == "ranking":  # new nodes are users
            many, degrees = graph.num_users, graph.num_edges
        else:
            many, degrees = graph.num_nodes, len(graph.indices)
        count, mean = share(self.nodes, many), math.ceil(degrees / many)
        return count, mean if self.edges_per_injected is None else self.edges_per_injected


def share(amount: int | float | None, total: int) -> int:
    """How many an amount is: a float is a fraction of ``total``, None is none."""
    if isinstance(amount, float):
        return math.floor(amount * total + 1e-9)
    return amount or 0


def known_fields(fields: Mapping[str, Any], cls: type[Any], where: str) -> None:
    """Refuse a mapping with a key that is no field of ``cls``."""
    known = [f.name for f in dataclasses.fields(cls)]
    for field in fields:
        if field not in known:
            raise SpecError(f"{where} has no field {field!r}; {did_you_mean(field, known)}")
