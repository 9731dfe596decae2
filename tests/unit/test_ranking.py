"""Ranking: holdouts, data sets, triples, the best items, metrics, and what does not fit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import graphsec
from graphsec.datasets import DataCorruptError
from graphsec.datasets.ranking import adjacency_lines, held_out, numbers, ranking_graph
from graphsec.graph import Graph, GraphError, Holdout
from graphsec.metrics import hit_rate, hits, ndcg, recall
from graphsec.outcome import Outcome
from graphsec.ranking import Triples, bpr_loss, top_items
from graphsec.registry import DATASETS, SpecError
from graphsec.rng import Rng
from graphsec.testing import tiny_graphs, tiny_rankings
from graphsec.threat import Threat
from graphsec.train import Training

TASTES = tiny_rankings()["tastes"]
FAST = {"epochs": 60, "lr": 0.05}


def holdout_of(graph: Graph) -> Holdout:
    assert graph.holdout is not None
    return graph.holdout


# -- graphs ---------------------------------------------------------------------------------------


def small(**fields: Any) -> Graph:
    """Two users, three items; user 0 took items 2 and 3, user 1 item 3."""
    made = {"node_type": [0, 0, 1, 1, 1], "task": "ranking", "holdout": ([[1], [2]], [[0], [4]])}
    return Graph.from_edges([[0, 0, 1], [2, 3, 3]], 5, **{**made, **fields})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"node_type": None}, "node_type is missing: ranking needs 0 for users, 1 for items"),
        ({"node_type": [0, 1, 0, 1, 1]}, "node_type must be 0 for users, then 1 for items"),
        ({"node_type": [0, 0, 0, 0, 0]}, "must have users and items, found 5 users"),
        ({"node_type": [0, 0, 0, 1, 1]}, "edges must join a user"),
        (
            {"task": "none"},
            "holdout must be None unless task is 'ranking' or 'rating'",
        ),
        ({"holdout": ([[2], [1]], [[0], [4]])}, "holdout.val must hold users 0…1 and then items"),
        ({"holdout": ([[1], [2]], [[0], [5]])}, "holdout.test must hold users 0…1 and then items"),
        ({"holdout": ([[0], [2]], [[0], [4]])}, r"holdout.val must be disjoint .* \(0, 2\)"),
        ({"holdout": ([[0], [4]], [[0], [4]])}, r"list each pair once, found \(0, 4\) twice"),
    ],
)
def test_ranking_graphs_keep_their_rules(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        small(**fields)


def test_ratings_must_match_the_edges() -> None:
    with pytest.raises(GraphError, match=r"edge_y must have one row an entry \(6\), found 3"):
        small(edge_y=torch.ones(3))


def test_fingerprints_without_a_holdout_are_what_they_were() -> None:
    """Measured before there were holdouts; with one, every held-out pair counts."""
    assert Graph.from_edges([[0, 1], [1, 2]], 3).fingerprint == BEFORE
    held = small()
    assert held.fingerprint != held.replace(holdout=None).fingerprint
    assert held.fingerprint != held.replace(holdout=([[1], [4]], [[0], [4]])).fingerprint


BEFORE = "bd3bee9afa1362d495cda7ab9948b08a"


def test_flips_and_subgraphs_carry_the_holdout_along() -> None:
    grown = small().flip([[0, 1], [4, 3]])  # (0, 4) was to be tested
    assert holdout_of(grown).test.shape == (2, 0)
    assert holdout_of(grown).val.tolist() == [[1], [2]]
    part = small().subgraph([1, 2, 4])
    assert holdout_of(part).val.tolist() == [[0], [1]]
    assert holdout_of(part).test.shape == (2, 0)


@pytest.mark.parametrize(("access", "sees"), [((), False), (("split",), True)])
def test_attackers_see_held_out_interactions_only_if_granted(access: Any, sees: bool) -> None:
    threat = Threat.of({"access": ("edges", *access)})
    known = threat.open(None, TASTES, Rng(0)["view"]).known
    assert (known.holdout is not None) == sees
    assert known.num_edges == TASTES.num_edges


# -- data sets ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "users", "items", "interactions"),
    [("ml-100k", 943, 1682, 100_000), ("lastfm", 1880, 4489, 52_668),
     ("gowalla", 29_858, 40_981, 1_027_370)],
)  # fmt: skip
def test_published_counts(
    data_dir: Path, name: str, users: int, items: int, interactions: int
) -> None:
    graph = graphsec.load(f"ranking/{name}")
    held = holdout_of(graph)
    assert (graph.num_users, graph.num_nodes - graph.num_users) == (users, items)
    assert graph.num_edges + held.val.shape[1] + held.test.shape[1] == interactions
    if name == "gowalla":
        assert held.test.shape[1] == 217_242
        assert graph.num_edges + held.val.shape[1] == 810_128
        other = graphsec.load("ranking/gowalla", seed=1)
        assert torch.equal(holdout_of(other).test, held.test)
        assert not torch.equal(holdout_of(other).val, held.val)


def test_ratings_stay_with_their_edges(data_dir: Path) -> None:
    graph = graphsec.load("ranking/ml-100k")
    assert graph.edge_y is not None
    said = {}
    for line in (data_dir / "ml-100k" / "u.data").read_text().splitlines():
        user, film, rating, _ = map(int, line.split())
        said[user - 1, film - 1 + 943] = rating
    low, high = graph.edge_index.sort(0).values[:, ::997]
    wanted = [said[pair] for pair in zip(low.tolist(), high.tolist(), strict=True)]
    assert graph.edge_y[::997].tolist() == wanted


def test_each_user_gives_up_its_share() -> None:
    user = np.repeat([0, 1, 2, 3], [4, 5, 20, 34])
    part = held_out(user, 0.1, 0.2, Rng(0))
    tested = [int((part[user == u] == 2).sum()) for u in range(4)]
    validated = [int((part[user == u] == 1).sum()) for u in range(4)]
    assert tested == [1, 1, 4, 7]
    assert validated == [0, 1, 2, 3]
    assert (part != held_out(user, 0.1, 0.2, Rng(1))).any()


def test_lines_of_items_are_read_with_their_user() -> None:
    text = b"3 7 8\n5\n0 1 2 9 \r\n12 4"
    assert adjacency_lines(text, "x").T.tolist() == [
        [3, 7],
        [3, 8],
        [0, 1],
        [0, 2],
        [0, 9],
        [12, 4],
    ]


@pytest.mark.parametrize("text", [b"1 2 3\n4 5", b"1 two 3", b"1 2 <html>"])
def test_other_text_is_refused(text: bytes) -> None:
    with pytest.raises(DataCorruptError, match="x: must hold rows of numbers"):
        numbers(text, "x", 3)


def test_a_split_strategy_is_refused() -> None:
    with pytest.raises(SpecError, match="held-out interactions are set by test and val"):
        DATASETS.build({"name": "ranking/ml-100k", "split": "public"})
    with pytest.raises(SpecError, match="test"):
        DATASETS.build({"name": "ranking/ml-100k", "test": 0.9})


# -- triples --------------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", ["interactions", "users"])
def test_triples_hold_an_item_taken_and_one_not(draw: Any) -> None:
    triples = Triples(TASTES, draw)
    user, taken, other = triples.epoch(np.random.default_rng(0))
    assert len(user) == len(triples) == TASTES.num_edges
    assert TASTES.has_edges(torch.stack([user, taken])).all()
    assert not TASTES.has_edges(torch.stack([user, other])).any()
    assert int(other.min()) >= TASTES.num_users
    assert int(other.max()) < TASTES.num_nodes
    if draw == "interactions":
        assert torch.equal(torch.unique(torch.stack([user, taken]), dim=1), TASTES.pairs)


def test_items_not_taken_are_uniform() -> None:
    """Every one of a user's items not taken is drawn equally often (χ², 5 σ)."""
    triples = Triples(TASTES, "users")
    for user in (0, 7, 15):
        drawn = triples.others(np.full(20_000, user), np.random.default_rng(user))
        free = TASTES.num_nodes - TASTES.num_users - int(TASTES.degree[user])
        counts = np.bincount(drawn, minlength=TASTES.num_nodes)
        counts = counts[counts > 0]
        assert len(counts) == free
        chi2 = float(((counts - 20_000 / free) ** 2 / (20_000 / free)).sum())
        assert abs(chi2 - (free - 1)) < 5 * math.sqrt(2 * (free - 1))


