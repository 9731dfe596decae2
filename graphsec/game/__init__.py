"""Games: what is secret, drawn before training; one file a game."""

from __future__ import annotations

from graphsec.game.attributes import Attributes
from graphsec.game.base import Game, Open, Secret
from graphsec.game.edge_gradients import EdgeGradients
from graphsec.game.gradients import Gradients
from graphsec.game.graph_gradients import GraphGradients
from graphsec.game.interactions import Interactions
from graphsec.game.links import Links
from graphsec.game.membership import Membership
from graphsec.game.neighbourhood_gradients import NeighbourhoodGradients
from graphsec.game.promotion import Promotion
from graphsec.game.property import Property

__all__ = [
    "Attributes",
    "EdgeGradients",
    "Game",
    "Gradients",
    "GraphGradients",
    "Interactions",
    "Links",
    "Membership",
    "NeighbourhoodGradients",
    "Open",
    "Promotion",
    "Property",
    "Secret",
]
