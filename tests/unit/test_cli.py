"""The command line: what it prints, and how it ends."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from graphsec import __version__, cli

SPEC = """
datasets = ["karate"]
attacks = [{attacks}]
budgets = [0.1]
training = {{ epochs = 2 }}
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


def write(folder: Path, attacks: str = '"none", "random"') -> str:
    path = folder / "m.toml"
    path.write_text(SPEC.format(attacks=attacks))
    return str(path)


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert graphsec(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"graphsec {__version__}\n"


def test_run_report_show(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = write(folder)
    assert graphsec(monkeypatch, "run", spec, "--store", "r.db", "--report", "r.html") == 0
    first = capsys.readouterr()
    assert "karate" in first.out
    assert "3 done, 0 skipped, 0 failed" in first.err
    assert "<html" in (folder / "r.html").read_text()

    assert graphsec(monkeypatch, "run", spec, "--store", "r.db", "-q") == 0
    assert capsys.readouterr().out == first.out

    assert graphsec(monkeypatch, "report", "r.db", "-o", "again/r.html") == 0
    assert capsys.readouterr().out == first.out
    assert (folder / "again" / "r.html").exists()

    from graphsec.results import Results

    record = Results.from_store("r.db")[1]
    assert graphsec(monkeypatch, "show", record.key[:10], "--store", "r.db") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["key"] == record.key
    assert shown["spec"] == record.spec
    assert shown["versions"]["graphsec"] == __version__


def test_seeds_on_the_command_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = write(folder, '"none"')
    assert graphsec(monkeypatch, "run", spec, "-q", "--seed", "4", "--seed", "5") == 0
    assert "4 done" in capsys.readouterr().err
    assert (folder / "runs.db").exists()


def test_a_typo_is_told_first_and_the_rest_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = write(folder, '"none", "prbdc"')
    assert graphsec(monkeypatch, "run", spec, "-q") == 1
    err = capsys.readouterr().err
    assert err.startswith("graphsec: no attack 'prbdc'; did you mean 'prbcd'")
    assert "2 done, 1 skipped, 0 failed" in err


def test_failed_cells_end_with_1(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "plugins"))
    spec = Path(write(folder, '"none", { name = "fake", do = "raise" }'))
    spec.write_text('plugins = ["graphsec_fakes"]\n' + spec.read_text())
    assert graphsec(monkeypatch, "run", str(spec)) == 1
    err = capsys.readouterr().err
    assert "RuntimeError: this attack always fails" in err
    assert "2 done, 0 skipped, 1 failed" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "none.toml"], "no file none.toml"),
        (["run", "bad.toml"], "no key 'dataset'; did you mean 'datasets'"),
        (["run", "typo.toml"], "no cell can be run"),
        (["run", "m.toml", "--store", "."], "is a folder, not a file"),
        (["run", "m.toml", "--store", "bad.toml"], "not an SQLite database"),
        (["run", "m.toml", "--report", "."], "is a folder, not a file"),
        (["run", "m.toml", "--workers", "0"], "--workers"),
        (["report", "none.db"], "none.db does not exist"),
        (["show", "abc", "--store", "none.db"], "none.db does not exist"),
        (["ls", "atacks"], "no kind 'atacks'; did you mean 'attacks'"),
        (["data", "fetch", "corra"], "no dataset 'corra'; did you mean"),
        (["rum"], "rum"),
    ],
)
def test_bad_input_is_one_clear_message_and_2(
    arguments: list[str],
    message: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(folder)
    (folder / "bad.toml").write_text('dataset = ["karate"]' + "\n# not a database" * 100)
    (folder / "typo.toml").write_text('datasets = ["karat"]\nmlp_line = false')
    assert graphsec(monkeypatch, *arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


def test_ls(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert graphsec(monkeypatch, "ls") == 0
    out = capsys.readouterr().out
    for name in ("prbcd", "soft-median", "gcn", "digits-knn", "membership"):
        assert name in out
    assert graphsec(monkeypatch, "ls", "attack") == 0
    out = capsys.readouterr().out
    assert "steps: 125; ≥ 1; 25…500 log" in out
    assert "weights" in out
    for kind in ("defenses", "models", "datasets", "games"):
        assert graphsec(monkeypatch, "ls", kind) == 0
    assert "hidden: 64" in capsys.readouterr().out


def test_data(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GRAPHSEC_DATA", str(folder))
    assert graphsec(monkeypatch, "data", "where") == 0
    assert capsys.readouterr().out.strip() == str(folder)
    assert graphsec(monkeypatch, "data", "list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("karate" in line and "built in" in line for line in lines)
    assert any("planetoid/cora" in line and "to be fetched" in line for line in lines)
    assert graphsec(monkeypatch, "data", "fetch", "karate") == 0


FEDERATED = """
dataset = { name = "rating/factors", users = 40, items = 30, each = 10 }
model = "rating-lightgcn"
training = { epochs = 2, batch_size = 240 }
"""


def test_federate(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one process; across processes: test_flower.py."""
    (folder / "f.toml").write_text(FEDERATED)
    here = ("federate", "f.toml", "--transport", "process")
    assert graphsec(monkeypatch, *here, "--parties", "3", "--seed", "1") == 0
    figures = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert float(figures["rounds"]) == 2
    assert 0 < float(figures["rmse"]) < 3


@pytest.mark.parametrize(
    ("content", "more", "said"),
    [
        (None, (), "no file f.toml"),
        ("dataset = ", (), "f.toml: Invalid value"),
        ('colour = "red"', (), "unexpected keyword argument 'colour'"),
        (FEDERATED + "defense = [1, 2]", (), "defense must be a name or a table"),
        (FEDERATED, ("--parties", "31"), "parties must be ≤ 30"),
        (FEDERATED, ("--checkpoint", "kept"), "--checkpoint needs --transport flower"),
    ],
)
def test_federate_refuses(
    content: str | None, more: tuple[str, ...], said: str, folder: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """In a line, before anything is trained."""
    if content is not None:
        (folder / "f.toml").write_text(content)
    assert graphsec(monkeypatch, "federate", "f.toml", "--transport", "process", *more) in (1, 2)
    assert said in capsys.readouterr().err
