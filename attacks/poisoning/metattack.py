"""Metattack: greedy edge flips by the gradient through training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from graphsec.attacks.poisoning._meta import MetaAttack
from graphsec.graph import Graph
from graphsec.outcome import Perturbation
from graphsec.registry import ATTACKS
from graphsec.rng import Rng
from graphsec.threat import View


@ATTACKS.register("metattack")
@dataclass(frozen=True, kw_only=True)
class Metattack(MetaAttack):
    """Flips, one after another, the pair whose flip raises the loss after training most.

    To first order, that is; the surrogate starts from fresh weights for every flip. No pair is
    flipped twice, no flip takes a node's last edge, and where none raises the loss any more the
    attack stops short of its budget. Exact over all pairs, in memory n² (the graph may have
    10,000 nodes); undirected graphs only. The paper's test of the degree distribution is left
    out, and the self-trained nodes are the threat's targets (``targets = "all"`` is the paper's).

    Source: Zügner & Günnemann, Adversarial Attacks on Graph Neural Networks via Meta Learning,
    ICLR 2019, §4; surrogate and its training as in their published code.
    """

    def run(self, view: View, rng: Rng) -> Perturbation:
        """The flips, and in ``info`` the attack loss before each."""
        budget, clean = view.edge_budget, view.known
        if budget == 0:
            return Perturbation()
        gradient = self.gradient(view, rng["labels"])
        change = _changes(clean, view.node_budget)
        left = view.node_budget
        flips = torch.zeros((2, 0), dtype=torch.int64)
        graph, losses = clean, []
        while flips.shape[1] < budget:
            loss, score = gradient(graph.adj, rng["init"][flips.shape[1]])
            losses.append(loss)
            score *= change
            score[tuple(_last_edges(graph))] = 0
            best = int(score.argmax())
            u, v = divmod(best, graph.num_nodes)
            if not score[u, v] > 0:
                break
            flips = torch.cat([flips, torch.tensor([[u], [v]])], 1)
            change[u, v] = 0
            for node in (u, v):
                if left is not None and int((flips == node).sum()) >= left[node]:
                    change[node], change[:, node] = 0, 0
            graph = clean.flip(flips)
        return Perturbation(flips=flips, info={"losses": losses})


def _changes(graph: Graph, per_node: Tensor | None) -> Tensor:
    """(n, n) what a flip of the pair u < v adds to its weight; 0 where it may not be flipped."""
    n = graph.num_nodes
    change = torch.ones(n, n).triu_(1)
    weight = torch.from_numpy(graph.to_scipy().data)
    row, col = graph.edge_index
    change[row, col] = torch.where(row < col, -weight, 0.0)
    if per_node is not None:
        change[per_node <= 0], change[:, per_node <= 0] = 0, 0
    return change


def _last_edges(graph: Graph) -> Tensor:
    """(2, k) the edges u < v that are the only one of a node."""
    return graph.pairs[:, (graph.degree[graph.pairs] == 1).any(0)]
