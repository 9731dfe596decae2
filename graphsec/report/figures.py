"""Figures as inline SVG, whose colours and fonts the page's style sheet decides."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np

from graphsec.stats import Interval, mean_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Placeholders that become CSS variables, so that one drawing serves light, dark and print.
_INK, _SOFT = "#010203", "#010204"
_SERIES = tuple(f"#0a0b{i:02x}" for i in range(8))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
# Colour never carries the meaning alone: markers and dashes repeat it.
_DASHES: tuple[Any, ...] = (
    "-", (0, (6, 2)), (0, (2, 1.5)), (0, (7, 2, 1.5, 2)),
    (0, (4, 1.5, 1.5, 1.5, 1.5, 1.5)), (0, (10, 3)), (0, (1, 2)), (0, (8, 2, 3, 2)),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Line:
    """One method's points.

    Attributes:
        label: What the legend says.
        x: (k,) abscissas.
        y: (k,) means with intervals.
        place: Number of the method, which decides its colour, marker and dashes everywhere.
    """

    label: str
    x: tuple[float, ...]
    y: tuple[Interval, ...]
    place: int


def robustness(
    lines: Sequence[Line],
    reference: Interval | None,
    *,
    limits: tuple[float, float],
    x_label: str,
    title: str,
    name: str,
    y_label: str = "accuracy under attack",
) -> str:
    """Accuracy over the budget, one line a defense, shaded intervals, and the MLP's level.

    Args:
        lines: Defenses.
        reference: Accuracy of the MLP, None if it was not run.
        limits: Lowest and highest accuracy shown, the same in figures to be compared.
        x_label: What the budget counts.
        title: Accessible name of the figure.
        name: Prefix of the ids inside, unique on the page.
        y_label: What is measured.
    """
    figure, axes = _canvas(len(lines) + 1)
    for line in lines:
        i = line.place
        _band(axes, line)
        axes.plot(
            line.x, [v.mean for v in line.y], color=_SERIES[i % 8], linestyle=_DASHES[i % 8],
            marker=_MARKERS[(i + i // 8) % 8], label=line.label,
        )  # fmt: skip
    if reference is not None:
        label = "MLP (no graph)"
        axes.axhline(reference.mean, color=_INK, linestyle=(0, (1, 1.2)), lw=1.6, label=label)
        if reference.low is not None and reference.high is not None:
            axes.axhspan(reference.low, reference.high, color=_INK, alpha=0.1, lw=0)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_ylim(*limits)
    spoken = [f"{line.label}: {', '.join(v.text() for v in line.y)}" for line in lines]
    if reference is not None:
        spoken.append(f"MLP (no graph): {reference.text()}")
    return _svg(figure, title, f"{title}. {'; '.join(spoken)}.", name)


@dataclass(frozen=True, kw_only=True)
class Point:
    """One defense: what it keeps and what it lets out.

    Attributes:
        label: Its name with its fields.
        kind: Its name alone, which decides colour and marker.
        x: Utility, higher is better.
        y: Leakage, lower is better.
    """

    label: str
    kind: str
    x: Interval
    y: Interval


def front(points: Sequence[Point]) -> list[Point]:
    """The points than which none is better in one thing and not worse in the other, by utility."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (-p.x.mean, p.y.mean)):
        if not kept or point.y.mean < kept[-1].y.mean:
            kept.append(point)
    return kept[::-1]


