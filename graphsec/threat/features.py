"""What a budget lets an attacker do to features, and to nodes that were not there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from graphsec.graph import Graph
from graphsec.graph.arrays import as_scipy
from graphsec.outcome import Perturbation
from graphsec.threat.access import Budget, BudgetExceeded, share

SLACK = 1e-5  # relative: float32 arithmetic may end that far beyond a distance


@dataclass(frozen=True, eq=False)
class FeatureLimits:
    """The limits of features in one graph.

    Attributes:
        entries: Most entries changed in all.
        per_node: Most entries changed at a node.
        change: Largest distance that a node's features move, infinite without a limit.
        norm: "linf" or "l2".
        low: (d,) least value of each column.
        high: (d,) largest value.
        binary: Whether nothing but 0 and 1 is allowed.
        nonzero: Most entries of an injected node that are not 0.
    """

    entries: int
    per_node: int
    change: float
    norm: str
    low: Tensor
    high: Tensor
    binary: bool
    nonzero: int

    @staticmethod
    def of(budget: Budget, graph: Graph) -> FeatureLimits:
        """The limits that a budget sets in a graph.

        Raises:
            ValueError: The graph has no features.
        """
        if graph.x is None:
            raise ValueError(f"a budget of features needs x, found none in {graph.name!r}")
        n, d = graph.x.shape
        others = (budget.features_per_node, budget.feature_change)
        entries = n * d if any(limit is not None for limit in others) else 0
        per_node = d if budget.features_per_node is None else share(budget.features_per_node, d)
        matrix = _matrix(graph.x)
        fullest = int(matrix.getnnz(axis=1).max())
        values = matrix.data
        binary = budget.feature_range is None and bool(((values == 0) | (values == 1)).all())
        if budget.feature_range is None:
            low = np.minimum(matrix.min(axis=0).toarray().ravel(), 0)
            high = np.maximum(matrix.max(axis=0).toarray().ravel(), 0)
        else:
            low, high = (np.full(d, value, np.float32) for value in budget.feature_range)
        return FeatureLimits(
            entries=entries if budget.features is None else share(budget.features, n * d),
            per_node=per_node,
            change=np.inf if budget.feature_change is None else budget.feature_change,
            norm=budget.feature_norm,
            low=torch.from_numpy(low),
            high=torch.from_numpy(high),
            binary=binary,
            nonzero=fullest if budget.features_per_node is None else per_node,
        )

    def check_values(self, columns: Tensor, values: Tensor, what: str) -> None:
        """Refuse values (k,) of columns (k,) that lie outside of the range.

        Raises:
            BudgetExceeded: A value is outside of its range, or not 0 or 1 where all are.
        """
        low, high = self.low[columns], self.high[columns]
        out = ((values < low) | (values > high)).nonzero().ravel()
        if len(out):
            i = out[0]
            raise BudgetExceeded(
                f"budget.feature_range allows {float(low[i]):g}…{float(high[i]):g} in column "
                f"{int(columns[i])}, {what} have {float(values[i]):g}"
            )
        if self.binary and not bool(((values == 0) | (values == 1)).all()):
            odd = float(values[(values != 0) & (values != 1)][0])
            raise BudgetExceeded(
                f"budget.feature_range allows only 0 and 1, as the clean features have no others; "
                f"{what} have {odd:g}"
            )


def _matrix(x: Tensor) -> sp.csr_matrix:
    """Features as a scipy matrix without stored zeros."""
    matrix = as_scipy(x).copy()
    matrix.eliminate_zeros()
    return matrix


def feature_changes(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(nodes, columns, differences) of the entries that differ, each (k,); sparse or dense."""
    if before.layout == torch.strided or after.layout == torch.strided:
        difference = after.to_dense() - before.to_dense()
        rows, columns = difference.nonzero().T
        return rows, columns, difference[rows, columns]
    made = (_matrix(after) - _matrix(before)).tocoo()
    live = made.data != 0
    found = (made.row[live].astype(np.int64), made.col[live].astype(np.int64), made.data[live])
    rows, columns, values = (torch.from_numpy(part) for part in found)
    return rows, columns, values


