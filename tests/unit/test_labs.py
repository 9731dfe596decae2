"""Teaching labs: right answers pass, wrong ones get their hint, and every lab runs to its end."""

from __future__ import annotations

import json
import re
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from graphsec import cli, labs
from graphsec.labs.cells import Cell, cells, from_notebook, notebook, script
from graphsec.registry import SpecError

LIMIT = 120.0  # seconds of processor time of a lab
ALL = labs.labs()
EACH = pytest.mark.parametrize("lab", ALL, ids=[lab.name for lab in ALL])


def answered(lab: labs.Lab, **wrong: str) -> str:
    """The solved lab with other answers: exercise_2="…" replaces that exercise's cell."""
    made = []
    for cell in cells(labs.solved(lab)):
        other = wrong.get(f"exercise_{cell.exercise}")
        made.append(cell if other is None else Cell(cell.title, other))
    return script(made)


def verdicts(folder: Path, lab: labs.Lab, text: str) -> list[labs.Verdict]:
    path = folder / "mine.py"
    path.write_text(text, encoding="utf-8")
    return labs.check(lab, path)


def graphsec(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["graphsec", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


# -- every lab --------------------------------------------------------------------------------


@pytest.mark.slow
@EACH
def test_lab_runs_top_to_bottom_with_its_solutions(
    lab: labs.Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    start = time.process_time()
    exec(compile(labs.solved(lab), lab.name, "exec"), {"__name__": "__main__"})
    assert time.process_time() - start < LIMIT
    assert capsys.readouterr().out


@EACH
def test_solutions_are_right(lab: labs.Lab, tmp_path: Path) -> None:
    found = verdicts(tmp_path, lab, labs.solved(lab))
    assert len(found) >= 3
    assert [v for v in found if not v.right] == []


@EACH
def test_untouched_lab_is_unanswered_everywhere(lab: labs.Lab, tmp_path: Path) -> None:
    found = verdicts(tmp_path, lab, lab.text)
    assert all("not answered yet" in verdict.hint for verdict in found), found


@EACH
def test_exercises_solutions_and_checks_agree(lab: labs.Lab) -> None:
    asked = [cell.title for cell in cells(lab.text) if cell.exercise]
    assert asked == [cell.title for cell in cells(lab.solution)]
    assert sorted(lab.checks) == [cell.exercise for cell in cells(lab.solution)]
    assert lab.solution not in lab.text
    # The text announces each exercise under the same title.
    for title in asked:
        assert f"# ## {title}" in lab.text


def test_labs_are_numbered_and_named_once() -> None:
    numbers = [lab.number for lab in ALL]
    assert numbers == sorted(set(numbers))
    assert {1, 2, 4} <= set(numbers)
    assert len({lab.title for lab in ALL}) == len(ALL)


# -- cells and notebooks ----------------------------------------------------------------------


@EACH
def test_script_and_notebook_hold_the_same_cells(lab: labs.Lab) -> None:
    found = cells(lab.text)
    made = from_notebook(notebook(found))
    assert [(c.title, c.markdown, c.tags, c.plain) for c in found] == [
        (c.title, c.markdown, c.tags, c.source.split("\n")) for c in made
    ]
    again = cells(script(found))
    assert [(c.title, c.source) for c in again] == [(c.title, c.source) for c in found]


@EACH
def test_notebook_is_valid(lab: labs.Lab) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbformat.validate(nbformat.reads(notebook(cells(lab.text)), as_version=4))


# -- wrong answers ----------------------------------------------------------------------------

WRONG = [
    (1, 1, "def link_score(p, q):\n    return (p[q[0]] - p[q[1]]).norm(dim=1)", "sign is wrong"),
    (1, 1, "def link_score(p, q):\n    return p[0]", "must give shape (30,), got shape (4,)"),
    (1, 2, "def auc(s, t):\n    a, b = s[t == 1], s[t == 0]\n"
     "    return (a[:, None] > b[None]).double().mean()", "ties count half"),
    (1, 3, "def feature_score(x, q):\n    return (x[q[0]] * x[q[1]]).sum(1)", "inner product"),
    (1, 4, "base_rate = graph.num_edges / graph.num_nodes**2", "each pair of nodes twice"),
    (1, 4, "base_rate = 'small'", "must be a number, got 'small'"),
    (1, 5, "def label_score(c, q):\n    return (c[q[0]] != c[q[1]]).double()", "other way round"),
    (2, 1, "def label_of(g):\n    return g.argmax()", "that the model finds likeliest"),
    (2, 2, "def input_by_division(W, b):\n    return W[0] / b[0]", "take a column"),
    (2, 2, "def input_by_division(W, b):\n    return W[:, 0] / b[0]", "0 by 0"),
    (2, 3, "def input_by_least_squares(W, b):\n    return W @ b", "divide by gᵀg"),
    (2, 3, "input_by_least_squares = input_by_division", "the one column of exercise 2"),
    (2, 4, "def possible(c, s):\n    return (c <= 1 + s).all(1)", "a pixel of −0.2 passes"),
    (2, 5, "def own_features(t, o, w, x):\n    return t - w @ x", "what is left is"),
    (4, 1, "def margin(z, y):\n    return z.gather(1, y[:, None])[:, 0] - z.amax(1)", "*other*"),
    (4, 2, "def best_flips(s, b):\n    return s.abs().argsort()[-b:].tolist()", "size of the"),
    (4, 2, "def best_flips(s, b):\n    return s.argsort()[:b].tolist()", "only the three negative"),
    (4, 3, "def greedy(g, b):\n    return best_flips(g([]), b)", "ask gradient_of again"),
    (4, 3, "def greedy(g, b):\n    return [int(g([]).argmin())] * b", "flipped twice"),
    (4, 4, "def wilson(k, n):\n    p = k / n\n    h = 1.96 * (p * (1 - p) / n) ** 0.5\n"
     "    return p - h, p + h", "the plain interval"),
    (5, 1, "def kept(x, q, t):\n    return (x[q[0]] * x[q[1]]).sum(1) > t", "inner product"),
    (5, 2, "def choose(a, floor):\n    return max(a, key=a.get)", "of the best accuracy"),
    (5, 2, "def choose(a, floor):\n    return max(a)", "ignores the floor"),
    (5, 3, "def spend(s, a, b):\n    return s.topk(b).indices", "spent on nothing"),
    (5, 3, "def spend(s, a, b):\n    return s[a].topk(b).indices", "places among the allowed"),
    (5, 3, "def spend(s, a, b):\n    return (s * a).topk(b).indices", "don't multiply by 0"),
    (5, 4, "def gain(d, u):\n    return d.mean() - u.mean()", "the mean over attacks"),
    (5, 4, "def gain(d, u):\n    return (d.amax(1) - u.amax(1)).mean()", "the best case"),
    (6, 1, "def clip(x, C):\n    return C * x / x.norm(dim=1, keepdim=True)", "became nan"),
    (6, 1, "def clip(x, C):\n    return x.clamp(-C, C)", "scale the row"),
    (6, 2, "def sensitivity(K, C):\n    return K * C", "squares add"),
    (6, 2, "def sensitivity(K, C):\n    return C", "v is in K of them"),
    (6, 3, "def score(s, r):\n    return -(s @ r).sum()", "the sign"),
    (6, 4, "def refuted_epsilon(t, f, d):\n    return math.log(t / f)", "take it off"),
    (6, 4, "def refuted_epsilon(t, f, d):\n    return math.log((t - d) / f)", "guessing refutes"),
]  # fmt: skip


@cache
def solved_names(number: int) -> dict[str, Any]:
    """What the cells of a solved lab make, demonstrations apart."""
    names: dict[str, Any] = {"__name__": "graphsec_lab"}
    for cell in cells(labs.solved(labs.lab(number))):
        if not cell.markdown and "demo" not in cell.tags:
            exec(cell.source, names)
    return names


@pytest.mark.parametrize(("number", "exercise", "answer", "hint"), WRONG)
def test_wrong_answer_gets_its_hint(number: int, exercise: int, answer: str, hint: str) -> None:
    names = dict(solved_names(number))
    look = labs.lab(number).checks[exercise]
    assert labs.looked_at(look, names) == ""
    exec(answer, names)
    assert hint in labs.looked_at(look, names)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        ("def link_score(p, q):\n    return p.nothing", r"raises AttributeError in line \d+: "),
        ("def link_score(p, q:\n", r"raises SyntaxError in line \d+: "),
        ("link_score = 3", "must be a function, got 3"),
        ("pass", "there is no link_score"),
    ],
)
def test_broken_answer_is_told_and_the_others_are_looked_at(
    tmp_path: Path, answer: str, hint: str
) -> None:
    text = answered(labs.lab(1), exercise_1=answer)
    found = verdicts(tmp_path, labs.lab(1), text)
    assert re.search(hint, found[0].hint)
    line = re.search(r"line (\d+)", found[0].hint)
    if line:  # a line of the student's file, inside the cell
        assert text.split("\n")[int(line[1]) - 1] in answer.split("\n")
    assert all(verdict.right for verdict in found[1:])


def test_missing_cell_and_broken_setup_are_told(tmp_path: Path) -> None:
    lab = labs.lab(1)
    without = script([c for c in cells(labs.solved(lab)) if c.exercise != 2])
    found = verdicts(tmp_path, lab, without)
    assert "its cell is missing" in found[1].hint
    assert found[0].right
    found = verdicts(tmp_path, lab, labs.solved(lab).replace("import torch", "import torhc"))
    assert all("ModuleNotFoundError" in verdict.hint for verdict in found)


# -- the command ------------------------------------------------------------------------------


def test_command_lists_copies_and_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert graphsec(monkeypatch, "lab") == 0
    listed = capsys.readouterr().out.strip().split("\n")
    assert listed == [f"{lab.number}  {lab.title}" for lab in ALL]

    assert graphsec(monkeypatch, "lab", "1", "--check") == 2
    assert "no file 01-posteriors.py; `graphsec lab 1` copies" in capsys.readouterr().err
    assert graphsec(monkeypatch, "lab", "1") == 0
    mine = tmp_path / "01-posteriors.py"
    assert mine.read_text(encoding="utf-8") == labs.lab(1).text
    capsys.readouterr()
    assert graphsec(monkeypatch, "lab", "1", "--check") == 1
    assert capsys.readouterr().out.count("wrong  Exercise") == 5

    mine.write_text(labs.solved(labs.lab(1)), encoding="utf-8")
    assert graphsec(monkeypatch, "lab", "1") == 2  # never over a file
    assert "is there already" in capsys.readouterr().err
    assert mine.read_text(encoding="utf-8") == labs.solved(labs.lab(1))
    assert graphsec(monkeypatch, "lab", "1", "--check") == 0
    assert capsys.readouterr().out.count("right  Exercise") == 5
    (tmp_path / "other.py").write_text("# %%\n", encoding="utf-8")
    assert graphsec(monkeypatch, "lab", "1", "other.py", "--check") == 1
    assert "its cell is missing" in capsys.readouterr().out


def test_command_copies_and_checks_a_notebook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert graphsec(monkeypatch, "lab", "1", "--notebook") == 0
    assert "--check 01-posteriors.ipynb" in capsys.readouterr().out
    path = tmp_path / "01-posteriors.ipynb"
    assert from_notebook(path.read_text(encoding="utf-8"))
    path.write_text(notebook(cells(labs.solved(labs.lab(1)))), encoding="utf-8")
    assert graphsec(monkeypatch, "lab", "1", "--check", path.name) == 0
    path.write_text(json.dumps({"cells": [{}]}), encoding="utf-8")
    assert graphsec(monkeypatch, "lab", "1", "--check", path.name) == 2
    assert "is not a notebook" in capsys.readouterr().err


def test_command_prints_solutions_only_when_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert graphsec(monkeypatch, "lab", "1", "--solution") == 0
    assert capsys.readouterr().out == labs.lab(1).solution
    for arguments in (("--check",), ("1", "--check", "--solution"), ("1", "mine.py"), ("99",)):
        assert graphsec(monkeypatch, "lab", *arguments) == 2
    with pytest.raises(SpecError, match="no lab 99; there are 1"):
        labs.lab(99)
