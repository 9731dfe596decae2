"""Sweeps: components filled by trials."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import optuna
import pytest
from pydantic import Field

from graphsec.cell import Cell
from graphsec.registry import Component, Range, SpecError
from graphsec.store import Store
from graphsec.sweep import hyperparameters, objective, suggest

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True, kw_only=True)
class Toy(Component):
    """A component with one field of every kind."""

    name = "toy"

    steps: Annotated[int, Field(ge=1), Range(1, 8)] = 4
    rate: Annotated[float, Field(gt=0, le=2), Range(1e-3, 1.0, log=True)] = 0.1
    limit: Annotated[int, Field(ge=1), Range(2, 9)] | None = None
    loss: Literal["ce", "cw"] = "ce"
    warm: bool = True
    label: str = "x"


def study(seed: int = 0, **options: Any) -> optuna.Study:
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed), **options)


def test_annotations_are_read() -> None:
    found = {parameter.name: parameter for parameter in hyperparameters(Toy)}
    assert list(found) == ["steps", "rate", "limit", "loss", "warm", "label"]
    assert found["steps"].integer
    assert found["limit"].integer
    assert found["rate"].range == Range(1e-3, 1.0, log=True)
    assert found["rate"].rule == "> 0, ≤ 2"
    assert found["loss"].choices == ("ce", "cw")
    assert found["warm"].choices == (False, True)
    assert found["label"].range is None
    assert found["limit"].type == "int or none"


def test_suggest_stays_in_range_and_leaves_the_rest_at_defaults() -> None:
    seen = []

    def run(trial: optuna.Trial) -> float:
        spec = suggest(trial, Toy)
        seen.append(spec)
        Toy(**{key: value for key, value in spec.items() if key != "name"})
        return float(spec["steps"])

    study().optimize(run, n_trials=40)
    assert all(set(spec) == {"name", "steps", "rate", "limit", "loss", "warm"} for spec in seen)
    assert {spec["steps"] for spec in seen} == set(range(1, 9))
    assert {spec["loss"] for spec in seen} == {"ce", "cw"}
    # On a logarithmic scale about a third of the draws lie in the lowest of three decades.
    assert 5 <= sum(spec["rate"] < 1e-2 for spec in seen) <= 25
    assert all(1e-3 <= spec["rate"] <= 1 for spec in seen)


def test_only_and_fixed() -> None:
    trial = study().ask()
    assert set(suggest(trial, Toy, only=["rate"])) == {"name", "rate"}
    spec = suggest(trial, Toy, fixed={"steps": 99})
    assert spec["steps"] == 99
    assert "toy.steps" not in trial.params


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cls": "prbdc"}, "no component 'prbdc'; did you mean 'prbcd'"),
        ({"cls": "none"}, r"'none' is a name of several kinds \(attack, defense\)"),
        ({"cls": "gcn", "kind": "modell"}, "no kind 'modell'; did you mean 'model'"),
        ({"cls": Toy, "only": ["step"]}, "'toy' has no field 'step'; did you mean 'steps'"),
        ({"cls": Toy, "only": ["label"]}, "label has no Range and no choices"),
    ],
)
def test_what_cannot_be_searched(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        suggest(study().ask(), **arguments)


def test_a_component_is_found_by_name() -> None:
    spec = suggest(study().ask(), "gcn")
    assert spec["name"] == "gcn"
    assert 8 <= spec["hidden"] <= 256


def test_objective_runs_cells_and_the_store_keeps_them(tmp_path: Path) -> None:
    template = Cell(dataset="karate", model="gcn", attack="random", training={"epochs": 5},
                    threat={"budget": {"edges": 0.2}})  # fmt: skip
    store = str(tmp_path / "sweep.db")
    run = objective(
        template, "attacked_accuracy", search={"training": ["lr"], "attack": None}, store=store
    )
    made = study(direction="minimize")
    made.optimize(run, n_trials=3)
    assert {trial.state for trial in made.trials} == {optuna.trial.TrialState.COMPLETE}
    assert set(made.best_params) == {"training.lr", "random.add"}
    with Store(store, create=False) as opened:
        records = {record.key: record for record in opened.records()}
    assert len(records) == 3
    for trial in made.trials:
        record = records[trial.user_attrs["key"]]
        assert record.value("attacked_accuracy") == trial.value
        assert record.spec["training"]["lr"] == trial.params["training.lr"]
        assert record.spec["training"]["epochs"] == 5
        assert record.spec["attack"]["add"] == trial.params["random.add"]


def test_several_metrics_and_misfits() -> None:
    template = Cell(dataset="karate", model="gcn", training={"epochs": 2})
    both = study(directions=["maximize", "maximize"])
    run = objective(template, ["accuracy", "macro_f1"], search={"model": ["hidden"]})
    both.optimize(run, n_trials=1)
    assert len(both.trials[0].values) == 2
    misfit = Cell(dataset="karate", model="mlp", attack="prbcd", training={"epochs": 2})
    pruned = study()
    pruned.optimize(objective(misfit, "attacked_accuracy"), n_trials=1)
    assert pruned.trials[0].state is optuna.trial.TrialState.PRUNED
    with pytest.raises(SpecError, match="no metric 'acuracy'; did you mean 'accuracy'"):
        study().optimize(objective(template, "acuracy", search={"model": ["hidden"]}), n_trials=1)
    with pytest.raises(SpecError, match="can't search 'atack'; did you mean 'attack'"):
        objective(template, "accuracy", search=["atack"])


def test_metrics_are_means_over_seeds(tmp_path: Path) -> None:
    template = Cell(dataset="csbm", model="gcn", training={"epochs": 3})
    store = str(tmp_path / "sweep.db")
    search = {"model": ["hidden"]}
    run = objective(
        template, ["accuracy", "val_accuracy"], search=search, seeds=[1, 2, 3], store=store
    )
    made = study(directions=["maximize", "maximize"])
    made.optimize(run, n_trials=1)
    with Store(store, create=False) as opened:
        records = opened.records()
    assert {(r.spec["seed"], r.spec["data_seed"]) for r in records} == {(1, 1), (2, 2), (3, 3)}
    for name, value in zip(("accuracy", "val_accuracy"), made.trials[0].values, strict=True):
        assert value == pytest.approx(sum(r.value(name) for r in records) / 3)
