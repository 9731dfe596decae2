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
def _space(indptr, h):
    """Scratch memory of ``_row_median``: for the longest row, and for the width."""
    longest = 0
    for i in range(len(indptr) - 1):
        longest = max(longest, indptr[i + 1] - indptr[i])
    width = h.shape[1]
    return (
        np.empty(longest, np.int64), np.zeros((longest + 3, width), h.dtype),
        np.empty(longest + 3, h.dtype), np.empty(longest, h.dtype), np.empty(longest, h.dtype),
        np.empty(width, h.dtype), np.empty(width, h.dtype), np.empty(width, h.dtype),
    )  # fmt: skip


@jit
def _row_median(first, last, indices, w, h, space, out):
    """``argmedian`` of one row, the entries ``first`` to ``last``; out is (width,)."""
    present, rows, weights, values, scratch, best, below, found = space
    width, zero, infinity = h.shape[1], h.dtype.type(0), h.dtype.type(np.inf)
    count = 0
    total = 0.0
    for p in range(first, last):
        if w[p] > 0:
            present[count] = p
            weights[count] = w[p]
            rows[count] = h[indices[p]]
            count += 1
            total += w[p]
    half = h.dtype.type(0.5 * total * HALF)
    if count == 0:
        out[:] = -1
    elif count <= 128:  # counting: quadratic, but branch-free over the width
        weights[count : count + 3] = 0
        best[:] = np.inf
        for a in range(count):
            x = rows[a]
            below[:] = 0
            for b in range(0, count, 4):  # four at a time: ``below`` is read and written once
                x0, x1, x2, x3 = rows[b], rows[b + 1], rows[b + 2], rows[b + 3]
                w0, w1, w2, w3 = weights[b], weights[b + 1], weights[b + 2], weights[b + 3]
                for k in range(width):
                    c = x[k]
                    s = (w0 if x0[k] <= c else zero) + (w1 if x1[k] <= c else zero)
                    s += (w2 if x2[k] <= c else zero) + (w3 if x3[k] <= c else zero)
                    below[k] += s
            for k in range(width):
                best[k] = min(best[k], x[k] if below[k] >= half else infinity)
        found[:] = 0
        for a in range(count - 1, -1, -1):
            x = rows[a]
            for k in range(width):
                found[k] = h.dtype.type(a) if x[k] == best[k] else found[k]
        for k in range(width):
            out[k] = present[int(found[k])]
    else:
        for k in range(width):
            for a in range(count):
                values[a] = rows[a, k]
                scratch[a] = weights[a]
            median = _select(values, scratch, count, half)
            for a in range(count):
                if rows[a, k] == median:
                    out[k] = present[a]
                    break


@jit
def argmedian(indptr, indices, w, h, out):
    """out[i, k] = the entry p of row i whose h[indices[p], k] is the weighted lower median.

    The lower median is the smallest value whose cumulative weight reaches half of the row's;
    among entries of equal value the first in the row is taken. Entries of weight 0 are absent;
    a row without weight gets −1.
    """
    space = _space(indptr, h)
    for i in range(len(indptr) - 1):
        _row_median(indptr[i], indptr[i + 1], indices, w, h, space, out[i])


@jit
def soft_median(indptr, indices, w, h, scale, arg, out, ratio, distance, total):
    """Forward pass: medians into ``arg`` and Soft Medians into ``out``, row by row.

    ``ratio`` gets exp(−c)/Σ w·exp(−c), ``distance`` ‖x − median‖, both (E,).
    """
    width = h.shape[1]
    space, median = _space(indptr, h), np.empty(width, h.dtype)
    for i in range(len(indptr) - 1):
        first, last = indptr[i], indptr[i + 1]
        out[i, :] = 0
        total[i] = 0
        _row_median(first, last, indices, w, h, space, arg[i])
        if first == last or arg[i, 0] < 0:
            ratio[first:last] = 0
            distance[first:last] = 0
            continue
        for k in range(width):
            median[k] = h[indices[arg[i, k]], k]
        nearest = np.inf
        for p in range(first, last):
            x = h[indices[p]]
            s = h.dtype.type(0)
            for k in range(width):
                s += (x[k] - median[k]) * (x[k] - median[k])
            distance[p] = np.sqrt(s)
            if w[p] > 0 and distance[p] < nearest:
                nearest = distance[p]
        norm, whole = h.dtype.type(0), h.dtype.type(0)
        for p in range(first, last):
            whole += w[p]
        total[i] = whole
        for p in range(first, last):
            ratio[p] = np.exp(min((nearest - distance[p]) * scale, h.dtype.type(30)))
        # Sums stand in loops that write nothing: where one does, the compiler asks at each call
        # whether arrays overlap, and adds up in another order if they lie too near each other.
        for p in range(first, last):
            norm += w[p] * ratio[p]
        row = out[i]
        for p in range(first, last):
            ratio[p] /= norm
            share = total[i] * w[p] * ratio[p]
            if share != 0:
                x = h[indices[p]]
                for k in range(width):
                    row[k] += share * x[k]


@jit
def soft_median_backward(indptr, indices, w, h, scale, arg, out, ratio, distance, total, g, gw, gh):
    """Backward pass: gradients of weights and values; ``gh`` must start at zero.

    Each entry passes a share of g on to x, and pulls x and the median towards each other.
    """
    width = h.shape[1]
    median, gmedian = np.empty(width, h.dtype), np.empty(width, h.dtype)
    for i in range(len(indptr) - 1):
        first, last = indptr[i], indptr[i + 1]
        if first == last or arg[i, 0] < 0:
            gw[first:last] = 0
            continue
        along = g[i]
        gy = h.dtype.type(0)
        for k in range(width):
            median[k] = h[indices[arg[i, k]], k]
            gy += along[k] * out[i, k]
        gmedian[:] = 0
        for p in range(first, last):
            x, gx = h[indices[p]], gh[indices[p]]
            s = h.dtype.type(0)
            for k in range(width):
                s += along[k] * x[k]
            change = ratio[p] * (total[i] * s - gy)
            gw[p] = change + gy / total[i]
            direct, pull = total[i] * w[p] * ratio[p], h.dtype.type(0)
            if distance[p] > 1e-12:
                pull = -w[p] * change * scale / distance[p]
            if direct != 0 or pull != 0:
                for k in range(width):
                    away = pull * (x[k] - median[k])
                    gx[k] += direct * along[k] + away
                    gmedian[k] -= away
        for k in range(width):
            gh[indices[arg[i, k]], k] += gmedian[k]
