"""Every dataset: embedded, generated, and read from published files where these are at hand."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from graphsec import datasets
from graphsec.datasets import cache, sampling
from graphsec.datasets.cache import DataCorruptError, File
from graphsec.graph import Graph, Split
from graphsec.registry import DATASETS, SpecError
from graphsec.rng import Rng

PUBLISHED = [name for name in DATASETS if DATASETS[name].files and name != "planetoid/pubmed"]
EMBEDDED = [name for name in DATASETS if not DATASETS[name].files]
GENERATED = [name for name in DATASETS if DATASETS[name].generated]
FACTS = {row.name: row for row in datasets.listing()}


def load(spec: Any, seed: int = 0) -> Graph:
    return datasets.load(spec, Rng(seed)["data"])


def split_of(graph: Graph) -> Split:
    assert graph.split is not None
    return graph.split


def labels_of(graph: Graph) -> torch.Tensor:
    assert graph.y is not None
    return graph.y


def homophily(graph: Graph) -> float:
    y = labels_of(graph)
    row, col = graph.edge_index
    return float((y[row] == y[col]).float().mean())


@pytest.fixture
def real(data_dir: Path) -> Any:
    """Load a published dataset, or skip where its files are not at hand."""

    def loaded(spec: Any, seed: int = 0) -> Graph:
        name = spec if isinstance(spec, str) else spec["name"]
        for file in DATASETS[name].files:
            if not (data_dir / file.name).is_file():
                pytest.skip(f"real data: {data_dir} lacks {file.name}")
        return load(spec, seed)

    return loaded


# -- every dataset --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded(name: str) -> None:
    check(name, load(name), load(name))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published(name: str, real: Any) -> None:
    check(name, real(name), real(name))


def check(name: str, graph: Graph, again: Graph) -> None:
    facts = FACTS[name]
    found = (graph.num_nodes, graph.num_edges, graph.num_features, graph.num_classes)
    if facts.nodes is not None:
        slack = 0.01 * graph.num_edges if name.endswith("-knn") else 0  # ties between neighbours
        if facts.edges is not None:  # None where the seed decides
            assert abs(found[1] - facts.edges) <= slack
        assert (found[0], *found[2:]) == (facts.nodes, facts.features, facts.classes)
    assert (graph.sensitive is not None) == bool(facts.sensitive)
    assert graph.fingerprint == again.fingerprint
    assert graph.name == name
    assert graph.task == DATASETS[name]().task
    if graph.task in ("ranking", "rating"):
        assert graph.holdout is not None
        assert all(pairs.shape[1] for _, pairs in graph.holdout.items())
        return
    split = split_of(graph)
    assert all(len(part) for _, part in split.items())
    used = torch.cat([part for _, part in split.items()])
    assert (labels_of(graph)[used] >= 0).all()


@pytest.mark.parametrize("name", [*EMBEDDED, "planetoid/cora", "nettack/cora_ml", "webkb/texas"])
def test_seed_matters_where_it_says_so(name: str, real: Any) -> None:
    changed = real(name, 0).fingerprint != real(name, 1).fingerprint
    assert changed == DATASETS[name]().seeded


@pytest.mark.parametrize("name", DATASETS)
def test_spec_round_trip(name: str) -> None:
    made = DATASETS.build(name)
    assert DATASETS.build(made.spec()).spec() == made.spec()


@pytest.fixture(scope="module")
def child() -> list[str]:
    """What a fresh process with other string hashes says."""
    code = (
        "import sys, graphsec.datasets as d; from graphsec.rng import Rng; "
        "print([m for m in ('sklearn', 'networkx', 'pooch', 'requests') if m in sys.modules]); "
        "print(d.load('les-miserables', Rng(0)['data']).fingerprint)"
    )
    env = {**os.environ, "PYTHONHASHSEED": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
    )
    return done.stdout.split("\n")


def test_import_is_light(child: list[str]) -> None:
    assert child[0] == "[]"


def test_les_miserables_labels_do_not_depend_on_hashing(child: list[str]) -> None:
    assert child[1] == load("les-miserables").fingerprint


# -- Planetoid ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "train"), [("cora", 140), ("citeseer", 120)])
def test_public_split(name: str, train: int, real: Any, data_dir: Path) -> None:
    graph = real(name)
    split = split_of(graph)
    assert torch.equal(split.train, torch.arange(train))
    assert torch.bincount(labels_of(graph)[split.train]).tolist() == [20] * graph.num_classes
    assert torch.equal(split.val, torch.arange(train, train + 500))
    lines = (data_dir / "planetoid" / f"ind.{name}.test.index").read_text().split()
    assert split.test.tolist() == sorted(map(int, lines))


def test_citeseer_has_isolated_nodes_without_rows(real: Any) -> None:
    graph = real("citeseer")
    assert int((graph.degree == 0).sum()) == 48
    unknown = (labels_of(graph) == -1).nonzero().ravel()
    assert len(unknown) == 15
    assert graph.x is not None
    assert not graph.x.to_dense()[unknown].any()
    assert not torch.isin(split_of(graph).test, unknown).any()


def test_cora_agrees_with_the_same_graph_in_another_format(real: Any) -> None:
    # Nettack's cora is the Planetoid graph in another order: degree, label and word counts agree.
    one = real({"name": "planetoid/cora", "normalize": False, "split": "none"})
    two = real({"name": "nettack/cora", "largest_component": False})
    assert one.split is None
    assert one.num_edges == two.num_edges == 5278
    assert one.x is not None
    assert two.x is not None
    words = [torch.sparse.mm(g.x, torch.ones(1433, 1)).ravel() for g in (one, two)]
    assert sorted(words[0].tolist()) == sorted(words[1].tolist())
    assert sorted(torch.bincount(one.y).tolist()) == sorted(torch.bincount(two.y).tolist())
    assert sorted(one.degree.tolist()) == sorted(two.degree.tolist())


def test_rows_are_normalized_unless_told(real: Any) -> None:
    x = real("cora").x
    assert x.layout == torch.sparse_csr
    total = torch.sparse.mm(x, torch.ones(1433, 1))
    torch.testing.assert_close(total, torch.ones_like(total))
    raw = real({"name": "cora", "normalize": False}).x
    assert set(raw.values().tolist()) == {1.0}


def test_pubmed_with_a_vouched_for_file(
    real: Any, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # allx isn't at hand: another matrix of its size shows the rest, and that vouching works.
    folder = tmp_path / "planetoid"
    folder.mkdir()
    for file in DATASETS["pubmed"].files:
        if (data_dir / file.name).is_file():
            (tmp_path / file.name).symlink_to(data_dir / file.name)
        elif not file.name.endswith("allx"):
            pytest.skip(f"real data: {data_dir} lacks {file.name}")
    allx = pickle.dumps(sp.random(18717, 500, 0.01, "csr", random_state=0), protocol=3)
    allx = allx.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    allx = allx.replace(b"cscipy.sparse._csr\n", b"cscipy.sparse.csr\n")
    (folder / "ind.pubmed.allx").unlink(missing_ok=True)
    (folder / "ind.pubmed.allx").write_bytes(allx)
    monkeypatch.setenv(cache.ENV, str(tmp_path))
    with pytest.raises(DataCorruptError, match="knows no checksum"):
        load("pubmed")
    digest = hashlib.sha256(allx).hexdigest()
    monkeypatch.setenv(cache.TRUST, f"planetoid/ind.pubmed.allx={digest}")
    graph = load("pubmed")
    found = (graph.num_nodes, graph.num_edges, graph.num_features, graph.num_classes)
    assert found == (19717, 44324, 500, 3)
    assert [len(part) for _, part in split_of(graph).items()] == [60, 500, 1000]


@pytest.mark.parametrize("part", ["allx", "ally", "tx", "ty", "y", "graph", "test.index"])
def test_wrong_content_behind_a_right_checksum(
    part: str, real: Any, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is intact and yet not what it should be gives one error, naming the dataset."""
    real("cora")
    content = b"7\n7\n" if part == "test.index" else pickle.dumps({0: "seven"}, protocol=2)
    (tmp_path / "planetoid").mkdir()
    files = []
    for file in DATASETS["cora"].files:
        target = tmp_path / file.name
        if file.name.endswith(f"cora.{part}"):
            target.write_bytes(content)
            files.append(File(file.name, file.url, hashlib.sha256(content).hexdigest()))
        else:
            target.symlink_to(data_dir / file.name)
            files.append(file)
    monkeypatch.setenv(cache.ENV, str(tmp_path))
    monkeypatch.setattr(DATASETS["cora"], "files", tuple(files))
    with pytest.raises(DataCorruptError, match="cora"):
        load("cora")


