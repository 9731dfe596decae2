"""The training loop: selection, batches, release."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

import graphsec
from graphsec.graph import Graph
from graphsec.models import Sizes
from graphsec.rng import Rng
from graphsec.testing import tiny_graphs
from graphsec.train import Recipe, Training, _Keeper, fit, loss_of

GRAPH = tiny_graphs()["blocks"]


def trained(training: dict[str, Any], graph: Graph = GRAPH, model: Any = "gcn", **more: Any) -> Any:
    recipe = Recipe.of(model, training)
    with Rng(0)["init"].scope():
        module = recipe.model.build(Sizes.of(graph))
    return module, fit(module, graph, recipe.training, Rng(0)["train"], **more)


def test_recipe_takes_the_models_own_training_first() -> None:
    assert Recipe.of("sgc").training.lr == 0.2
    assert Recipe.of("sgc", {"lr": 0.1}).training == Training(lr=0.1, weight_decay=5e-5, epochs=100)
    assert Recipe.of("sgc", Training()).training == Training()


def test_loss_falls_and_is_recorded() -> None:
    _, trace = trained({"epochs": 40})
    losses = [figures["loss"] for figures in trace.history]
    assert trace.epochs == len(losses) == 40
    assert losses[-1] < 0.7 * losses[0]


class Scripted:
    """Feeds a keeper with figures and says which epoch's parameters it kept."""

    def __init__(self, **fields: Any) -> None:
        self.keeper = _Keeper(Training(**fields))

    def run(self, figures: list[tuple[float, float]]) -> tuple[int, int]:
        model: Any = torch.nn.Linear(1, 1, bias=False)
        stopped = len(figures)
        for epoch, (loss, accuracy) in enumerate(figures):
            model.weight.data.fill_(float(epoch))
            if self.keeper.stop(model, {"val_loss": loss, "val_accuracy": accuracy}):
                stopped = epoch
                break
        self.keeper.restore(model)
        return round(float(model.weight.item())), stopped


FIGURES = [(1.0, 0.3), (0.8, 0.5), (0.9, 0.6), (0.7, 0.4), (0.85, 0.6), (0.7, 0.6), (0.9, 0.2)]


@pytest.mark.parametrize(
    ("select", "kept"), [("last", 6), ("loss", 3), ("accuracy", 2), ("joint", 5)]
)
def test_selection(select: str, kept: int) -> None:
    """The lowest loss, the highest accuracy, or both at least as good as ever (GAT's rule)."""
    assert Scripted(select=select).run(FIGURES) == (kept, 7)


def test_patience() -> None:
    flat = [(1.0, 0.5)] + [(1.1, 0.4)] * 9
    for select in ("last", "loss", "accuracy", "joint"):
        assert Scripted(select=select, patience=3).run(flat)[1] == 3
    # The joint rule waits while either is as good as ever.
    assert Scripted(select="joint", patience=2).run([(1.0, 0.5)] * 6) == (5, 6)


def test_selected_parameters_are_the_best_seen() -> None:
    module, trace = trained({"epochs": 60, "select": "loss", "lr": 0.05})
    best = min(figures["val_loss"] for figures in trace.history)
    assert GRAPH.split is not None
    assert GRAPH.y is not None
    val = GRAPH.split.val
    with torch.no_grad():
        now = loss_of("classification", module(GRAPH.x, GRAPH.adj)[val], GRAPH.y[val])
    assert float(now) == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("model", ["gcn", "sage", "gat", "mlp"])
