"""Which pairs an attack on links is to score."""

from __future__ import annotations

import torch
from torch import Tensor

from graphsec.threat import View

_ALL_PAIRS = 5_000  # nodes up to which every pair is scored when no question is asked


def asked(view: View, name: str) -> Tensor:
    """(2, k) the pairs in question; all pairs of a small graph where none is asked about.

    Raises:
        ValueError: None is asked about, and there are too many.
    """
    if view.question is not None:
        return view.question
    n = view.known.num_nodes
    if n > _ALL_PAIRS:
        raise ValueError(
            f"attack {name!r} scores all pairs of up to {_ALL_PAIRS} nodes, "
            f"{view.known.name!r} has {n}: pass question=secret.question"
        )
    return torch.triu_indices(n, n, 1)
