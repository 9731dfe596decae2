"""Private steps and dp-gnn: noise, order of spending, resuming, what is refused and promised."""

from __future__ import annotations

from typing import Any, ClassVar

import dp_accounting
import numpy as np
import pytest
import torch
from torch import Tensor

import graphsec
from graphsec.defenses.private.dp_gnn import DPGNN
from graphsec.dp.accountant import ChangedTermsDpEvent, FixedSizeTermsDpEvent, Ledger
from graphsec.dp.gradients import Clip
from graphsec.dp.roots import BoundedRoots
from graphsec.dp.step import PrivateSteps
from graphsec.graph import Graph
from graphsec.models.base import GNN, Capabilities, Sizes, build, inputs
from graphsec.models.mlp import MLP
from graphsec.rng import Rng
from graphsec.testing import tiny_graphs

BLOCKS = tiny_graphs()["blocks"]
GCN: Any = {"name": "gcn", "hidden": 8}
DP: Any = {"name": "dp-gnn", "max_degree": 12, "steps": 5, "rate": 0.3}


def steps(
    spec: Any = GCN, *, rate: float = 0.3, noise: float = 1.0, lr: float = 0.1,
    optimizer: type[torch.optim.Optimizer] = torch.optim.Adam, clip: float = 1.0,
) -> PrivateSteps:  # fmt: skip
    assert BLOCKS.split is not None
    assert BLOCKS.y is not None
    with Rng(0).scope():
        model = build(spec, BLOCKS)
    roots = BoundedRoots.of(
        BLOCKS.adj, BLOCKS.split.train, rate=rate, hops=2, max_degree=12, public=30
    )
    return PrivateSteps(
        model, inputs(BLOCKS), BLOCKS.y, BLOCKS.task, roots=roots, clip=Clip(norm=clip),
        noise_multiplier=noise,
        optimizer=optimizer(model.parameters(), lr=lr),  # type: ignore[call-arg]
        generator=np.random.default_rng(5), ledger=Ledger(),
    )  # fmt: skip


def weights(made: PrivateSteps) -> Tensor:
    return torch.cat([p.detach().flatten() for p in made.model.parameters()])


# -- a step ---------------------------------------------------------------------------------------


def test_noise_has_the_deviation_that_is_accounted_for_and_is_never_drawn_again() -> None:
    made = steps(noise=3.0, clip=0.5)
    one, two = (made.noisy(torch.zeros(200, 100)) for _ in range(2))
    for noise in (one, two):
        assert float(noise.std()) == pytest.approx(1.5, rel=0.03)
        assert abs(float(noise.mean())) < 0.05
    assert abs(float(np.corrcoef(one.flatten(), two.flatten())[0, 1])) < 0.03
    seen: list[Tensor] = []
    made.noise_multiplier = 1e6  # nothing but noise, in all parameters and steps

    def look() -> None:
        seen.extend(p.grad.flatten().clone() for p in made.model.parameters() if p.grad is not None)

    for _ in range(3):
        made.step(look)
    values = torch.cat(seen)
    assert len(values.unique()) > 0.999 * len(values)  # type: ignore[no-untyped-call]


def test_published_noise_is_in_proportion_to_two_n_c() -> None:
    made = graphsec.fit(BLOCKS, GCN, {**DP, "sampler": "published", "max_degree": 2})
    assert made.trace.spent[0][0].terms == 1 + 2 + 4
    defense = DPGNN(sampler="published", max_degree=2, noise_multiplier=1.0)
    with Rng(0).scope():
        model = build(GCN, BLOCKS)
    private = defense.private_steps(
        model, BLOCKS, inputs(BLOCKS), BLOCKS.adj, np.random.default_rng(0), Ledger()
    )
    assert private.roots.sensitivity == 2 * 7
    assert float(private.noisy(torch.zeros(20_000)).std()) == pytest.approx(14, rel=0.03)


def test_a_step_is_divided_by_the_public_size_and_not_by_the_drawn_one() -> None:
    made = steps(noise=0.0, lr=1.0, optimizer=torch.optim.SGD, spec={**GCN, "dropout": 0.0})
    start, roots = weights(made), made.roots.draw(np.random.default_rng(5))
    total = torch.cat([g.flatten() for g in made.total(roots).values()])
    made.step()
    assert len(roots) != made.roots.batch == 0.3 * 30
    torch.testing.assert_close(weights(made), start - total / 9)


def test_a_step_without_roots_is_a_step_of_noise() -> None:
    made = steps(rate=1e-9)
    start = weights(made)
    made.step()
    assert made.ledger.state == [(made.event, 1)]
    assert (weights(made) != start).all()


