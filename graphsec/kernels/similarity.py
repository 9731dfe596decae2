"""Numba kernels that compare sparse rows."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
from __future__ import annotations

from graphsec.kernels.sparse import jit


@jit
def overlap(indptr, indices, values, u, v, value, present, common, dots):
    """Number of common columns and inner product of rows u[p] and v[p].

    ``value`` and ``present`` are zeros, one a column: row u[p] is spread out over them, and stays
    while the next pair has the same u, so that pairs sorted by u are fast.
    """
    spread = -1
    for p in range(len(u)):
        i, j = u[p], v[p]
        if i != spread:
            if spread >= 0:
                for q in range(indptr[spread], indptr[spread + 1]):
                    value[indices[q]] = 0
                    present[indices[q]] = 0
            for q in range(indptr[i], indptr[i + 1]):
                value[indices[q]] = values[q]
                present[indices[q]] = 1
            spread = i
        count = 0
        dot = 0.0
        for q in range(indptr[j], indptr[j + 1]):
            column = indices[q]
            count += present[column]
            dot += value[column] * values[q]
        common[p] = count
        dots[p] = dot
