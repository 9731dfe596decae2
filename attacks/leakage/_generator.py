"""Generators of features, trained on nodes whose features are public: what a typical row is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphsec.graph import Graph
from graphsec.models.base import inputs
from graphsec.ops import Adj, Features, linear, propagate
from graphsec.rng import Rng
from graphsec.sampling import take

FEWEST = 8  # public nodes below which there is nothing to learn a prior from
_BATCH = 256
_PAIRS = 2048  # edges, and as many pairs at random, in a step of the VGAE


@dataclass(frozen=True, eq=False)
class Generator:
    """A trained decoder in float64, and where the latents of the private rows are likely to be.

    Attributes:
        stages: Functions from layer to layer: the first takes the latent (k, l), the last gives
            features (k, d). Between two of them lies a feature layer.
        mean: (k, l) means of the latents of the private rows.
        std: (k, l) their standard deviations.
        rows: (m,) nodes that it was trained on.
    """

    stages: Sequence[nn.Module]
    mean: Tensor
    std: Tensor
    rows: Tensor

    def features(self, h: Tensor, layer: int = 0) -> Tensor:
        """(k, d) features from the activations of a layer; layer 0 is the latent."""
        for stage in self.stages[layer:]:
            h = stage(h)
        return h


class Output(nn.Module):
    """The last stage: features of the range, or of the location and scale, of public ones.

    Features that are not negative are logistic in 0 … the largest; others are Gaussian about
    their column's mean.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, width: int, x: Tensor | Features) -> None:
        super().__init__()
        values = x.values if isinstance(x, Features) else x
        self.map = nn.Linear(width, x.shape[1])
        self.logistic = float(values.min()) >= 0 if values.numel() else True
        filled = int((values != 0).sum()) / max(1, x.shape[0] * x.shape[1])
        self.words = self.logistic and filled < 0.25
        shift, scale = torch.zeros(()), values.abs().amax() if values.numel() else torch.ones(())
        if not self.logistic and isinstance(x, Tensor):
            shift, scale = x.mean(0), x.std(0)
        self.register_buffer("shift", shift)
        self.register_buffer("scale", torch.where(scale > 1e-6, scale, 1.0))

    def forward(self, h: Tensor) -> Tensor:
        """(k, d) features."""
        out: Tensor = self.map(h)
        return (out.sigmoid() if self.logistic else out) * self.scale + self.shift

    def loss(self, h: Tensor, x: Tensor) -> Tensor:
        """−log p(x | h), the mean over rows: words are coins, other features Gaussian.

        The variance of the Gaussian is the one under which the batch is likeliest (Rybkin et al.,
        Simple and Effective VAE Training with Calibrated Decoders, ICML 2021; from memory).
        """
        if self.words:
            off = F.binary_cross_entropy_with_logits(self.map(h), x / self.scale, reduction="sum")
            return off / len(x)
        variance = ((self.forward(h) - x) / self.scale).square().mean()
        return x.shape[1] / 2 * variance.clamp(min=1e-8).log()


def decoder(latent: int, width: int, x: Tensor | Features) -> tuple[nn.Module, nn.Module, Output]:
    """Latent → layer → layer → features."""
    return (
        nn.Sequential(nn.Linear(latent, width), nn.SiLU()),
        nn.Sequential(nn.Linear(width, width), nn.SiLU()),
        Output(width, x),
    )


def public_rows(known: Graph, hidden: Tensor) -> Tensor:
    """(m,) nodes whose features are not private: all that a prior may be trained on.

    Raises:
        ValueError: There are too few.
    """
    shown = torch.ones(known.num_nodes, dtype=torch.bool)
    shown[hidden] = False
    rows = shown.nonzero().ravel()
    if len(rows) < FEWEST:
        raise ValueError(
            f"attack 'gifd' trains its prior on nodes with public features: there must be ≥ "
            f"{FEWEST} of them, found {len(rows)} in {known.name!r}"
        )
    return rows