def test_the_hardest_of_all_items_not_taken_is_the_models_favourite() -> None:
    triples = Triples(TASTES, "users")
    user, _, first = triples.epoch(np.random.default_rng(0))
    z = torch.randn(TASTES.num_nodes, 4, generator=torch.Generator().manual_seed(0))
    hardest = triples.hardest(z, user, first, 400, np.random.default_rng(1))
    score = z[user] @ z[TASTES.num_users :].T
    taken = TASTES.has_edges(
        torch.cartesian_prod(user, torch.arange(TASTES.num_users, TASTES.num_nodes)).T
    )
    score[taken.view_as(score)] = -torch.inf
    assert torch.equal(hardest, score.argmax(1) + TASTES.num_users)
    two = triples.hardest(z, user, first, 1, np.random.default_rng(1))
    again = torch.from_numpy(triples.others(user.numpy(), np.random.default_rng(1)))
    assert ((two == first) | (two == again)).all()
    assert ((z[user] * z[two]).sum(1) >= (z[user] * z[first]).sum(1)).all()


def test_harder_negatives_are_trained_on() -> None:
    """The triples of a step hold the hardest of the draw, and the first draw is the same."""
    from graphsec.ranking import BPR

    model = graphsec.fit(TASTES, "lightgcn", training={**FAST, "epochs": 1}).model
    x, losses = torch.zeros(60, 0), []
    for negatives in (1, 2, 64):
        training = Training(batch_size=50, weight_decay=0.0, negatives=negatives)
        losses.append(next(BPR(model, TASTES, training, x, TASTES.adj).losses(Rng(5)))[1])
    assert losses[0] < losses[1] < losses[2]


