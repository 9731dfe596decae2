"""Matrices: the grid, what is wrong with a spec, and results."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from graphsec.cell import Record
from graphsec.matrix import Matrix
from graphsec.registry import SpecError
from graphsec.results import Results, label


def test_grid_multiplies_budgets_only_where_edges_are_spent() -> None:
    grid = Matrix(
        datasets=["karate"],
        models=["gcn", "sgc"],
        attacks=["none", "random", "link-stealing"],
        budgets=[0.01, 0.05],
        seeds=[0, 1],
        mlp_line=False,
    )
    found = Counter(
        (c.parts.attack.name, c.parts.threat.budget.edges) for c in grid.cells() if c.seed == 1
    )
    assert found == {
        ("none", None): 2, ("random", 0.01): 2, ("random", 0.05): 2, ("link-stealing", None): 2,
    }  # fmt: skip


def test_budget_may_stand_in_the_threat_as_number_or_list() -> None:
    for edges, expected in ((0.1, [0.1]), ([0.1, 0.2], [0.1, 0.2])):
        grid = Matrix(
            datasets=["karate"],
            attacks=["random"],
            threat={"budget": {"edges": edges, "queries": 5}},
            mlp_line=False,
        )
        budgets = [cell.parts.threat.budget for cell in grid.cells()]
        assert [budget.edges for budget in budgets] == expected
        assert {budget.queries for budget in budgets} == {5}


def test_cells_come_row_by_row_and_once() -> None:
    grid = Matrix(
        datasets=["karate"], models=["gcn", "mlp"], attacks=["none", "random", "none"],
        budgets=[1, 2], seeds=[0, 1],
    )  # fmt: skip
    cells = grid.cells()
    rows = [cell.row for cell in cells]
    assert len({cell.key for cell in cells}) == len(cells) == 2 * (3 + 3)
    starts = [i for i, row in enumerate(rows) if row not in rows[:i]]
    assert len(starts) == 4
    # The MLP line comes first and is a cell of the grid too; all other rows are in one piece.
    assert [cell.parts.recipe.model.name for cell in cells[:5]] == ["mlp"] + ["gcn"] * 3 + ["mlp"]


def test_mlp_line_is_one_plain_cell_for_each_dataset_and_seed() -> None:
    grid = Matrix(datasets=["karate", "sbm"], defenses=["jaccard"], attacks=["random"],
                  budgets=[0.1], seeds=[3, 4])  # fmt: skip
    line = [c for c in grid.cells() if c.parts.recipe.model.name == "mlp"]
    assert len(line) == 4
    assert {(c.parts.defense.name, c.parts.attack.name) for c in line} == {("none", "none")}


def test_data_seed_follows_the_seed_unless_the_split_is_published() -> None:
    grid = Matrix(datasets=["karate", "cora"], seeds=[0, 7], mlp_line=False)
    assert [(c.parts.dataset.name, c.seed, c.data_seed) for c in grid.cells()] == [
        ("karate", 0, 0), ("karate", 7, 7), ("planetoid/cora", 0, 0), ("planetoid/cora", 7, 0),
    ]  # fmt: skip


def test_splits_replace_the_published_split_unless_the_entry_says() -> None:
    half = {"fractions": [0.5, 0.2, 0.3]}
    public = {"name": "cora", "split": "public"}
    grid = Matrix(datasets=["cora", public], splits=half, seeds=[7], mlp_line=False)
    first, second = grid.cells()
    assert (first.parts.dataset.strategy, first.data_seed) == (half, 7)
    assert (second.parts.dataset.strategy, second.data_seed) == ("public", 0)


def test_training_of_the_matrix_and_of_one_model() -> None:
    grid = Matrix(
        datasets=["karate"],
        models=["gcn", {"name": "sgc", "training": {"epochs": 3}}],
        training={"epochs": 9, "lr": 0.5},
        mlp_line=False,
    )
    training = [cell.parts.recipe.training for cell in grid.cells()]
    assert [(t.epochs, t.lr) for t in training] == [(9, 0.5), (3, 0.5)]


def test_threat_of_the_matrix_and_of_one_attack() -> None:
    """An attack's own fields replace those of the matrix; its budget as a whole."""
    local = {"name": "fga", "threat": {"budget": {"edges_per_node": 1}, "targets": [3]}}
    grid = Matrix(
        datasets=["karate"],
        attacks=["prbcd", {"name": "prbcd", "threat": {"adaptive": False}}, local],
        threat={"targets": "val"},
        budgets=[0.05, 0.1],
        mlp_line=False,
    )
    assert grid.problems() == []
    found = [cell.parts.threat for cell in grid.cells()]
    assert [(t.adaptive, t.budget.edges, t.targets) for t in found] == [
        (True, 0.05, "val"), (True, 0.1, "val"), (False, 0.05, "val"), (False, 0.1, "val"),
        (True, None, (3,)),
    ]  # fmt: skip
    assert found[-1].budget.edges_per_node == 1


