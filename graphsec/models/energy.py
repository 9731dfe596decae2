"""Energy graph neural network: states minimise a convex energy (Solodova et al., ICLR 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from graphsec.models.base import GNN, Capabilities, ModelSpec, Sizes, glorot
from graphsec.models.implicit import Implicit
from graphsec.models.problems import Minimum, Problem
from graphsec.models.stack import biases, weights
from graphsec.ops import Adj, Features, dropout, edge_scores, edge_softmax, linear
from graphsec.registry import MODELS, Range

Variant = Literal["node", "edge", "attention"]

# What features set: biases of messages at the sending and receiving end, of the two layers of u,
# and the linear term.
CONTEXT = ("sent", "received", "first", "second", "drive")


@dataclass(frozen=True, eq=False, kw_only=True)
class Energy(Minimum):
    """e_i = u(h_i, m_i, x_i) + β/2 ‖h_i‖² with m_i = Σ_j w_ij m(h_i, h_j, x_i, x_j).

    u and m are partially input-convex networks: convex in the states (weights behind the first
    layer are ≥ 0, softplus is convex and rising), arbitrary in the features, which set biases and
    the linear term. m enters u through weights ≥ 0 only, so u is non-decreasing in m and E
    convex; β makes it strongly so.
    """

    beta: float
    edgewise: bool

    def energy(self, own: Tensor, view: Tensor, *tensors: Tensor) -> Tensor:
        """(n,) energy of each node."""
        weight, sent, received, bias1, bias2, drive, *parameters = tensors
        send, receive, message, first_h, first_m, second_z, second_h, second_m, out = parameters
        z = view @ send + self.entries.view(sent)
        if self.edgewise:
            z = z + self.entries.own(own @ receive + received)
        m = self.entries.to_rows((F.softplus(z) * weight.unsqueeze(1)) @ F.softplus(message))
        z = F.softplus(own @ first_h + m @ F.softplus(first_m) + bias1)
        z = F.softplus(z @ F.softplus(second_z) + own @ second_h + m @ F.softplus(second_m) + bias2)
        quadratic = self.beta / 2 * own.square().sum(1)
        return quadratic + (z * F.softplus(out)).sum(1) - (own * drive).sum(1)


class EnergyGNN(Implicit):
    """ŷ = φ(argmin_H E(H)) with E from partially input-convex networks.

    Messages of the "node" energy depend on the sender alone, those of the "edge" energy on both
    ends; "attention" is the edge energy with w_ij from a softmax over features.
    """

    capabilities = Capabilities(sampled=False)

    def __init__(self, sizes: Sizes, spec: EnergySpec) -> None:
        super().__init__()
        self.spec = spec
        d, width, message = spec.state, spec.width, spec.message
        self.encoder = nn.ParameterList([glorot(sizes.features, spec.hidden)])
        self.encode_bias = nn.Parameter(torch.zeros(spec.hidden))
        ends = {name: d if name == "drive" else width for name in CONTEXT}
        self.context = nn.ParameterDict({k: glorot(spec.hidden, w) for k, w in ends.items()})
        self.send, self.receive = glorot(d, width), glorot(d, width)
        self.first, self.second = glorot(d, width), glorot(d, width)
        # These pass through softplus: all about 1 / fan-in at first.
        self.message = _positive(width, message)
        self.first_m, self.second_m = _positive(message, width), _positive(message, width)
        self.second_z, self.out = _positive(width, width), _positive(width, 1)
        self.attend = nn.Parameter(torch.zeros(spec.hidden, 2))
        nn.init.xavier_uniform_(self.attend)
        decoder = [d, *[spec.hidden] * spec.depth, sizes.outputs]
        self.decoder, self.decode_bias = weights(decoder), biases(decoder[1:])

    def problem(self, x: Tensor | Features, adj: Adj) -> tuple[Problem, list[Tensor]]:
        """The energy of a graph: what depends on features alone is computed once, outside."""
        spec = self.spec
        u = linear(dropout(x, spec.dropout, self.training), self.encoder[0]) + self.encode_bias
        u = torch.relu(u)
        dropped = dropout(u, spec.dropout, self.training)
        assert isinstance(dropped, Tensor)
        context = [dropped @ self.context[name] for name in CONTEXT]
        normalization = None if spec.normalize == "none" else spec.normalize
        operator = adj.normalized(normalization, self_loops=False).merged()
        weight = operator.weight
        assert weight is not None
        if spec.variant == "attention":
            weight = self._attention(adj, dropped)
        problem = Energy(
            csr=operator.csr, width=spec.state, tolerance=spec.tolerance, beta=spec.beta,
            edgewise=spec.variant != "node",
        )  # fmt: skip
        return problem, [
            weight, *context, self.send, self.receive, self.message, self.first,
            self.first_m, self.second_z, self.second, self.second_m, self.out.squeeze(1),
        ]  # fmt: skip

    def _attention(self, adj: Adj, u: Tensor) -> Tensor:
        """(entries,) softmax over each node's neighbours, of features only."""
        merged = adj.merged()
        received, sent = (u @ self.attend).chunk(2, dim=1)
        scores = F.leaky_relu(edge_scores(merged.csr, received, sent), 0.2)
        return edge_softmax(merged, scores).squeeze(1)

    def readout(self, h: Tensor) -> Tensor:
        """φ, a perceptron on the state."""
        z = h.to(self.decoder[0].dtype)
        for i, (weight, bias) in enumerate(zip(self.decoder, self.decode_bias, strict=True)):
            z = (torch.tanh(z) if i else z) @ weight + bias
        return z