def test_users_are_drawn_uniformly() -> None:
    triples = Triples(TASTES, "users")
    drawn = [triples.epoch(np.random.default_rng(i))[0] for i in range(60)]
    counts = torch.bincount(torch.cat(drawn), minlength=TASTES.num_users)
    able = (TASTES.degree[: TASTES.num_users] > 0).sum()
    mean = float(counts.sum() / able)
    present = counts[counts > 0].double()
    assert len(present) == able
    assert (present - mean).abs().max() < 5 * math.sqrt(mean)


def test_a_user_of_all_items_has_no_triple() -> None:
    graph = small(holdout=None).flip([[0], [4]])  # now user 0 took everything
    for draw in ("interactions", "users"):
        user, _, other = Triples(graph, draw).epoch(np.random.default_rng(0))
        assert set(user.tolist()) == {1}
        assert set(other.tolist()) <= {2, 4}
    with pytest.raises(ValueError, match="give no user an item taken and one not"):
        Triples(graph.flip([[1, 1], [2, 4]]), "interactions")


def test_bpr_loss_is_the_log_sigmoid_of_the_difference() -> None:
    user, taken, other = torch.randn(3, 5, 4, dtype=torch.float64)
    wanted = -torch.log(torch.sigmoid((user * taken).sum(1) - (user * other).sum(1))).mean()
    torch.testing.assert_close(bpr_loss(user, taken, other), wanted)


# -- the best items -------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 100, 1 << 24])
def test_top_items_agree_with_sorting(block: int) -> None:
    z = torch.randn(TASTES.num_nodes, 8, generator=torch.Generator().manual_seed(0))
    users = torch.tensor([3, 0, 17, 29])
    scores = z[:30] @ z[30:].T
    scores[TASTES.pairs[0], TASTES.pairs[1] - 30] = -torch.inf
    wanted = scores[users].argsort(1, descending=True)[:, :9] + 30
    assert torch.equal(top_items(z, users, 30, 9, TASTES.pairs, block=block), wanted)