def test_a_step_is_paid_for_before_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    made = steps()
    paid: list[int] = []
    made.step(lambda: paid.append(made.ledger.state[0][1]))
    assert paid == [1]
    monkeypatch.setattr(made, "total", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        made.step()
    assert made.ledger.state == [(made.event, 2)]


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD])
def test_a_resumed_training_goes_on_as_if_it_had_not_stopped(optimizer: Any) -> None:
    """Samples, noise, dropout, moments and what was spent; the saved state does not move on."""
    with Rng(3).scope():
        whole = steps(optimizer=optimizer)
        for _ in range(3):
            whole.step()
        state = whole.state_dict()
        for _ in range(3):
            whole.step()
        torch.rand(7)
        resumed = steps(optimizer=optimizer)
        resumed.generator = np.random.default_rng(99)
        resumed.load_state_dict(state)
        for _ in range(3):
            resumed.step()
    assert torch.equal(weights(resumed), weights(whole))
    assert resumed.ledger.state == whole.ledger.state == [(whole.event, 6)]
    assert state["ledger"] == [(whole.event, 3)]


def test_sums_do_not_depend_on_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    made = steps({**GCN, "dropout": 0.0})
    roots = made.roots.draw(np.random.default_rng(1))
    whole = made.total(roots)
    monkeypatch.setattr("graphsec.dp.step.COPIES", 20)
    assert len(list(made._parts(roots))) > 2
    parts = made.total(roots)
    made._looped = True
    looped = made.total(roots)
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(looped[name], whole[name], rtol=1e-4, atol=1e-6)


def test_any_model_without_shared_statistics_is_trained() -> None:
    """Attention has no ghost norms here, so it goes root by root."""
    made = steps({"name": "gat", "hidden": 4, "heads": 2})
    start = weights(made)
    made.step()
    assert made._looped
    assert (weights(made) != start).all()


# -- what is refused ------------------------------------------------------------------------------


class Normed(MLP):
    capabilities: ClassVar[Capabilities] = Capabilities(batch_statistics=True)


class Undeclared(MLP):
    def __init__(self, *sizes: Any) -> None:
        super().__init__(*sizes)
        self.norm = torch.nn.BatchNorm1d(4)


class Settling(MLP):
    def settle(self, *_: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("model", "word"),
    [
        (Normed, "Normed has batch_statistics"),
        (Undeclared, "Undeclared has batch_statistics"),
        (Settling, "Settling settles on validation"),
    ],
)
def test_models_that_look_beyond_a_root_are_refused(model: type[GNN], word: str) -> None:
    made = steps({"name": "mlp"})
    other: Any = model
    made_model = other(Sizes.of(BLOCKS), 4, 2, 0.0)
    with pytest.raises(ValueError, match=word):
        PrivateSteps(
            made_model, made.x, made.y, made.task, roots=made.roots, clip=made.clip,
            noise_multiplier=1.0, optimizer=made.optimizer, generator=made.generator,
            ledger=made.ledger,
        )  # fmt: skip


@pytest.mark.parametrize("model", ["energy", "ignn"])
def test_models_that_do_not_run_on_subtrees_are_refused(model: str) -> None:
    with pytest.raises(ValueError, match="is not sampled"):
        graphsec.fit(BLOCKS, model, DP)


def test_a_graph_beyond_the_bound_is_refused() -> None:
    with pytest.raises(ValueError, match=r"max_degree must be ≥ \d+, .* got 2: it is a promise"):
        graphsec.fit(BLOCKS, GCN, {**DP, "max_degree": 2})
    graphsec.fit(BLOCKS, "mlp", {**DP, "max_degree": 2})  # which looks at no edges


def test_only_edges_among_training_nodes_count() -> None:
    """A hub among the test nodes is nobody's business: it is not trained on."""
    assert BLOCKS.split is not None
    hub = int(BLOCKS.split.test[0])
    pairs = torch.stack([torch.full((89,), hub), torch.tensor([i for i in range(90) if i != hub])])
    wide = BLOCKS.flip(pairs[:, ~BLOCKS.has_edges(pairs)])
    first, second = (graphsec.fit(graph, GCN, DP, seed=1) for graph in (BLOCKS, wide))
    for one, other in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    "training",
    [{"patience": 5}, {"select": "accuracy"}, {"schedule": "cosine"}, {"sampler": "shadow"}],
    ids=str,
)
def test_choices_by_private_data_are_refused(training: dict[str, Any]) -> None:
    name = next(iter(training))
    with pytest.raises(ValueError, match=f"training.{name} must be"):
        graphsec.fit(BLOCKS, GCN, DP, training=training)


