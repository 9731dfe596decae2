"""Link stealing with more and more knowledge, on Cora and Citeseer: three victims each."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, get_args

import pytest
import torch

import graphsec
from graphsec.attacks.links.stealing import Distance
from graphsec.stats import Interval, mean_interval

pytestmark = pytest.mark.paper

SEEDS = range(3)
DATASETS = ("cora", "citeseer")
REVEAL = 0.1
# At least, of AUC: the best distance without any knowledge, and the most knowledge.
WANTED = {"cora": (0.91, 0.945), "citeseer": (0.94, 0.965)}


def report(*parts: object) -> None:
    """Print what was measured."""
    print("\n", *parts, end="", flush=True)  # noqa: T201


def attacks(dataset: str) -> dict[str, Mapping[str, Any]]:
    """By the number that the paper gives to what is known; "x" are the features alone."""
    other = {"cora": "planetoid/citeseer", "citeseer": "planetoid/cora"}[dataset]
    distances = [*get_args(Distance), "combined"]
    knows = {
        "3": ["partial"], "6": ["features", "partial"], "1": ["shadow"],
        "4": ["partial", "shadow"], "5": ["features", "shadow"],
        "7": ["features", "partial", "shadow"],
    }  # fmt: skip
    return {
        **{f"0 {d}": {"distance": d} for d in distances},
        "x": {"name": "pair-similarity", "knows": ["features"]},
        **{f"2 {d}": {"distance": d, "knows": ["features"]} for d in distances},
        **{n: {"knows": k, "shadow": other if "shadow" in k else None} for n, k in knows.items()},
    }


def scored(dataset: str, hidden: int, seed: int, game: Any, chosen: Any) -> dict[str, Any]:
    """Metrics of each attack on one victim."""
    torch.set_num_threads(1)
    graph = graphsec.load(f"planetoid/{dataset}", seed=seed)
    known, secret = graphsec.play({"name": "links", **game}, graph, seed=seed)
    assert secret is not None
    victim = graphsec.fit(known, {"name": "gcn", "hidden": hidden}, seed=seed)
    found = {}
    for name, spec in chosen.items():
        outcome = graphsec.attack(
            {"name": "link-stealing", **spec}, victim, known, question=secret.question,
            examples=secret.examples, seed=seed,
        )  # fmt: skip
        found[name] = graphsec.score(outcome, known, victim, secret=secret)
    return found


@functools.cache
def measured(dataset: str, hidden: int) -> dict[str, Interval]:
    """AUC of each attack with as many non-edges as edges; a tenth of the edges is revealed.

    All attacks are asked the same question, so that those who don't use the examples compare.
    """
    runs = [scored(dataset, hidden, s, {"reveal": REVEAL}, attacks(dataset)) for s in SEEDS]
    table = {n: mean_interval([float(run[n]["auc"]) for run in runs]) for n in runs[0]}
    for name, interval in table.items():
        average = sum(float(run[name]["average_precision"]) for run in runs) / len(runs)
        report(f"{dataset:9} {hidden} {name:14} AUC {interval.text()}  AP {average:.4f}")
    return table


@pytest.mark.parametrize("hidden", [64, 16])
@pytest.mark.parametrize("dataset", DATASETS)
def test_more_knowledge_steals_more_links(dataset: str, hidden: int) -> None:
    table = {name: interval.mean for name, interval in measured(dataset, hidden).items()}
    nothing, most = WANTED[dataset]
    # One source each: the victim's answers, the features.
    single = max(table["0 correlation"], table["x"])
    assert max(table, key=lambda name: table[name] if name[0] == "0" else 0) == "0 correlation"
    assert table["0 correlation"] >= nothing
    strongest = max(table["6"], table["7"])
    assert strongest >= most
    assert strongest >= single + 0.01
    assert table["6"] > table["3"]
    assert table["7"] > table["4"]
    assert table["5"] > table["1"]


@pytest.mark.parametrize("dataset", DATASETS)
def test_among_all_pairs_most_finds_are_wrong(dataset: str) -> None:
    """What an AUC above .9 is worth where every pair is asked about."""
    names = ("0 correlation", "0 combined", "x", "2 correlation", "2 combined")
    chosen = {name: attacks(dataset)[name] for name in names}
    runs = [scored(dataset, 64, seed, {"ask": "all"}, chosen) for seed in SEEDS]
    table = {}
    for name in names:
        values = [float(run[name]["average_precision"]) for run in runs]
        table[name] = mean_interval(values).mean
        auc = sum(float(run[name]["auc"]) for run in runs) / len(runs)
        report(f"{dataset:9} all pairs {name:14} AP {mean_interval(values).text()}  AUC {auc:.4f}")
    assert table["2 correlation"] > max(table["0 correlation"], table["x"])
