"""Which value of a private attribute has a node?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import scipy.sparse as sp
import torch
from pydantic import Field
from torch import Tensor

from graphsec.game.base import Game, Secret
from graphsec.graph import Graph
from graphsec.graph.arrays import as_scipy, features
from graphsec.registry import GAMES, SpecError
from graphsec.rng import Rng


@GAMES.register("attributes")
@dataclass(frozen=True, kw_only=True)
class Attributes(Game):
    """Which value of a private attribute has a node?

    Attackers never see the attribute among the features they know, nor as ``sensitive``. Nodes
    whose value is not known (−1) are neither asked about nor examples.

    Attributes:
        attribute: "sensitive", the sensitive attribute of the graph, which has 2 to 32 values, or
            the number of a column of its features, which has 2 to 10 different ones: they are
            numbered as they rise.
        trained: Whether the victim is trained on (and answers from) features with the attribute.
            The sensitive attribute is put beside the features for that, as one column for each
            value but the first; a column of the features is left out otherwise.
        reveal: Share of the nodes that are examples: their values are open to attackers who know
            the attribute of some, and they are not asked about.
        nodes: Most nodes asked about; None asks about all others.
    """

    attribute: Literal["sensitive"] | Annotated[int, Field(ge=0)] = "sensitive"
    trained: bool = False
    reveal: Annotated[float, Field(gt=0, lt=1)] = 0.5
    nodes: Annotated[int, Field(ge=1)] | None = None

    @property
    def keeps_graph(self) -> bool:  # type: ignore[override]
        """Whether features are neither added nor left out."""
        return self.trained == (self.attribute != "sensitive")

    def prepare(self, graph: Graph, rng: Rng) -> tuple[Graph, Secret | None]:
        """The graph with or without the attribute for the trainer, without it for attackers."""
        values = self._values(graph)
        nodes = rng.numpy().permutation((values >= 0).nonzero().ravel().numpy())
        count = max(1, round(self.reveal * len(nodes)))
        shown, asked = nodes[:count], np.sort(nodes[count:][: self.nodes])
        if not len(asked):
            raise ValueError(
                f"game 'attributes': reveal = {self.reveal:g} leaves none of the {len(nodes)} "
                f"nodes of {graph.name!r} to ask about"
            )
        known = public = graph
        if self.attribute == "sensitive":
            public = graph.replace(sensitive=None)
            known = _with_values(graph, values) if self.trained else graph
        else:
            public = _without_column(graph, self.attribute)
            known = graph if self.trained else public
        secret = Secret(
            "attributes", torch.from_numpy(asked), values[asked],
            examples=(torch.from_numpy(shown), values[shown]), public=public,
        )  # fmt: skip
        return known, secret

    def _values(self, graph: Graph) -> Tensor:
        """(n,) int64."""
        if self.attribute == "sensitive":
            if graph.sensitive is None:
                raise ValueError(
                    f"game 'attributes' needs a sensitive attribute, found none in {graph.name!r}: "
                    "set attribute to the number of a column of the features"
                )
            values, count = graph.sensitive, int(graph.sensitive.max()) + 1
        else:
            width = graph.num_features
            if self.attribute >= width:
                raise SpecError(
                    f"game 'attributes': attribute must be a column of the {width} features of "
                    f"{graph.name!r}, got {self.attribute}"
                )
            assert graph.x is not None
            column = graph.x.to_dense()[:, self.attribute]
            found, values = torch.unique(column, return_inverse=True)
            count = len(found)
        most = 32 if self.attribute == "sensitive" else 10
        if not 2 <= count <= most:
            raise ValueError(
                f"game 'attributes': attribute {self.attribute!r} of {graph.name!r} must have 2 to "
                f"{most} values, found {count}"
            )
        return values


def _with_values(graph: Graph, values: Tensor) -> Graph:
    """The graph with the values beside its features: one column for each but the first."""
    columns = (values.unsqueeze(1) == torch.arange(1, int(values.max()) + 1)).float()
    if graph.x is None:
        return graph.replace(x=columns)
    if graph.x.layout == torch.strided:
        return graph.replace(x=torch.cat([graph.x, columns], 1))
    return graph.replace(x=features(sp.hstack([as_scipy(graph.x), columns.numpy()])))


def _without_column(graph: Graph, column: int) -> Graph:
    assert graph.x is not None
    keep = torch.arange(graph.num_features) != column
    if graph.x.layout == torch.strided:
        return graph.replace(x=graph.x[:, keep])
    return graph.replace(x=features(as_scipy(graph.x)[:, keep.numpy()]))