def _positive(rows: int, cols: int) -> nn.Parameter:
    """A matrix whose softplus is about 1 / rows, a little uneven."""
    goal = torch.full((rows, cols), 1 / rows)
    return nn.Parameter(goal.expm1().log() + 0.1 * torch.randn(rows, cols))


@MODELS.register("energy")
@dataclass(frozen=True, kw_only=True)
class EnergySpec(ModelSpec):
    """Energy GNN.

    Source: Solodova et al., Graph Neural Networks Gone Hogwild, ICLR 2025 (arXiv 2407.00494). No
    code was published: sizes, the linear term, the normalisation, the form of φ and the additive
    form in which features enter are ours.

    Attributes:
        variant: Messages from the sender alone, from both ends, or weighed by attention.
        hidden: Width of the encoded features.
        state: Width of a node's state.
        message: Width of a message.
        width: Width of the hidden layers of the convex networks.
        depth: Hidden layers of φ, each of width ``hidden``, with tanh; 0 makes φ linear.
        beta: Strength of the quadratic term: the energy's strong convexity.
        normalize: Weights of the messages; ignored by attention.
        dropout: On features and encoded features.
        tolerance: Norm of the energy's gradient at which solving stops (one step more is made);
            training stops at ``implicit.ROUGH``.
    """

    module: ClassVar[type[GNN]] = EnergyGNN
    training: ClassVar[Mapping[str, Any]] = {"epochs": 100, "weight_decay": 5e-4, "decay": "first"}

    variant: Variant = "edge"
    hidden: Annotated[int, Field(ge=1, le=4096), Range(8, 128, log=True)] = 32
    state: Annotated[int, Field(ge=1, le=1024), Range(4, 64, log=True)] = 8
    message: Annotated[int, Field(ge=1, le=1024), Range(2, 32, log=True)] = 8
    width: Annotated[int, Field(ge=1, le=1024), Range(4, 64, log=True)] = 8
    depth: Annotated[int, Field(ge=0, le=16), Range(0, 2)] = 2
    beta: Annotated[float, Field(gt=0, le=1e3), Range(0.1, 10, log=True)] = 1.0
    normalize: Literal["sym", "row", "none"] = "sym"
    dropout: Annotated[float, Field(ge=0, lt=1), Range(0, 0.9)] = 0.5
    tolerance: Annotated[float, Field(gt=0, le=1e-5)] = 1e-6

    def build(self, sizes: Sizes) -> GNN:
        """A freshly initialised energy GNN."""
        return EnergyGNN(sizes, self)
