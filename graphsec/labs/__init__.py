"""Teaching labs: percent scripts to read, with exercises that are looked at.

A lab is ``texts/NN-name.py``. ``# %% [markdown]`` begins a cell of text, ``# %%`` one of code,
``# %% Exercise N: …`` one that the student fills in, and ``# %% tags=["demo"]`` one that shows what
an answer does: a check leaves it out. ``solutions/NN-name.py`` has the exercises' cells filled in,
``checks/name.py`` what looks at them.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

from graphsec.labs.cells import Cell, cells, from_notebook, notebook, script
from graphsec.labs.checking import Names, Wrong
from graphsec.registry import SpecError

__all__ = ["Lab", "Verdict", "check", "copy", "lab", "labs", "looked_at", "solved"]


@dataclass(frozen=True)
class Lab:
    """A lab.

    Attributes:
        number: From 1.
        name: Its file's name without the ending, such as "01-posteriors".
        text: The percent script.
        solution: The percent script of the filled-in exercises.
    """

    number: int
    name: str
    text: str
    solution: str

    @property
    def title(self) -> str:
        """The heading of its first cell of text."""
        return next(
            line[2:].strip() for c in cells(self.text) for line in c.plain if line[:2] == "# "
        )

    @property
    def checks(self) -> dict[int, Callable[[Names], None]]:
        """By the number of the exercise, what raises ``Wrong`` about it."""
        topic = self.name.partition("-")[2].replace("-", "_")
        found: dict[int, Callable[[Names], None]] = import_module(
            f"graphsec.labs.checks.{topic}"
        ).CHECKS
        return found


@dataclass(frozen=True)
class Verdict:
    """What a check found.

    Attributes:
        exercise: Title of the exercise.
        hint: What to think about; empty where the answer is right.
    """

    exercise: str
    hint: str = ""

    @property
    def right(self) -> bool:
        """Whether the answer is right."""
        return not self.hint


def labs() -> list[Lab]:
    """All labs by number."""
    texts, solutions = files("graphsec.labs.texts"), files("graphsec.labs.solutions")
    names = sorted(each.name for each in texts.iterdir() if each.name[:2].isdigit())
    return [
        Lab(
            int(name[:2]),
            name.removesuffix(".py"),
            (texts / name).read_text(encoding="utf-8"),
            (solutions / name).read_text(encoding="utf-8"),
        )
        for name in names
        if name.endswith(".py")
    ]


def lab(number: int) -> Lab:
    """The lab of a number.

    Raises:
        SpecError: There is none.
    """
    made = {each.number: each for each in labs()}
    if number not in made:
        raise SpecError(f"no lab {number}; there are {', '.join(map(str, made))}")
    return made[number]


def copy(of: Lab, folder: Path, *, as_notebook: bool = False) -> Path:
    """Write a lab into a folder, as a script or a notebook, and never over a file.

    Raises:
        SpecError: The file is there already.
    """
    path = folder / f"{of.name}.{'ipynb' if as_notebook else 'py'}"
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(notebook(cells(of.text)) if as_notebook else of.text)
    except FileExistsError:
        raise SpecError(f"{path} is there already, and may hold your answers: move it") from None
    return path


def solved(of: Lab) -> str:
    """The lab's script with the exercises filled in."""
    answers = {cell.exercise: cell for cell in cells(of.solution) if cell.exercise}
    return script([answers.get(cell.exercise, cell) for cell in cells(of.text)])


def check(of: Lab, path: Path) -> list[Verdict]:
    """Run the cells of a student's file in this process, demonstrations apart, and look at them.

    Args:
        of: The lab whose exercises these are.
        path: A percent script or a notebook.

    Returns:
        A verdict for each of the lab's exercises, in order.

    Raises:
        SpecError: There is no such file, or it can't be read as a lab.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError(
            f"no file {path}; `graphsec lab {of.number}` copies the lab here, and `graphsec lab "
            f"{of.number} --check FILE` looks at another file"
        ) from None
    except UnicodeDecodeError:
        raise SpecError(f"{path} is not text in UTF-8") from None
    try:
        found = from_notebook(text) if path.suffix == ".ipynb" else cells(text)
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise SpecError(f"{path} is not a notebook: {error!r}") from None
    return _verdicts(of, found, str(path))


def _verdicts(of: Lab, found: list[Cell], name: str) -> list[Verdict]:
    checks = of.checks
    titles = {c.exercise: c.title for c in cells(of.text) if c.exercise}
    made: dict[int, Verdict] = {}
    # Some libraries look for the module that a function comes from.
    names: dict[str, Any] = {"__name__": "graphsec_lab"}
    for cell in found:
        if cell.markdown or "demo" in cell.tags:
            continue
        trouble = _run(cell, names, name)
        if cell.exercise in titles:
            title = titles[cell.exercise]
            made[cell.exercise] = Verdict(title, trouble or looked_at(checks[cell.exercise], names))
        elif trouble:
            hint = f"not looked at, for a cell before it {trouble}"
            made = {n: made.get(n, Verdict(title, hint)) for n, title in titles.items()}
            break
    lost = "its cell is missing: it begins with `# %% {}`"
    return [made.get(n, Verdict(title, lost.format(title))) for n, title in titles.items()]


def _run(cell: Cell, names: dict[str, Any], file: str) -> str:
    """What went wrong, in words; empty where nothing did."""
    try:
        code = compile("\n" * cell.line + cell.source, file, "exec")
        with contextlib.redirect_stdout(io.StringIO()):
            exec(code, names)
    except Exception as error:
        return _told(error, file)
    return ""


def looked_at(one: Callable[[Names], None], names: Names) -> str:
    """What a check says of the names that a student's cells made; empty where all is right."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            one(names)
    except Wrong as wrong:
        return str(wrong)
    except Exception as error:  # the student's function raised
        return _told(error, "")
    return ""


def _told(error: Exception, file: str) -> str:
    """Such as "raises ValueError in line 31: …"; the line is the last one of the student's."""
    line, at = None, error.__traceback__
    while at is not None:
        if at.tb_frame.f_globals.get("__name__") == "graphsec_lab":
            line = at.tb_lineno
        at = at.tb_next
    if isinstance(error, SyntaxError) and error.filename == file:
        line = error.lineno
    where = "" if line is None else f" in line {line}"
    return f"raises {type(error).__name__}{where}: {error}"
