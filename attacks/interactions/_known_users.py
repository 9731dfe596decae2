"""From numbers about users, and what a few users took, to what the others took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from graphsec.rng import Rng

CUTS = (0.1, 0.03, 0.01, 1e-3, 1e-4)  # of singular values, below which directions are noise
PENALTIES = (1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, 1000.0)
_FOLDS = 5


def taken_by(examples: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """(users (k,), items (m,), (k, m) 0 or 1) of examples that hold all items of each user.

    Raises:
        ValueError: They are not all pairs of some users and some items.
    """
    pairs, truth = examples
    users, row = torch.unique(pairs[0], return_inverse=True)
    items, column = torch.unique(pairs[1], return_inverse=True)
    if len(truth) != len(users) * len(items):
        raise ValueError(
            f"examples must be all pairs of {len(users)} users and {len(items)} items, found "
            f"{len(truth)} pairs"
        )
    table = torch.zeros(len(users), len(items), dtype=torch.float64)
    table[row, column] = truth.double()
    return users, items, table


def weighted(taken: Tensor) -> Tensor:
    """Each user's row over the root of how many items it holds, as normalised sums weigh them."""
    return taken / taken.sum(1, keepdim=True).clamp(min=1).sqrt()


def look_up(table: Tensor, items: Tensor, pairs: Tensor) -> Tensor:
    """(k,) entries of a table (users, items) at pairs of nodes.

    Raises:
        ValueError: A pair is about an item of which there are no examples.
    """
    place = torch.searchsorted(items, pairs[1]).clamp(max=len(items) - 1)
    if not torch.equal(items[place], pairs[1]):
        raise ValueError("pairs asked about must be of items that the examples are about")
    return table[pairs[0], place]


def scored(candidates: Sequence[Tensor], users: Tensor, taken: Tensor, rng: Rng) -> Tensor:
    """(n, items) scores: a linear map from what is known of users, learned from some of them.

    What is known is whitened and cut, and the map fitted with a ridge penalty: which of the
    candidates, which cut and which penalty is decided by cross-validation among the known users
    (five folds, squared error).

    Args:
        candidates: (n, d) numbers about all users, each a way to read them.
        users: (k,) whose items are known.
        taken: (k, items) 0 or 1.
        rng: Stream of the folds.

    Raises:
        ValueError: Fewer than two users are known.
    """
    if len(users) < 2:
        raise ValueError(f"examples must be of at least 2 users, found {len(users)}")
    wanted = weighted(taken)
    fold = torch.from_numpy(rng.numpy().permutation(len(users)) % _FOLDS)
    best, chosen = float("inf"), (candidates[0].new_zeros(len(candidates[0]), 1).double(), 1.0)
    for candidate in candidates:
        white = _whitened(candidate.double())
        for rank in _ranks(white):
            columns = white.left[:, :rank] * (len(candidate) / rank) ** 0.5
            errors = _errors(columns[users], wanted, fold)
            if errors.min() < best:
                best, chosen = float(errors.min()), (columns, PENALTIES[int(errors.argmin())])
    columns, penalty = chosen
    mine, mean = columns[users], wanted.mean(0)
    kernel = mine @ mine.T + penalty * torch.eye(len(mine), dtype=torch.float64)
    table: Tensor = mean + columns @ (mine.T @ torch.linalg.solve(kernel, wanted - mean))
    return table


@dataclass(frozen=True, eq=False)
class _White:
    """Directions (n, r) in which rows differ, and how much, falling."""

    left: Tensor
    size: Tensor


def _whitened(values: Tensor) -> _White:
    """By the eigenvectors of the smaller Gram matrix: directions below 1e-7 are not to be had."""
    values = values - values.mean(0)
    wide = values.shape[1] > len(values)
    value, vector = torch.linalg.eigh(values @ values.T if wide else values.T @ values)
    size = value.clamp(min=0).sqrt().flip(0)
    keep = size > CUTS[-1] * size[0]
    vector, size = vector.flip(1)[:, keep], size[keep]
    return _White(vector if wide else values @ vector / size, size)


def _ranks(white: _White) -> list[int]:
    """How many directions each cut leaves; none where rows don't differ."""
    size = white.size
    return sorted({int((size > cut * size[0]).sum()) for cut in CUTS}) if len(size) else []


def _errors(columns: Tensor, wanted: Tensor, fold: Tensor) -> np.ndarray:
    """(penalties,) squared error on users left out."""
    errors = np.zeros(len(PENALTIES))
    for part in torch.unique(fold):
        out = fold == part
        kernel, mean = columns[~out] @ columns[~out].T, wanted[~out].mean(0)
        value, vector = torch.linalg.eigh(kernel)
        inside = vector.T @ (wanted[~out] - mean)
        across = columns[out] @ columns[~out].T @ vector
        for i, penalty in enumerate(PENALTIES):
            guess = mean + across @ (inside / (value.clamp(min=0) + penalty).unsqueeze(1))
            errors[i] += float((guess - wanted[out]).square().sum())
    return errors
