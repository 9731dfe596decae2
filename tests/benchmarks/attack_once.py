"""One attack in a process of its own: ``attack_once.py {ours|pyg} {prbcd|grbcd} INPUT OUTPUT``.

INPUT is a file with weights, a graph, and the attack's block, steps, samples and rates; OUTPUT gets
accuracy, seconds (of the wall clock and of the CPU) and peak memory. Whole attack, one thread.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 0.1


def peak() -> float:
    """Peak resident memory of this process in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


@contextmanager
def measured(into: dict[str, float]) -> Iterator[None]:
    """Seconds of the wall clock and of the CPU, peak memory before and after."""
    into["before"], wall, cpu = peak(), time.perf_counter(), time.process_time()
    yield
    into["seconds"], into["cpu"] = time.perf_counter() - wall, time.process_time() - cpu
    into["peak"] = peak()


def ours(name: str, data: dict[str, Tensor]) -> dict[str, float]:
    """The attack of graphsec on a GCN with these weights."""
    import graphsec
    from graphsec.models.base import Sizes
    from graphsec.predict import Origin, Predictor
    from graphsec.registry import DEFENSES
    from graphsec.train import Recipe

    x = features(data)
    split = [torch.tensor([], dtype=torch.int64)] * 2
    graph = graphsec.Graph.from_edges(
        data["edge_index"], x.shape[0], x=x, y=data["y"], split=[*split, data["test"]]
    )
    recipe = Recipe.of({"name": "gcn", "hidden": data["model.weight.0"].shape[1]})
    model = recipe.model.build(Sizes.of(graph))
    model.load_state_dict({k[6:]: v for k, v in data.items() if k.startswith("model.")})
    victim = Predictor(model, origin=Origin(recipe, DEFENSES.build("none")))
    block, steps, samples = data["effort"].tolist()
    spec = {"name": name, "block": block, "steps": steps}
    if name == "prbcd":
        spec |= {"samples": samples, "lr": float(data["rates"][0])}
    warm = {"name": name, "block": 1000, "steps": 1}
    threat = {"budget": {"edges": EPSILON}}
    graphsec.attack(warm, victim, graph, threat=threat)  # loads the compiled kernels
    result: dict[str, float] = {}
    with measured(result):
        outcome = graphsec.attack(spec, victim, graph, threat=threat, seed=0)
    predicted = victim.predict(outcome.apply(graph))[data["test"]]
    accuracy = float((predicted == data["y"][data["test"]]).double().mean())
    clean = float((victim.predict(graph)[data["test"]] == data["y"][data["test"]]).double().mean())
    return {"accuracy": accuracy, "clean": clean, **result}


def features(data: dict[str, Tensor]) -> Tensor:
    """Dense or sparse features."""
    if "x" in data:
        return data["x"]
    return torch.sparse_csr_tensor(data["crow"], data["col"], data["val"], tuple(data["shape"]))


def masked(logits: Tensor, y: Tensor, nodes: Tensor) -> Tensor:
    """Cross-entropy of the attacked nodes that are still right, as graphsec's ``mce``."""
    nodes = nodes[logits[nodes].argmax(1) == y[nodes]]
    return F.cross_entropy(logits[nodes], y[nodes])


def pyg(name: str, data: dict[str, Tensor]) -> dict[str, float]:
    """torch_geometric's attack on its GCN with these weights."""
    from torch_geometric.contrib.nn import GRBCDAttack, PRBCDAttack
    from torch_geometric.nn import GCNConv

    class GCN(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            width = list(data["model.weight.0"].shape)
            self.first = GCNConv(*width)
            self.second = GCNConv(width[1], int(data["y"].max()) + 1)

        def forward(self, x: Tensor, edges: Tensor, weight: Tensor | None = None) -> Tensor:
            out: Tensor = self.second(F.relu(self.first(x, edges, weight)), edges, weight)
            return out

    x = features(data).to_dense()
    model, test, y = GCN().eval(), data["test"], data["y"]
    with torch.no_grad():
        for i, conv in enumerate((model.first, model.second)):
            conv.lin.weight.copy_(data[f"model.weight.{i}"].T)
            conv.bias.copy_(data[f"model.bias.{i}"])
        clean = float((model(x, data["edge_index"])[test].argmax(1) == y[test]).double().mean())
    torch.manual_seed(0)
    block, steps, samples = data["effort"].tolist()
    given = {"block_size": block, "epochs": steps, "log": False, "is_undirected": True}
    if name == "prbcd":  # redraws for four fifths of the steps, and counts the largest weights too
        given |= {"epochs_resampling": math.ceil(0.8 * steps), "max_final_samples": samples + 1}
        attack = PRBCDAttack(model, loss="tanh_margin", lr=float(data["rates"][1]), **given)
    else:  # whose "masked" takes the logits for log-probabilities
        attack = GRBCDAttack(model, loss=masked, **given)
    budget = int(EPSILON * data["edge_index"].shape[1] / 2)
    result: dict[str, float] = {}
    with measured(result):
        edges, _ = attack.attack(x, data["edge_index"], y, budget=budget, idx_attack=test)
    with torch.no_grad():
        accuracy = float((model(x, edges)[test].argmax(1) == y[test]).double().mean())
    return {"accuracy": accuracy, "clean": clean, **result}


if __name__ == "__main__":
    torch.set_num_threads(1)
    peer, attack_name, source, target = sys.argv[1:]
    content = torch.load(source, weights_only=True)
    result = {"ours": ours, "pyg": pyg}[peer](attack_name, content)
    Path(target).write_text(json.dumps(result))
