"""``graphsec audit``: from a file to a verdict, through the store."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from graphsec import cli
from graphsec.audit.run import AuditError, run
from graphsec.audit.spec import AuditSpec
from graphsec.audit.trials import Canaries
from graphsec.dp.step import PrivateSteps
from graphsec.store import Store

SPEC = """
dataset = "karate"
model = {{ name = "mlp", layers = 1, dropout = 0.0 }}
training = {{ select = "last" }}
[defense]
name = "dp-gnn"
epsilon = 1.0
delta = 1e-5
steps = 1
rate = 1.0
clip = 0.3
unit = false
[[audits]]
name = "canaries"
count = 200
[[audits]]
name = "canaries"
{second}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def graphsec(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["graphsec", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def write(folder: Path, second: str = 'count = 10\nsees = "answer"') -> str:
    (folder / "a.toml").write_text(SPEC.format(second=second))
    return "a.toml"


def test_a_verdict_says_what_could_have_been_refuted(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert graphsec(monkeypatch, "audit", write(folder), "--store", "a.db") == 0
    printed = capsys.readouterr()
    lone, answer, last = printed.out.splitlines()
    assert lone.startswith("lone canaries, gradients, one-run: not contradicted: ε = 1.000 claimed")
    assert "by 200 guesses in 1 training; would have refuted any ε < 3." in lone
    assert "by 10 guesses in 1 training; could not have refuted it: so few guesses show" in answer
    assert "no bound is above ε = 1.000" in last
    assert "(confidence 0.95, of 2 audits together); this proves no claim" in last
    assert "2 of 2 trainings" in printed.err


def test_a_counter_example_ends_with_1(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(PrivateSteps, "noisy", lambda self, total: total)
    assert graphsec(monkeypatch, "audit", write(folder), "-q") == 1
    printed = capsys.readouterr()
    assert "COUNTER-EXAMPLE" in printed.out
    assert "counter-example: lone canaries, gradients, one-run shows ε ≥ 2." in printed.out
    assert printed.err == ""


def test_what_was_trained_is_not_trained_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained: list[int] = []
    trial = Canaries.trial

    def counted(self: Canaries, lab: Any, rng: Any) -> Any:
        if len(trained) == 3 and not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt
        trained.append(rng.seed)
        return trial(self, lab, rng)

    interrupted: list[bool] = []
    monkeypatch.setattr(Canaries, "trial", counted)
    spec = write(folder, "count = 10\ntrainings = 5")
    assert graphsec(monkeypatch, "audit", spec, "--store", "a.db", "-q") == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert len(trained) == 3
    assert graphsec(monkeypatch, "audit", spec, "--store", "a.db", "-q") == 0
    first = capsys.readouterr().out
    assert len(trained) == 6
    assert graphsec(monkeypatch, "audit", spec, "--store", "a.db", "-q") == 0
    assert capsys.readouterr().out == first
    # In one go it is the same.
    assert graphsec(monkeypatch, "audit", spec, "--store", "b.db", "-q") == 0
    assert capsys.readouterr().out == first
    trained.clear()
    # More trainings go on from those that are there.
    assert graphsec(monkeypatch, "audit", write(folder, "count = 10\ntrainings = 7"), "--store",
                    "a.db", "-q") == 0  # fmt: skip
    assert len(trained) == 2
    assert "by 70 guesses in 7 trainings" in capsys.readouterr().out


def test_records_stand_beside_those_of_cells(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert graphsec(monkeypatch, "audit", write(folder), "--store", "a.db", "-q") == 0
    (folder / "m.toml").write_text('datasets = ["karate"]\ntraining = { epochs = 2 }')
    assert graphsec(monkeypatch, "run", "m.toml", "--store", "a.db", "-q") == 0
    assert graphsec(monkeypatch, "report", "a.db", "-o", "r.html") == 0
    with Store("a.db") as store:
        records = store.records()
    assert len(records) == 4
    capsys.readouterr()
    assert graphsec(monkeypatch, "show", records[0].key, "--store", "a.db") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["spec"]["attack"]["name"] == "audit-canaries"
    assert shown["curves"]["scores"]["x"] == "200 points"
    assert shown["metrics"]["epsilon"]["value"] == pytest.approx(1.0, abs=1e-3)


def test_errors_of_the_user_are_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert graphsec(monkeypatch, "audit", "none.toml") == 2
    assert capsys.readouterr().err == "graphsec: no file none.toml\n"
    (folder / "b.toml").write_text("dataset = 3 3")
    assert graphsec(monkeypatch, "audit", "b.toml") == 2
    assert "b.toml is not valid TOML" in capsys.readouterr().err
    (folder / "b.toml").write_text('datasets = "karate"')
    assert graphsec(monkeypatch, "audit", "b.toml") == 2
    assert "no key 'datasets'; did you mean 'dataset'?" in capsys.readouterr().err
    (folder / "b.toml").write_text('dataset = "karate"')
    assert graphsec(monkeypatch, "audit", "b.toml") == 2
    assert "the key 'defense' is missing" in capsys.readouterr().err
    assert graphsec(monkeypatch, "audit", write(folder, "counts = 3")) == 2
    assert "audit 'canaries' has no field 'counts'; did you mean 'count'" in capsys.readouterr().err
    assert not Path("runs.db").exists()


def test_a_training_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = AuditSpec(
        dataset="karate", model={"name": "mlp", "layers": 1}, training={"select": "last"},
        defense={"name": "dp-gnn", "delta": 1e-2}, audits=["canaries"],
    )  # fmt: skip
    with pytest.raises(AuditError, match=r"1 of 1 trainings failed.*delta must be <"):
        run(spec, str(tmp_path / "a.db"))
    with pytest.raises(AuditError, match="delta must be <"):
        run(spec, str(tmp_path / "a.db"), retry_failed=True)


def test_lira_on_the_trained_model(tmp_path: Path) -> None:
    """Nodes of the graph itself, the shadow models shared; guesses of all victims together."""
    spec = AuditSpec(
        dataset="karate", model={"name": "mlp", "layers": 1, "dropout": 0.0},
        training={"select": "last"},
        defense={
            "name": "dp-gnn", "steps": 2, "delta": 1e-3, "noise_multiplier": 1.0
        },
        audits=[
            {"name": "membership", "attack": {"name": "lira", "shadows": 4}, "trainings": 2},
            {"name": "membership", "attack": "confidence", "bound": "many-runs", "trainings": 20},
        ],
    )  # fmt: skip
    lira, confidence = run(spec, str(tmp_path / "a.db"))
    assert lira.title == "lira, one-run"
    assert lira.guesses == 2 * 12
    assert confidence.guesses == 20
    assert not lira.refuted
    assert not confidence.refuted
    assert 0.1 < lira.claim < 8


def test_the_example_is_a_spec() -> None:
    path = Path(__file__).parents[2] / "examples" / "audit.toml"
    assert [audit.name for audit in AuditSpec.from_toml(path).audits].count("canaries") == 3