def test_items_may_run_out() -> None:
    z = torch.ones(5, 1)
    ranked = top_items(z, torch.tensor([0, 1]), 2, 4, small().pairs)
    assert ranked[0].tolist() == [4, -1, -1, -1]
    assert sorted(ranked[1].tolist()) == [-1, -1, 2, 4]


@pytest.fixture(scope="module")
def fitted() -> graphsec.Predictor:
    return graphsec.fit(TASTES, "lightgcn", training=FAST)


def test_rank_leaves_out_training_items(fitted: graphsec.Predictor) -> None:
    users = torch.arange(TASTES.num_users)
    ranked = fitted.rank(TASTES, users, 5)
    pairs = torch.stack([users.repeat_interleave(5), ranked.ravel()])
    assert not TASTES.has_edges(pairs).any()
    mine = fitted.rank(TASTES, users, 5, exclude=TASTES.pairs[:, :0])
    assert TASTES.has_edges(torch.stack([users.repeat_interleave(5), mine.ravel()])).any()


def test_rank_names_what_is_wrong(fitted: graphsec.Predictor) -> None:
    blocks = tiny_graphs()["blocks"]
    gcn = graphsec.fit(blocks, {"name": "gcn", "hidden": 4}, training={"epochs": 1})
    nobody = torch.zeros(0, dtype=torch.int64)
    with pytest.raises(TypeError, match="GCN does not rank items"):
        gcn.rank(TASTES, nobody, 5)
    with pytest.raises(ValueError, match="task of 'blocks' must be 'ranking'"):
        fitted.rank(blocks, nobody, 5)
    with pytest.raises(ValueError, match="users must lie in 0…29, found 30…30"):
        fitted.rank(TASTES, torch.tensor([30]), 5)
    with pytest.raises(ValueError, match="k must be ≥ 1, got 0"):
        fitted.rank(TASTES, nobody, 0)
    with pytest.raises(TypeError, match="LightGCN predicts no classes"):
        fitted.predict(TASTES)
    with pytest.raises(ValueError, match="embeddings of 60 nodes, the graph has 51"):
        fitted.logits(TASTES.subgraph(torch.arange(9, 60)))


def test_save_and_load(fitted: graphsec.Predictor, tmp_path: Path) -> None:
    loaded = graphsec.Predictor.load(fitted.save(tmp_path / "model.pt"))
    assert torch.equal(loaded.logits(TASTES), fitted.logits(TASTES))


# -- metrics --------------------------------------------------------------------------------------


def brute(ranked: Tensor, users: Tensor, truth: Tensor, k: int) -> tuple[float, float, float]:
    """Recall, NDCG and hit rate, user by user."""
    found = []
    for user, row in zip(users.tolist(), ranked.tolist(), strict=True):
        mine = {i for u, i in truth.T.tolist() if u == user}
        gains = [1 / math.log2(r + 2) for r, item in enumerate(row[:k]) if item in mine]
        ideal = sum(1 / math.log2(r + 2) for r in range(min(k, len(mine))))
        found.append((len(gains) / len(mine), sum(gains) / ideal, float(bool(gains))))
    return tuple(np.mean(found, 0))


@pytest.mark.parametrize("k", [1, 3, 20])
def test_metrics_agree_with_brute_force_and_sklearn(k: int) -> None:
    from sklearn.metrics import ndcg_score

    rng = np.random.default_rng(k)
    users, items = 12, 40
    truth_matrix = rng.random((users, items)) < 0.15
    truth_matrix[:, 0] |= ~truth_matrix.any(1)
    scores = rng.permutation(users * items).reshape(users, items).astype(float)
    ranked = torch.from_numpy(np.argsort(-scores, 1)[:, :k].copy()) + users
    truth = torch.from_numpy(np.argwhere(truth_matrix).T) + torch.tensor([[0], [users]])
    asked = torch.from_numpy(rng.permutation(users))
    hit, relevant = hits(ranked[asked], asked, truth)
    found = recall(hit, relevant), ndcg(hit, relevant), hit_rate(hit)
    np.testing.assert_allclose(found, brute(ranked[asked], asked, truth, k))
    np.testing.assert_allclose(found[1], ndcg_score(truth_matrix, scores, k=k))


