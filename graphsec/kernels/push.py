"""Numba kernel that finds the nodes around a root by approximate personalised PageRank."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
from __future__ import annotations

import numpy as np

from graphsec.kernels.sparse import jit


@jit
def push(indptr, indices, w, degree, roots, teleport, epsilon, threshold, nodes, scores, counts):
    """The best-scored nodes of each root, best first, the root itself among them.

    Mass starts at the root. A node whose waiting mass exceeds ε times its degree keeps the share
    ``teleport`` of it and pushes the rest to its neighbours. ``nodes`` and ``scores`` are
    (roots, most); what scores below ``threshold`` times the best other node is left out.
    """
    n = len(indptr) - 1
    kept, waiting = np.zeros(n), np.zeros(n)
    queue, queued = np.empty(n, np.int64), np.zeros(n, np.bool_)
    touched, seen = np.empty(n, np.int64), np.zeros(n, np.bool_)
    for t in range(len(roots)):
        root = roots[t]
        waiting[root] = 1.0
        queue[0], touched[0] = root, root
        queued[root] = seen[root] = True
        head, length, count = 0, 1, 1
        while length > 0:
            i = queue[head]
            head = (head + 1) % n
            length -= 1
            queued[i] = False
            mass = waiting[i]
            waiting[i] = 0.0
            if degree[i] <= 0:  # nowhere to go
                kept[i] += mass
                continue
            kept[i] += teleport * mass
            share = (1 - teleport) * mass / degree[i]
            for e in range(indptr[i], indptr[i + 1]):
                j = indices[e]
                waiting[j] += share if w is None else share * w[e]
                if not seen[j]:
                    seen[j] = True
                    touched[count] = j
                    count += 1
                if not queued[j] and waiting[j] > epsilon * degree[j]:
                    queued[j] = True
                    queue[(head + length) % n] = j
                    length += 1
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
