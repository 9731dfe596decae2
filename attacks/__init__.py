"""Attacks: one file a method, one import line here."""

from __future__ import annotations

if __name__ != "graphsec.attacks":
    raise ImportError("import graphsec.attacks, not attacks")

from graphsec.attacks import none
from graphsec.attacks.adversarial import (
    brute_force,
    degree,
    dice,
    feature_pgd,
    feature_prbcd,
    fga,
    fgsm,
    grbcd,
    local_prbcd,
    lrbcd,
    nettack,
    pgd,
    prbcd,
    query_search,
    random,
    random_features,
    random_injection,
    sga,
    tdgia,
)
from graphsec.attacks.attributes import from_embeddings, from_features, from_outputs
from graphsec.attacks.base import Attack
from graphsec.attacks.byzantine import alie, inner_product, noise, sign_flip, tailored
from graphsec.attacks.extraction import laundering, subgraphs, surrogate
from graphsec.attacks.fairness import fa_gnn, fair_prbcd, g_fairattack
from graphsec.attacks.inference import hogwild
from graphsec.attacks.interactions import de_anonymisation, members, popularity
from graphsec.attacks.leakage import (
    closed_form,
    gifd,
    gradient_matching,
    grain,
    grain_nodes,
    graph_matching,
    guess,
    idlg,
    structure_matching,
)
from graphsec.attacks.links import linkteller, stealing
from graphsec.attacks.membership import confidence, lira, rmia, shadow_mlp
from graphsec.attacks.poisoning import meta_pgd, meta_prbcd, metattack
from graphsec.attacks.properties import loss_test, mean_threshold, shadow_worlds
from graphsec.attacks.reconstruction import chain_inversion, graphmi, mc_gra, similarity
from graphsec.attacks.shilling import average, bandwagon, gradient, segment
from graphsec.attacks.shilling import random as shilling_random

__all__ = [
    "Attack",
    "alie",
    "average",
    "bandwagon",
    "brute_force",
    "chain_inversion",
    "closed_form",
    "confidence",
    "de_anonymisation",
    "degree",
    "dice",
    "fa_gnn",
    "fair_prbcd",
    "feature_pgd",
    "feature_prbcd",
    "fga",
    "fgsm",
    "from_embeddings",
    "from_features",
    "from_outputs",
    "g_fairattack",
    "gifd",
    "gradient",
    "gradient_matching",
    "grain",
    "grain_nodes",
    "graph_matching",
    "graphmi",
    "grbcd",
    "guess",
    "hogwild",
    "idlg",
    "inner_product",
    "laundering",
    "linkteller",
    "lira",
    "local_prbcd",
    "loss_test",
    "lrbcd",
    "mc_gra",
    "mean_threshold",
    "members",
    "meta_pgd",
    "meta_prbcd",
    "metattack",
    "nettack",
    "noise",
    "none",
    "pgd",
    "popularity",
    "prbcd",
    "query_search",
    "random",
    "random_features",
    "random_injection",
    "rmia",
    "segment",
    "sga",
    "shadow_mlp",
    "shadow_worlds",
    "shilling_random",
    "sign_flip",
    "similarity",
    "stealing",
    "structure_matching",
    "subgraphs",
    "surrogate",
    "tailored",
    "tdgia",
]