def test_places_without_an_item_are_no_hits() -> None:
    hit, relevant = hits(torch.tensor([[-1, 4]]), torch.tensor([0]), torch.tensor([[0, 1], [4, 3]]))
    assert hit.tolist() == [[False, True]]
    assert relevant.tolist() == [1]


def test_users_without_truth_are_refused() -> None:
    hit, relevant = hits(torch.tensor([[3]]), torch.tensor([0]), torch.tensor([[1], [3]]))
    with pytest.raises(ValueError, match="at least one true item"):
        recall(hit, relevant)


# -- training and cells ---------------------------------------------------------------------------


def test_training_stops_and_keeps_the_best_validation() -> None:
    training = {"epochs": 400, "lr": 0.05, "patience": 10, "validate_every": 2, "batch_size": 64}
    made = graphsec.fit(TASTES, "lightgcn", training=training)
    looks = [f["val_ndcg"] for f in made.trace.history if "val_ndcg" in f]
    assert made.trace.epochs < 400
    assert len(looks) == made.trace.epochs // 2
    held, users = holdout_of(TASTES), torch.unique(holdout_of(TASTES).val[0])
    kept = ndcg(*hits(made.rank(TASTES, users, 20), users, held.val))
    assert kept == pytest.approx(max(looks), abs=1e-6)


def test_validation_nodes_are_not_trained_on() -> None:
    """Other held-out pairs of the same training edges give the same last epoch."""
    training = {**FAST, "select": "last", "patience": None}
    one = graphsec.fit(TASTES, "lightgcn", training=training)
    two = graphsec.fit(TASTES.replace(holdout=None), "lightgcn", training=training)
    assert torch.equal(one.logits(TASTES), two.logits(TASTES))


def test_the_penalty_counts_each_row_of_the_batch() -> None:
    """The loss is BPR plus λ/2 of the squared norms, triple by triple."""
    from graphsec.ranking import BPR

    model = graphsec.fit(TASTES, "lightgcn", training={**FAST, "epochs": 1}).model
    training = Training(batch_size=50, weight_decay=0.3)
    objective = BPR(model, TASTES, training, torch.zeros(60, 0), TASTES.adj)
    size, loss = next(objective.losses(Rng(5)))
    batch = objective.triples.epoch(Rng(5).numpy())[:, :50]
    z, table = model(torch.zeros(60, 0), TASTES.adj), model.embeddings()
    norms = sum(table[part].square().sum() for part in batch) / (2 * 50)
    torch.testing.assert_close(loss, bpr_loss(*(z[part] for part in batch)) + 0.3 * norms)
    assert size == 50


@pytest.mark.parametrize(
    ("training", "graph", "message"),
    [
        ({"select": "accuracy"}, TASTES, "training.select must be 'last' or 'ndcg' for ranking"),
        ({}, TASTES.replace(holdout=None), "holdout.val is empty in 'tastes'"),
    ],
)
def test_training_says_what_it_lacks(training: Any, graph: Graph, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        graphsec.fit(graph, "lightgcn", training={**FAST, **training})


def test_classes_are_not_selected_by_ndcg() -> None:
    with pytest.raises(ValueError, match="must not be 'ndcg' for classification"):
        graphsec.fit(tiny_graphs()["blocks"], "gcn", training={"select": "ndcg"})


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"dataset": "cora", "model": "lightgcn"},
         "model 'lightgcn' is for ranking, not for classification ('planetoid/cora')"),
        ({"dataset": "ranking/ml-100k", "model": "gcn"},
         "model 'gcn' is for classification, regression, graph, not for ranking ("
         "'ranking/ml-100k')"),
        ({"dataset": "ranking/ml-100k", "model": "lightgcn", "attack": "prbcd"},
         "attack 'prbcd' is for classification, not for ranking ('ranking/ml-100k')"),
        ({"dataset": "ranking/ml-100k", "model": "lightgcn", "defense": "jaccard"},
         "defense 'jaccard' is for classification, regression, not for ranking"),
        ({"dataset": "ranking/ml-100k", "model": "lightgcn", "defense": ["none", "gdc"]},
         "defense 'compose' is for classification, regression, not for ranking"),
    ],
)  # fmt: skip
def test_misfits_are_found_before_anything_is_loaded(parts: Any, message: str) -> None:
    cell = graphsec.Cell(**parts)
    assert len(cell.problems()) == 1
    assert message in cell.problems()[0]
    record = graphsec.run(cell)
    assert record.status == "skipped"
    assert message in record.reason


