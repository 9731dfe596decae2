"""The contract of models."""

from __future__ import annotations

import dataclasses
from typing import Any
from unittest import SkipTest

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad, vmap

from graphsec.cell import Cell
from graphsec.defenses import build as build_defense
from graphsec.graph import Graph
from graphsec.models.base import GNN, ModelSpec, Sizes
from graphsec.ops import CSR, Adj
from graphsec.registry import MODELS
from graphsec.rng import Rng
from graphsec.sampling import Shadow, sample, take
from graphsec.testing.common import Contract, any_dataset, disturb, same, some_flips, x_of
from graphsec.train import Recipe


class ModelContract(Contract):
    """What every model must do; what it declares not to support is skipped."""

    @property
    def component(self) -> Any:
        """The model's spec."""
        return MODELS.build(self.spec)

    def _cell(self) -> Cell:
        return Cell(dataset=any_dataset(), model=self.component.spec())

    def _build(self, graph: Graph, dtype: torch.dtype = torch.float32) -> GNN:
        spec: ModelSpec = self.component
        with Rng(0)["model"].scope():
            model = spec.build(Sizes.of(graph)).to(dtype).eval()
            for parameter in model.parameters():  # biases that start at zero would hide mistakes
                parameter.data += 0.1 * torch.randn_like(parameter)
        return model

    def _small(self, graph: Graph) -> Graph:
        """A graph for finite differences."""
        return graph.subgraph(torch.arange(16))

    def _loss(self, out: Tensor, graph: Graph) -> Tensor:
        """A training loss, for second derivatives."""
        assert graph.y is not None
        return F.cross_entropy(out, graph.y.clamp(min=0))

    def _skip_without(self, capability: str) -> None:
        if not getattr(self.component.module.capabilities, capability):
            raise SkipTest(f"declares {capability}=False")

    def test_same_stream_same_parameters(self, graph: Graph) -> None:
        """Initialisation draws from the global generators inside a stream's scope only."""
        disturb()
        first = self._build(graph)
        disturb()
        assert same(dict(first.state_dict()), dict(self._build(graph).state_dict()))

    def test_learns(self, graph: Graph) -> None:
        """With its own recipe it fits the training nodes better than one guess for all does."""
        predictor = build_defense("none").fit(graph, Recipe.of(self.component), Rng(0)["fit"])
        assert graph.y is not None
        assert graph.split is not None
        y = graph.y[graph.split.train]
        fitted = (predictor.predict(graph, graph.split.train) == y).float().mean()
        assert fitted > 1.2 * y.bincount().max() / len(y)

    def test_permutation_equivariance(self, graph: Graph) -> None:
        """Renumbering the nodes renumbers the logits and does nothing else."""
        model = self._build(graph)
        order = torch.from_numpy(np.random.default_rng(5).permutation(graph.num_nodes))
        with torch.no_grad():
            out = model(x_of(graph), graph.adj)
            other = graph.subgraph(order)
            permuted = model(x_of(other), other.adj)
        torch.testing.assert_close(permuted, out[order], rtol=1e-4, atol=1e-5)

    def test_weight_zero_is_absent(self, graph: Graph) -> None:
        """Edges of weight 0 in the pattern change nothing."""
        self._skip_without("edge_weight")
        model, extra = self._build(graph), some_flips(graph, 8)
        extra = extra[:, ~graph.has_edges(extra)]
        larger = graph.flip(extra)
        plain = _with_weights(graph)
        weight = torch.where(_lookup(plain, larger) >= 0, _values(plain, larger), 0.0)
        adj = Adj(csr=CSR(larger.indptr, larger.indices, graph.num_nodes), weight=weight)
        with torch.no_grad():
            torch.testing.assert_close(
                model(x_of(graph), adj), model(x_of(graph), plain.adj), rtol=1e-5, atol=1e-5
            )

    def test_block_is_flipped_graph(self, graph: Graph) -> None:
        """Candidate pairs at weight 1 give the flipped graph, at p the graph weighted so."""
        self._skip_without("edge_weight")
        model, flips = self._build(graph), some_flips(graph)
        ones = torch.ones(flips.shape[1])
        p = torch.linspace(0.1, 0.9, flips.shape[1])
        edge = graph.has_edges(flips)
        pairs = torch.cat([graph.pairs, flips[:, ~edge]], 1)
        base = _with_weights(graph)
        here = base.adj.csr.find(pairs[0], pairs[1])
        assert base.edge_weight is not None
        weight = torch.where(here >= 0, base.edge_weight[here.clamp(min=0)], 0.0)
        place = {tuple(pair): i for i, pair in enumerate(pairs.T.tolist())}
        for i, pair in enumerate(flips.T.tolist()):
            k = place[tuple(pair)]
            weight[k] = weight[k] * (1 - p[i]) if edge[i] else p[i]
        fractional = Graph.from_edges(pairs, graph.num_nodes, edge_weight=weight, x=graph.x)
        for amount, wanted in ((ones, graph.flip(flips)), (p, fractional)):
            adj = graph.adj.with_block(flips, amount)
            with torch.no_grad():
                torch.testing.assert_close(
                    model(x_of(graph), adj), model(x_of(graph), wanted.adj), rtol=1e-4, atol=1e-5
                )

    def test_full_fan_out_is_full_batch(self, graph: Graph) -> None:
        """Sampled with all neighbours, joint or root by root, the roots' logits are the same."""
        self._skip_without("sampled")
        model, roots = self._build(graph), torch.tensor([0, 7, 3, 21])
        if model.layers is None:
            raise SkipTest("has no fixed number of layers")
        with torch.no_grad():
            wanted = model(x_of(graph), graph.adj)[roots]
            for separate in (False, True):
                nodes, adj = sample(
                    graph.adj, roots, [-1] * model.layers, Rng(0), separate=separate
                )
                out = model(take(x_of(graph), nodes), adj)
                torch.testing.assert_close(out, wanted, rtol=1e-4, atol=1e-5)

    def test_whole_scopes_are_full_batch(self, graph: Graph) -> None:
        """On a subgraph that holds all that its layers reach, each root's logits are the same."""
        self._skip_without("sampled")
        model, roots = self._build(graph), torch.tensor([0, 7, 3, 21])
        if model.layers is None:
            raise SkipTest("has no fixed number of layers")
        shadow = Shadow(hops=model.layers)
        out = shadow.answers(model, x_of(graph), shadow.scopes(graph.adj, roots))
        with torch.no_grad():
            wanted = model(x_of(graph), graph.adj)[roots]
        torch.testing.assert_close(out, wanted, rtol=1e-4, atol=1e-5)

    def test_edge_gradient(self, graph: Graph) -> None:
        """Gradients in edge weights and candidate pairs agree with finite differences."""
        self._skip_without("edge_weight")
        self._skip_without("uses_edges")
        model, small = self._build(graph, torch.float64), self._small(graph)
        # A mean over neighbours jumps where the first edge appears: keep to nodes with edges.
        flips = some_flips(small, 5)
        flips = flips[:, (small.degree[flips] > 1).all(0)]
        x = x_of(small).to_dense().double()
        clean = _with_weights(small).edge_weight
        assert clean is not None
        weight = clean.double().requires_grad_()
        p = torch.linspace(0, 0.8, flips.shape[1], dtype=torch.float64).requires_grad_()

        def logits(weight: Tensor, p: Tensor) -> Tensor:
            # In an undirected graph both directions share one value.
            adj = dataclasses.replace(small.adj, weight=weight)
            symmetric = (weight + weight[small.adj._reverse]) / 2
            out: Tensor = model(x, dataclasses.replace(adj, weight=symmetric).with_block(flips, p))
            return out

        assert torch.autograd.gradcheck(logits, (weight, p), eps=1e-7, atol=1e-5, rtol=1e-4)

    def test_per_sample_gradients(self, graph: Graph) -> None:
        """One gradient a node through ``torch.func.vmap(grad)`` equals a loop over nodes."""
        self._skip_without("per_sample")
        model = self._build(graph)
        parameters = {name: p.detach() for name, p in model.named_parameters()}
        nodes, classes = torch.tensor([0, 4, 9]), max(graph.num_classes, 1)
        masks = F.one_hot(nodes, graph.num_nodes).float().unsqueeze(-1).expand(-1, -1, classes)

        def loss(parameters: dict[str, Tensor], mask: Tensor) -> Tensor:
            out: Tensor = functional_call(model, parameters, (x_of(graph), graph.adj))
            return (out.log_softmax(1) * mask).sum()

        batched = vmap(grad(loss), in_dims=(None, 0))(parameters, masks)
        for i, mask in enumerate(masks):
            named = dict(model.named_parameters())
            value = (model(x_of(graph), graph.adj).log_softmax(1) * mask).sum()
            single = torch.autograd.grad(value, list(named.values()), allow_unused=True)
            for name, one in zip(named, single, strict=True):
                wanted = torch.zeros_like(named[name]) if one is None else one
                torch.testing.assert_close(batched[name][i], wanted, rtol=1e-4, atol=1e-5)

    def test_second_order(self, graph: Graph) -> None:
        """The norm of a training gradient can be differentiated, in parameters and edge weights.

        Gradient leakage matches gradients, meta-attacks differentiate through training.
        """
        self._skip_without("second_order")
        self._skip_without("uses_edges")
        model, small = self._build(graph, torch.float64), self._small(graph)
        x, clean = x_of(small).to_dense().double(), _with_weights(small).edge_weight
        assert clean is not None
        parameters = list(model.parameters())
        start = [p.detach().clone() for p in (*parameters, clean.double())]
        generator = torch.Generator().manual_seed(7)
        direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) / 10 for p in start]

        def squared_norm(step: float) -> tuple[Tensor, list[Tensor]]:
            """Squared norm of the gradient at a step along the direction, and the leaves."""
            moved = [p + step * d for p, d in zip(start, direction, strict=True)]
            for parameter, value in zip(parameters, moved[:-1], strict=True):
                parameter.data.copy_(value)
            weight = moved[-1].requires_grad_()
            loss = self._loss(model(x, dataclasses.replace(small.adj, weight=weight)), small)
            gradients = torch.autograd.grad(
                loss, parameters, create_graph=True, allow_unused=True, materialize_grads=True
            )
            return torch.stack([g.square().sum() for g in gradients]).sum(), [*parameters, weight]

        value, leaves = squared_norm(0.0)
        second = torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)
        slope = torch.stack([(g * d).sum() for g, d in zip(second, direction, strict=True)]).sum()
        h = 1e-5
        numeric = (squared_norm(h)[0] - squared_norm(-h)[0]).detach() / (2 * h)
        torch.testing.assert_close(slope, numeric, rtol=1e-4, atol=1e-7)

    def test_answers_graphs_of_other_sizes(self, graph: Graph) -> None:
        """No graph is kept in the module: it answers about any, isolated nodes included."""
        model = self._build(graph)
        alone = graph.replace(
            indptr=torch.zeros_like(graph.indptr), indices=graph.indices[:0], edge_weight=None
        )
        for other in (graph.subgraph(torch.arange(9)), alone):
            with torch.no_grad():
                out = model(x_of(other), other.adj)
            assert out.shape == (other.num_nodes, max(graph.num_classes, 1))
            assert torch.isfinite(out).all()


def _with_weights(graph: Graph) -> Graph:
    """The graph with explicit edge weights."""
    if graph.edge_weight is not None:
        return graph
    return graph.replace(edge_weight=torch.ones(len(graph.indices)))


def _lookup(graph: Graph, larger: Graph) -> Tensor:
    """The entry of ``graph`` at each entry of ``larger``, −1 where there is none."""
    return CSR(graph.indptr, graph.indices, graph.num_nodes).find(*larger.edge_index)


def _values(graph: Graph, larger: Graph) -> Tensor:
    assert graph.edge_weight is not None
    return graph.edge_weight[_lookup(graph, larger).clamp(min=0)]
