"""The same parties and the same server in processes of their own, on Flower.

Needs the extra ``federated`` (flwr); nothing here imports Flower before processes are started.

Source: Beutel et al., Flower: A Friendly Federated Learning Research Framework, arXiv 2007.14390.
"""

from __future__ import annotations

from contextvars import ContextVar
from pathlib import Path

from graphsec.federated.flower.federation import FlowerFederation
from graphsec.federated.flower.grid import FlowerGrid
from graphsec.federated.flower.processes import FlowerError

__all__ = ["FlowerError", "FlowerFederation", "FlowerGrid", "kept_in"]

kept_in: ContextVar[Path | None] = ContextVar("kept_in", default=None)
"""Folder in which defenses keep the states of their federation, and go on from; None: nowhere."""