# -- the other published ones ---------------------------------------------------------------------


def test_largest_component(real: Any) -> None:
    whole = real({"name": "cora_ml", "largest_component": False})
    assert (whole.num_nodes, whole.num_edges) == (2995, 8158)
    part = real("cora_ml")
    assert (part.num_nodes, part.num_edges) == (2810, 7981)
    assert sp.csgraph.connected_components(part.to_scipy())[0] == 1
    split = split_of(part)
    assert torch.bincount(labels_of(part)[split.train]).tolist() == [20] * 7
    assert torch.bincount(labels_of(part)[split.val]).tolist() == [20] * 7
    assert len(split.test) == 2810 - 280


def test_stored_splits(real: Any, data_dir: Path) -> None:
    first, last = (real({"name": "webkb/texas", "split": {"stored": k}}) for k in (0, 9))
    assert not torch.equal(split_of(first).train, split_of(last).train)
    with np.load(data_dir / "heterophilous" / "texas.npz") as raw:
        mask = raw["train_masks"][9]
    assert torch.equal(split_of(last).train, torch.from_numpy(mask).nonzero().ravel())


@pytest.mark.parametrize(
    ("name", "ones", "group"),
    [("german", 700, 310), ("bail", 7104, 9559), ("credit", 23364, 2685)],
)
def test_people_have_a_group_beside_their_features(
    name: str, ones: int, group: int, real: Any
) -> None:
    graph = real(name)
    assert (int(labels_of(graph).sum()), int(graph.sensitive.sum())) == (ones, group)
    assert (float(graph.x.min()), float(graph.x.max())) == (-1, 1)
    for column in graph.x.T:  # neither the group nor the label is among them
        assert not torch.equal((column > 0).long(), graph.sensitive)
        assert not torch.equal((column > 0).long(), labels_of(graph))


