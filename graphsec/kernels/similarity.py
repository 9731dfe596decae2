"""Numba kernels that compare sparse rows."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
from __future__ import annotations

from graphsec.kernels.sparse import jit


@jit
def overlap(indptr, indices, values, u, v, common, dots):
    """Number of common columns and inner product of rows u[p] and v[p]; columns are sorted."""
    for p in range(len(u)):
        a, b = indptr[u[p]], indptr[v[p]]
        enda, endb = indptr[u[p] + 1], indptr[v[p] + 1]
        count = 0
        dot = 0.0
        while a < enda and b < endb:
            i, j = indices[a], indices[b]
            if i == j:
                count += 1
                dot += values[a] * values[b]
                a += 1
                b += 1
            elif i < j:
                a += 1
            else:
                b += 1
        common[p] = count
        dots[p] = dot