def test_a_list_of_defenses_is_composed() -> None:
    grid = Matrix(datasets=["karate"], defenses=["none", ["jaccard", "soft-median"]],
                  mlp_line=False)  # fmt: skip
    assert [c.parts.defense.name for c in grid.cells()] == ["none", "compose"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attacks": ["prbdc"]}, r"no attack 'prbdc'; did you mean 'prbcd'.*1 cell skipped"),
        ({"models": ["gcm"]}, r"no model 'gcm'; did you mean .*'gcn'"),
        ({"models": [{"name": "gcn", "hiden": 8}]}, r"no field 'hiden'; did you mean 'hidden'"),
        ({"models": [{"name": "gcn", "hidden": 0}]}, r"'gcn': hidden:.*got 0"),
        ({"models": [{"name": "gcn", "training": 5}]}, r"training must be a table, got 5"),
        ({"attacks": [{"name": "prbcd", "threat": 5}]}, r"threat must be a table, got 5"),
        ({"attacks": [{"name": "prbcd", "threat": {"targts": "val"}}]}, r"no field 'targts'"),
        ({"models": [7]}, r"need a name or a table with a name, got 7"),
        ({"models": [{"hidden": 8}]}, r"the field 'name' is missing"),
        ({"defenses": ["jacard"]}, r"no defense 'jacard'; did you mean 'jaccard'"),
        ({"defenses": [[]]}, r"need a name or a table with a name, got \[\]"),
        ({"datasets": ["karat"]}, r"no dataset 'karat'; did you mean 'karate'"),
        ({"training": {"epoch": 5}}, r"training has no field 'epoch'; did you mean 'epochs'"),
        ({"training": {"lr": -1}}, r"lr:.*got -1"),
        ({"threat": {"adaptiv": True}}, r"threat has no field 'adaptiv'"),
        ({"threat": {"budget": {"edge": 1}}}, r"threat.budget has no field 'edge'"),
        ({"budgets": [1.5], "attacks": ["random"]}, r"edges.*1\.5"),
        ({"budgets": [-1], "attacks": ["random"]}, r"edges.*-1"),
        ({"budgets": [562], "attacks": ["random"]}, r"at most the 561 pairs of .*got 562"),
        ({"threat": {"targets": [34]}}, r"threat.targets must lie in 0…33, got \(34,\)"),
        ({"threat": {"access": ["labels"]}, "attacks": ["prbcd"]}, r"needs access to"),
        ({"models": ["mlp"], "attacks": ["prbcd"]}, r"model 'mlp' ignores them"),
    ],
)
def test_problems_name_field_value_and_rule(changes: dict[str, Any], message: str) -> None:
    grid = Matrix(**{"datasets": ["karate"], "mlp_line": False, **changes})
    problems = grid.problems()
    assert len(problems) == 1
    assert re.search(message, problems[0]), problems[0]


