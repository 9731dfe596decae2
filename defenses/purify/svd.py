"""SVD purification: the adjacency is replaced by its best approximation of low rank."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field
from torch import Tensor

from graphsec.defenses.base import Defense
from graphsec.ops import Adj, Features, low_rank
from graphsec.predict import How
from graphsec.registry import DEFENSES, Range


@DEFENSES.register("svd")
@dataclass(frozen=True, kw_only=True)
class SVD(Defense):
    """The ``rank`` leading singular vectors of the adjacency, normalised by the model as usual.

    A_r is dense. It is kept as factors, 4 · rank numbers a node, as far as a model propagates
    linearly; attention, medians and similarity filters spell out all n² entries, for graphs of
    up to 5,000 nodes. Its entries can be negative, which those are not made for.

    So can its degrees, and what is made of those decides how the defense falls. By default a
    node of degree 0 or less is left out of the normalisation: it neither sends nor receives.
    ``min_degree`` lifts such degrees to a small positive number instead, as code for GCNs does
    that expects none below 0; then three flips that push one node below 0 let it drown all others.

    Attackers who ask for ``exact`` get the exact value, with a derivative that takes the dropped
    singular values for small (along the tangent space of the matrices of rank r, see
    ``ops.low_rank``). ``relaxed`` holds the singular vectors of the clean graph fixed: another
    value, linear in the weights. ``bypass`` leaves the approximation out.

    Source: Entezari et al., All You Need Is Low (Rank), WSDM 2020, §4.

    Attributes:
        rank: r; the full adjacency where a graph has no more nodes.
        min_degree: Least degree, self-loop included (1e-5 in the published comparison of
            Mujkanovic et al., NeurIPS 2022); None leaves nodes without a positive one out.
    """

    rank: Annotated[int, Field(ge=1), Range(5, 200, log=True)] = 50
    min_degree: Annotated[float, Field(gt=0)] | None = None

    def sanitise(
        self, x: Tensor | Features, adj: Adj, how: How = "exact"
    ) -> tuple[Tensor | Features, Adj]:
        """The low-rank adjacency; differentiable in edge weights and candidate pairs."""
        if how == "bypass":
            return x, adj
        low = low_rank(adj, self.rank, frozen=how != "exact")
        if self.min_degree is not None:
            low = replace(low, degree=(low.degrees() + 1).clamp_min(self.min_degree) - 1)
        return x, low
