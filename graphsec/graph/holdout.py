"""Interactions kept out of a ranking graph, to validate and to test on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from graphsec.graph.arrays import GraphError, edge_array

if TYPE_CHECKING:
    from graphsec.graph.container import Graph


@dataclass(frozen=True)
class Holdout:
    """Held-out interactions of a ranking graph: (2, k) pairs of a user and an item node.

    Attributes:
        val: Pairs to stop and select on (any number, also none).
        test: Pairs to be measured by.
        val_y: (k,) ratings of the validation pairs, where the task is "rating".
        test_y: (k,) ratings of the test pairs.
    """

    val: Tensor
    test: Tensor
    val_y: Tensor | None = None
    test_y: Tensor | None = None

    @staticmethod
    def of(val: Any, test: Any, val_y: Any = None, test_y: Any = None) -> Holdout:
        """Holdout from (2, k) or (k, 2) integers; (2, 2) is read as (2, k)."""
        pairs = (torch.from_numpy(edge_array(part)) for part in (val, test))
        ratings = (
            None if y is None else torch.as_tensor(y, dtype=torch.float32) for y in (val_y, test_y)
        )
        return Holdout(*pairs, *ratings)

    @staticmethod
    def made(holdout: Any) -> Holdout | None:
        """A holdout from a holdout, a mapping with val and test, or a sequence of two."""
        if holdout is None or isinstance(holdout, Holdout):
            return holdout
        parts = [holdout[k] for k in ("val", "test")] if isinstance(holdout, dict) else holdout
        return Holdout.of(*parts)

    def items(self) -> list[tuple[str, Tensor]]:
        """(name, pairs) pairs."""
        return [("val", self.val), ("test", self.test)]

    def tensors(self) -> list[Tensor]:
        """Pairs, and ratings where there are any."""
        return [part for part in vars(self).values() if part is not None]

    def to(self, device: torch.device | str) -> Holdout:
        """The holdout on a device."""
        moved = (None if part is None else part.to(device) for part in vars(self).values())
        return Holdout(*moved)  # type: ignore[arg-type]

    def kept(self, val: Tensor, test: Tensor) -> Holdout:
        """The pairs of two masks, with their ratings."""
        ratings = (
            None if y is None else y[mask]
            for y, mask in ((self.val_y, val), (self.test_y, test))
        )  # fmt: skip
        return Holdout(self.val[:, val], self.test[:, test], *ratings)

    def without(self, edges: Tensor, n: int) -> Holdout:
        """The holdout without the pairs among ``edges`` (2, m, in either order) of n nodes."""
        low, high = edges.min(0).values, edges.max(0).values
        taken = low * n + high
        return self.kept(*(~torch.isin(part[0] * n + part[1], taken) for _, part in self.items()))

    def renumbered(self, place: Tensor) -> Holdout:
        """The pairs under new node numbers, (n,) with −1 where a node is gone."""
        val, test = (place[part] for _, part in self.items())
        moved = Holdout(val, test, self.val_y, self.test_y)
        return moved.kept((val >= 0).all(0), (test >= 0).all(0))


def check_ranking(g: Graph) -> None:
    """Check the rules of ranking and rating graphs; the first broken one is raised."""
    if g.task not in ("ranking", "rating"):
        if g.holdout is not None:
            raise GraphError(
                f"holdout must be None unless task is 'ranking' or 'rating', found {g.task!r}"
            )
        return
    if g.node_type is None:
        raise GraphError(f"node_type is missing: {g.task} needs 0 for users, 1 for items")
    if not ((g.node_type == 0) | (g.node_type == 1)).all() or (g.node_type.diff() < 0).any():
        raise GraphError("node_type must be 0 for users, then 1 for items, in ranking graphs")
    users = g.num_users
    if not 0 < users < g.num_nodes:
        raise GraphError(f"node_type must have users and items, found {users} users")
    if g.directed:
        raise GraphError("directed must be False in ranking graphs")
    u, v = g.pairs
    if len(u) and (int(u.max()) >= users or int(v.min()) < users):
        raise GraphError(
            f"edges must join a user (0…{users - 1}) and an item ({users}…{g.num_nodes - 1}) "
            "in ranking graphs"
        )
    if g.holdout is not None:
        _check_holdout(g, g.holdout)


def _check_holdout(g: Graph, holdout: Holdout) -> None:
    n, users = g.num_nodes, g.num_users
    for part, pairs in holdout.items():
        if pairs.dim() != 2 or pairs.shape[0] != 2 or pairs.dtype != torch.int64:
            raise GraphError(
                f"holdout.{part} must be (2, k) int64, found {pairs.dtype} {tuple(pairs.shape)}"
            )
        user, item = pairs
        is_user, is_item = (user >= 0) & (user < users), (item >= users) & (item < n)
        if not (is_user & is_item).all():
            raise GraphError(
                f"holdout.{part} must hold users 0…{users - 1} and then items {users}…{n - 1}, "
                f"found {user.min()}…{user.max()} and {item.min()}…{item.max()}"
            )
        if g.has_edges(pairs).any():
            u, i = pairs[:, g.has_edges(pairs)][:, 0].tolist()
            raise GraphError(f"holdout.{part} must be disjoint from the edges, found ({u}, {i})")
    keys = torch.cat([pairs[0] * n + pairs[1] for _, pairs in holdout.items()])
    once, counts = torch.unique(keys, return_counts=True)
    if (counts > 1).any():
        key = int(once[counts > 1][0])
        raise GraphError(f"holdout must list each pair once, found ({key // n}, {key % n}) twice")
    for part, pairs in holdout.items():
        y = getattr(holdout, f"{part}_y")
        if y is None and g.task == "rating":
            raise GraphError(f"holdout.{part}_y is missing: rating graphs need the ratings")
        if y is not None and (y.shape != pairs.shape[1:] or not torch.isfinite(y).all()):
            raise GraphError(
                f"holdout.{part}_y must be finite, one for each of the {pairs.shape[1]} pairs, "
                f"found shape {tuple(y.shape)}"
            )
