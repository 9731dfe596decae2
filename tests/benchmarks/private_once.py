"""One private step beside its peers, all on the same padded subtrees of a regular graph.

python private_once.py LAYERS time            CPU milliseconds of each way, alternating
python private_once.py LAYERS memory WAY      megabytes that a way takes beyond its inputs
python private_once.py LAYERS check           largest relative distances of the clipped sums
"""

from __future__ import annotations

import copy
import ctypes
import gc
import json
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphsec.costs import peak_memory, reset_peak_memory
from graphsec.dp.gradients import Clip, clipped_sum, losses
from graphsec.dp.step import COPIES, walks
from graphsec.graph import Graph
from graphsec.models.base import GNN, inputs
from graphsec.models.stack import biases, weights
from graphsec.ops import Adj, Features, linear
from graphsec.rng import Rng
from graphsec.sampling import subtrees, take

DEGREE, ROOTS, FEATURES, HIDDEN, CLASSES, NOISE = 7, 1024, 128, 256, 16, 1.0
CHUNKS = (16, 64, 256, 1024)


class Convolutions(GNN):
    """Convolutions of 256 units, each a map, a mean with oneself and ReLU, and a map to classes."""

    def __init__(self, layers: int) -> None:
        super().__init__(layers)
        width = [FEATURES, *[HIDDEN] * layers, CLASSES]
        self.weight, self.bias = weights(width), biases(width[1:])

    def operator(self, adj: Adj) -> Adj:
        return adj.normalized("row", self_loops=True)

    def layer(self, i: int, h: Tensor | Features, adj: Adj, x: Tensor | Features) -> Tensor:
        z = torch.relu(self.aggregate(adj, linear(h, self.weight[i])) + self.bias[i])
        last = i + 1 == self.layers
        return linear(z, self.weight[i + 1]) + self.bias[i + 1] if last else z


class Padded(nn.Module):
    """The same model in plain torch, on (B, 8, …) blocks, each mean before its map."""

    def __init__(self, model: Convolutions) -> None:
        super().__init__()
        self.maps = nn.ModuleList([nn.Linear(*weight.shape) for weight in model.weight])
        with torch.no_grad():
            for own, weight, bias in zip(self.maps, model.weight, model.bias, strict=True):
                own.weight.copy_(weight.T)  # type: ignore[operator]
                own.bias.copy_(bias)  # type: ignore[operator]

    def forward(self, x: Tensor, inner: Tensor, outer: Tensor) -> Tensor:
        *hidden, last, classes = self.maps
        for layer in hidden:
            x = F.relu(layer(torch.einsum("bkj,bkjd->bkd", inner, x)))
        out: Tensor = classes(F.relu(last(torch.einsum("bk,bkd->bd", outer, x))))
        return out


