"""Numba kernels for the weighted median and Soft Median of each neighbourhood."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
from __future__ import annotations

import numpy as np

from graphsec.kernels.sparse import jit

# A cumulative weight that reaches half up to this relative error counts as half, so that exact
# ties (equal weights, even counts) fall the same way whatever the order of the additions.
HALF = 1 - 1e-5


@jit
def _select(values, weights, count, half):
    """Smallest value whose cumulative weight reaches ``half`` (quickselect, in place)."""
    low, high = 0, count - 1
    below = 0.0
    while low < high:
        a, b, c = values[low], values[(low + high) >> 1], values[high]
        pivot = max(min(a, b), min(max(a, b), c))
        left, right = low, high
        while left <= right:
            while values[left] < pivot:
                left += 1
            while values[right] > pivot:
                right -= 1
            if left <= right:
                values[left], values[right] = values[right], values[left]
                weights[left], weights[right] = weights[right], weights[left]
                left += 1
                right -= 1
        part = 0.0
        for q in range(low, right + 1):
            part += weights[q]
        if below + part >= half:
            high = right
        else:
            middle = 0.0
            for q in range(right + 1, left):
                middle += weights[q]
            if below + part + middle >= half:
                low = right + 1
                high = low
            else:
                below += part + middle
                low = min(left, high)
    return values[low]


@jit
def argmedian(indptr, indices, w, h, out):
    """out[i, k] = the entry p of row i whose h[indices[p], k] is the weighted lower median.

    The lower median is the smallest value whose cumulative weight reaches half of the row's;
    among entries of equal value the first in the row is taken. Entries of weight 0 are absent;
    a row without weight gets −1.
    """
    width = h.shape[1]
    longest = 0
    for i in range(len(indptr) - 1):
        longest = max(longest, indptr[i + 1] - indptr[i])
    present = np.empty(longest, np.int64)
    rows = np.empty((longest, width), h.dtype)
    weights = np.empty(longest, h.dtype)
    values, scratch = np.empty(longest, h.dtype), np.empty(longest, h.dtype)
    best, below = np.empty(width, h.dtype), np.empty(width, h.dtype)
    index = np.empty(width, np.int32)
    for i in range(len(indptr) - 1):
        count = 0
        total = 0.0
        for p in range(indptr[i], indptr[i + 1]):
            if w[p] > 0:
                present[count] = p
                weights[count] = w[p]
                rows[count] = h[indices[p]]
                count += 1
                total += w[p]
        half = h.dtype.type(0.5 * total * HALF)
        if count == 0:
            out[i, :] = -1
        elif count <= 128:  # counting: quadratic, but branch-free over the width
            best[:] = np.inf
            index[:] = 0
            for a in range(count):
                candidate = rows[a]
                below[:] = 0
                for b in range(count):
                    other, weight = rows[b], weights[b]
                    for k in range(width):
                        below[k] += weight if other[k] <= candidate[k] else h.dtype.type(0)
                for k in range(width):
                    better = (below[k] >= half) & (candidate[k] < best[k])
                    best[k] = candidate[k] if better else best[k]
                    index[k] = a if better else index[k]
            for k in range(width):
                out[i, k] = present[index[k]]
        else:
            for k in range(width):
                for a in range(count):
                    values[a] = rows[a, k]
                    scratch[a] = weights[a]
                median = _select(values, scratch, count, half)
                for a in range(count):
                    if rows[a, k] == median:
                        out[i, k] = present[a]
                        break


@jit
def soft_median(indptr, indices, w, h, arg, scale, out, ratio, distance, total):
    """Forward pass; ``ratio`` gets exp(−c)/Σ w·exp(−c), ``distance`` ‖x − median‖, both (E,)."""
    width = h.shape[1]
    median = np.empty(width, h.dtype)
    for i in range(len(indptr) - 1):
        out[i, :] = 0
        total[i] = 0
        if indptr[i] == indptr[i + 1] or arg[i, 0] < 0:
            for p in range(indptr[i], indptr[i + 1]):
                ratio[p] = 0
                distance[p] = 0
            continue
        for k in range(width):
            median[k] = h[indices[arg[i, k]], k]
        nearest = np.inf
        for p in range(indptr[i], indptr[i + 1]):
            x = h[indices[p]]
            s = h.dtype.type(0)
            for k in range(width):
                s += (x[k] - median[k]) * (x[k] - median[k])
            distance[p] = np.sqrt(s)
            total[i] += w[p]
            if w[p] > 0 and distance[p] < nearest:
                nearest = distance[p]
        norm = h.dtype.type(0)
        for p in range(indptr[i], indptr[i + 1]):
            ratio[p] = np.exp(min((nearest - distance[p]) * scale, h.dtype.type(30)))
            norm += w[p] * ratio[p]
        for p in range(indptr[i], indptr[i + 1]):
            ratio[p] /= norm
            share = total[i] * w[p] * ratio[p]
            if share != 0:
                x = h[indices[p]]
                for k in range(width):
                    out[i, k] += share * x[k]


@jit
def soft_median_rows(
    indptr, indices, w, h, arg, scale, out, ratio, distance, total, g, direct, pull, gw, gmedian
):
    """Backward pass over rows: gradients of weights and medians, and what each entry passes on.

    ``direct`` is the share of g that reaches x, ``pull`` the factor of (x − median).
    """
    width = h.shape[1]
    median = np.empty(width, h.dtype)
    for i in range(len(indptr) - 1):
        gmedian[i, :] = 0
        if indptr[i] == indptr[i + 1] or arg[i, 0] < 0:
            for p in range(indptr[i], indptr[i + 1]):
                direct[p] = 0
                pull[p] = 0
                gw[p] = 0
            continue
        gy = h.dtype.type(0)
        for k in range(width):
            median[k] = h[indices[arg[i, k]], k]
            gy += g[i, k] * out[i, k]
        for p in range(indptr[i], indptr[i + 1]):
            x = h[indices[p]]
            s = h.dtype.type(0)
            for k in range(width):
                s += g[i, k] * x[k]
            change = ratio[p] * (total[i] * s - gy)
            gw[p] = change + gy / total[i]
            direct[p] = total[i] * w[p] * ratio[p]
            b = h.dtype.type(0)
            if distance[p] > 1e-12:
                b = -w[p] * change * scale / distance[p]
            pull[p] = b
            if b != 0:
                for k in range(width):
                    gmedian[i, k] -= b * (x[k] - median[k])


@jit
def soft_median_cols(indptr, indices, h, arg, direct, pull, g, gmedian, gh):
    """Backward pass: what entries and medians pass on to h; ``gh`` must start at zero."""
    width = h.shape[1]
    for i in range(len(indptr) - 1):
        if indptr[i] == indptr[i + 1] or arg[i, 0] < 0:
            continue
        for p in range(indptr[i], indptr[i + 1]):
            a, b = direct[p], pull[p]
            if a != 0 or b != 0:
                j = indices[p]
                for k in range(width):
                    gh[j, k] += a * g[i, k] + b * (h[j, k] - h[indices[arg[i, k]], k])
        for k in range(width):
            gh[indices[arg[i, k]], k] += gmedian[i, k]