def test_other_graphs_and_fields_are_refused() -> None:
    directed = Graph.from_edges(
        [[0, 1], [1, 2]], 3, directed=True, x=np.eye(3), y=[0, 1, 0], split=([0, 1], [], [2])
    )
    with pytest.raises(ValueError, match="undirected"):
        graphsec.fit(directed, GCN, DP)
    with pytest.raises(ValueError, match="delta must be < 1 / 30"):
        graphsec.fit(BLOCKS, GCN, {**DP, "delta": 0.05})
    with pytest.raises(ValueError, match="more than any noise hides"):
        graphsec.fit(BLOCKS, {**GCN, "layers": 8}, DP)


# -- what is promised -----------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["gcn", "mlp"])
def test_a_statement_says_what_was_spent(model: str) -> None:
    made = graphsec.fit(BLOCKS, model, {**DP, "secure": True, "epsilon": 3.0, "nodes": 25})
    assert made.privacy is not None
    assert 2.99 < made.privacy.epsilon <= 3.0
    assert made.privacy.delta == 1e-5
    assert made.privacy.relation == "add or remove one node with its edges, features and label"
    assert ("at most 12, publicly known" in made.privacy.family) == (model == "gcn")
    assert "25 training nodes, is fixed beforehand" in made.privacy.family
    assert ("not answers" in made.privacy.release) == (model == "gcn")
    event, count = made.trace.spent[0]
    assert count == 5
    kind = ChangedTermsDpEvent if model == "gcn" else dp_accounting.PoissonSampledDpEvent
    assert isinstance(event, kind)


def test_nothing_is_promised_without_a_proof() -> None:
    seeded = graphsec.fit(BLOCKS, GCN, DP)
    published = graphsec.fit(BLOCKS, GCN, {**DP, "secure": True, "sampler": "published"})
    clear = {**DP, "secure": True, "noise_multiplier": 0.0}
    noiseless = graphsec.fit(BLOCKS, GCN, clear)
    mixed = graphsec.fit(BLOCKS, GCN, [{**DP, "secure": True}, "label-only"])
    assert seeded.privacy is published.privacy is noiseless.privacy is mixed.privacy is None
    assert isinstance(published.trace.spent[0][0], FixedSizeTermsDpEvent)
    assert Ledger.resumed(noiseless.trace.spent).epsilon(1e-5) == np.inf


def test_secure_noise_is_not_repeated() -> None:
    for secure in (False, True):
        fits = [graphsec.fit(BLOCKS, GCN, {**DP, "secure": secure}, seed=4) for _ in range(2)]
        first, second = (next(iter(fit.model.parameters())) for fit in fits)
        assert torch.equal(first, second) != secure


def test_stopping_early_costs_less() -> None:
    seen: list[dict[str, float]] = []

    def stop(epoch: int, figures: dict[str, float]) -> bool:
        seen.append(figures)
        return epoch == 1

    made = graphsec.fit(BLOCKS, GCN, {**DP, "secure": True}, on_epoch=stop)
    assert made.trace.epochs == made.trace.spent[0][1] == 2
    assert made.trace.history == []
    assert [list(figures) for figures in seen] == [["epsilon"]] * 2
    assert made.privacy is not None
    assert made.privacy.epsilon == seen[1]["epsilon"] < 8


def test_what_leaves_the_trainer_is_noisy() -> None:
    made = graphsec.fit(BLOCKS, GCN, DP, training={"expose": 2})
    assert len(made.trace.releases) == 2
    quiet = graphsec.fit(BLOCKS, GCN, {**DP, "noise_multiplier": 0.0}, training={"expose": 1})
    loud, soft = (one.trace.releases[0].tensors["weight.0"].norm() for one in (made, quiet))
    assert float(loud) > 10 * float(soft) > 0


def test_features_alone_train_well_at_a_loose_epsilon() -> None:
    """Clipping, samples and updates work: without noise it learns, with little noise too."""
    assert BLOCKS.split is not None
    assert BLOCKS.y is not None
    test = BLOCKS.split.test
    for spec in (
        {"noise_multiplier": 0.0},
        {"epsilon": 500.0, "steps": 100, "lr": 0.02},
    ):
        made = graphsec.fit(BLOCKS, "mlp", {**DP, "steps": 100, "rate": 0.5, **spec})
        hits = made.predict(BLOCKS, test) == BLOCKS.y[test]
        assert float(hits.float().mean()) > 0.6