class Case:
    """The inputs in both forms, and one step by each way."""

    def __init__(self, layers: int, count: int) -> None:
        torch.set_num_threads(1)
        self.count = count
        rng = np.random.default_rng(0)
        n = 20_000
        edges = np.array(nx.random_regular_graph(DEGREE, n, seed=1).edges()).T
        graph = Graph.from_edges(
            edges, n, x=rng.normal(size=(n, FEATURES)).astype(np.float32),
            y=rng.integers(0, CLASSES, n), split=(np.arange(n), [], []),
        )  # fmt: skip
        assert graph.y is not None
        with Rng(0).scope():
            self.model = Convolutions(layers)
        roots = torch.arange(count)
        nodes, self.adj = subtrees(graph.adj, roots, layers)
        x_all = inputs(graph)
        x = take(x_all, nodes)
        assert isinstance(x, Tensor)
        self.x, self.y = x, graph.y[roots]
        self.split = []  # as ``PrivateSteps`` does it
        each = int(walks(graph.adj, layers)[0])
        for some in torch.split(roots, COPIES // each):
            mine, adj = subtrees(graph.adj, some, layers)
            self.split.append((take(x_all, mine), adj, graph.y[some]))
        operator = self.model.operator(self.adj)
        parts = [self._block(operator.hop(i)) for i in range(layers)]
        columns, self.outer = parts[-1]
        if layers == 1:
            self.wide, self.inner = self.x[columns], self.outer
        else:  # rows of the first hop, as the roots see them
            self.inner = parts[0][1][columns]
            self.wide = self.x[parts[0][0][columns]]

    @staticmethod
    def _block(hop: Adj) -> tuple[Tensor, Tensor]:
        """(rows, 8) columns and weights of a hop in which all rows have as many entries."""
        merged = hop.merged()
        assert merged.weight is not None
        size = (merged.num_nodes, DEGREE + 1)
        return merged.csr.indices.view(size), merged.weight.view(size)

    def ways(self) -> dict[str, Callable[[], None]]:
        made: dict[str, Callable[[], None]] = {
            "plain": self.plain(),
            "zoo": self.zoo(),
            "ours": self.ours(),
            "hooks": self.hooks(),
            "opacus": self.opacus(),
            "opacus-ghost": self.opacus_ghost(),
        }
        for chunk in CHUNKS:
            made[f"vmap-{chunk}"] = self.vmap(chunk)
        return made

    def padded(self) -> Padded:
        return Padded(self.model)

    def plain(self) -> Callable[[], None]:
        """Without privacy, in plain torch."""
        model = self.padded()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

        def step() -> None:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(self.wide, self.inner, self.outer), self.y)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        return step

    def zoo(self) -> Callable[[], None]:
        """Without privacy, as graphsec trains on sampled hops."""
        model = self._copy()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

        def step() -> None:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(self.x, self.adj)[: self.count], self.y)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        return step

    def ours(self) -> Callable[[], None]:
        model = self._copy()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
        generator = np.random.default_rng(0)

        def step() -> None:
            sums = {name: torch.zeros_like(p).detach() for name, p in model.named_parameters()}
            for part in self.split:
                for name, value in clipped_sum(model, *part, "classification", Clip())[0].items():
                    sums[name] += value
            for name, parameter in model.named_parameters():
                noise = torch.from_numpy(NOISE * generator.standard_normal(tuple(parameter.shape)))
                parameter.grad = (sums[name].double() + noise).float() / self.count
            optimizer.step()

        return step

    def _copy(self) -> GNN:
        return copy.deepcopy(self.model)

    def _loss(self, model: Padded) -> Callable[..., Tensor]:
        def loss(parameters: dict[str, Tensor], x: Tensor, a: Tensor, b: Tensor, y: Tensor) -> Any:
            parts = (x.unsqueeze(0), a.unsqueeze(0), b.unsqueeze(0))
            out = torch.func.functional_call(model, parameters, parts)
            return F.cross_entropy(out, y.unsqueeze(0))

        return loss

    def vmap_sums(self, model: Padded, chunk: int) -> dict[str, Tensor]:
        grad = torch.func.vmap(torch.func.grad(self._loss(model)), (None, 0, 0, 0, 0))
        parameters = {name: p.detach() for name, p in model.named_parameters()}
        sums = {name: torch.zeros_like(p) for name, p in parameters.items()}
        for i in range(0, self.count, chunk):
            some = slice(i, i + chunk)
            found = grad(
                parameters, self.wide[some], self.inner[some], self.outer[some], self.y[some]
            )
            self._add(sums, found)
        return sums

    @staticmethod
    def _add(sums: dict[str, Tensor], found: dict[str, Tensor]) -> None:
        """Clip the gradients of single roots and add them up."""
        squares = [g.flatten(1).square().sum(1) for g in found.values()]
        factor = (1 / torch.stack(squares).sum(0).sqrt()).clamp(max=1)
        for name, gradient in found.items():
            sums[name] += torch.einsum("b,b...->...", factor, gradient)

    def vmap(self, chunk: int) -> Callable[[], None]:
        model = self.padded()
        return self._noisy(model, lambda: self.vmap_sums(model, chunk))

    def hook_sums(self, model: Padded) -> dict[str, Tensor]:
        """What Opacus' hooks do: inputs and output gradients kept, one einsum a layer."""
        kept: dict[str, list[Tensor]] = {}
        hooks = []
        for i, layer in enumerate(model.maps):
            kept[f"maps.{i}"] = []

            def note(_: Any, x: Any, out: Tensor, name: str = f"maps.{i}") -> None:
                kept[name].append(x[0].detach())
                out.register_hook(lambda g: kept[name].append(g))  # type: ignore[no-untyped-call]

            hooks.append(layer.register_forward_hook(note))
        loss = F.cross_entropy(model(self.wide, self.inner, self.outer), self.y, reduction="sum")
        loss.backward()  # type: ignore[no-untyped-call]
        found = {}
        for name, (a, g) in kept.items():
            a, g = (t if t.dim() == 3 else t.unsqueeze(1) for t in (a, g))
            found[f"{name}.weight"] = torch.einsum("btj,bti->bij", a, g)
            found[f"{name}.bias"] = g.sum(1)
        for hook in hooks:
            hook.remove()
        sums = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
        self._add(sums, {name: found[name] for name in sums})
        return sums

    def hooks(self) -> Callable[[], None]:
        model = self.padded()
        return self._noisy(model, lambda: self.hook_sums(model))

    def _noisy(self, model: Padded, sums: Callable[[], dict[str, Tensor]]) -> Callable[[], None]:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

        def step() -> None:
            found = sums()
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    noise = NOISE * torch.randn(parameter.shape)
                    parameter.grad = (found[name] + noise) / self.count
            optimizer.step()

        return step

    def opacus(self) -> Callable[[], None]:
        from opacus.grad_sample import GradSampleModule
        from opacus.optimizers import DPOptimizer

        model = GradSampleModule(self.padded(), loss_reduction="mean")
        optimizer = DPOptimizer(
            torch.optim.Adam(model.parameters(), lr=1e-4), noise_multiplier=NOISE,
            max_grad_norm=1.0, expected_batch_size=self.count,
        )  # fmt: skip

        def step() -> None:
            optimizer.zero_grad()
            F.cross_entropy(model(self.wide, self.inner, self.outer), self.y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        return step

    def opacus_ghost(self) -> Callable[[], None]:
        from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import (
            GradSampleModuleFastGradientClipping as Ghost,
        )
        from opacus.optimizers.optimizer_fast_gradient_clipping import (
            DPOptimizerFastGradientClipping as Optimizer,
        )
        from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping

        model = Ghost(self.padded(), max_grad_norm=1.0, use_ghost_clipping=True)
        optimizer = Optimizer(
            torch.optim.Adam(model.parameters(), lr=1e-4), noise_multiplier=NOISE,
            max_grad_norm=1.0, expected_batch_size=self.count,
        )  # fmt: skip
        criterion = DPLossFastGradientClipping(model, optimizer, nn.CrossEntropyLoss())

        def step() -> None:
            optimizer.zero_grad()
            criterion(model(self.wide, self.inner, self.outer), self.y).backward()
            optimizer.step()

        return step

    def check(self) -> dict[str, float]:
        """How far the clipped sums of our way are from those of the peers."""
        mine, _ = clipped_sum(self.model, self.x, self.adj, self.y, "classification", Clip())
        model, found = self.padded(), {}
        out = model(self.wide, self.inner, self.outer)
        wanted = losses("classification", self.model(self.x, self.adj)[: self.count], self.y)
        found["loss"] = float((F.cross_entropy(out, self.y) - wanted.mean()).abs())
        for name, sums in (("vmap", self.vmap_sums(model, 256)), ("hooks", self.hook_sums(model))):
            for i in range(len(model.maps)):
                for own, theirs in (
                    (mine[f"weight.{i}"], sums[f"maps.{i}.weight"].T),
                    (mine[f"bias.{i}"], sums[f"maps.{i}.bias"]),
                ):
                    far = float((own - theirs).norm() / theirs.norm())
                    found[name] = max(found.get(name, 0.0), far)
        return found


def timed(case: Case, turns: int = 5) -> dict[str, float]:
    ways = case.ways()
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 1):  # alternating; the first turn warms up
        for name, step in ways.items():
            start = time.process_time()
            step()
            if turn:
                taken[name].append((time.process_time() - start) * 1e3)
    return {name: statistics.median(values) for name, values in taken.items()}


def extra(layers: int, way: str) -> float:
    """Peak memory of a step beyond the inputs', in MB; libraries are warm from a small one."""
    Case(layers, 16).ways()[way]()
    step = Case(layers, ROOTS).ways()[way]
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # so that what was freed before counts when taken again
    reset_peak_memory()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    step()
    return peak_memory() - pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    layers, what = int(sys.argv[1]), sys.argv[2]
    if what == "memory":
        answer: Any = extra(layers, sys.argv[3])
    else:
        case = Case(layers, ROOTS)
        answer = timed(case) if what == "time" else case.check()
    sys.stdout.write(json.dumps(answer) + "\n")