def check_features(budget: Budget, outcome: Perturbation, graph: Graph) -> None:
    """Verify that changed features keep to the budget, in every world.

    Raises:
        BudgetExceeded: More was changed than allowed, or to values that are not allowed.
        GraphError: Features are not finite or not one row a node.
    """
    worlds = [outcome.world(graph, target).x for target in outcome.features_per_target]
    changed = [x for x in (outcome.x, *worlds) if x is not None]
    limits = FeatureLimits.of(budget, graph) if changed else None
    for x in changed:
        assert limits is not None
        _check_changed(limits, graph, x)


def _check_changed(limits: FeatureLimits, graph: Graph, x: Tensor) -> None:
    """Verify features (n, d) after an attack."""
    graph.replace(x=x)
    assert graph.x is not None
    if x.shape != graph.x.shape:
        raise ValueError(
            f"x must have shape {tuple(graph.x.shape)}, the outcome has {tuple(x.shape)}"
        )
    nodes, columns, moved = feature_changes(graph.x, x)
    if len(nodes) > limits.entries:
        raise BudgetExceeded(
            f"budget.features allows {limits.entries} changes, the outcome has {len(nodes)}"
        )
    if len(nodes) == 0:
        return
    count = torch.bincount(nodes, minlength=graph.num_nodes)
    node = int(count.argmax())
    if count[node] > limits.per_node:
        raise BudgetExceeded(
            f"budget.features_per_node allows {limits.per_node} changes at node {node}, "
            f"the outcome has {int(count[node])}"
        )
    far = distances(nodes, moved.double(), graph.num_nodes, limits.norm)
    node = int(far.argmax())
    if far[node] > limits.change * (1 + SLACK):
        raise BudgetExceeded(
            f"budget.feature_change allows {limits.change:g} ({limits.norm}) at node {node}, "
            f"the outcome has {float(far[node]):g}"
        )
    values = x.to_dense()[nodes, columns]
    limits.check_values(columns, values, f"the changed features of {graph.name!r}")


def distances(nodes: Tensor, moved: Tensor, n: int, norm: str) -> Tensor:
    """(n,) how far the features of each node moved, from differences (k,) at nodes (k,)."""
    zeros = moved.new_zeros(n)
    if norm == "l2":
        return zeros.index_add(0, nodes, moved.square()).sqrt()
    return zeros.scatter_reduce(0, nodes, moved.abs(), "amax")


def check_injection(budget: Budget, outcome: Perturbation, graph: Graph) -> None:
    """Verify that injected nodes keep to the budget.

    Raises:
        BudgetExceeded: There are more nodes, edges or features than allowed, or others.
        GraphError: The edges are not those of new nodes, or features are not finite.
    """
    new = outcome.injected
    if new is None:
        return
    graph.grow(new.x, new.edges)
    count, each = budget.injection(graph)
    if len(new.x) > count:
        raise BudgetExceeded(f"budget.nodes allows {count} nodes, the outcome has {len(new.x)}")
    if len(new.x) == 0:
        return
    degree = torch.bincount(new.edges.ravel(), minlength=graph.num_nodes + len(new.x))
    degree = degree[graph.num_nodes :]
    if degree.max() > each:
        raise BudgetExceeded(
            f"budget.edges_per_injected allows {each} edges at an injected node, "
            f"the outcome has {int(degree.max())}"
        )
    if graph.x is None:  # ranking graphs may do without
        return
    limits = FeatureLimits.of(budget, graph)
    full = (new.x != 0).sum(1)
    if full.max() > limits.nonzero:
        raise BudgetExceeded(
            f"budget.features_per_node allows {limits.nonzero} entries that are not 0 at an "
            f"injected node, the outcome has {int(full.max())}"
        )
    rows, columns = (new.x != 0).nonzero().T
    limits.check_values(columns, new.x[rows, columns], "injected nodes")