def tradeoff(points: Sequence[Point], *, x_label: str, y_label: str, title: str, name: str) -> str:
    """Leakage over utility, one point a defense, those of the front joined.

    Args:
        points: Defenses.
        x_label: What utility is measured by.
        y_label: What leakage is measured by.
        title: Accessible name of the figure.
        name: Prefix of the ids inside, unique on the page.
    """
    kinds = sorted({point.kind for point in points}, key=lambda kind: (kind != "none", kind))
    best = front(points)
    figure, axes = _canvas(len(kinds) + 1)
    for point in points:
        across, up = (v.half_width or 0.0 for v in (point.x, point.y))
        axes.errorbar(point.x.mean, point.y.mean, up, across, color=_SOFT, alpha=0.35, lw=0.8)
    axes.plot([p.x.mean for p in best], [p.y.mean for p in best], color=_INK, lw=1.0, label="front")
    for i, kind in enumerate(kinds):
        mine = [point for point in points if point.kind == kind]
        axes.plot(
            [p.x.mean for p in mine], [p.y.mean for p in mine], color=_SERIES[i % 8],
            linestyle="none", marker=_MARKERS[i % 8], markersize=5, label=kind, zorder=20 - i,
        )  # fmt: skip
    # Of the means: one point with few replicates would squeeze all others together.
    axes.set(xlim=_around([p.x.mean for p in points]), ylim=_around([p.y.mean for p in points]))
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    spoken = [f"{p.label}: {p.x.text()} and {p.y.text()}" for p in best]
    return _svg(figure, title, f"{title}. The front: {'; '.join(spoken)}.", name)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One trial of a study.

    Attributes:
        number: Which.
        values: Its objectives.
        place: Where each of its parameters lies, 0 to 1.
        chosen: Whether it is on the front.
        fair: Whether it crosses no limit.
    """

    number: int
    values: tuple[float, ...]
    place: tuple[float, ...]
    chosen: bool
    fair: bool


def trials(points: Sequence[Trial], *, x_label: str, y_label: str, title: str, name: str) -> str:
    """Two objectives of each trial, those on the front joined, those beyond a limit hollow.

    Args:
        points: Trials.
        x_label: First objective.
        y_label: Second objective.
        title: Accessible name of the figure.
        name: Prefix of the ids inside, unique on the page.
    """
    figure, axes = _canvas(3)
    kinds = {
        "tried": [p for p in points if p.fair and not p.chosen],
        "crosses a limit": [p for p in points if not p.fair],
        "chosen": sorted((p for p in points if p.chosen), key=lambda p: p.values),
    }
    for (label, mine), i in zip(kinds.items(), (4, 1, 0), strict=True):
        axes.plot(
            [p.values[0] for p in mine], [p.values[1] for p in mine], color=_SERIES[i],
            linestyle="-" if label == "chosen" else "none", marker=_MARKERS[i], markersize=5,
            fillstyle="none" if label == "crosses a limit" else "full",
            label=f"{label} ({len(mine)})",
        )  # fmt: skip
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    said = [f"trial {p.number}: {p.values[0]:.3f} and {p.values[1]:.3f}" for p in kinds["chosen"]]
    return _svg(figure, title, f"{title}. Chosen: {'; '.join(said) or 'none'}.", name)


def parallel(points: Sequence[Trial], names: Sequence[str], *, title: str, name: str) -> str:
    """Parameters of each trial as a line over parallel axes, each from its least to its largest.

    Args:
        points: Trials.
        names: Parameters.
        title: Accessible name of the figure.
        name: Prefix of the ids inside, unique on the page.
    """
    figure, axes = _canvas(2)
    for label, kind, i, width in (("tried", False, 4, 0.8), ("chosen", True, 0, 1.8)):
        for k, point in enumerate(p for p in points if p.chosen == kind):
            axes.plot(
                range(len(names)), point.place, color=_SERIES[i], lw=width,
                linestyle="-" if kind else (0, (2, 1.5)), alpha=1.0 if kind else 0.5,
                label=label if k == 0 else None,
            )  # fmt: skip
    axes.set(xlim=(-0.1, max(len(names) - 0.9, 0.1)), ylim=(-0.03, 1.03))
    axes.set_xticks(range(len(names)), [n.replace(".", "\n", 1) for n in names])
    axes.set_yticks([0, 1], ["least", "most"])
    return _svg(figure, title, f"{title}. The values are in the table of trials.", name)


def roc(lines: Sequence[Line], *, log: bool, title: str, name: str) -> str:
    """ROC curves with the diagonal of guessing.

    Args:
        lines: Defenses, on one grid of false-positive rates.
        log: Whether both axes are logarithmic, for what happens at low false-positive rates.
        title: Accessible name of the figure.
        name: Prefix of the ids inside, unique on the page.
    """
    figure, axes = _canvas(len(lines) + 1)
    grid = np.geomspace(1e-3, 1, 30) if log else np.array([0.0, 1.0])
    axes.plot(grid, grid, color=_INK, linestyle=(0, (1, 1.2)), lw=1.2, label="guessing")
    for line in lines:
        _band(axes, line)
        axes.plot(
            line.x, [v.mean for v in line.y], color=_SERIES[line.place % 8],
            linestyle=_DASHES[line.place % 8], label=line.label,
        )  # fmt: skip
    if log:
        axes.set(xscale="log", yscale="log", xlim=(1e-3, 1), ylim=(1e-3, 1.05))
        from matplotlib.ticker import FuncFormatter, NullLocator

        plain = FuncFormatter(lambda v, _: f"{v:g}")
        axes.xaxis.set_major_formatter(plain)
        axes.yaxis.set_major_formatter(plain)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set(xlim=(0, 1), ylim=(0, 1.01))
    axes.set_xlabel("false positive rate" + (" (log)" if log else ""))
    axes.set_ylabel("true positive rate" + (" (log)" if log else ""))
    return _svg(figure, title, f"{title}. The areas under the curves are in the table.", name)


def edges(
    nodes: int, true: set[tuple[int, int]], found: set[tuple[int, int]], *, title: str, name: str
) -> str:
    """Nodes on a circle, with the edges that were found, missed and made up.

    Args:
        nodes: Number of nodes.
        true: Edges that are there, as pairs of numbers below ``nodes``.
        found: Edges that were claimed.
        title: Accessible name of the figure.
        name: Prefix of the ids inside, unique on the page.
    """
    figure, axes = _canvas(3)
    angles = 2 * np.pi * np.arange(nodes) / nodes
    x, y = np.sin(angles), np.cos(angles)
    kinds = {
        "recovered": (true & found, _INK, "-", 1.8),
        "missed": (true - found, _SERIES[1], "--", 1.4),
        "made up": (found - true, _SERIES[0], ":", 1.4),
    }  # fmt: skip
    for label, (pairs, colour, dashes, width) in kinds.items():
        ends = np.array(sorted(pairs), dtype=int).reshape(-1, 2).T
        # One line with gaps for all edges of a kind, so that the legend names each kind once.
        gap = np.full(ends.shape[1], np.nan)
        across, up = (np.stack([v[ends[0]], v[ends[1]], gap], 1).ravel() for v in (x, y))
        label = f"{label} ({len(pairs)})"
        axes.plot(across, up, color=colour, linestyle=dashes, lw=width, label=label)
    axes.plot(x, y, color=_INK, linestyle="none", marker="o", markersize=6, zorder=5)
    axes.set_axis_off()
    axes.set_aspect("equal")
    spoken = ", ".join(f"{len(pairs)} {label}" for label, (pairs, *_) in kinds.items())
    return _svg(figure, title, f"{title}. Of the edges: {spoken}.", name)


def average_roc(
    curves: Sequence[dict[str, Any]], replicates: Sequence[tuple[int, int]]
) -> tuple[tuple[float, ...], tuple[Interval, ...]]:
    """Vertical average of ROC curves on one grid of false-positive rates.

    Source: Fawcett 2006, "An introduction to ROC analysis", section 8.1.

    Args:
        curves: Points ``x`` (false) and ``y`` (true positive rates) of each replicate.
        replicates: (split, seed) of each.
    """
    grid = np.unique(np.r_[np.linspace(0, 1, 51), np.geomspace(1e-3, 1, 40)])
    sampled = [np.interp(grid, curve["x"], curve["y"]) for curve in curves]
    clusters = ([r[0] for r in replicates], [r[1] for r in replicates])
    columns = zip(*(values.tolist() for values in sampled), strict=True)
    averages = tuple(mean_interval(column, clusters=clusters) for column in columns)
    return tuple(grid.tolist()), averages


def shades(values: Sequence[float], *, low: float, high: float) -> list[tuple[str, str]]:
    """(background, text) colours of a heat map: cividis, dark at ``low``, light at ``high``.

    The text is black or white, whichever contrasts more (WCAG 2 relative luminance).
    """
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    found = []
    for value in values:
        share = min(max((value - low) / (high - low), 0.0), 1.0) if high != low else 0.5
        rgb = np.asarray(colormaps["cividis"](share)[:3])
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        luminance = float(linear @ [0.2126, 0.7152, 0.0722])
        found.append((to_hex(tuple(rgb)), "#000" if luminance > 0.179 else "#fff"))
    return found


def _canvas(entries: int) -> tuple[Any, Axes]:
    """A figure with room for a legend of ``entries`` names below; margins are in inches."""
    from matplotlib.figure import Figure

    width, plot, below = 4.6, 2.75, 0.55 + 0.19 * ((entries + 1) // 2)
    height = plot + below + 0.1
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0.65 / width, below / height, (width - 0.8) / width, plot / height))
    axes.set_facecolor("none")
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_SOFT)
    axes.tick_params(colors=_INK, labelsize=9)
    axes.grid(color=_SOFT, alpha=0.25, lw=0.6)
    axes.xaxis.label.set(color=_INK, size=10)
    axes.yaxis.label.set(color=_INK, size=10)
    return figure, axes


def _around(values: Sequence[float]) -> tuple[float, float]:
    margin = max(0.02, 0.15 * (max(values) - min(values)))
    return min(values) - margin, max(values) + margin


def _band(axes: Axes, line: Line) -> None:
    if all(v.low is not None for v in line.y) and len(line.y) > 1:
        low = [max(v.low or 0.0, 0.0) for v in line.y]
        high = [min(v.high or 0.0, 1.0) for v in line.y]
        axes.fill_between(line.x, low, high, color=_SERIES[line.place % 8], alpha=0.16, lw=0)


def _svg(figure: Any, title: str, description: str, name: str) -> str:
    """The figure as an SVG element without ids of its own, dates or outside addresses."""
    from matplotlib import rc_context

    buffer = StringIO()
    # Text stays text: it can be searched, scaled and read aloud.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "text.parse_math": False}):
        legend = figure.legend(
            loc="lower center", ncols=2, fontsize=9, frameon=False, borderaxespad=0.2
        )
        for text in legend.get_texts():
            text.set_color(_INK)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    box = re.search(r'viewBox="([^"]+)"', svg)
    assert box is not None
    # The style sheet sets fonts; sizes alone are kept, which the layout was measured with.
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", svg)
    svg = re.sub(r"(font-family|font-stretch): [^;\"]+;? ?", "", svg)
    for i, colour in enumerate(_SERIES):
        svg = svg.replace(colour, f"var(--series-{i + 1})")
    svg = svg.replace(_INK, "var(--ink)").replace(_SOFT, "var(--soft)")
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    head = (
        f'<svg class="plot" viewBox="{box.group(1)}" role="img" '
        f'aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{escape(title)}</title>'
        f'<desc id="{name}-desc">{escape(description)}</desc>'
    )
    return head + svg[svg.index(">") + 1 :].rstrip()


__all__ = [
    "Line",
    "Point",
    "Trial",
    "average_roc",
    "edges",
    "front",
    "parallel",
    "robustness",
    "roc",
    "shades",
    "tradeoff",
    "trials",
]
