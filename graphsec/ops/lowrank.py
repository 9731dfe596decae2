"""The best approximation of an adjacency among those of low rank."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.linalg import eigsh, svds
from torch import Tensor

from graphsec.ops.adj import Adj
from graphsec.ops.functions import spmm
from graphsec.ops.structure import CSR

SMALL = 512  # nodes up to which a dense decomposition is as fast, and finds what is degenerate


def low_rank(adj: Adj, rank: int, *, frozen: bool = False) -> Adj:
    """A_r = U Σ Vᵀ with the r leading singular vectors of A, kept as factors.

    Computed as U Uᵀ A + A V Vᵀ − U Uᵀ A V Vᵀ, which at A's own singular vectors is A_r, and
    differentiated with U and V held fixed. That is the projection onto the tangent space of the
    matrices of rank r, and so the derivative of A_r itself as far as the dropped singular values
    are small against the kept ones (exactly if they are 0). The full derivative, which grows
    without bound as the gap at r closes, is not offered.

    Args:
        adj: Plain adjacency, candidate pairs included.
        rank: r; from the number of nodes on the adjacency is its own approximation.
        frozen: Take the singular vectors of the clean edges, without the candidate pairs: then
            the result is linear in the weights.

    Returns:
        An adjacency of entries of any sign, in (n, 2r) factors.
    """
    merged = adj.merged()
    csr, weight = merged.csr, merged.weight
    assert weight is not None
    if rank >= adj.num_nodes or not bool(weight.any()):
        return adj
    source = replace(adj, block=None).merged() if frozen else merged
    u, v = (part.to(weight) for part in _singular_vectors(source, rank))
    w = weight.unsqueeze(-1)
    sent = spmm(csr, w, v.unsqueeze(1)).squeeze(1)  # A V
    received = spmm(csr.T, w, u.unsqueeze(1)).squeeze(1)  # Aᵀ U
    left = torch.cat([sent - u @ (u.T @ sent), u], dim=1)
    right = torch.cat([v, received], dim=1)
    empty = CSR(torch.zeros_like(csr.indptr), csr.indices[:0], csr.num_cols)
    return Adj(csr=empty, factors=(left, right))


def _singular_vectors(adj: Adj, rank: int) -> tuple[Tensor, Tensor]:
    """(n, rank) left and right singular vectors, the same whenever the matrix is the same."""
    n, weight = adj.num_nodes, adj.weight
    assert weight is not None
    parts = weight.detach().double(), adj.csr.indices, adj.csr.indptr
    values, indices, indptr = (part.cpu().numpy() for part in parts)
    matrix = sp.csr_matrix((values, indices, indptr), shape=(n, n), copy=True)
    matrix.eliminate_zeros()  # most candidate pairs
    start = np.random.default_rng(0).standard_normal(n)
    if n <= max(SMALL, 4 * rank):
        u, _, vt = np.linalg.svd(matrix.toarray())
        u, v = u[:, :rank], vt[:rank].T
    elif (matrix != matrix.T).nnz:
        u, _, vt = svds(matrix, k=rank, v0=start)
        v = vt.T
    else:  # AᵀA would make one singular value of λ and −λ, of which Lanczos may miss one
        u = v = eigsh(matrix, k=rank, v0=start)[1]
    return torch.from_numpy(np.ascontiguousarray(u)), torch.from_numpy(np.ascontiguousarray(v))
