"""A finished sweep as a page and as a table: the front, the trials, what mattered."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphsec.report import figures, filled, written
from graphsec.stats import mean_interval

if TYPE_CHECKING:
    import optuna
    from rich.table import Table

    from graphsec.study import Swept


def html(swept: Swept, path: str | Path) -> Path:
    """Write the page of a sweep: one HTML file that asks for nothing from outside.

    Args:
        swept: The finished sweep.
        path: File to write; its folder is made where missing.

    Returns:
        The path.

    Raises:
        OSError: The file can't be written; one that was there stays as it was.
    """
    return written(render(swept), path)


def render(swept: Swept) -> str:
    """The page as text."""
    return filled("sweep.html.j2", content(swept))


def content(swept: Swept) -> dict[str, Any]:
    """Everything that the page prints."""
    sweep, study = swept.sweep, swept.study
    names = [goal.metric for goal in sweep.objectives]
    wants = [direction.name.lower() for direction in study.directions]
    ended = _ended(study)
    parameters = sorted({name for trial in ended for name in trial.params})
    kept = {each.number for each in swept.tested}
    points = [
        figures.Trial(
            number=trial.number, values=tuple(trial.values), chosen=trial.number in kept,
            fair=all(v <= 0 for v in trial.constraints.values()),
            place=tuple(_place(trial, name, ended) for name in parameters),
        )
        for trial in ended
    ]  # fmt: skip
    plots = []
    if len(names) == 2 and points:
        plots.append(
            figures.trials(
                points,
                x_label=names[0],
                y_label=names[1],
                title="Objectives of the trials",
                name="front",
            )
        )
    if len(parameters) > 1 and points:
        plots.append(
            figures.parallel(points, parameters, title="Parameters of the trials", name="parallel")
        )
    metrics = [*names, *(limit.metric for limit in sweep.limits)]
    return {
        "title": sweep.title,
        "objectives": list(zip(names, wants, strict=True)),
        "limits": [_limit(limit) for limit in sweep.limits],
        "attacker": None if sweep.attacker is None else sweep.attacker.spec(),
        "counts": _counts(study),
        "plots": plots,
        "metrics": list(dict.fromkeys(metrics)),
        "tested": [_tested(study, each) for each in swept.tested],
        "test_seeds": len(sweep.test_seeds),
        "seeds": len(sweep.seeds),
        "importances": [(name, _importances(study, i)) for i, name in enumerate(names)],
        "parameters": parameters,
        "trials": [
            {
                "number": trial.number, "values": list(trial.values),
                "params": [_short(trial.params.get(name)) for name in parameters],
                "chosen": trial.number in kept,
                "crosses": any(v > 0 for v in trial.constraints.values()),
            }
            for trial in ended
        ],
        "spec": json.dumps(sweep.spec(), indent=2, ensure_ascii=False),
    }  # fmt: skip


def table(swept: Swept) -> Table:
    """What was chosen, for the terminal: parameters, objectives on validation and test nodes."""
    from rich import box
    from rich.table import Table

    sweep, study = swept.sweep, swept.study
    names = [goal.metric for goal in sweep.objectives]
    caption = ", ".join(f"{count} {state}" for state, count in _counts(study).items() if count)
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=caption, caption_justify="left")
    for head in ("trial", "parameters", *names, *(f"{name}, test" for name in names)):
        shown.add_column(head, overflow="fold")
    for each in swept.tested:
        trial = study.trials[each.number]
        values = [f"{value:.3f}" for value in trial.values]
        tests = [mean_interval(each.values[name]).text() for name in names]
        chosen = ", ".join(f"{name} = {_short(value)}" for name, value in trial.params.items())
        shown.add_row(str(each.number), chosen, *values, *tests)
    return shown


def _ended(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    from optuna.trial import TrialState

    return study.get_trials(states=(TrialState.COMPLETE,))


def _counts(study: optuna.Study) -> dict[str, int]:
    from optuna.trial import TrialState

    states = [trial.state for trial in study.trials]
    words = {
        "complete": TrialState.COMPLETE,
        "pruned": TrialState.PRUNED,
        "failed": TrialState.FAIL,
    }
    return {word: states.count(state) for word, state in words.items()}


def _tested(study: optuna.Study, each: Any) -> dict[str, Any]:
    trial = study.trials[each.number]
    return {
        "number": each.number,
        "params": [(name, _short(value)) for name, value in trial.params.items()],
        "attack": json.dumps(each.cell.spec()["attack"], ensure_ascii=False),
        "values": {name: mean_interval(found).text() for name, found in each.values.items()},
    }


def _limit(limit: Any) -> str:
    sign, value = ("≥", limit.at_least) if limit.at_least is not None else ("≤", limit.at_most)
    return f"{limit.metric} {sign} {value:g}"


def _place(trial: Any, name: str, among: list[Any]) -> float:
    """Where a trial's parameter lies between the least and the largest that was tried, 0 to 1."""
    values = sorted({t.params[name] for t in among if name in t.params}, key=_order)
    if name not in trial.params:
        return math.nan
    value = trial.params[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return values.index(value) / max(len(values) - 1, 1)
    scale = math.log if getattr(trial.distributions[name], "log", False) else float
    low, high, mine = scale(values[0]), scale(values[-1]), scale(value)
    return (mine - low) / (high - low) if high > low else 0.5


def _order(value: Any) -> tuple[int, Any]:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return (0, value) if plain else (1, str(value))


def _importances(study: optuna.Study, index: int) -> list[tuple[str, float]]:
    """Share of each parameter in how an objective varies (fANOVA); nothing of too few trials."""
    import optuna

    if len(_ended(study)) < 4:
        return []
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    try:
        found = optuna.importance.get_param_importances(
            study, evaluator=evaluator, target=lambda trial: float(trial.values[index])
        )
    except (ValueError, RuntimeError):  # the objective, or every parameter, never varies
        return []
    return list(found.items())


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "–" if value is None else str(value)
