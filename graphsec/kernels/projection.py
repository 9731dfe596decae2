"""Numba kernel for the projection onto a budget."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
from __future__ import annotations

import numpy as np

from graphsec.kernels.sparse import jit


@jit
def budget_shift(p, budget):
    """The s ≥ 0 with Σ clip(p − s, 0, 1) = ``budget``, up to 1e-6 of it.

    Bisection over the entries that the shift still decides about, whose number shrinks fast. The
    sum at shift 0 must exceed the budget.
    """
    active = np.empty(len(p))
    count, full = 0, 0  # full: entries that stay above 1 at any shift still possible
    low, high = 0.0, 0.0
    for value in p:
        if value > 0:
            active[count] = value
            count += 1
            high = max(high, value)
    shift = 0.0
    for _ in range(100):
        shift = (low + high) / 2
        total = float(full)
        for k in range(count):
            total += min(max(active[k] - shift, 0.0), 1.0)
        if abs(total - budget) <= 1e-6 * max(budget, 1e-6):
            break
        if total <= budget:
            high = shift
            continue
        low, kept = shift, 0
        for k in range(count):
            if active[k] >= high + 1:
                full += 1
            elif active[k] > low:
                active[kept] = active[k]
                kept += 1
        count = kept
    return shift
