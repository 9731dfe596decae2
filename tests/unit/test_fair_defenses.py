"""Fair defenses: what their terms measure, which epoch they keep, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import graphsec
from graphsec.defenses.fair._training import Fairest, gaps, groups_of
from graphsec.defenses.fair.edits import Debiased, distance
from graphsec.defenses.fair.fairgnn import covariance, estimated
from graphsec.defenses.fair.nifty import Nifty, flipped, group_columns
from graphsec.defenses.fair.purify import Purified
from graphsec.defenses.fair.regularizer import FairRegularizer, dependence
from graphsec.defenses.fair.reweighting import FairResampling, FairReweighting
from graphsec.graph import Graph
from graphsec.metrics import FairnessError, fairness_metrics
from graphsec.models.base import build
from graphsec.outcome import Outcome
from graphsec.rng import Rng
from graphsec.train import Recipe, fit

TRAINING = {"epochs": 80}


def unfair(seed: int = 0, groups: int = 2, nodes: int = 300) -> Graph:
    """Two classes, of which one mostly goes with a group; the group is the last feature."""
    spec = {"name": "dc-sbm", "num_nodes": nodes, "classes": 2, "signal": 0.6, "homophily": 0.8}
    graph = graphsec.load(spec, seed=seed)
    assert graph.y is not None
    assert graph.x is not None
    rng = np.random.default_rng(seed)
    y = graph.y.numpy()
    group = np.where(rng.random(nodes) < 0.35, rng.integers(0, groups, nodes), y)
    s = torch.from_numpy(group).long()
    split = graphsec.splits(graph, 1, fractions=[0.4, 0.3, 0.3])[0].split
    x = torch.cat([graph.x, s.unsqueeze(1).float()], 1)
    return graph.replace(x=x, sensitive=s, split=split, name="unfair")


def numbers(graph: Graph, defense: Any, seed: int = 0) -> dict[str, float]:
    predictor = graphsec.fit(graph, model="gcn", defense=defense, training=TRAINING, seed=seed)
    return {k: float(m) for k, m in graphsec.score(Outcome(), graph, predictor).items()}


def test_terms_are_the_gaps_of_probabilities() -> None:
    p = torch.tensor([0.9, 0.5, 0.2, 0.4])
    y, s = torch.tensor([1, 0, 1, 0]), torch.tensor([0, 0, 1, 1])

    def term(name: Any) -> float:
        return float(FairRegularizer(term=name).measured(p, y, s))

    assert term("parity") == pytest.approx(0.7 - 0.3)
    assert term("opportunity") == pytest.approx(0.9 - 0.2)
    assert term("both") == pytest.approx((0.4 + 0.7) / 2)


def test_several_groups_are_penalised_by_their_extremes() -> None:
    p, y = torch.tensor([0.9, 0.5, 0.2]), torch.ones(3, dtype=torch.int64)
    term = FairRegularizer(term="parity").measured(p, y, torch.tensor([0, 1, 2]))
    assert float(term) == pytest.approx(0.7)


def test_dependence_is_large_where_values_tell_groups_and_small_where_not() -> None:
    rng = np.random.default_rng(0)
    group = torch.from_numpy(rng.integers(0, 2, 400))
    noise = torch.from_numpy(rng.normal(size=400)).float()
    assert float(dependence(group + 0.1 * noise, group)) > 0.5
    assert float(dependence(noise, group)) < 0.02


def test_weights_part_label_from_group() -> None:
    graph = unfair()
    group = groups_of(graph, "test")
    assert graph.split is not None
    assert graph.y is not None
    train = graph.split.train
    weight = FairReweighting().weights(graph, group, Rng(0))[train]
    y, s = graph.y[train], group[train]
    assert float(weight.mean()) == pytest.approx(1)

    def rate(of: int) -> float:
        return float((weight * (y == 1))[s == of].sum() / weight[s == of].sum())

    assert rate(0) == pytest.approx(rate(1), abs=1e-5)
    assert abs(float((y[s == 0] == 1).double().mean() - (y[s == 1] == 1).double().mean())) > 0.3


def test_resampling_draws_as_many_nodes_as_there_are() -> None:
    graph = unfair()
    assert graph.split is not None
    train = graph.split.train
    drawn = FairResampling().weights(graph, groups_of(graph, "test"), Rng(0))[train]
    assert int(drawn.sum()) == len(train)
    assert torch.equal(drawn, drawn.round())
    assert int((drawn == 0).sum()) > 0


def test_a_regulariser_is_added_to_the_loss_of_each_step() -> None:
    graph, recipe = unfair(), Recipe.of("gcn", {"epochs": 3})
    assert graph.split is not None
    seen: list[Tensor] = []

    def one(logits: Tensor, roots: Tensor) -> Tensor:
        seen.append(roots)
        assert logits.shape == (len(roots), 2)
        return logits.new_ones(())

    losses = []
    for regulariser in (None, one):
        with Rng(0)["init"].scope():
            model = build("gcn", graph)
        trace = fit(model, graph, recipe.training, Rng(0)["train"], regulariser=regulariser)
        losses.append([each["loss"] for each in trace.history])
    assert losses[1] == pytest.approx([1 + loss for loss in losses[0]], rel=1e-5)
    assert len(seen) == 3
    assert all(torch.equal(roots, graph.split.train) for roots in seen)


def test_gaps_are_those_of_the_metrics() -> None:
    rng = np.random.default_rng(1)
    said, y, group = (torch.from_numpy(rng.integers(0, k, 90)) for k in (2, 2, 3))
    scores = torch.nn.functional.one_hot(said, 2).float()
    wanted = fairness_metrics(scores, y, group)
    assert gaps(said, y, group) == pytest.approx(
        (wanted["delta_sp"].value, wanted["delta_eo"].value)
    )


class _Answers(torch.nn.Module):
    """Logits that are parameters."""

    def __init__(self, nodes: int) -> None:
        super().__init__()
        self.z = torch.nn.Parameter(torch.zeros(nodes, 2))

    def at(self, x: Any, adj: Any, nodes: Tensor) -> Tensor:
        return self.z[nodes]


def test_the_fairest_epoch_above_the_floor_is_kept() -> None:
    graph = unfair()
    assert graph.y is not None
    assert graph.split is not None
    y, s = graph.y.double(), groups_of(graph, "test").double()
    noise = torch.from_numpy(np.random.default_rng(0).normal(size=graph.num_nodes))
    candidates = {
        "best, unfair": 2 * y - 1 + 0.2 * (2 * s - 1) + 0.5 * noise,
        "fair, and nearly as good": 2 * y - 1 - 0.2 * (2 * s - 1) + 0.6 * noise,
        "fairer, but worthless": 3 * noise,
        "constant": noise + 100,
    }

    def kept(floor: float) -> str:
        model: Any = _Answers(graph.num_nodes)
        fairest = Fairest(FairRegularizer(floor=floor), model, graph, s.long(), None, None)  # type: ignore[arg-type]
        for z in candidates.values():
            with torch.no_grad():
                model.z[:, 1] = z
            fairest.look({})
        fairest.restore()
        return next(
            k for k, z in candidates.items() if torch.allclose(model.z[:, 1].double(), z, atol=1e-3)
        )

    assert kept(0.0) == "best, unfair"
    assert kept(0.1) == "fair, and nearly as good"
    assert kept(1.0) != "constant"


STRONG = {"name": "fair-regularizer", "weight": 3, "floor": 0.1}


@pytest.mark.parametrize("defense", [STRONG, {**STRONG, "term": "hsic"}], ids=["both", "hsic"])
def test_regularised_models_are_fairer(defense: Any) -> None:
    plain, fair = (
        np.mean(
            [[n["delta_sp"], n["class_auc"]] for n in (numbers(unfair(i), d) for i in range(3))], 0
        )
        for d in ("none", defense)
    )
    assert fair[0] < 0.8 * plain[0]
    assert fair[1] > 0.6


def broken(kind: str) -> Graph:
    graph = unfair()
    assert graph.y is not None
    assert graph.split is not None
    assert graph.sensitive is not None
    if kind == "missing":
        return graph.replace(sensitive=None)
    if kind == "constant":
        return graph.replace(sensitive=torch.zeros_like(graph.sensitive))
    if kind == "the label":
        return graph.replace(sensitive=graph.y.clone())
    if kind == "empty":
        s = graph.sensitive.clone()
        s[graph.split.test[:5]] = 2
        return graph.replace(sensitive=s)
    return graph.replace(y=torch.where(graph.y == 0, 2, graph.y))


REFUSED = {
    "missing": "found none", "constant": r"to be \[0\]", "the label": "found them equal",
    "empty": "found none of group 2", "labels": "labels 0 and 1",
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize(
    "defense", ["fair-regularizer", "fair-reweighting", "fairgnn", "nifty", "edits"]
)
def test_bad_groups_are_refused_before_training(defense: str, kind: str) -> None:
    def never(epoch: int, figures: dict[str, float]) -> bool:
        raise AssertionError("trained")

    with pytest.raises(FairnessError, match=REFUSED[kind]):
        graphsec.fit(broken(kind), model="gcn", defense=defense, on_epoch=never)


def test_more_than_two_groups_train() -> None:
    assert numbers(unfair(groups=3), "fair-regularizer")["class_auc"] > 0.5


# -- FairGNN ----------------------------------------------------------------------------------


def test_covariance_is_that_of_numpy_and_the_largest_of_several() -> None:
    rng = np.random.default_rng(0)
    p, s = rng.random(200), rng.integers(0, 3, 200)
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(s)).double()
    wanted = max(abs(np.cov(p, s == g, bias=True)[0, 1]) for g in range(3))
    assert float(covariance(torch.from_numpy(p), one_hot)) == pytest.approx(wanted)


def test_groups_are_estimated_from_those_given_alone() -> None:
    graph = unfair()
    assert graph.x is not None
    assert graph.split is not None
    group = groups_of(graph, "test")
    hidden = group.clone()
    hidden[graph.split.test] = 0  # what is not given can't matter
    found = estimated(graph, group, 0.5, graph.x, graph.adj, Rng(0))
    assert torch.equal(found, estimated(graph, hidden, 0.5, graph.x, graph.adj, Rng(0)))
    sure = (found.max(1).values == 1).nonzero().ravel()
    assert 0.5 * len(graph.split.train) <= len(sure) < 0.7 * len(graph.split.train)
    assert float((found.argmax(1) == group)[graph.split.test].double().mean()) > 0.7


def test_an_adversary_finds_less_in_the_states_of_fairgnn() -> None:
    from sklearn.linear_model import LogisticRegression

    def found(defense: Any) -> float:
        rates = []
        for seed in range(3):
            graph = unfair(seed)
            assert graph.split is not None
            assert graph.x is not None
            toss = np.random.default_rng(seed).integers(0, 2, graph.num_nodes)
            s_of = torch.from_numpy(toss)  # has nothing to do with the label
            x = torch.cat([graph.x[:, :-1], 2 * s_of.unsqueeze(1).float()], 1)
            graph = graph.replace(x=x, sensitive=s_of)
            made = graphsec.fit(graph, model="mlp", defense=defense, training=TRAINING, seed=seed)
            h = made.hidden(graph.x, graph.adj)[-2].detach().numpy()  # type: ignore[arg-type]
            s, split = groups_of(graph, "test").numpy(), graph.split
            assert split is not None
            probe = LogisticRegression(max_iter=500).fit(h[split.train], s[split.train])
            rates.append(probe.score(h[split.test], s[split.test]))
        return float(np.mean(rates))

    off, on = ({"name": "fairgnn", "alpha": 0, "beta": b, "floor": 1.0} for b in (0, 3))
    assert found(on) < found(off) - 0.1


def test_fairgnn_needs_the_whole_graph() -> None:
    with pytest.raises(ValueError, match=r"fairgnn needs the whole graph: training.batch_size"):
        graphsec.fit(unfair(), model="gcn", defense="fairgnn", training={"batch_size": 20})


# -- NIFTY ------------------------------------------------------------------------------------


def test_the_columns_that_say_the_group_are_found_and_flipped() -> None:
    graph = unfair(groups=3)
    assert graph.x is not None
    group = groups_of(graph, "test")
    columns = group_columns(graph.x, group)
    assert list(columns) == [graph.num_features - 1]
    with Rng(0).scope():
        other = flipped(graph.x, columns)
    assert torch.equal(other[:, :-1], graph.x[:, :-1])
    assert bool((other[:, -1] != graph.x[:, -1]).all())
    assert set(other[:, -1].tolist()) == {0.0, 1.0, 2.0}


def test_nifty_without_the_group_among_the_features_says_what_to_do() -> None:
    graph = unfair()
    assert graph.x is not None
    without = graph.replace(x=graph.x[:, :-1])
    with pytest.raises(FairnessError, match="group_in_features = true, or set flip = false"):
        graphsec.fit(without, model="gcn", defense="nifty", training={"epochs": 1})
    assert numbers(without, {"name": "nifty", "flip": False})["class_auc"] > 0.6


def test_nifty_answers_depend_less_on_the_flipped_attribute() -> None:
    def changed(defense: Any) -> float:
        shares = []
        for seed in range(3):
            graph = unfair(seed)
            assert graph.x is not None
            made = graphsec.fit(graph, model="gcn", defense=defense, training=TRAINING, seed=seed)
            columns = group_columns(graph.x, groups_of(graph, "test"))
            other = graph.replace(x=flipped(graph.x, columns))
            gap = made.predict_proba(graph) - made.predict_proba(other)
            shares.append(float(gap.abs().mean()))
        return float(np.mean(shares))

    assert changed("nifty") < 0.5 * changed("none")


def test_weights_but_the_last_keep_the_spectral_norm() -> None:
    made = graphsec.fit(unfair(), model="gcn", defense=Nifty(spectral=0.7), training=TRAINING)
    norms = [
        float(torch.linalg.matrix_norm(p.detach(), ord=2))
        for p in made.model.parameters()
        if p.dim() == 2
    ]
    assert norms[0] <= 0.7 + 1e-5


# -- EDITS and purification -------------------------------------------------------------------


def test_distances_are_those_of_scipy() -> None:
    from scipy.stats import wasserstein_distance

    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(500, 2)), rng.normal([0.5, 2.0], [1, 0.3], size=(800, 2))
    found = distance(torch.from_numpy(a), torch.from_numpy(b))
    wanted = [wasserstein_distance(a[:, j], b[:, j]) for j in range(2)]
    assert found.tolist() == pytest.approx(wanted, rel=0.05)


def test_edits_leaves_out_the_column_that_says_the_group_and_keeps_others() -> None:
    graph = unfair()
    made = graphsec.fit(graph, model="gcn", defense="edits", training={"epochs": 5})
    assert isinstance(made.model, Debiased)
    assert float(made.model.column[-1]) == 0
    assert float((made.model.column > 0).double().mean()) > 0.3
    assert graph.x is not None
    group = groups_of(graph, "test")
    x, adj = made.model.cleaned(graph.x, graph.adj)

    def apart(x: Any, adj: Any) -> float:
        h = graphsec.ops.propagate(adj.normalized("row", self_loops=True), x)
        return float(distance(h[group == 0], h[group == 1]).mean())

    assert apart(x, adj) < 0.9 * apart(graph.x, graph.adj)
    weight = adj.merged().weight
    assert weight is not None
    assert 0 <= float(weight.min()) <= float(weight.max()) <= 1


def test_purification_drops_edges_within_groups() -> None:
    graph = unfair()
    assert graph.x is not None
    group = groups_of(graph, "test")
    defense = {"name": "fair-purify", "drop": 0.4}
    made = graphsec.fit(graph, model="gcn", defense=defense, training={"epochs": 5})
    assert isinstance(made.model, Purified)
    _, adj = made.model.cleaned(graph.x, graph.adj)
    row, col = graph.adj.csr.coo
    assert adj.weight is not None
    kept = adj.weight > 0
    within = (group[row] == group[col]).double()
    assert float(within[~kept].mean()) > 0.95
    # The group is a feature, so every edge within is found; equal scores fall on one side.
    assert float(within[kept].mean()) < float(within.mean()) - 0.1
    assert 0.3 < float((~kept).double().mean()) <= 0.5
    composed = ["jaccard", defense]
    assert numbers(graph, composed)["class_auc"] > 0.6
