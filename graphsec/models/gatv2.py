"""Graph attention whose ranking depends on the receiver (Brody et al., ICLR 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from graphsec.models.base import GNN, Sizes, glorot
from graphsec.models.gat import GAT, GATSpec
from graphsec.ops import Adj, Features, linear
from graphsec.registry import MODELS


class GATv2(GAT):
    """Scores aᵀ LeakyReLU(W [h_i ‖ h_j]) (Brody et al., eq. 7), else as GAT.

    The nonlinearity stands inside the product, so that a score needs all units of both ends:
    (entries, heads, width) numbers are kept for the backward pass, width times GAT's memory.
    """

    def __init__(
        self, sizes: Sizes, hidden: int, layers: int, heads: int, out_heads: int, p: float
    ) -> None:
        super().__init__(sizes, hidden, layers, heads, out_heads, p)
        # ``send`` is the vector a; instead of GAT's other half the receiver has a map of its own.
        self.receive = nn.ParameterList([glorot(*w.shape) for w in self.weight])

    def scores(self, i: int, h: Tensor | Features, z: Tensor, adj: Adj) -> Tensor:
        """aᵀ LeakyReLU(z_i + z_j) at each entry: (entries, heads)."""
        received = linear(h, self.receive[i]).view(z.shape)
        row, col = adj.csr.coo
        both = received.index_select(0, row) + z.index_select(0, col)
        scores: Tensor = (F.leaky_relu(both, 0.2) * self.send[i]).sum(-1)
        return scores


@MODELS.register("gatv2")
@dataclass(frozen=True, kw_only=True)
class GATv2Spec(GATSpec):
    """GATv2 with the sizes and the training of GAT.

    Source: Brody, Alon & Yahav, How Attentive are Graph Attention Networks?, ICLR 2022, eq. 7.
    """

    module: ClassVar[type[GNN]] = GATv2
