"""The same parties and the same server in processes of their own, on Flower.

Needs the extra ``federated`` (flwr); nothing here imports Flower before processes are started.

Source: Beutel et al., Flower: A Friendly Federated Learning Research Framework, arXiv 2007.14390.
"""

from __future__ import annotations

from graphsec.federated.flower.federation import FlowerFederation
from graphsec.federated.flower.grid import FlowerGrid
from graphsec.federated.flower.processes import FlowerError

__all__ = ["FlowerError", "FlowerFederation", "FlowerGrid"]
