"""Defenses: how a predictor is made. One file a method, one import line here."""

from __future__ import annotations

if __name__ != "graphsec.defenses":
    raise ImportError("import graphsec.defenses, not defenses")

from graphsec.defenses import none
from graphsec.defenses.base import Compose, Defense, build
from graphsec.defenses.purify import gdc, jaccard
from graphsec.defenses.robust import soft_median

__all__ = ["Compose", "Defense", "build", "gdc", "jaccard", "none", "soft_median"]
