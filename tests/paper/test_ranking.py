"""LightGCN beside torch_geometric's, trained here with the same BPR on the same split."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import graphsec
from graphsec.metrics import hits, ndcg, recall
from graphsec.ranking import Triples
from graphsec.recipes import card
from graphsec.rng import Rng
from graphsec.train import Recipe

pytestmark = pytest.mark.paper


def measured(z: Tensor, graph: graphsec.Graph, truth: Tensor, known: Tensor) -> tuple[float, float]:
    """Recall@20 and NDCG@20 by the whole table of scores, which small graphs can afford."""
    users = torch.unique(truth[0])
    scores = z[: graph.num_users] @ z[graph.num_users :].T
    scores[known[0], known[1] - graph.num_users] = -torch.inf
    ranked = scores[users].topk(20).indices + graph.num_users
    hit, relevant = hits(ranked, users, truth)
    return recall(hit, relevant), ndcg(hit, relevant)


def train_peer(graph: graphsec.Graph, recipe: Recipe, seed: int) -> Tensor:
    """Embeddings of torch_geometric's LightGCN: its propagation, its loss, and Adam.

    It is given the same initial embeddings, the same triples, the same selection and patience.
    """
    from torch_geometric.nn import LightGCN

    assert graph.holdout is not None
    training, rng = recipe.training, Rng(seed)
    peer = LightGCN(graph.num_nodes, embedding_dim=64, num_layers=3)
    with rng["init"].scope():
        peer.embedding.weight.data = torch.randn(graph.num_nodes, 64) * 0.1
    optimizer = torch.optim.Adam(peer.parameters(), lr=training.lr)
    triples = Triples(graph, training.triples)
    best, waited, kept = -1.0, 0, torch.empty(0)
    for epoch in range(training.epochs):
        drawn = triples.epoch(rng["epoch"][epoch].numpy())
        for user, taken, other in drawn.split(training.batch_size or drawn.shape[1], dim=1):
            z = peer.get_embedding(graph.edge_index)
            loss = peer.recommendation_loss(
                (z[user] * z[taken]).sum(1), (z[user] * z[other]).sum(1),
                node_id=torch.cat([user, taken, other]), lambda_reg=training.weight_decay,
            )  # fmt: skip
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if (epoch + 1) % training.validate_every:
            continue
        with torch.no_grad():
            z = peer.get_embedding(graph.edge_index)
        _, now = measured(z, graph, graph.holdout.val, graph.pairs)
        waited = 0 if now > best else waited + training.validate_every
        best, kept = (now, z) if now > best else (best, kept)
        if training.patience is not None and waited >= training.patience:
            break
    return kept


@pytest.mark.parametrize("name", ["ml-100k", "lastfm"])
def test_no_worse_than_torch_geometric(name: str) -> None:
    """Mean over three splits, each with its own seed, within a hundredth of the peer's mean."""
    torch.set_num_threads(1)
    made = card(f"lightgcn/{name}")
    recipe = Recipe.of(made.model, made.training)
    ours, peers = [], []
    for seed in range(3):
        graph = graphsec.load(f"ranking/{name}", seed=seed)
        assert graph.holdout is not None
        known = torch.cat([graph.pairs, graph.holdout.val], dim=1)
        mine: Any = graphsec.fit(graph, made.model, training=made.training, seed=seed)
        ours.append(measured(mine.logits(graph), graph, graph.holdout.test, known))
        found = graphsec.score(graphsec.attack("none", mine, graph), graph, mine)
        assert float(found["recall_at_20"]) == pytest.approx(ours[-1][0], abs=1e-3)
        peers.append(measured(train_peer(graph, recipe, seed), graph, graph.holdout.test, known))
        print(f"\n{name} {seed}: ours {ours[-1]}, torch_geometric {peers[-1]}", flush=True)  # noqa: T201
    mean, other = np.mean(ours, 0), np.mean(peers, 0)
    print(f"{name}: Recall@20 and NDCG@20 {mean.round(4)}, torch_geometric {other.round(4)}")  # noqa: T201
    assert (mean >= 0.99 * other).all()
