"""What is asked of an adjacency that is learned entry by entry, in O(n²)."""

from __future__ import annotations

from torch import Tensor


def smoothness(s: Tensor, gram: Tensor) -> Tensor:
    """tr(Xᵀ D^-½ (D − S) D^-½ X) = ½ Σ_uv S_uv ‖x_u / √d_u − x_v / √d_v‖².

    Args:
        s: (n, n) symmetric weights.
        gram: (n, n) X Xᵀ.
    """
    degree = s.sum(1)
    factor = (degree + 1e-3).rsqrt()
    square = degree * factor.square() * gram.diagonal()
    return square.sum() - factor @ (s * gram) @ factor
