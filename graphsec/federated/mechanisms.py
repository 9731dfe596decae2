"""What is done to tensors before they leave a party: random projection, quantisation, noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from graphsec.rng import Rng


@dataclass(frozen=True, eq=False)
class Sketch:
    """A sparse random projection Φ (rows × n) with one entry ±1 in each column: a count-sketch.

    E[Φᵀ Φ] = I, so decoding a sum of projections gives each party's sums back without bias; the
    error of a row is the sum of the rows that share its bucket, with random signs.

    Source: Charikar, Chen & Farach-Colton, ICALP 2002, as the projection in the code of Mai & Pang,
    ICML 2023.

    Attributes:
        bucket: (n,) row of each column's entry.
        sign: (n,) the entry.
        rows: Number of rows.
    """

    bucket: Tensor
    sign: Tensor
    rows: int

    @staticmethod
    def drawn(n: int, rows: int, rng: Rng) -> Sketch:
        """A projection that everybody who knows the stream draws alike."""
        generator = rng.numpy()
        bucket = torch.from_numpy(generator.integers(0, rows, n))
        sign = torch.from_numpy(generator.integers(0, 2, n).astype(np.float32) * 2 - 1)
        return Sketch(bucket, sign, rows)

    def encode(self, sums: Tensor) -> Tensor:
        """Φ sums: (rows, width) from (n, width)."""
        out = sums.new_zeros(self.rows, sums.shape[1])
        return out.index_add(0, self.bucket, sums * self.sign.unsqueeze(1).to(sums.dtype))

    def decode(self, projected: Tensor) -> Tensor:
        """Φᵀ projected: (n, width) from (rows, width)."""
        return projected[self.bucket] * self.sign.unsqueeze(1).to(projected.dtype)


def ternary(gradient: Tensor, clip: float, level: float, rng: Rng) -> Tensor:
    """Signs (int8) that are ±1 with probability |g| / level, else 0: level · sign is unbiased.

    Of the gradient clamped to ±clip. Each coordinate is (0, clip / level)-private, which says
    nothing about a table of them (``composed_ternary``).

    Source: Wang & Başar, Quantization enabled Privacy Protection in Decentralized Stochastic
    Optimization, IEEE TAC 2023, as used by Mai & Pang, ICML 2023.
    """
    clamped = gradient.clamp(-clip, clip)
    draw = torch.rand(gradient.shape, generator=rng.torch(), dtype=torch.float64)
    return (clamped.sign() * (draw * level < clamped.abs())).to(torch.int8)


def laplace(gradient: Tensor, clip: float, scale: float, rng: Rng) -> Tensor:
    """The gradient clamped to ±clip, with Laplace noise of this scale on each coordinate.

    Source: Wu et al., FedGNN, arXiv 2102.04925, §3.4 (from memory).
    """
    noise = torch.from_numpy(rng.numpy().laplace(0, scale, tuple(gradient.shape)))
    return gradient.clamp(-clip, clip) + noise.to(gradient.dtype)


def composed_ternary(clip: float, level: float, coordinates: int, rounds: int) -> float:
    """δ of (0, δ)-privacy of a whole training of ternary gradients, at most 1: basic composition.

    One coordinate's answer differs in total variation by at most clip / level; what is sent holds
    ``coordinates`` of them in each round. It is 1, which promises nothing, in any real training.
    """
    return min(1.0, clip / level * coordinates * rounds)


def composed_laplace(clip: float, scale: float, coordinates: int, rounds: int) -> float:
    """ε of a whole training of Laplace gradients: 2 clip / scale for each number that was sent."""
    return 2 * clip / scale * coordinates * rounds
