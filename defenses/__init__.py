"""Defenses: how a predictor is made. One file a method, one import line here."""

from __future__ import annotations

if __name__ != "graphsec.defenses":
    raise ImportError("import graphsec.defenses, not defenses")

from graphsec.defenses import none
from graphsec.defenses.base import Compose, Defense, build
from graphsec.defenses.certify import smoothing
from graphsec.defenses.fair import (
    edits,
    elegant,
    fairgnn,
    nifty,
    purify,
    regularizer,
    reweighting,
)
from graphsec.defenses.federated import fedavg, fedgnn, fedper, local_only, verfedgnn
from graphsec.defenses.ownership import fingerprint, watermark
from graphsec.defenses.private import (
    dp_gnn,
    dp_subgraphs,
    dpar,
    gap,
    mc_gpb,
    noisy_graph,
    progap,
    scores,
    votes,
)
from graphsec.defenses.purify import degsim, gdc, jaccard, pca_varselect, svd
from graphsec.defenses.release import (
    clip_gradients,
    key_protected,
    local_dp,
    noisy_gradients,
    prune_gradients,
    secure_aggregation,
    sign_gradients,
    ternary_gradients,
)
from graphsec.defenses.robust import (
    adversarial_training,
    gnnguard,
    median,
    prognn,
    soft_median,
    soft_medoid,
)

__all__ = [
    "Compose",
    "Defense",
    "adversarial_training",
    "build",
    "clip_gradients",
    "degsim",
    "dp_gnn",
    "dp_subgraphs",
    "dpar",
    "edits",
    "elegant",
    "fairgnn",
    "fedavg",
    "fedgnn",
    "fedper",
    "fingerprint",
    "gap",
    "gdc",
    "gnnguard",
    "jaccard",
    "key_protected",
    "local_dp",
    "local_only",
    "mc_gpb",
    "median",
    "nifty",
    "noisy_gradients",
    "noisy_graph",
    "none",
    "pca_varselect",
    "progap",
    "prognn",
    "prune_gradients",
    "purify",
    "regularizer",
    "reweighting",
    "scores",
    "secure_aggregation",
    "sign_gradients",
    "smoothing",
    "soft_median",
    "soft_medoid",
    "svd",
    "ternary_gradients",
    "verfedgnn",
    "votes",
    "watermark",
]