@pytest.fixture
def ranked_dataset(monkeypatch: pytest.MonkeyPatch) -> str:
    """Tiny interactions behind the name of a data set."""
    made = DATASETS["ranking/ml-100k"]

    def interactions(self: Any) -> Any:
        held = holdout_of(TASTES)
        pairs = torch.cat([TASTES.pairs, held.val, held.test], 1).numpy()
        return pairs - np.array([[0], [30]]), None, 30, 30

    monkeypatch.setattr(made, "interactions", interactions)
    return str(made.name)


def test_a_ranking_cell_and_its_report(ranked_dataset: str, tmp_path: Path) -> None:
    matrix = graphsec.Matrix(
        datasets=[ranked_dataset], models=["lightgcn"], seeds=[0, 1],
        training={"epochs": 30, "lr": 0.05},
    )  # fmt: skip
    assert matrix.problems() == []
    results = matrix.run(store=None, progress=False)
    assert [r.status for r in results] == ["done"] * 4, [r.reason for r in results]
    names = [r.spec["model"]["name"] for r in results]
    assert names == ["popularity", "lightgcn"] * 2  # the reference line of ranking
    for record in results:
        assert set(record.metrics) == {"recall_at_20", "ndcg_at_20", "hit_rate_at_20"}
        assert all(0 < record.value(name) <= 1 for name in record.metrics)
    page = results.report(tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Recall@20" in page
    again = graphsec.run(graphsec.Cell.from_spec(next(iter(results)).spec))
    assert again.result() == next(iter(results)).result()


def test_a_misfit_that_shows_after_loading_is_skipped_untrained(
    ranked_dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DATASETS[ranked_dataset], "task", "classification")
    record = graphsec.run(graphsec.Cell(dataset=ranked_dataset, model="gcn"))
    assert record.status == "skipped"
    assert "model 'gcn' is for classification, regression, graph, not for ranking" in record.reason


def test_scores_leave_training_and_validation_out(fitted: graphsec.Predictor) -> None:
    """As by hand, with the validation pairs masked like those of training."""
    held = holdout_of(TASTES)
    z = fitted.logits(TASTES)
    scores = z[:30] @ z[30:].T
    for pairs in (TASTES.pairs, held.val):
        scores[pairs[0], pairs[1] - 30] = -torch.inf
    users = torch.unique(held.test[0])
    best = scores[users].topk(20)
    ranked = torch.where(best.values > -torch.inf, best.indices + 30, -1)
    wanted = brute(ranked, users, held.test, 20)
    found = graphsec.score(Outcome(), TASTES, fitted)
    values = [float(found[f"{name}_at_20"]) for name in ("recall", "ndcg", "hit_rate")]
    np.testing.assert_allclose(values, wanted)


def test_popularity_ranks_by_degree() -> None:
    made = graphsec.fit(TASTES, "popularity")
    ranked = made.rank(TASTES, torch.tensor([0, 29]), 5, exclude=TASTES.pairs[:, :0])
    degree = TASTES.degree[ranked]
    assert (degree.diff(dim=1) <= 0).all()
    assert int(degree[0, 0]) == int(TASTES.degree[30:].max())
    assert made.trace.epochs == 0


def test_ranking_graph_numbers_items_after_users() -> None:
    pairs, part = np.array([[0, 0, 1], [1, 0, 1]]), np.array([0, 2, 1])
    graph = ranking_graph(pairs, part, 2, 2, "x", rating=np.array([4.0, 1.0, 2.0]))
    assert graph.pairs.tolist() == [[0], [3]]
    assert holdout_of(graph).test.tolist() == [[0], [2]]
    assert holdout_of(graph).val.tolist() == [[1], [3]]
    assert graph.edge_y is not None
    assert graph.edge_y.tolist() == [4.0, 4.0]
