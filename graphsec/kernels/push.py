"""Numba kernel that finds the nodes around a root by approximate personalised PageRank."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
from __future__ import annotations

import numpy as np

from graphsec.kernels.sparse import jit


@jit
def push(indptr, indices, w, degree, roots, teleport, epsilon, threshold, nodes, scores, counts):
    """The best-scored nodes of each root, best first, the root itself among them.

    Mass starts at the root. In each round all nodes whose waiting mass exceeds ε times their
    degree keep the share ``teleport`` of it and push the rest to their neighbours, so that the
    result does not depend on how nodes are numbered. ``nodes`` and ``scores`` are (roots, most);
    what scores below ``threshold`` times the best other node is left out.
    """
    n = len(indptr) - 1
    kept, waiting = np.zeros(n), np.zeros(n)
    pushing, mass = np.empty(n, np.int64), np.empty(n)
    coming, queued = np.empty(n, np.int64), np.zeros(n, np.bool_)
    touched, seen = np.empty(n, np.int64), np.zeros(n, np.bool_)
    for t in range(len(roots)):
        root = roots[t]
        waiting[root] = 1.0
        coming[0], touched[0] = root, root
        seen[root] = True
        length, count = 1, 1
        while length > 0:
            pushing, coming = coming, pushing
            for q in range(length):
                i = pushing[q]
                mass[q], waiting[i], queued[i] = waiting[i], 0.0, False
            more = 0
            for q in range(length):
                i = pushing[q]
                if degree[i] <= 0:  # nowhere to go
                    kept[i] += mass[q]
                    continue
                kept[i] += teleport * mass[q]
                share = (1 - teleport) * mass[q] / degree[i]
                for e in range(indptr[i], indptr[i + 1]):
                    j = indices[e]
                    waiting[j] += share if w is None else share * w[e]
                    if not seen[j]:
                        seen[j] = True
                        touched[count] = j
                        count += 1
                    if not queued[j] and waiting[j] > epsilon * degree[j]:
                        queued[j] = True
                        coming[more] = j
                        more += 1
            length = more
        best = 0.0
        for k in range(1, count):
            best = max(best, kept[touched[k]])
        found = touched[:count]
        kept_root, kept[root] = kept[root], np.inf  # the root comes first, whatever it scores
        order = np.argsort(-kept[found], kind="mergesort")
        kept[root] = kept_root
        size = 0
        for k in order:
            j = found[k]
            if size == nodes.shape[1] or (size > 0 and kept[j] < threshold * best):
                break
            if size == 0 or kept[j] > 0:
                nodes[t, size], scores[t, size] = j, kept[j]
                size += 1
        counts[t] = size
        for k in range(count):
            j = touched[k]
            kept[j] = waiting[j] = 0.0
            seen[j] = False
