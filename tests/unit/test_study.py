"""Sweeps from a file: chosen on validation nodes, against a tuned attacker, tested once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from graphsec.cell import Record
from graphsec.cli import app
from graphsec.registry import SpecError
from graphsec.report.sweep import render, table
from graphsec.store import Store
from graphsec.study import Sweep, Swept, run

CELL: dict[str, Any] = {
    "dataset": {"name": "csbm", "num_nodes": 80, "graph_signal": 0.3, "feature_signal": 0.3},
    "model": {"name": "gcn", "hidden": 8},
    "attack": "random",
    "threat": {"budget": {"edges": 0.3}},
    "training": {"epochs": 5},
}


def made(**fields: Any) -> Sweep:
    return Sweep(**{
        "cell": CELL, "search": {"model": ["hidden", "dropout"]}, "trials": 4,
        "objectives": ["val_accuracy", "attacked_accuracy"], "test_seeds": [7, 8], **fields,
    })  # fmt: skip


def records(path: Path) -> list[Record]:
    with Store(str(path), create=False) as store:
        return store.records()


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Swept, Path]:
    """A sweep against an attacker who tries three attacks in each of four trials."""
    path = tmp_path_factory.mktemp("sweep") / "sweep.db"
    sweep = made(attacker={"search": ["add"], "trials": 3}, title="min-max")
    return run(sweep, str(path)), path


def test_the_search_sees_validation_nodes_and_its_own_seeds_alone(
    swept: tuple[Swept, Path],
) -> None:
    found, path = swept
    by_targets: dict[str, set[int]] = {"val": set(), "test": set()}
    for record in records(path):
        by_targets[record.spec["threat"]["targets"]].add(record.spec["seed"])
        assert record.spec["seed"] == record.spec["data_seed"]
    assert by_targets == {"val": {0}, "test": {7, 8}}
    tested = {each.cell.spec()["model"]["hidden"] for each in found.tested}
    assert tested == {
        r.spec["model"]["hidden"] for r in records(path) if r.spec["threat"]["targets"] == "test"
    }


def test_the_attack_of_a_trial_is_the_worst_that_was_tried(swept: tuple[Swept, Path]) -> None:
    found, path = swept
    searched = [r for r in records(path) if r.spec["threat"]["targets"] == "val"]
    assert len(found.study.trials) == 4
    for trial in found.study.trials:
        mine = [r for r in searched if r.spec["model"] == trial.user_attrs["cell"]["model"]]
        harms = {r.spec["attack"]["add"]: r.value("attacked_accuracy") for r in mine}
        assert len(harms) == 3
        assert trial.values[1] == min(harms.values())
        assert harms[trial.user_attrs["cell"]["attack"]["add"]] == min(harms.values())
    first = found.study.trials[0].params  # the cell's own values come first
    assert first == {"gcn.hidden": 8, "gcn.dropout": 0.5}


def test_attacks_on_a_trial_share_its_training(swept: tuple[Swept, Path]) -> None:
    _, path = swept
    rows = {r.row for r in records(path) if r.spec["threat"]["targets"] == "val"}
    assert len(rows) == 4


def test_none_of_the_front_is_beaten(swept: tuple[Swept, Path]) -> None:
    found, _ = swept
    values = {t.number: tuple(t.values) for t in found.study.trials}
    front = {each.number for each in found.tested}
    for number, mine in values.items():
        better = [
            other for other in values.values()
            if other != mine and all(a >= b for a, b in zip(other, mine, strict=True))
        ]  # fmt: skip
        assert (number in front) == (not better and mine not in list(values.values())[:number])


def test_a_sweep_goes_on_where_it_stood(swept: tuple[Swept, Path]) -> None:
    found, path = swept
    before = {record.key for record in records(path)}
    again = run(found.sweep, str(path))
    assert {record.key for record in records(path)} == before
    assert [t.values for t in again.study.trials] == [t.values for t in found.study.trials]
    with pytest.raises(SpecError, match=r"of another spec \(it differs in seeds\)"):
        run(replace(found.sweep, seeds=[5]), str(path))


def test_more_trials_by_two_processes(tmp_path: Path) -> None:
    path = tmp_path / "sweep.db"
    sweep = made(trials=2)
    run(sweep, str(path))
    more = run(replace(sweep, trials=5), str(path), workers=2)
    assert len(more.study.trials) == 5
    assert all(trial.state.name == "COMPLETE" for trial in more.study.trials)
    drawn = [tuple(trial.params.values()) for trial in more.study.trials]
    assert len(set(drawn)) == 5


def test_what_crosses_a_limit_is_not_chosen(tmp_path: Path) -> None:
    limit = {"metric": "val_accuracy", "at_least": 1.1}
    none = run(
        made(limits=[limit], objectives=["attacked_accuracy"], trials=2), str(tmp_path / "a")
    )
    assert none.tested == []
    assert all(t.constraints == {"0.val_accuracy": pytest.approx(1.1 - _val(t, none))}
               for t in none.study.trials)  # fmt: skip
    fair = made(limits=[{**limit, "at_least": 0.0}], objectives=["attacked_accuracy"], trials=2)
    chosen = run(fair, str(tmp_path / "b"))
    best = max(t.values[0] for t in chosen.study.trials)
    assert [chosen.study.trials[each.number].values[0] for each in chosen.tested] == [best]
    assert set(chosen.tested[0].values) == {"attacked_accuracy", "val_accuracy"}


def _val(trial: Any, found: Swept) -> float:
    from graphsec.cell import Cell, run_cell

    return run_cell(Cell.from_spec(trial.user_attrs["cell"])).value("val_accuracy")


def test_costs_are_objectives_too(tmp_path: Path) -> None:
    found = run(made(objectives=["val_accuracy", "train_seconds"], trials=1), str(tmp_path / "a"))
    assert [d.name for d in found.study.directions] == ["MAXIMIZE", "MINIMIZE"]
    with pytest.raises(SpecError, match="no metric 'val_acuracy'; did you mean 'val_accuracy'"):
        run(made(objectives=["val_acuracy"]), str(tmp_path / "b"))


def test_cells_that_fail_are_failed_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "plugins")
    goal = {"metric": "val_accuracy", "direction": "maximize"}
    cell = {**CELL, "attack": {"name": "fake", "do": "raise"}}
    fields = {"search": {"model": ["hidden"]}, "trials": 2, "plugins": ["graphsec_fakes"]}
    found = run(made(cell=cell, objectives=[goal], **fields), str(tmp_path / "sweep.db"))
    assert [trial.state.name for trial in found.study.trials] == ["FAIL", "FAIL"]
    assert found.tested == []
    with pytest.raises(SpecError, match="the cell itself can't be run"):
        run(made(cell=cell, **fields), str(tmp_path / "other.db"))


def test_what_to_start_with_is_tried(tmp_path: Path) -> None:
    found = run(made(start=[{"gcn.hidden": 33, "gcn.dropout": 0.1}]), str(tmp_path / "sweep.db"))
    assert found.study.trials[1].params == {"gcn.hidden": 33, "gcn.dropout": 0.1}


BAD: list[tuple[dict[str, Any], str]] = [
    ({"objectives": []}, "objectives must not be empty"),
    ({"search": {}}, "search must name a part"),
    ({"search": {"modell": ["hidden"]}}, "can't search 'modell'; did you mean 'model'"),
    ({"search": {"model": ["hiden"]}}, "'gcn' has no field 'hiden'; did you mean 'hidden'"),
    ({"search": {"model": "hidden"}}, r"search.model must be true or a list of fields"),
    ({"cell": {**CELL, "threat": {"targets": "test"}}}, "must be 'val' while it searches"),
    ({"cell": {**CELL, "seed": 3}}, "cell has no field 'seed'"),
    ({"start": [{"gcn.hiden": 8}]}, "start has no parameter 'gcn.hiden'; did you mean"),
    ({"seeds": [7]}, r"test_seeds must differ from seeds, both have \[7\]"),
    ({"limits": [{"metric": "accuracy"}]}, "needs at_least or at_most"),
    ({"search": {"attack": True}, "attacker": {}}, "must be absent where an attacker searches"),
    ({"cell": {**CELL, "attack": "none"}, "attacker": {"search": ["add"]}}, "has no field 'add'"),
]


@pytest.mark.parametrize(("fields", "message"), BAD)
def test_refused_before_anything_runs(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        made(**fields)


def test_the_page_asks_for_nothing_and_shows_what_was_chosen(swept: tuple[Swept, Path]) -> None:
    found, _ = swept
    page = render(found)
    assert "http" not in page.replace("http://www.w3.org", "")
    assert page.count("<svg") == 2
    for each in found.tested:
        assert f'<th scope="row">{each.number}</th>' in page
    assert table(found).row_count == len(found.tested)


def test_the_command(tmp_path: Path) -> None:
    spec = tmp_path / "small.toml"
    spec.write_text(
        'objectives = ["val_accuracy"]\ntrials = 2\ntest_seeds = [7]\n'
        'search = { model = ["hidden"] }\n'
        '[cell]\ndataset = { name = "csbm", num_nodes = 60 }\ntraining = { epochs = 2 }\n'
    )
    store, page = tmp_path / "sweep.db", tmp_path / "sweep.html"
    arguments = ["sweep", str(spec), "--store", str(store), "--report", str(page)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "2 complete" in done.output
    assert "<h1>small</h1>" in page.read_text()


def test_the_example_is_a_sweep() -> None:
    sweep = Sweep.from_toml(Path(__file__).parents[2] / "examples" / "sweep.toml")
    assert sweep.attacker.trials == 4