@pytest.mark.parametrize("name", ["bail", "credit"])
def test_published_edges_come_out_of_the_table(name: str, real: Any) -> None:
    again = real({"name": name, "edges": "similarity"})
    assert again.fingerprint == real(name).fingerprint


def test_group_among_the_features(real: Any) -> None:
    without, having = real("german"), real({"name": "german", "group_in_features": True})
    assert having.num_features == without.num_features + 1
    assert torch.equal((having.x[:, -1] > 0).long(), having.sensitive)


@pytest.mark.parametrize(
    ("name", "ones", "group"),
    [
        ("facebook", 822, 357),
        ("pokec/region-job-1", 3803, 2808),
        ("pokec/region-job-2", 2753, 2145),
    ],
)
def test_profiles(name: str, ones: int, group: int, real: Any) -> None:
    graph = real(name)
    assert (int(labels_of(graph).sum()), int(graph.sensitive.sum())) == (ones, group)


def test_other_egos_have_other_friends(real: Any) -> None:
    graph = real({"name": "facebook", "ego": 0, "group_in_features": True})
    assert (graph.num_nodes, graph.num_edges) == (347, 2519)
    assert torch.equal(graph.x[:, -1].long(), graph.sensitive)


def test_directed_variant(real: Any) -> None:
    assert real("heterophilous/chameleon-directed").directed
    assert not real("heterophilous/chameleon").directed


