"""The only door to kernels: what models, attacks and defenses compute with.

On a CPU the compiled kernels run; on any other device, for other number types, or where numba
is missing, plain torch does. Both ways give the same numbers and the same derivatives.
"""

from __future__ import annotations

from graphsec.ops.adj import Adj, Block, edge_scores, edge_softmax, propagate
from graphsec.ops.functions import edge_gather, edge_ratio, edge_sum, sddmm, spmm
from graphsec.ops.linear import Features, dropout, linear, unit_rows
from graphsec.ops.lowrank import low_rank
from graphsec.ops.median import segment_median, soft_median
from graphsec.ops.medoid import median_sum, soft_medoid
from graphsec.ops.pagerank import personalized_pagerank
from graphsec.ops.push import ranked, visited
from graphsec.ops.structure import CSR, Pairs, compiled

__all__ = [
    "CSR",
    "Adj",
    "Block",
    "Features",
    "Pairs",
    "compiled",
    "dropout",
    "edge_gather",
    "edge_ratio",
    "edge_scores",
    "edge_softmax",
    "edge_sum",
    "linear",
    "low_rank",
    "median_sum",
    "personalized_pagerank",
    "propagate",
    "ranked",
    "sddmm",
    "segment_median",
    "soft_median",
    "soft_medoid",
    "spmm",
    "unit_rows",
    "visited",
]
