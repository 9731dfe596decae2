"""One attack in a process of its own: ``attack_once.py {ours|pyg} {prbcd|grbcd} INPUT OUTPUT``.

INPUT is a file with weights and a graph; OUTPUT gets accuracy, seconds and peak memory. Whole
attack, one thread, default allocator.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK, STEPS, EPSILON = 250_000, 125, 0.1


def peak() -> float:
    """Peak resident memory in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def ours(name: str, data: dict[str, Tensor]) -> dict[str, float]:
    """The attack of graphsec on a GCN with these weights."""
    import graphsec
    from graphsec.models.base import Sizes
    from graphsec.predict import Origin, Predictor
    from graphsec.registry import DEFENSES
    from graphsec.train import Recipe

    x = torch.sparse_csr_tensor(data["crow"], data["col"], data["val"], tuple(data["shape"]))
    split = [torch.tensor([], dtype=torch.int64)] * 2
    graph = graphsec.Graph.from_edges(
        data["edge_index"], x.shape[0], x=x, y=data["y"], split=[*split, data["test"]]
    )
    recipe = Recipe.of("gcn")
    model = recipe.model.build(Sizes.of(graph))
    model.load_state_dict({k[6:]: v for k, v in data.items() if k.startswith("model.")})
    victim = Predictor(model, origin=Origin(recipe, DEFENSES.build("none")))
    spec = {"name": name, "block": BLOCK, "steps": STEPS}
    warm = {"name": name, "block": 1000, "steps": 1}
    threat = {"budget": {"edges": EPSILON}}
    graphsec.attack(warm, victim, graph, threat=threat)  # loads the compiled kernels
    before, start = peak(), time.perf_counter()
    outcome = graphsec.attack(spec, victim, graph, threat=threat, seed=0)
    took = time.perf_counter() - start
    predicted = victim.predict(outcome.apply(graph))[data["test"]]
    accuracy = float((predicted == data["y"][data["test"]]).double().mean())
    clean = float((victim.predict(graph)[data["test"]] == data["y"][data["test"]]).double().mean())
    return {"accuracy": accuracy, "clean": clean, "seconds": took, "peak": peak(), "before": before}


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
            self.first = GCNConv(int(data["shape"][1]), 64)
            self.second = GCNConv(64, int(data["y"].max()) + 1)

        def forward(self, x: Tensor, edges: Tensor, weight: Tensor | None = None) -> Tensor:
            out: Tensor = self.second(F.relu(self.first(x, edges, weight)), edges, weight)
            return out

    x = torch.sparse_csr_tensor(
        data["crow"], data["col"], data["val"], tuple(data["shape"])
    ).to_dense()
    model, test, y = GCN().eval(), data["test"], data["y"]
    with torch.no_grad():
        for i, conv in enumerate((model.first, model.second)):
            conv.lin.weight.copy_(data[f"model.weight.{i}"].T)
            conv.bias.copy_(data[f"model.bias.{i}"])
        clean = float((model(x, data["edge_index"])[test].argmax(1) == y[test]).double().mean())
    torch.manual_seed(0)
    before, start = peak(), time.perf_counter()
    given = {"block_size": BLOCK, "epochs": STEPS, "log": False, "is_undirected": True}
    if name == "prbcd":
        attack = PRBCDAttack(model, loss="tanh_margin", lr=2_000, **given)
    else:  # whose "masked" takes the logits for log-probabilities
        attack = GRBCDAttack(model, loss=masked, **given)
    budget = int(EPSILON * data["edge_index"].shape[1] / 2)
    edges, _ = attack.attack(x, data["edge_index"], y, budget=budget, idx_attack=test)
    took = time.perf_counter() - start
    with torch.no_grad():
        accuracy = float((model(x, edges)[test].argmax(1) == y[test]).double().mean())
    return {"accuracy": accuracy, "clean": clean, "seconds": took, "peak": peak(), "before": before}


if __name__ == "__main__":
    torch.set_num_threads(1)
    peer, attack_name, source, target = sys.argv[1:]
    content = torch.load(source, weights_only=True)
    result = {"ours": ours, "pyg": pyg}[peer](attack_name, content)
    Path(target).write_text(json.dumps(result))
