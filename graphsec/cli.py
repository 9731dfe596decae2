"""The command ``graphsec``; heavy libraries are imported inside the commands that need them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from graphsec import __version__

if TYPE_CHECKING:
    from graphsec.results import Results

app = typer.Typer(
    help="Attack, defend and audit graph neural networks.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
data = typer.Typer(help="Data sets: what there is, and where it is kept.", no_args_is_help=True)
app.add_typer(data, name="data")

STORE = "sqlite:///runs.db"
KINDS = ("attacks", "defenses", "models", "datasets", "games", "samplers", "recipes")
StoreOption = Annotated[str, typer.Option("--store", help="URL of the store, or a file's path.")]


def main() -> None:
    """Entry point: errors of the user are one line on stderr and exit code 2."""
    try:
        app()
    except Exception as error:
        if not _is_users(error):
            raise
        _fail(str(error))


def _is_users(error: Exception) -> bool:
    from graphsec.registry import SpecError

    kinds: list[type[BaseException]] = [SpecError, OSError]
    # Only a module that was imported can have raised its error.
    for module, name in (
        ("graphsec.database", "StoreError"),
        ("graphsec.runner", "WorkersDied"),
        ("graphsec.datasets.cache", "DataError"),
        ("graphsec.audit.run", "AuditError"),
    ):
        if module in sys.modules:
            kinds.append(getattr(sys.modules[module], name))
    return isinstance(error, tuple(kinds))


def _fail(message: str, code: int = 2) -> NoReturn:
    typer.echo(f"graphsec: {message}", err=True)
    raise SystemExit(code)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"graphsec {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def ls(
    kind: Annotated[str, typer.Argument(help=f"{', '.join(KINDS)}; default: names of all.")] = "",
) -> None:
    """List components and recipes, with what they take."""
    from graphsec.registry import did_you_mean

    console = _console()
    if not kind:
        for each in KINDS:
            console.print(_names(each))
        return
    plural = kind if kind.endswith("s") else f"{kind}s"
    if plural not in KINDS:
        _fail(f"no kind {kind!r}; {did_you_mean(plural, list(KINDS))}")
    console.print(_cards() if plural == "recipes" else _components(plural))


@app.command()
def run(
    spec: Annotated[
        Path | None, typer.Argument(help="Matrix in TOML; see examples/quickstart.toml.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Run a recipe card instead (graphsec ls recipes).")
    ] = None,
    store: StoreOption = STORE,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each process.")] = 1,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report here.")] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Run cells again that failed before.")
    ] = False,
    seed: Annotated[
        list[int] | None, typer.Option(min=0, help="Seeds instead of the spec's; repeatable.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be run and for how long; run nothing.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Run a matrix: what the store has is not run again, and an interrupted run goes on.

    Ends with 0 if all cells are done or don't apply, 1 if some failed or could not be built, or
    a recipe's mean is not where its card expects it, 2 if the command could not do its work.
    """
    import dataclasses

    from graphsec.registry import SpecError

    if (spec is None) == (recipe is None):
        raise SpecError("give a matrix in TOML or --recipe NAME, one of the two")
    if spec is not None and not spec.is_file():
        raise SpecError(f"no file {spec}")
    if report is not None:
        _check_report(report)
    from graphsec.cell import Runtime
    from graphsec.matrix import Matrix
    from graphsec.recipes import card

    if spec is not None:
        matrix = Matrix.from_toml(spec)
    else:
        assert recipe is not None
        matrix = card(recipe).matrix()
    if seed:
        matrix = dataclasses.replace(matrix, seeds=list(dict.fromkeys(seed)))
    for line in [*matrix.problems(), *matrix.notes]:
        typer.echo(f"graphsec: {line}", err=True)
    if dry_run:
        from graphsec.forecast import forecast

        typer.echo(forecast(matrix, store, workers, retry_failed=retry_failed).text())
        return
    try:
        results = matrix.run(
            store, workers, retry_failed=retry_failed, progress=not quiet,
            runtime=Runtime(threads=threads),
        )  # fmt: skip
    except KeyboardInterrupt:
        _fail(f"interrupted; what was finished is in {store}: the same command goes on", 130)
    _print(results)
    if report is not None:
        typer.echo(f"report: {results.report(report)}", err=True)
    broken = any(entry.problems for entry in matrix.entries)
    if recipe is not None:
        line, holds = card(recipe).judge(results)
        typer.echo(line)
        broken = broken or not holds
    if results.counts()["failed"] or broken:
        raise typer.Exit(1)


