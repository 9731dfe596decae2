"""Numba kernels for sparse products.

All take CSR rows ``indptr``, columns ``indices`` and ``eid``, the position of each entry's
value (None: entries are in order), so that a matrix and its transpose share one array of values.
Dense operands are (rows, width), or (rows, heads · width) with edge values (entries, heads).
Single-threaded on purpose: on small graphs two processes beat two threads.
"""

# Numba compiles these functions; their types are the compiler's business.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
from __future__ import annotations

import numba
import numpy as np

# NaN and infinity keep their meaning ("nnan", "ninf" are left out); sums may be reordered.
FAST = {"reassoc", "contract", "arcp", "nsz"}
jit = numba.njit(cache=True, nogil=True, fastmath=FAST)


@jit
def spmm_flat(indptr, indices, eid, w, h, out):
    """One head: out[i] = Σ_p w[eid[p]] · h[indices[p]]; w None means ones.

    Four neighbours at a time, so that a row of the output is read and written once for four.
    """
    width = h.shape[1]
    for i in range(len(indptr) - 1):
        row = out[i]
        row[:] = 0
        p, last = indptr[i], indptr[i + 1]
        while p + 4 <= last:
            h0, h1, h2, h3 = h[indices[p]], h[indices[p + 1]], h[indices[p + 2]], h[indices[p + 3]]
            if w is None:
                for k in range(width):
                    row[k] += h0[k] + h1[k] + h2[k] + h3[k]
            else:
                w0 = w[p if eid is None else eid[p]]
                w1 = w[p + 1 if eid is None else eid[p + 1]]
                w2 = w[p + 2 if eid is None else eid[p + 2]]
                w3 = w[p + 3 if eid is None else eid[p + 3]]
                for k in range(width):
                    row[k] += w0 * h0[k] + w1 * h1[k] + w2 * h2[k] + w3 * h3[k]
            p += 4
        while p < last:
            source = h[indices[p]]
            if w is None:
                for k in range(width):
                    row[k] += source[k]
            else:
                a = w[p if eid is None else eid[p]]
                for k in range(width):
                    row[k] += a * source[k]
            p += 1


@jit
def sddmm_flat(indptr, indices, eid, a, b, out):
    """One head: out[eid[p]] = ⟨a[i], b[indices[p]]⟩."""
    width = a.shape[1]
    for i in range(len(indptr) - 1):
        for p in range(indptr[i], indptr[i + 1]):
            j = indices[p]
            s = a.dtype.type(0)
            for k in range(width):
                s += a[i, k] * b[j, k]
            out[p if eid is None else eid[p]] = s


@jit
def pairs_sddmm_flat(u, v, a, b, out, symmetric):
    """One head: out[p] = ⟨a[u], b[v]⟩, plus ⟨a[v], b[u]⟩ if symmetric."""
    width = a.shape[1]
    for p in range(len(u)):
        i, j = u[p], v[p]
        s = a.dtype.type(0)
        if symmetric:
            for k in range(width):
                s += a[i, k] * b[j, k] + a[j, k] * b[i, k]
        else:
            for k in range(width):
                s += a[i, k] * b[j, k]
        out[p] = s


@jit
def spmm(indptr, indices, eid, w, h, out):
    """Several heads: out[i, q] = Σ_p w[eid[p], q] · h[indices[p], q].

    h and out are (rows, heads · width): one long row is cheaper to walk than many short ones.
    """
    heads = w.shape[1]
    width = h.shape[1] // heads
    for i in range(len(indptr) - 1):
        row = out[i]
        row[:] = 0
        for p in range(indptr[i], indptr[i + 1]):
            weight = w[p if eid is None else eid[p]]
            source = h[indices[p]]
            base = 0
            for q in range(heads):
                a = weight[q]
                end = base + width
                while base + 8 <= end:  # a constant count compiles to one vector instruction
                    for k in range(8):
                        row[base + k] += a * source[base + k]
                    base += 8
                for k in range(base, end):
                    row[k] += a * source[k]
                base = end


@jit
def sddmm(indptr, indices, eid, a, b, out):
    """Several heads: out[eid[p], q] = ⟨a[i, q], b[indices[p], q]⟩; a and b as in ``spmm``."""
    heads = out.shape[1]
    width = a.shape[1] // heads
    for i in range(len(indptr) - 1):
        left = a[i]
        for p in range(indptr[i], indptr[i + 1]):
            right = b[indices[p]]
            target = out[p if eid is None else eid[p]]
            base = 0
            for q in range(heads):
                s = a.dtype.type(0)
                for k in range(base, base + width):
                    s += left[k] * right[k]
                target[q] = s
                base += width


