"""The contract of ranking models: that of models, with users and items in place of classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from graphsec.defenses import build as build_defense
from graphsec.graph import Graph
from graphsec.metrics import hits, recall
from graphsec.ranking import bpr_loss
from graphsec.rng import Rng
from graphsec.testing.common import some_flips, x_of
from graphsec.testing.models import ModelContract
from graphsec.train import Recipe


@cache
def tiny_rankings() -> dict[str, Graph]:
    """Two ranking graphs: "tastes", with a lonely user and item, and one with edge weights."""
    return {"tastes": _tastes(1, False), "liked": _tastes(2, True)}


def _tastes(seed: int, weighted: bool) -> Graph:
    """Thirty users of three tastes; of each taste's ten items the first are taken more."""
    rng, users, items = np.random.default_rng(seed), 30, 30
    same = np.arange(users)[:, None] % 3 == np.arange(items)[None, :] % 3
    chance = np.where(same, 0.75, 0.06) * np.linspace(1, 0.4, items)
    pairs = np.argwhere(rng.random((users, items)) < chance)
    pairs = pairs[(pairs < 29).all(1)].T + np.array([[0], [users]])
    part = rng.permutation(pairs.shape[1]) % 10
    weight = rng.uniform(0.3, 2, int((part > 1).sum())) if weighted else None
    return Graph.from_edges(
        pairs[:, part > 1], users + items, edge_weight=weight, task="ranking",
        node_type=np.repeat([0, 1], [users, items]), name="liked" if weighted else "tastes",
        holdout=(pairs[:, part == 0], pairs[:, part == 1]),
    )  # fmt: skip


class RankingContract(ModelContract):
    """What every ranking model must do.

    Tables with one row a node are parameters of the nodes: renumbering moves their rows too.
    """

    graphs: ClassVar[Callable[[], Mapping[str, Graph]]] = staticmethod(tiny_rankings)

    def _small(self, graph: Graph) -> Graph:
        return graph  # a table fits no other nodes

    def _loss(self, out: Tensor, graph: Graph) -> Tensor:
        user, item = graph.pairs[:, :12]
        return bpr_loss(out[user], out[item], out[item.flip(0)])

    def test_learns(self, graph: Graph) -> None:
        """With its own recipe it ranks the training items far better than chance does."""
        predictor = build_defense("none").fit(graph, Recipe.of(self.component), Rng(0)["fit"])
        users = torch.unique(graph.pairs[0])
        ranked = predictor.rank(graph, users, 6, exclude=graph.pairs[:, :0])
        found = recall(*hits(ranked, users, graph.pairs))
        assert found > 1.2 * 6 / (graph.num_nodes - graph.num_users)

    def test_permutation_equivariance(self, graph: Graph) -> None:
        """Renumbering users and items, with their rows of tables, renumbers the embeddings."""
        model, users = self._build(graph), graph.num_users
        rng = np.random.default_rng(5)
        order = torch.from_numpy(np.concatenate([
            rng.permutation(users), users + rng.permutation(graph.num_nodes - users)
        ]))  # fmt: skip
        with torch.no_grad():
            out = model(x_of(graph), graph.adj)
            for parameter in model.parameters():
                if len(parameter) == graph.num_nodes:
                    parameter.data = parameter.data[order]
            other = graph.subgraph(order)
            permuted = model(x_of(other), other.adj)
        torch.testing.assert_close(permuted, out[order], rtol=1e-4, atol=1e-5)

    def test_per_sample_gradients(self, graph: Graph) -> None:
        """One gradient a triple through ``torch.func.vmap(grad)`` equals a loop over triples."""
        self._skip_without("per_sample")
        model = self._build(graph)
        parameters = {name: p.detach() for name, p in model.named_parameters()}
        user, item = graph.pairs[:, [0, 20, 41]]
        triples = torch.stack([user, item, item.roll(1)], dim=1)

        def loss(parameters: dict[str, Tensor], triple: Tensor) -> Tensor:
            out: Tensor = functional_call(model, parameters, (x_of(graph), graph.adj))
            return bpr_loss(*out[triple].unsqueeze(1))

        batched = vmap(grad(loss), in_dims=(None, 0))(parameters, triples)
        for i, triple in enumerate(triples):
            single = grad(loss)(parameters, triple)
            named = dict(model.named_parameters())
            plain = torch.autograd.grad(loss(named, triple), list(named.values()))  # type: ignore[arg-type]
            for name, one in zip(named, plain, strict=True):
                torch.testing.assert_close(batched[name][i], one, rtol=1e-4, atol=1e-6)
                torch.testing.assert_close(single[name], one, rtol=1e-4, atol=1e-6)

    def test_answers_graphs_of_other_sizes(self, graph: Graph) -> None:
        """It answers about other edges, none included; about other nodes too, or says why not."""
        model = self._build(graph)
        alone = graph.replace(
            indptr=torch.zeros_like(graph.indptr),
            indices=graph.indices[:0],
            edge_weight=None,
            edge_y=None,
        )
        for other in (graph.flip(some_flips(graph)), alone):
            with torch.no_grad():
                out = model(x_of(other), other.adj)
            assert len(out) == graph.num_nodes
            assert torch.isfinite(out).all()
        fewer, refused = graph.subgraph(torch.arange(9, graph.num_nodes)), ""
        try:
            with torch.no_grad():
                assert len(model(x_of(fewer), fewer.adj)) == fewer.num_nodes
        except ValueError as error:
            refused = str(error)
        assert not refused or str(fewer.num_nodes) in refused