@app.command()
def audit(
    spec: Annotated[Path, typer.Argument(help="Audits in TOML; see examples/audit.toml.")],
    store: StoreOption = STORE,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Run trainings again that failed before.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Try to refute a claim of differential privacy: a lower bound on ε beside what is claimed.

    What the store has is not trained again. Ends with 0 if no bound is above the claim, 1 if one
    is, 2 if the command could not do its work.
    """
    from graphsec.registry import SpecError

    if not spec.is_file():
        raise SpecError(f"no file {spec}")
    import torch

    from graphsec.audit.run import conclusion, run
    from graphsec.audit.spec import AuditSpec

    torch.set_num_threads(1)
    made = AuditSpec.from_toml(spec)
    shown = None if quiet else _trained
    try:
        verdicts = run(made, store, retry_failed=retry_failed, progress=shown)
    except KeyboardInterrupt:
        _fail(f"interrupted; what was trained is in {store}: the same command goes on", 130)
    for verdict in verdicts:
        typer.echo(verdict.text())
    typer.echo(conclusion(made, verdicts))
    if any(verdict.refuted for verdict in verdicts):
        raise typer.Exit(1)


@app.command()
def federate(
    spec: Annotated[Path, typer.Argument(help="Cell in TOML; see examples/federate.toml.")],
    parties: Annotated[int | None, typer.Option(min=1, help="Instead of the spec's.")] = None,
    transport: Annotated[
        str, typer.Option(help="flower: each party in a process of its own; process: all in one.")
    ] = "flower",
    secure: Annotated[
        bool, typer.Option("--secure", help="TLS, and only the parties' own keys are let in.")
    ] = False,
    timeout: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds that parties have for an answer.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Folder to keep states in, and to go on from.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of the spec's.")] = None,
) -> None:
    """Run one federated training, each party in a process of its own, and print its record.

    Ends with 0 if it is done, 1 if not, 2 if the command could not do its work, 130 after Ctrl-C.
    The same command with the same --checkpoint goes on where it stopped.
    """
    import tomllib

    from graphsec.registry import SpecError

    if not spec.is_file():
        raise SpecError(f"no file {spec}")
    try:
        content = tomllib.loads(spec.read_text())
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{spec}: {error}") from None
    from graphsec.cell import Cell, run_cell

    defense = content.get("defense", "verfedgnn")
    defense = {"name": defense} if isinstance(defense, str) else defense
    if not isinstance(defense, dict):
        raise SpecError(f"{spec}: defense must be a name or a table, got {defense!r}")
    given = {"parties": parties, "timeout": timeout, "secure": secure or None}
    defense = {**defense, **{k: v for k, v in given.items() if v is not None}}
    changes = {} if seed is None else {"seed": seed}
    try:
        cell = Cell(**{**content, **changes, "defense": {**defense, "transport": transport}})
    except TypeError as error:
        raise SpecError(f"{spec}: {error}") from None
    if checkpoint is not None:
        if transport != "flower":
            raise SpecError(f"--checkpoint needs --transport flower, got {transport!r}")
        from graphsec.federated.flower import kept_in

        kept_in.set(checkpoint)
    try:
        record = run_cell(cell)
    except KeyboardInterrupt:
        kept = (
            f"; {checkpoint} has what was trained: the same command goes on" if checkpoint else ""
        )
        _fail(f"interrupted{kept}", 130)
    for name, metric in record.metrics.items():
        typer.echo(f"{name} {metric['value']:.6g}")
    for name, value in record.cost.items():
        typer.echo(f"{name} {value:.6g}")
    for note in record.notes:
        typer.echo(note)
    if record.status != "done":
        typer.echo(f"graphsec: {record.status}: {record.reason}", err=True)
        raise typer.Exit(1)


@app.command()
def sweep(
    spec: Annotated[Path, typer.Argument(help="Sweep in TOML; see examples/sweep.toml.")],
    store: StoreOption = STORE,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each process.")] = 1,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Trials in all, instead of the spec's.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report here.")] = None,
) -> None:
    """Search fields of a cell with Optuna; what is chosen is run on test nodes.

    Trials and records are kept in the store, and an interrupted sweep goes on. Ends with 0 if
    something was chosen, 1 if every trial failed or crossed a limit, 2 if the command could not
    do its work.
    """
    import dataclasses

    from graphsec.registry import SpecError

    if not spec.is_file():
        raise SpecError(f"no file {spec}")
    if report is not None:
        _check_report(report)
    import torch

    from graphsec.cell import Runtime
    from graphsec.report.sweep import html, table
    from graphsec.study import Sweep, run

    torch.set_num_threads(threads)
    made = Sweep.from_toml(spec)
    if trials is not None:
        made = dataclasses.replace(made, trials=trials)
    try:
        swept = run(made, store, workers, runtime=Runtime(threads=threads))
    except KeyboardInterrupt:
        _fail(f"interrupted; what was finished is in {store}: the same command goes on", 130)
    _console().print(table(swept))
    if report is not None:
        typer.echo(f"report: {html(swept, report)}", err=True)
    if not swept.tested:
        raise typer.Exit(1)


def _trained(done: int, wanted: int) -> None:
    if done == wanted or done % max(wanted // 20, 1) == 0:
        typer.echo(f"graphsec: {done} of {wanted} trainings", err=True)


@app.command()
def report(
    source: Annotated[str, typer.Argument(help="URL or path of a store.")] = "",
    store: StoreOption = STORE,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")] = Path(
        "report.html"
    ),
) -> None:
    """Write the HTML report of a store, and print its table."""
    _check_report(output)
    from graphsec.results import Results

    results = Results.from_store(source or store)
    if not results:
        _fail(f"store {source or store} has no finished cells")
    _print(results)
    typer.echo(f"report: {results.report(output)}", err=True)


@app.command()
def show(
    key: Annotated[str, typer.Argument(help="Key of a cell, or its beginning.")],
    store: StoreOption = STORE,
) -> None:
    """Print one record in full: spec, metrics, threat, cost, versions, reason."""
    import json

    from graphsec.store import Store

    with Store(store, create=False) as opened:
        record = opened.find(key)
    content = json.loads(record.to_json())
    for curve in content["curves"].values():
        curve["x"] = curve["y"] = f"{len(curve['x'])} points"
    reason = content.pop("reason")
    typer.echo(json.dumps(content, indent=2, ensure_ascii=False))
    if reason:
        typer.echo(f"reason:\n{reason}")


@app.command()
def lab(
    number: Annotated[int | None, typer.Argument(help="Number of a lab; none lists them.")] = None,
    file: Annotated[
        Path | None, typer.Argument(help="Your file to check, if not the lab's name here.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Look at the answers, with hints.")
    ] = False,
    notebook: Annotated[
        bool, typer.Option("--notebook", help="A notebook instead of a script.")
    ] = False,
    solution: Annotated[
        bool, typer.Option("--solution", help="Print the answers; try it yourself first.")
    ] = False,
) -> None:
    """Teaching labs: list them, copy one here, or check your answers.

    --check runs your file in this process. Ends with 0 if all answers are right, 1 if not, 2 if
    the command could not do its work.
    """
    from graphsec import labs
    from graphsec.registry import SpecError

    if number is None:
        if check or notebook or solution:
            raise SpecError("give the number of a lab; `graphsec lab` lists them")
        for each in labs.labs():
            typer.echo(f"{each.number}  {each.title}")
        return
    if check and solution:
        raise SpecError("--check and --solution are two things, give one")
    if file is not None and not check:
        raise SpecError(f"a file is for --check, got {file}")
    chosen = labs.lab(number)
    if solution:
        typer.echo(chosen.solution.rstrip())
        return
    if not check:
        path = labs.copy(chosen, Path(), as_notebook=notebook)
        again = " " + path.name if notebook else ""
        typer.echo(f"{path}; check your answers with: graphsec lab {number} --check{again}")
        return
    ending = "ipynb" if notebook else "py"
    verdicts = labs.check(chosen, file or Path(f"{chosen.name}.{ending}"))
    for verdict in verdicts:
        typer.echo(f"{'right' if verdict.right else 'wrong'}  {verdict.exercise}")
        if verdict.hint:
            typer.echo(f"       {verdict.hint}")
    if not all(verdict.right for verdict in verdicts):
        raise typer.Exit(1)


@app.command()
def doctor(
    plain: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say what this installation is: versions, threads, kernels, data; 1 if something is wrong."""
    import dataclasses
    import json

    from graphsec.doctor import examine

    findings = examine()
    if plain:
        typer.echo(json.dumps([dataclasses.asdict(f) for f in findings], ensure_ascii=False))
    else:
        for finding in findings:
            advice = f"  → {finding.advice}" if not finding.fine else ""
            typer.echo(
                f"{'ok ' if finding.fine else '!! '} {finding.what}: {finding.found}{advice}"
            )
    if not all(finding.fine for finding in findings):
        raise typer.Exit(1)


@data.command("list")
def data_list() -> None:
    """List data sets, and whether their files are here."""
    from rich.table import Table

    from graphsec import datasets

    table = Table("data set", "nodes", "edges", "features", "classes", "files", "what", box=None)
    for entry in datasets.listing():
        counts = (entry.nodes, entry.edges, entry.features, entry.classes)
        files = "here" if entry.present else "to be fetched"
        table.add_row(
            entry.name,
            *("" if n is None else f"{n:,}" for n in counts),
            files if entry.needs_files else "built in",
            entry.description,
        )
    _console().print(table)


@data.command("fetch")
def data_fetch(
    names: Annotated[list[str], typer.Argument(help="Names of data sets.")],
) -> None:
    """Download data sets that are not here yet, and check them."""
    from graphsec import datasets

    for name in names:
        paths = datasets.fetch(name)
        typer.echo("\n".join(map(str, paths)) or f"{name} is built in, nothing to fetch")


@data.command("where")
def data_where() -> None:
    """Print the folder of downloaded data (GRAPHSEC_DATA, or the user's cache)."""
    from graphsec.datasets import cache

    typer.echo(str(cache.where()))


# -- printing ---------------------------------------------------------------------------------


def _console() -> Any:
    """Console for tables; where there is no terminal they must not be cut at 80 columns."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=200)


def _print(results: Results) -> None:
    _console().print(results.table())
    counts = results.counts()
    typer.echo(", ".join(f"{count} {status}" for status, count in counts.items()), err=True)


def _check_report(path: Path) -> None:
    """A report that can't be written must show before hours of computing."""
    if path.is_dir():
        _fail(f"report {path} is a folder, not a file")
    path.absolute().parent.mkdir(parents=True, exist_ok=True)


def _registry(kind: str) -> Any:
    from graphsec.sweep import REGISTRIES

    return REGISTRIES[kind[:-1]]


def _first_line(cls: type) -> str:
    return (cls.__doc__ or "").strip().split("\n")[0]


def _names(kind: str) -> str:
    if kind == "recipes":
        from graphsec.recipes import cards

        return f"[bold]recipes[/bold]: {', '.join(cards())}"
    return f"[bold]{kind}[/bold]: {', '.join(_registry(kind))}"


def _components(kind: str) -> Any:
    from rich.markup import escape
    from rich.table import Table

    from graphsec.sweep import hyperparameters

    registry = _registry(kind)
    table = Table("name", "what it is", "hyperparameters (default; valid values; sweep)", box=None)
    if kind == "attacks":
        table.add_column("needs")
    if kind == "models":
        table.add_column("supports")
    for name in registry:
        cls = registry[name]
        lines = []
        for parameter in hyperparameters(cls):
            notes = [_default(parameter.default), parameter.rule]
            if parameter.range is not None:
                log = " log" if parameter.range.log else ""
                notes.append(f"{parameter.range.low:g}…{parameter.range.high:g}{log}")
            lines.append(f"{parameter.name}: {'; '.join(note for note in notes if note)}")
        row = [name, _first_line(cls), "\n".join(lines)]
        if kind == "attacks":
            made = registry.build(name)
            needs = ", ".join(made.needs.names) or "nothing"
            row.append(needs if made.game == "open" else f"{needs} (game {made.game})")
        if kind == "models":
            row.append(cls.module.capabilities.describe())
        table.add_row(*(escape(text) for text in row))
        table.add_row()
    return table


def _cards() -> Any:
    from rich.table import Table

    from graphsec.recipes import cards

    table = Table("recipe", "metric", "expected mean", "measured", "published", box=None)
    for one in cards().values():
        low, high = one.expected
        published = f"{one.published} ({one.source})"
        table.add_row(one.name, one.metric, f"{low:g} … {high:g}", one.measured, published)
    return table


def _default(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)
