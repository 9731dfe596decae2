"""Vertical federated recommenders: parties that share users and hold disjoint items.

Source: Mai & Pang, Vertical Federated Graph Neural Network for Recommender System, ICML 2023.
"""

from __future__ import annotations

from graphsec.federated.federation import Federation, owners, part_of
from graphsec.federated.mechanisms import (
    Sketch,
    composed_laplace,
    composed_ternary,
    laplace,
    ternary,
)
from graphsec.federated.messages import Message, Refused, party_name
from graphsec.federated.party import Party
from graphsec.federated.protocol import Protocol, public
from graphsec.federated.server import Incident, Server
from graphsec.federated.transcript import Transcript
from graphsec.federated.transport import InProcess, Meddling, Transport
from graphsec.federated.vertical import Vertical

__all__ = [
    "Federation",
    "InProcess",
    "Incident",
    "Meddling",
    "Message",
    "Party",
    "Protocol",
    "Refused",
    "Server",
    "Sketch",
    "Transcript",
    "Transport",
    "Vertical",
    "composed_laplace",
    "composed_ternary",
    "laplace",
    "owners",
    "part_of",
    "party_name",
    "public",
    "ternary",
]
