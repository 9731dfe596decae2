"""How well the first K items of a ranking hold what users took."""

from __future__ import annotations

import torch
from torch import Tensor

from graphsec.metrics.base import Metric


def hits(ranked: Tensor, users: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Which ranked items were taken.

    Args:
        ranked: (u, K) item nodes, best first; −1 where there are no more.
        users: (u,) distinct users, one for each row.
        truth: (2, k) distinct pairs of user and item; pairs of other users don't count.

    Returns:
        (u, K) whether the item is among the user's true ones, and (u,) how many those are.
    """
    size = 1 + max((int(part.max()) for part in (ranked, truth, users) if part.numel()), default=0)
    asked = users.unsqueeze(1) * size + ranked
    found = torch.isin(asked, truth[0] * size + truth[1]) & (ranked >= 0)
    return found, torch.bincount(truth[0], minlength=size)[users]


def recall(hit: Tensor, relevant: Tensor) -> float:
    """Mean over users of hits / relevant items (Recall@K, as LightGCN's evaluation has it).

    Args:
        hit: (u, K) from ``hits``.
        relevant: (u,) number of true items, each ≥ 1.
    """
    _check(relevant)
    return float((hit.sum(1) / relevant.double()).mean())


def ndcg(hit: Tensor, relevant: Tensor) -> float:
    """Mean over users of DCG / IDCG, gains 0 or 1 (Järvelin & Kekäläinen 2002).

    A hit at rank r = 1, 2, … counts 1 / log₂(r + 1); the ideal has min(K, relevant) hits first.

    Args:
        hit: (u, K) from ``hits``.
        relevant: (u,) number of true items, each ≥ 1.
    """
    _check(relevant)
    k = hit.shape[1]
    discount = 1 / torch.arange(2, k + 2, dtype=torch.float64, device=hit.device).log2()
    ideal = discount.cumsum(0)[relevant.clamp(max=k) - 1]
    return float(((hit * discount).sum(1) / ideal).mean())


def hit_rate(hit: Tensor) -> float:
    """Fraction of users with at least one hit (u, K)."""
    return float(hit.any(1).double().mean())


def recommendation_metrics(hit: Tensor, relevant: Tensor) -> dict[str, Metric]:
    """Recall, NDCG and hit rate at K, each from 0 to 1 and better if higher.

    Args:
        hit: (u, K) from ``hits``.
        relevant: (u,) number of true items, each ≥ 1.
    """
    k = hit.shape[1]
    return {
        f"recall_at_{k}": Metric(recall(hit, relevant), True, 0, 1, f"Recall@{k}"),
        f"ndcg_at_{k}": Metric(ndcg(hit, relevant), True, 0, 1, f"NDCG@{k}"),
        f"hit_rate_at_{k}": Metric(hit_rate(hit), True, 0, 1, f"hit rate@{k}"),
    }


def _check(relevant: Tensor) -> None:
    if len(relevant) == 0 or int(relevant.min()) < 1:
        raise ValueError("ranking metrics need users with at least one true item each")
