"""What is asked of an adjacency that is learned entry by entry, in O(n²)."""

from __future__ import annotations

from torch import Tensor

from graphsec.ops.adj import Adj


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


def dense(adj: Adj) -> Tensor:
    """(n, n) matrix of an adjacency, candidate pairs included; differentiable."""
    merged = adj.merged()
    assert merged.weight is not None
    zeros = merged.weight.new_zeros(adj.num_nodes, adj.num_nodes)
    return zeros.index_put(merged.csr.coo, merged.weight, accumulate=True)