def test_all_problems_at_once_each_with_its_cells_and_the_rest_stays() -> None:
    grid = Matrix(
        datasets=["karate"], models=["gcn", "gcm"], attacks=["none", "randon"], seeds=[0, 1],
        mlp_line=False,
    )  # fmt: skip
    problems = grid.problems()
    assert [problem.partition(";")[0] for problem in problems] == [
        "no attack 'randon'", "no model 'gcm'",
    ]  # fmt: skip
    assert problems[0].endswith("(4 cells skipped)")
    assert len(grid.cells()) == 2
    skipped = [entry.skipped() for entry in grid.entries if entry.problems]
    assert len({record.key for record in skipped}) == 6
    assert {record.status for record in skipped} == {"skipped"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"datasets": "karate"}, "datasets must be a list, got 'karate'"),
        ({"datasets": []}, "datasets must not be empty"),
        ({"seeds": [0, -1]}, "seeds must be integers ≥ 0, got -1"),
        ({"seeds": [True]}, "seeds must be integers ≥ 0, got True"),
        ({"budgets": 0.1}, "budgets must be a list, got 0.1"),
        ({"budgets": ["5%"]}, "budgets must be numbers, got '5%'"),
        ({"threat": "white-box"}, "threat must be a table, got 'white-box'"),
        ({"optional": ["cora"]}, "optional data set 'cora' is not in datasets"),
    ],
)
def test_form(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Matrix(**{"datasets": ["karate"], **changes})


def test_missing_plugin() -> None:
    with pytest.raises(SpecError, match="can't import the plugin 'no_such_module'"):
        Matrix(datasets=["karate"], plugins=["no_such_module"]).cells()


def test_from_toml(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'datasets = ["karate"]\nattacks = ["none", { name = "prbcd", steps = 7 }]\n'
        "budgets = [0.05]\nmlp_line = false\n[threat]\nadaptive = false\n"
    )
    grid = Matrix.from_toml(path)
    assert grid.name == "mine"
    assert [cell.parts.attack.spec().get("steps") for cell in grid.cells()] == [None, 7]
    assert not grid.cells()[1].spec()["threat"]["adaptive"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("datasets = [", "not valid TOML"),
        ('dataset = ["karate"]', "no key 'dataset'; did you mean 'datasets'"),
        ('models = ["gcn"]', "the key 'datasets' is missing"),
        ("\udcff", "not valid TOML"),
    ],
)
def test_bad_toml(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(SpecError, match=message):
        Matrix.from_toml(path)


def test_optional_datasets_are_left_out_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHSEC_DATA", str(tmp_path))
    monkeypatch.setattr("graphsec.datasets.cache._download", _no_network)
    grid = Matrix(datasets=["karate", "cora"], optional=["cora"], mlp_line=False)
    assert [cell.parts.dataset.name for cell in grid.cells()] == ["karate"]
    assert len(grid.notes) == 1
    assert "planetoid/cora is left out: " in grid.notes[0]
    assert grid.problems() == []


def _no_network(_: object) -> None:
    raise ConnectionError("no network")


# -- results ----------------------------------------------------------------------------------


@pytest.fixture
def results() -> Results:
    cells = Matrix(datasets=["karate"], attacks=["none", "random"], budgets=[0.1]).cells()
    numbers = {"accuracy": {"value": 0.5, "higher_is_better": True, "low": 0, "high": 1,
                            "label": "accuracy"}}  # fmt: skip
    records = [
        Record(key=c.key, row=c.row, status="done", spec=c.spec(), metrics=numbers,
               cost={"train_seconds": 2.0}, threat=c.parts.threat.describe())
        for c in cells
    ]  # fmt: skip
    failed = Record(key="k", row="r", status="failed", spec=cells[0].spec(), reason="a\nb: c\n")
    return Results([*records, failed], "mine", ["something is left out"])


def test_frame(results: Results) -> None:
    frame = results.frame()
    assert len(frame) == 4
    assert frame["model"].tolist() == ["mlp", "gcn", "gcn", "mlp"]
    assert frame["budget"].tolist()[2] == 0.1
    assert frame["accuracy"].tolist()[:3] == [0.5] * 3
    assert frame["cost_train_seconds"][0] == 2.0
    assert frame["reason"].tolist()[3] == "b: c"
    assert frame["adaptive"].all()


def test_results_save_and_load(results: Results, tmp_path: Path) -> None:
    loaded = Results.load(results.save(tmp_path / "r.jsonl"))
    assert [record.to_json() for record in loaded] == [record.to_json() for record in results]
    assert results.counts() == {"done": 3, "skipped": 0, "failed": 1}
    assert repr(results) == "Results('mine': 3 done, 1 failed)"


def test_report_and_table_take_results(results: Results, tmp_path: Path) -> None:
    path = results.report(tmp_path / "report.html")
    page = path.read_text()
    assert "karate" in page
    assert "something is left out" in page
    assert results.table() is not None


@pytest.mark.parametrize(
    ("kind", "spec", "expected"),
    [
        ("model", {"name": "gcn"}, "gcn"),
        ("model", {"name": "gcn", "hidden": 64, "dropout": 0.25}, "gcn(dropout=0.25)"),
        ("defense", [{"name": "none"}, "jaccard"], "none + jaccard"),
        ("attack", {"name": "of-a-plugin", "steps": 3}, "of-a-plugin(steps=3)"),
    ],
)
def test_label(kind: str, spec: Any, expected: str) -> None:
    assert label(kind, spec) == expected
