"""What a private node may look like: features from a known alphabet, and how many neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from graphsec.attacks.leakage.grain.span import Span
from graphsec.graph import Graph
from graphsec.models.base import inputs

ROWS = 20_000  # candidates that are held at once


@dataclass(frozen=True, eq=False)
class Kinds:
    """Candidate nodes.

    Attributes:
        x: (K, d) features.
        degree: (K,) number of neighbours.
    """

    x: np.ndarray
    degree: np.ndarray


@dataclass(frozen=True, eq=False)
class Alphabet:
    """What is known of all nodes: the values of their features, and what those tell of degrees.

    Attributes:
        blocks: (start, end) columns of one-hot blocks, which follow each other; without them
            whole rows of known nodes are the candidates.
        rows: (R, d) distinct rows of known nodes.
        degree_of: Column → number of neighbours, where a block of columns tells it; else empty.
        max_degree: Most neighbours of a known node.
    """

    blocks: list[tuple[int, int]]
    rows: np.ndarray
    degree_of: dict[int, int]
    max_degree: int

    @staticmethod
    def of(known: Graph) -> Alphabet:
        """The alphabet of a known graph.

        Raises:
            ValueError: Features are continuous, or no edge is known.
        """
        x = inputs(known).to_dense()
        values = torch.unique(x)
        if not set(values.tolist()) <= {0.0, 1.0}:
            raise ValueError(
                "attack 'grain' tries discrete features one after the other: x must hold 0 and 1 "
                f"only, found {len(values)} values from {float(values[0]):g} to "
                f"{float(values[-1]):g}"
            )
        degree = known.degree
        if int(degree.max()) == 0:
            raise ValueError("attack 'grain' reads off known graphs how nodes are joined: none are")
        blocks = one_hot_blocks(x)
        rows = torch.unique(x, dim=0)
        return Alphabet(
            blocks, rows.double().numpy(), _degrees(x, degree, blocks), int(degree.max())
        )

    def kinds(self, span: Span) -> Kinds:
        """Nodes whose features lie in the span of the first layer's gradient, block by block.

        Raises:
            ValueError: There are too many candidates.
        """
        if not self.blocks:
            x = self.rows[span.holds(self.rows)]
        else:
            x = np.zeros((1, 0))
            for start, end in self.blocks:
                one = np.eye(end - start)
                x = np.hstack([np.repeat(x, len(one), 0), np.tile(one, (len(x), 1))])
                if len(x) > ROWS:
                    raise ValueError(
                        f"attack 'grain': {len(x):,} candidates for the features of a node are "
                        f"more than {ROWS:,}"
                    )
                x = x[span.of_rows(end).holds(x)]
        return self._with_degrees(x)

    def seen(self, present: np.ndarray) -> Kinds:
        """Known nodes that have no feature outside of ``present`` (d,)."""
        return self._with_degrees(self.rows[(self.rows[:, ~present] == 0).all(1)])

    def _with_degrees(self, x: np.ndarray) -> Kinds:
        """The degree that features tell, or else each in turn."""
        if self.degree_of:
            told = np.full(self.rows.shape[1], -1)
            told[list(self.degree_of)] = list(self.degree_of.values())
            degree = np.where(x > 0, told, -1).max(1)
            keep = degree >= 0
            return Kinds(x[keep], degree[keep])
        all_degrees = np.arange(1, self.max_degree + 1)
        return Kinds(np.repeat(x, len(all_degrees), 0), np.tile(all_degrees, len(x)))


def one_hot_blocks(x: torch.Tensor) -> list[tuple[int, int]]:
    """Columns (start, end) of which every row has exactly one 1; empty where x is not of that form.

    Blocks are as short as they can be; columns that are always 0 belong to the block before.
    """
    blocks, start = [], 0
    total = torch.zeros(len(x))
    for column in range(x.shape[1]):
        total = total + x[:, column]
        if bool((total > 1).any()):
            return []
        if bool((total == 1).all()):
            blocks.append((start, column + 1))
            start, total = column + 1, torch.zeros(len(x))
    if bool(total.any()) or not blocks:
        return []
    blocks[-1] = (blocks[-1][0], x.shape[1])
    return blocks


def _degrees(
    x: torch.Tensor, degree: torch.Tensor, blocks: list[tuple[int, int]]
) -> dict[int, int]:
    """Column → degree, of the last block whose columns each go with one degree only."""
    for start, end in reversed(blocks):
        column, found = x[:, start:end].argmax(1), {}
        for c in torch.unique(column).tolist():
            these = torch.unique(degree[column == c])
            if len(these) > 1:
                break
            found[start + c] = int(these)
        else:
            return found
    return {}