def test_other_strategy_on_a_dataset_with_its_own(real: Any) -> None:
    graph = real({"name": "cora", "split": {"fractions": [0.1, 0.1, 0.8]}})
    assert abs(len(split_of(graph).train) - 271) <= 4


BAD: list[tuple[dict[str, Any], str]] = [
    ({"name": "karate", "split": "public"}, "it has no public split"),
    ({"name": "karate", "split": {"stored": 0}}, "no split is stored"),
    ({"name": "webkb/texas", "split": {"stored": 10}}, r"must be 0…9, got 10"),
    ({"name": "digits-knn", "k": 0}, "k: input should be greater than or equal to 1, got 0"),
    ({"name": "digits-knn", "neighbours": 3}, "has no field 'neighbours'"),
    ({"name": "diabetes-knn", "target": "sex"}, "target: "),
    ({"name": "cora", "normalise": True}, "did you mean 'normalize'"),
    ({"name": "sbm", "p_in": 1.5}, "p_in: input should be less than or equal to 1, got 1.5"),
    ({"name": "sbm", "num_nodes": 3, "classes": 4}, "classes must be ≤ num_nodes"),
    ({"name": "sbm", "p_out": float("nan")}, "p_out: "),
    ({"name": "csbm", "graph_signal": 4.0}, "graph_signal must lie within ±√degree"),
    ({"name": "csbm", "num_nodes": 8}, "must be ≤ num_nodes"),
    ({"name": "csbm", "graph_signal": float("nan")}, "graph_signal"),
    ({"name": "dc-sbm", "exponent": 2.0}, "exponent: input should be greater than 2"),
    ({"name": "dc-sbm", "num_nodes": 10, "degree": 10}, "degree must be ≤ num_nodes − 1"),
    ({"name": "lfr", "degree": 60}, "1 ≤ degree < max_degree < num_nodes must hold"),
    ({"name": "lfr", "min_community": 200}, "min_community ≤ max_community ≤ num_nodes"),
    ({"name": "ba", "num_nodes": 5}, "degree must be < num_nodes"),
]


