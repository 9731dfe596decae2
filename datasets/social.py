"""Small social networks that networkx ships; no download."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphsec.datasets.base import About, Dataset, Structural, structural
from graphsec.datasets.splits import Strategy
from graphsec.graph import Graph
from graphsec.registry import DATASETS
from graphsec.rng import Rng

_LICENCE = "BSD-3-Clause (with networkx)"


@dataclass(frozen=True, kw_only=True)
class Social(Dataset):
    """A small network without features of its own.

    Attributes:
        features: What stands in for features.
        weighted: Keep the strength of ties as edge weights.
    """

    default_split: ClassVar[Strategy] = {"fractions": [0.2, 0.2, 0.6]}

    features: Structural = "identity"
    weighted: bool = False

    def read(self, rng: Rng) -> Graph:
        """Build the graph."""
        network, labels = self.network()
        graph = Graph.from_networkx(network, y=labels, name=self.name)
        weight = graph.edge_weight if self.weighted else None
        return graph.replace(edge_weight=weight, x=structural(self.features, graph.degree.numpy()))

    def network(self) -> tuple[Any, np.ndarray]:
        """The networkx graph and its labels."""
        raise NotImplementedError


@DATASETS.register("karate")
@dataclass(frozen=True, kw_only=True)
class Karate(Social):
    """Zachary's karate club: friends outside the club, and sides taken at its split (1977)."""

    about: ClassVar[About] = About(
        34, 78, 34, 2, "", _LICENCE, "https://doi.org/10.1086/jar.33.4.3629752"
    )

    def network(self) -> tuple[Any, np.ndarray]:
        """The club; class 1 followed the officer."""
        import networkx as nx

        club = nx.karate_club_graph()
        side = nx.get_node_attributes(club, "club")
        return club, np.array([int(side[node] != "Mr. Hi") for node in club])


@DATASETS.register("les-miserables")
@dataclass(frozen=True, kw_only=True)
class LesMiserables(Social):
    """Characters of Les Misérables who appear in the same chapter (Knuth 1993).

    The book gives no classes. The labels are communities found in the unweighted network by greedy
    modularity (Clauset et al. 2004): a function of the edges, not a fact about the characters.
    """

    about: ClassVar[About] = About(
        77, 254, 77, 5, "", _LICENCE, "https://www-cs-faculty.stanford.edu/~knuth/sgb.html"
    )

    def network(self) -> tuple[Any, np.ndarray]:
        """The network and its communities."""
        import networkx as nx
        from networkx.algorithms.community import greedy_modularity_communities

        # Numbered first: ties are broken by hash, and strings hash differently in every process.
        book = nx.convert_node_labels_to_integers(nx.les_miserables_graph())
        labels = np.zeros(len(book), np.int64)
        for number, members in enumerate(greedy_modularity_communities(book)):
            labels[list(members)] = number
        return book, labels