@jit
def pairs_spmm(u, v, w, h, out, symmetric):
    """Several heads: out[u, q] += w[q] · h[v, q], and the mirror image if symmetric.

    Most candidate pairs of an attack have weight 0: they are skipped.
    """
    heads, width = h.shape[1], h.shape[2]
    for p in range(len(u)):
        i, j = u[p], v[p]
        for q in range(heads):
            a = w[p, q]
            if a != 0:
                row = out[i, q]
                source = h[j, q]
                for k in range(width):
                    row[k] += a * source[k]
                if symmetric:
                    row = out[j, q]
                    source = h[i, q]
                    for k in range(width):
                        row[k] += a * source[k]


@jit
def pairs_spmm_flat(u, v, w, h, out, symmetric):
    """One head: out[u] += w · h[v], and the mirror image if symmetric."""
    width = h.shape[1]
    for p in range(len(u)):
        a = w[p]
        if a != 0:
            i, j = u[p], v[p]
            row, other, here, there = out[i], out[j], h[i], h[j]
            if symmetric:
                for k in range(width):
                    row[k] += a * there[k]
                    other[k] += a * here[k]
            else:
                for k in range(width):
                    row[k] += a * there[k]


@jit
def match(codes, keys, values, found):
    """``found[i] = values[k]`` where ``codes[i] == keys[k]``; both are sorted without repeats."""
    i = 0
    for k in range(len(keys)):
        while i < len(codes) and codes[i] < keys[k]:
            i += 1
        if i == len(codes):
            break
        if codes[i] == keys[k]:
            found[i] = values[k]


@jit
def pairs_sddmm(u, v, a, b, out, symmetric):
    """out[p] = ⟨a[u], b[v]⟩, plus ⟨a[v], b[u]⟩ if symmetric."""
    heads, width = a.shape[1], a.shape[2]
    for p in range(len(u)):
        i, j = u[p], v[p]
        for q in range(heads):
            left, right = a[i, q], b[j, q]
            s = left[0] * right[0] if width > 0 else left.dtype.type(0)
            for k in range(1, width):
                s += left[k] * right[k]
            if symmetric:
                left, right = a[j, q], b[i, q]
                for k in range(width):
                    s += left[k] * right[k]
            out[p, q] = s


@jit
def edge_shift(indptr, w, s, out):
    """Out = s minus the row's largest score among entries of positive weight, at most 60.

    An absent edge can't overflow the present ones; a row without weight gets −inf.
    """
    heads = s.shape[1]
    top = np.empty(heads, s.dtype)
    for i in range(len(indptr) - 1):
        top[:] = -np.inf
        for p in range(indptr[i], indptr[i + 1]):
            for q in range(heads):
                if w[p, q] > 0 and s[p, q] > top[q]:
                    top[q] = s[p, q]
        for p in range(indptr[i], indptr[i + 1]):
            for q in range(heads):
                shifted = min(s[p, q] - top[q], s.dtype.type(60))
                out[p, q] = -np.inf if top[q] == -np.inf else shifted


@jit
def edge_divide(indptr, w, e):
    """E /= Σ_row w · e, in place; rows without weight stay 0."""
    heads = e.shape[1]
    total = np.empty(heads, e.dtype)
    for i in range(len(indptr) - 1):
        total[:] = 0
        for p in range(indptr[i], indptr[i + 1]):
            for q in range(heads):
                total[q] += w[p, q] * e[p, q]
        for q in range(heads):
            total[q] = 1 / total[q] if total[q] > 0 else 0
        for p in range(indptr[i], indptr[i + 1]):
            for q in range(heads):
                e[p, q] *= total[q]


@jit
def merge(indptr, indices, u, v, symmetric, loops, out_indptr, out_indices, slot):
    """CSR of clean edges, then added pairs, then self-loops, row by row (columns unsorted).

    ``slot`` says where each entry's value stands in [clean (E), pairs (B), loops (n)].
    """
    n = len(indptr) - 1
    count = len(u)
    edges = len(indices)
    fill = np.zeros(n + 1, np.int64)
    for i in range(n):
        fill[i + 1] = indptr[i + 1] - indptr[i] + (1 if loops else 0)
    for p in range(count):
        fill[u[p] + 1] += 1
        if symmetric:
            fill[v[p] + 1] += 1
    for i in range(n):
        fill[i + 1] += fill[i]
    for i in range(n + 1):
        out_indptr[i] = fill[i]
    for i in range(n):
        for p in range(indptr[i], indptr[i + 1]):
            out_indices[fill[i]] = indices[p]
            slot[fill[i]] = p
            fill[i] += 1
    for p in range(count):
        i, j = u[p], v[p]
        out_indices[fill[i]] = j
        slot[fill[i]] = edges + p
        fill[i] += 1
        if symmetric:
            out_indices[fill[j]] = i
            slot[fill[j]] = edges + p
            fill[j] += 1
    if loops:
        for i in range(n):
            out_indices[fill[i]] = i
            slot[fill[i]] = edges + count + i
            fill[i] += 1
