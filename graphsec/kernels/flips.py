"""Numba kernel that scores edge flips on a linear two-hop model, one at a time, each alone."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
from __future__ import annotations

import numpy as np

from graphsec.kernels.sparse import jit

_FULL = 1e290  # a product of 1 + exp(−|z|) is folded into its logarithm before it overflows


@jit
def has(indices, low, high, node):
    """Whether ``node`` is in the ascending ``indices[low:high]``."""
    while low < high:
        middle = (low + high) // 2
        if indices[middle] < node:
            low = middle + 1
        else:
            high = middle
    return low, low < len(indices) and indices[low] == node


@jit
def flip_effects(
    indptr,
    indices,
    s,
    a,
    d,
    r,
    bias,
    threshold,
    temperature,
    said,
    loss,
    y,
    group,
    u,
    v,
    gained,
    change,
):
    """What each flip (u[k], v[k]) does to answers and to the training loss, by the nodes it meets.

    Rows of ``indptr`` and ``indices`` are neighbours, ascending and without the node itself.
    ``gained`` (pairs, groups) takes the change of answers, ``change`` (pairs,) that of the
    summed loss. ``y`` is NaN outside training, ``group`` −1 where answers don't count.
    """
    for k in range(len(u)):
        i, j = u[k], v[k]
        p, p_end, q, q_end = indptr[i], indptr[i + 1], indptr[j], indptr[j + 1]
        if p_end - p <= q_end - q:
            there = has(indices, p, p_end, j)
            found = there[0] < p_end and there[1]
        else:
            there = has(indices, q, q_end, i)
            found = there[0] < q_end and there[1]
        sign = -1.0 if found else 1.0
        di, dj = d[i] + sign, d[j] + sign
        ti, tj = a[i] / d[i], a[j] / d[j]
        by_i, by_j = (a[i] + sign * s[j]) / di - ti, (a[j] + sign * s[i]) / dj - tj
        if found:
            zi, zj = (r[i] + by_i - tj) / di + bias, (r[j] + by_j - ti) / dj + bias
        else:
            zi, zj = (r[i] + by_i + tj + by_j) / di + bias, (r[j] + by_j + ti + by_i) / dj + bias
        total, product = 0.0, 1.0
        step = 0
        while step < 2 or p < p_end or q < q_end:
            if step == 0:
                node, z = i, zi
                step = 1
            elif step == 1:
                node, z = j, zj
                step = 2
            else:
                left = indices[p] if p < p_end else len(d)
                right = indices[q] if q < q_end else len(d)
                node = min(left, right)
                shift = 0.0
                if left == node:
                    shift += by_i
                    p += 1
                if right == node:
                    shift += by_j
                    q += 1
                if node in (i, j):
                    continue
                z = (r[node] + shift) / d[node] + bias
            if group[node] >= 0:
                if temperature > 0:
                    answer = 1 / (1 + np.exp((threshold - z) / temperature))
                else:
                    answer = 1.0 if z >= threshold else 0.0
                gained[k, group[node]] += answer - said[node]
            if not np.isnan(y[node]):
                # log(1 + exp(−|z|)) summed as the logarithm of a product.
                total += max(z, 0.0) - y[node] * z - loss[node]
                product *= 1 + np.exp(-abs(z))
                if product > _FULL:
                    total += np.log(product)
                    product = 1.0
        change[k] = total + np.log(product)