def vae(known: Graph, hidden: Tensor, latent: int, width: int, epochs: int, rng: Rng) -> Generator:
    """A variational autoencoder of single rows of features (Kingma & Welling, ICLR 2014).

    It is trained on public rows alone. The latent of a private row is standard normal beforehand.

    Args:
        known: The graph as the attacker has it.
        hidden: (k,) nodes with private features.
        latent: Width of the latent.
        width: Width of the layers between.
        epochs: Passes over the public rows.
        rng: Decides initial weights, batches and samples.

    Raises:
        ValueError: There are too few public rows.
    """
    rows, x = public_rows(known, hidden), inputs(known)
    with rng["weights"].scope():
        encoder = nn.Sequential(
            nn.Linear(x.shape[1], width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
            nn.Linear(width, 2 * latent),
        )  # fmt: skip
        stages = decoder(latent, width, take(x, rows))
    output = stages[-1]

    def loss(batch: Tensor, draws: torch.Generator) -> Tensor:
        mine = take(x, batch).to_dense()
        mean, log_std = encoder((mine - output.shift) / output.scale).chunk(2, 1)
        z = mean + log_std.exp() * torch.randn(mean.shape, generator=draws)
        return output.loss(stages[1](stages[0](z)), mine) + divergence(mean, log_std)

    modules = nn.ModuleList([encoder, *stages])
    _fit(modules, loss, rows, _BATCH, epochs, rng["draws"])
    mean = torch.zeros(len(hidden), latent, dtype=torch.float64)
    return Generator(_frozen(stages), mean, torch.ones_like(mean), rows)


class GraphEncoder(nn.Module):
    """Two graph convolutions to the means and log standard deviations of latents."""

    def __init__(self, features: int, width: int, latent: int) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.empty(features, width))
        self.second = nn.Parameter(torch.empty(width, 2 * latent))
        nn.init.xavier_uniform_(self.first)
        nn.init.xavier_uniform_(self.second)

    def forward(self, x: Tensor | Features, adj: Adj, keep: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log standard deviations (n, latent) with the features of some rows away.

        Args:
            x: (n, d) features.
            adj: The normalised operator.
            keep: (n, 1) 0 in rows whose features are taken for unknown.
        """
        h = propagate(adj, linear(x, self.first) * keep).relu()
        mean, log_std = propagate(adj, h @ self.second).chunk(2, 1)
        return mean, log_std.clamp(max=5)


def vgae(known: Graph, hidden: Tensor, latent: int, width: int, epochs: int, rng: Rng) -> Generator:
    """A variational graph autoencoder whose latents decode to features and to edges.

    A latent comes from the features around a node (Kipf & Welling, Variational Graph
    Auto-Encoders, 2016, eq. 1); σ(z_uᵀ z_v) decodes edges (eq. 2), and an MLP features, which is
    ours. In each step the features of a quarter of the public rows are taken away, and it is these
    that are decoded: so it learns to tell features from neighbours, as private rows ask for, whose
    latents beforehand are what the encoder says.

    Args:
        known: The graph as the attacker has it.
        hidden: (k,) nodes with private features.
        latent: Width of the latent.
        width: Width of the layers between.
        epochs: Passes over the public rows, a quarter of them a step.
        rng: Decides initial weights, batches and samples.

    Raises:
        ValueError: There are too few public rows.
    """
    rows, x = public_rows(known, hidden), inputs(known)
    adj = known.adj.normalized("sym", self_loops=True)
    with rng["weights"].scope():
        encoder = GraphEncoder(x.shape[1], width, latent)
        stages = decoder(latent, width, take(x, rows))
    pairs, n = known.pairs, known.num_nodes
    shown = torch.ones(n, 1)
    shown[hidden] = 0

    def loss(batch: Tensor, draws: torch.Generator) -> Tensor:
        mean, log_std = encoder(x, adj, shown.index_fill(0, batch, 0))
        z = mean + log_std.exp() * torch.randn(mean.shape, generator=draws)
        mine = take(x, batch).to_dense()
        features = stages[-1].loss(stages[1](stages[0](z[batch])), mine)
        return features + divergence(mean[batch], log_std[batch]) + _edges(z, pairs, draws)

    modules = nn.ModuleList([encoder, *stages])
    _fit(modules, loss, rows, -(-len(rows) // 4), epochs, rng["draws"])
    with torch.no_grad():
        mean, log_std = (each[hidden].double() for each in encoder(x, adj, shown))
    return Generator(_frozen(stages), mean, log_std.exp(), rows)


def _edges(z: Tensor, pairs: Tensor, draws: torch.Generator) -> Tensor:
    """−log p of some edges and as many pairs at random, a pair's mean times 2."""
    if not pairs.shape[1]:
        return z.new_zeros(())
    count = min(_PAIRS, pairs.shape[1])
    some = pairs[:, torch.randint(pairs.shape[1], (count,), generator=draws)]
    others = torch.randint(len(z), (2, count), generator=draws)
    there, absent = ((z[u] * z[v]).sum(1) for u, v in (some, others))
    return F.softplus(-there).mean() + F.softplus(absent).mean()


def divergence(mean: Tensor, log_std: Tensor) -> Tensor:
    """KL(N(mean, std²) ‖ N(0, 1)), the mean over rows."""
    each = (mean.square() + (2 * log_std).exp() - 1) / 2 - log_std
    return each.sum(1).mean()


def _fit(
    modules: nn.Module, loss: Callable[[Tensor, torch.Generator], Tensor], rows: Tensor, size: int,
    epochs: int, rng: Rng,
) -> None:  # fmt: skip
    """Adam under a rate that falls as a cosine, on batches of rows."""
    draws, steps = rng.torch(), epochs * -(-len(rows) // size)
    optimizer = torch.optim.Adam(modules.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    left: list[Tensor] = []
    for _ in range(steps):
        left = left or list(torch.split(rows[torch.randperm(len(rows), generator=draws)], size))
        value = loss(left.pop(), draws)
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()


def _frozen(stages: Sequence[nn.Module]) -> list[nn.Module]:
    return [stage.double().requires_grad_(False) for stage in stages]
