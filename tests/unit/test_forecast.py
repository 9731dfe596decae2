"""What would be run and for how long, and what this installation is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from graphsec.cli import app
from graphsec.doctor import examine
from graphsec.forecast import Forecast, forecast
from graphsec.matrix import Matrix

SPEC = """
datasets = [{ name = "csbm", num_nodes = 60 }]
models = [{ name = "gcn", hidden = 8 }, "mlp"]
attacks = ["none", "prbcd"]
budgets = [0.05]
seeds = [0, 1]
mlp_line = false
training = { epochs = 2 }
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "spec.toml"
    path.write_text(SPEC)
    return path


def test_a_forecast_counts_and_learns_from_the_store(spec: Path, tmp_path: Path) -> None:
    whole, url = Matrix.from_toml(spec), str(tmp_path / "runs.db")
    before = forecast(whole, url)
    assert not Path(url).exists()
    # prbcd on mlp does not fit: two cells are skipped
    assert (before.cells, before.done, before.left, before.misfits) == (8, 0, 8, 2)
    assert before.seconds is None
    part = Matrix.from_toml(spec)
    results = part.run(url, progress=False)
    assert results.counts() == {"done": 6, "skipped": 2, "failed": 0}
    after = forecast(whole, url)
    assert (after.done, after.left, after.text()) == (8, 0, "8 cells: 8 finished, 0 to run")
    spec.write_text(SPEC.replace("seeds = [0, 1]", "seeds = [0, 1, 2, 3]"))
    more = forecast(Matrix.from_toml(spec), url, workers=2)
    assert (more.done, more.left, more.misfits, more.guessed) == (8, 8, 2, 0)
    assert more.seconds is not None
    assert more.seconds > 0


def test_unknown_kinds_are_taken_for_average(spec: Path, tmp_path: Path) -> None:
    url = str(tmp_path / "runs.db")
    Matrix.from_toml(spec).run(url, progress=False)
    spec.write_text(SPEC.replace('"prbcd"]', '"prbcd", "random"]'))
    found = forecast(Matrix.from_toml(spec), url)
    assert (found.left, found.guessed) == (4, 4)
    assert "4 taken for average" in found.text()


@pytest.mark.parametrize(
    ("seconds", "workers", "text"),
    [
        (80.0, 1, "about 80 s with 1 worker"),
        (800.0, 2, "about 7 min with 2 workers"),
        (90_000.0, 1, "about 25.0 h with 1 worker"),
        (None, 1, "nothing to tell the time by"),
    ],
)
def test_in_words(seconds: float | None, workers: int, text: str) -> None:
    assert text in Forecast(10, 0, 0, 10, seconds, 0, workers).text()


def test_dry_run_runs_nothing(spec: Path, tmp_path: Path) -> None:
    store = tmp_path / "runs.db"
    done = CliRunner().invoke(app, ["run", str(spec), "--dry-run", "--store", str(store)])
    assert done.exit_code == 0, done.output
    assert "8 cells: 0 finished, 8 to run, 2 of them skipped" in done.output
    assert not store.exists()


def test_the_doctor_finds_too_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    whats = {finding.what for finding in examine()}
    assert {"versions", "threads", "kernels", "data"} <= whats
    monkeypatch.setattr(torch, "get_num_threads", lambda: 10_000)
    threads = next(finding for finding in examine() if finding.what == "threads")
    assert not threads.fine
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == 1
    assert any(f["what"] == "threads" and not f["fine"] for f in json.loads(done.output))


def test_the_doctor_finds_a_folder_that_nothing_can_be_written_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GRAPHSEC_DATA", str(tmp_path / "there" / "is" / "none"))
    monkeypatch.setattr("os.access", lambda path, mode: False)
    data = next(finding for finding in examine() if finding.what == "data folder")
    assert not data.fine
    assert "set GRAPHSEC_DATA" in data.advice