def test_full_fan_out_in_one_batch_is_full_batch(model: str) -> None:
    """Without dropout the gradient of one batch of all roots is that of the whole graph."""
    spec = {"name": model, "dropout": 0.0}
    whole, _ = trained({"epochs": 3}, model=spec)
    batched, _ = trained({"epochs": 3, "batch_size": 1000}, model=spec)
    for one, two in zip(whole.parameters(), batched.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


def test_batches_learn() -> None:
    module, _ = trained({"epochs": 30, "batch_size": 10, "fanouts": (4, 4)}, model="sage")
    assert GRAPH.split is not None
    assert GRAPH.y is not None
    test = GRAPH.split.test
    right = module(GRAPH.x, GRAPH.adj).argmax(1)[test] == GRAPH.y[test]
    assert float(right.float().mean()) > 0.6


def test_decay_of_the_first_layer_only() -> None:
    heavy = {"epochs": 60, "weight_decay": 5.0}
    both, first = (trained({**heavy, "decay": decay})[0] for decay in ("all", "first"))
    assert float(both.weight[1].norm()) < 0.5 * float(first.weight[1].norm())


def test_release_changes_what_is_used_and_what_leaves() -> None:
    with Rng(0)["init"].scope():
        start = Recipe.of("gcn").model.build(Sizes.of(GRAPH))

    def nothing(gradients: list[torch.Tensor]) -> list[torch.Tensor]:
        return [torch.zeros_like(g) for g in gradients]

    module, trace = trained({"epochs": 4, "expose": 2, "weight_decay": 0.0}, release=nothing)
    assert [release.round for release in trace.releases] == [0, 1]
    sent = trace.releases[0].tensors
    names = [name for name, _ in module.named_parameters()]
    assert all((sent[name] == 0).all() for name in names)
    for name, parameter in start.named_parameters():
        assert torch.equal(sent[f"parameter:{name}"], parameter)
        assert torch.equal(dict(module.named_parameters())[name], parameter)


def test_on_epoch_stops() -> None:
    seen = []

    def stop(epoch: int, figures: dict[str, float]) -> bool:
        seen.append(sorted(figures))
        return epoch == 4

    _, trace = trained({"epochs": 50}, on_epoch=stop)
    assert trace.epochs == len(seen) == 5
    assert seen[0] == ["loss", "val_accuracy", "val_loss"]


def test_loss_that_diverges_is_named() -> None:
    with pytest.raises(ValueError, match=r"loss must stay finite, got .* training.lr is 100"):
        trained({"epochs": 50, "lr": 100.0}, GRAPH.replace(x=torch.full((90, 4), 1e38)))


def test_regression() -> None:
    assert GRAPH.x is not None
    graph = GRAPH.replace(y=GRAPH.x[:, 0] * 2 + 1, task="regression")
    victim = graphsec.fit(graph, {"name": "mlp", "dropout": 0.0}, training={"epochs": 200})
    assert victim.logits(graph).shape == (90, 1)
    assert graph.split is not None
    numbers = graphsec.score(graphsec.attack("none", victim, graph), graph, victim)
    assert float(numbers["r_squared"]) > 0.5


def test_unknown_labels_are_not_trained_on() -> None:
    """A node labelled −1 in the training set changes nothing."""
    graph = tiny_graphs()["weighted"]
    assert graph.split is not None
    wider = graph.replace(
        split=(torch.cat([graph.split.train, torch.tensor([47])]), graph.split.val, [])
    )
    plain = {"name": "gcn", "dropout": 0.0}
    one, two = (trained({"epochs": 5}, g, plain)[0] for g in (graph, wider))
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_cosine_brings_the_rate_to_zero() -> None:
    """The first steps are the same; the last is all but nothing."""

    def falls(schedule: str) -> list[float]:
        losses: list[float] = []

        def look(epoch: int, figures: dict[str, float]) -> bool:
            losses.append(figures["loss"])
            return False

        training = {"epochs": 40, "optimizer": "sgd", "lr": 0.1, "schedule": schedule}
        trained(training, model={"name": "gcn", "dropout": 0.0}, on_epoch=look)
        return [a - b for a, b in itertools.pairwise(losses)]

    cosine, constant = falls("cosine"), falls("constant")
    assert cosine[0] == constant[0] > 0
    assert 0 <= cosine[-1] < 0.05 * constant[-1]  # the last rate is .006 of the first
