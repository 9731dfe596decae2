"""How much two descriptions of the same n nodes have to do with each other; differentiable.

A description is a matrix of features (n, d), whose kernel is linear, or a kernel (n, n) itself: an
adjacency serves as the kernel of the topology.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def centred(a: Tensor) -> Tensor:
    """Columns of mean 0."""
    return a - a.mean(0, keepdim=True)


def hsic(a: Tensor, b: Tensor) -> Tensor:
    """Hilbert–Schmidt independence criterion with linear kernels, in O(n d²).

    tr(K H L H) / (n − 1)² with K = A Aᵀ, L = B Bᵀ, H = I − 1/n (Gretton et al., Measuring
    Statistical Dependence with Hilbert-Schmidt Norms, ALT 2005, eq. 9): the squared norm of
    A_cᵀ B_c, of centred columns, over (n − 1)².

    Args:
        a: (n, d) features.
        b: (n, e) features.
    """
    return (centred(a).T @ centred(b)).square().sum() / (len(a) - 1) ** 2


def cka(a: Tensor, b: Tensor) -> Tensor:
    """Centred kernel alignment, 0 to 1: HSIC over the root of its values of each with itself.

    Source: Kornblith et al., Similarity of Neural Network Representations Revisited, ICML 2019, §3.

    Args:
        a: (n, d) features.
        b: (n, e) features; constant ones have 0.
    """
    return hsic(a, b) / (hsic(a, a) * hsic(b, b)).clamp(min=1e-24).sqrt()


def alignment(k: Tensor, m: Tensor, scaled: bool = True) -> Tensor:
    """tr(K H M H) of two kernels, over ‖H K H‖ and, if ``scaled``, ‖H M H‖, in O(n²).

    Args:
        k: (n, n) symmetric kernel.
        m: (n, n) symmetric kernel.
        scaled: Whether the size of ``m`` is of no account (the alignment of CKA, −1 to 1).
    """

    def both(kernel: Tensor) -> Tensor:
        mean = kernel.mean(0, keepdim=True)
        return kernel - mean - mean.T + mean.mean()

    middle = both(k)
    value: Tensor = (middle * m).sum() / middle.norm().clamp(min=1e-12)
    return value / both(m).norm().clamp(min=1e-12) if scaled else value / len(m)


def gaussian_kernel(a: Tensor, width: float = 0.4) -> Tensor:
    """(n, n) Gaussian kernel; its bandwidth is ``width`` times the root mean square distance.

    Args:
        a: (n, d) features.
        width: Bandwidth in units of the spread, so that the scale of the features is of no account.
    """
    c = centred(a)
    square = c.square().sum(1, keepdim=True)
    # The mean square distance is twice the mean square from the centre.
    c = c * (4 * width**2 * square.mean()).clamp(min=1e-12).rsqrt()
    square, one = c.square().sum(1, keepdim=True), torch.ones_like(square)
    # 2 c_i·c_j − ‖c_i‖² − ‖c_j‖² in one product: passes over (n, n) are what this costs.
    exponent = torch.cat([2 * c, -square, -one], 1) @ torch.cat([c, one, square], 1).T
    return exponent.clamp(max=0).exp()


def information(k: Tensor, m: Tensor) -> Tensor:
    """Mutual information in nats by kernel density estimates, of two kernels of the nodes.

    The mean over i of log(n Σ_j K_ij M_ij / (Σ_j K_ij Σ_j M_ij)): densities of both and of each
    (Moon et al., Estimation of mutual information using kernel density estimators, 1995).

    Args:
        k: (n, n) kernel of entries ≥ 0.
        m: (n, n) kernel of entries ≥ 0.
    """
    both, one, other = ((part.sum(1) + 1e-12).log() for part in (k * m, k, m))
    mean: Tensor = (both - one - other).mean()
    return mean + math.log(len(k))