@pytest.mark.parametrize(("spec", "message"), BAD)
def test_bad_spec(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        DATASETS.build(spec)
    assert message in str(caught.value)


def test_too_many_per_class() -> None:
    with pytest.raises(ValueError, match=r"class 0 has 17 nodes, 20 \+ 0 asked for"):
        load({"name": "karate", "split": {"per_class": 20}})


# -- embedded -------------------------------------------------------------------------------------


def test_neighbours_are_the_nearest() -> None:
    points = np.random.default_rng(0).normal(size=(40, 3))
    from graphsec.datasets.tables import nearest

    row, col = nearest(points, 4)
    far = ((points[:, None] - points[None]) ** 2).sum(-1)
    np.fill_diagonal(far, np.inf)
    expected = np.argsort(far, axis=1)[:, :4]
    for node in range(40):
        assert set(col[row == node]) == set(expected[node])


def test_sex_is_out_of_the_features_unless_asked() -> None:
    kept, asked = load("diabetes-knn"), load({"name": "diabetes-knn", "sex_in_features": True})
    assert kept.x is not None
    assert asked.x is not None
    assert kept.sensitive is not None
    assert (kept.num_features, asked.num_features) == (9, 10)
    sex = kept.sensitive.float()
    sex = (sex - sex.mean()) / sex.std(correction=0)
    torch.testing.assert_close(asked.x[:, 9], sex)
    for column in kept.x.T:
        assert abs(float(torch.corrcoef(torch.stack([column, sex]))[0, 1])) < 0.999


def test_diabetes_as_regression() -> None:
    graph = load({"name": "diabetes-knn", "target": "progression"})
    assert graph.task == "regression"
    assert graph.y is not None
    assert abs(float(graph.y.mean())) < 1e-5
    assert abs(float(graph.y.std(correction=0)) - 1) < 1e-5
    assert [len(part) for _, part in split_of(graph).items()] == [88, 89, 265]


def test_ties_keep_their_strength_if_asked() -> None:
    assert load("les-miserables").edge_weight is None
    weight = load({"name": "les-miserables", "weighted": True}).edge_weight
    assert weight is not None
    assert float(weight.max()) == 31  # Valjean and Cosette


@pytest.mark.parametrize("features", ["none", "identity", "degree"])
def test_stand_ins_for_features(features: str) -> None:
    graph = load({"name": "karate", "features": features})
    if features == "none":
        assert graph.x is None
    elif features == "identity":
        assert graph.x is not None
        assert torch.equal(graph.x.to_dense(), torch.eye(34))
    else:
        assert graph.x is not None
        torch.testing.assert_close(graph.x[:, 1], torch.log1p(graph.degree.float()))


# -- generators -----------------------------------------------------------------------------------


def test_triangle_counts_every_pair_once() -> None:
    row, col = sampling.triangle(np.arange(50 * 49 // 2))
    expected = np.tril_indices(50, -1)
    np.testing.assert_array_equal(row, expected[0])
    np.testing.assert_array_equal(col, expected[1])
    # Where the square root alone would be off by one.
    big = np.array([10**6, 3 * 10**6, 10**8], np.int64)
    first = big * (big - 1) // 2
    for index, want in ((first, big), (first - 1, big - 1)):
        row, col = sampling.triangle(index)
        np.testing.assert_array_equal(row, want)
        np.testing.assert_array_equal(row * (row - 1) // 2 + col, index)


@pytest.mark.parametrize(("total", "count"), [(10, 10), (1000, 5), (1000, 320), (10**12, 1000)])
def test_distinct(total: int, count: int) -> None:
    drawn = sampling.distinct(total, count, Rng(0).numpy())
    assert len(set(drawn.tolist())) == count
    assert drawn.min() >= 0
    assert drawn.max() < total


def test_distinct_is_uniform() -> None:
    seen = np.zeros(100)
    for seed in range(600):
        seen[sampling.distinct(100, 20, Rng(seed).numpy())] += 1
    # Binomial(600, 0.2): mean 120, standard deviation 9.8.
    assert seen.min() > 75
    assert seen.max() < 165


def test_sbm_has_the_edges_it_should() -> None:
    graph = load({"name": "sbm", "num_nodes": 2000, "classes": 4, "p_in": 0.05, "p_out": 0.01})
    y = labels_of(graph)
    same = y[graph.pairs[0]] == y[graph.pairs[1]]
    inside, outside = int(same.sum()), int((~same).sum())
    expected_in, expected_out = 4 * 500 * 499 / 2 * 0.05, 6 * 500 * 500 * 0.01
    assert abs(inside - expected_in) < 5 * expected_in**0.5
    assert abs(outside - expected_out) < 5 * expected_out**0.5


@pytest.mark.parametrize(
    ("p_in", "p_out", "edges"), [(0, 0, 0), (1, 1, 45), (1, 0, 12), (0, 1, 33)]
)
def test_sbm_at_the_ends(p_in: float, p_out: float, edges: int) -> None:
    # Ten nodes in blocks of 3, 3 and 4: 3 + 3 + 6 pairs inside, 33 across.
    spec = {"name": "sbm", "num_nodes": 10, "classes": 3, "p_in": p_in, "p_out": p_out}
    assert load({**spec, "split": "none"}).num_edges == edges


def test_dc_sbm_has_heavy_degrees_and_its_homophily() -> None:
    graph = load({"name": "dc-sbm", "num_nodes": 20_000, "homophily": 0.7})
    assert abs(homophily(graph) - 0.7) < 0.02
    degree = graph.degree.float()
    assert 9.5 < float(degree.mean()) <= 10.1
    assert float(degree.max()) > 12 * float(degree.mean())
    even = load({"name": "dc-sbm", "num_nodes": 20_000, "exponent": 50.0}).degree.float()
    assert float(even.max()) < 4 * float(even.mean())


def test_block_ends_fall_in_their_blocks() -> None:
    counts = np.array([[5, 70, 0], [1, 0, 30], [9, 8, 7]])
    starts = np.array([0, 10, 30, 100])
    pairs = sampling.block_ends(np.ones(100), starts, counts, Rng(0).numpy())
    block = np.searchsorted(starts, pairs, side="right") - 1
    found = np.zeros((3, 3), int)
    np.add.at(found, (block[0], block[1]), 1)
    np.testing.assert_array_equal(found, counts)


@pytest.mark.parametrize("signal", [2.0, -2.0])
def test_csbm_signals(signal: float) -> None:
    spec = {"name": "csbm", "num_nodes": 4000, "graph_signal": signal, "feature_signal": 400.0}
    graph = load(spec)
    assert abs(float(graph.degree.float().mean()) - 10) < 0.3
    # Share of edges inside: (d + λ√d) / 2d.
    assert abs(homophily(graph) - (0.5 + signal / 2 / 10**0.5)) < 0.02
    assert graph.x is not None
    y = labels_of(graph)
    axis = graph.x[y == 1].mean(0) - graph.x[y == 0].mean(0)
    # The class means lie 2·√(μ/n)·|u| apart, and |u| ≈ 1 (standard deviation 0.09).
    assert abs(float(axis.norm()) - 2 * 0.1**0.5) < 0.25


@pytest.mark.parametrize("mixing", [0.1, 0.4])
def test_lfr_mixing_and_sizes(mixing: float) -> None:
    graph = load({"name": "lfr", "num_nodes": 5000, "mixing": mixing})
    assert abs(1 - homophily(graph) - mixing) < 0.03
    sizes = torch.bincount(labels_of(graph))
    assert int(sizes.sum()) == 5000
    assert int(sizes.min()) >= 40
    degree = graph.degree.float()
    assert abs(float(degree.mean()) - 15) < 1.5
    assert int(degree.max()) <= 50


@pytest.mark.parametrize(("n", "low", "high"), [(1000, 40, 120), (41, 40, 41), (100, 60, 100)])
def test_community_sizes_add_up(n: int, low: int, high: int) -> None:
    for seed in range(20):
        sizes = sampling.community_sizes(Rng(seed).numpy(), n, 1.5, low, high)
        assert sizes.sum() == n
        assert sizes.min() >= low


def test_ba_grows_by_its_degree() -> None:
    graph = load({"name": "ba", "num_nodes": 20_000, "degree": 4})
    wanted = 4 * (20_000 - 4)
    assert 0.99 * wanted < graph.num_edges <= wanted
    # Every node attaches to older ones only, and to at least one.
    low, high = graph.pairs
    assert torch.equal(torch.unique(high), torch.arange(1, 20_000))
    assert (low < high).all()
    # P(degree ≥ k) falls like k^−2: m(m+1)/(k(k+1)) of the nodes have at least k.
    degree = graph.degree.numpy()
    for k in (8, 16, 32):
        share, theory = float((degree >= k).mean()), 4 * 5 / (k * (k + 1))
        assert abs(share - theory) < 0.15 * theory


def test_graph_does_not_depend_on_the_split() -> None:
    one = load({"name": "sbm"})
    two = load({"name": "sbm", "split": {"per_class": 5}})
    assert torch.equal(one.indices, two.indices)
    assert not torch.equal(split_of(one).train, split_of(two).train)


MILLION = 10**6
LARGE: dict[str, dict[str, Any]] = {
    "sbm": {"classes": 10, "p_in": 1.6e-4, "p_out": 4.4e-6, "features": "degree"},
    "dc-sbm": {"degree": 20, "features": 4},
    "csbm": {"degree": 20, "features": 4},
    "ba": {"degree": 10},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_ten_million_edges(name: str) -> None:
    began = time.process_time()
    graph = load({"name": name, "num_nodes": MILLION, **LARGE[name]})
    took = time.process_time() - began
    assert abs(graph.num_edges - 10**7) < 10**5
    # A loop over edges in Python would take minutes; this takes about ten seconds.
    assert took < 60
