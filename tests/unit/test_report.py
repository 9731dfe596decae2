"""The report and the table, on records made up for the purpose."""

from __future__ import annotations

import dataclasses
import itertools
import random
import re
import time
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from graphsec import report
from graphsec.cell import Record
from graphsec.report import figures
from graphsec.report.data import book, summary
from graphsec.report.findings import findings
from graphsec.stats import mean_interval

ACCESS = ["features", "edges", "train_labels", "scores", "weights"]
STRENGTH = {"none": 0.0, "random": 0.02, "dice": 0.05, "prbcd": 0.18}
SHIELD = {"none": 0.0, "jaccard": 0.3, "soft-median": 0.6}


def record(
    attack: str = "prbcd",
    defense: Any = "none",
    *,
    dataset: str = "cora",
    model: str = "gcn",
    seed: int = 0,
    data_seed: int | None = None,
    budget: float | int | None = 0.05,
    adaptive: bool = True,
    value: float | None = None,
    clean: float | None = None,
    status: str = "done",
    reason: str = "",
    **changes: Any,
) -> Record:
    """Make a record with plausible numbers, the same for the same arguments."""
    data_seed = seed if data_seed is None else data_seed
    link = attack == "link-stealing"
    if link or attack == "none":
        budget = None
    name = defense if isinstance(defense, str) else defense["name"]
    noise = random.Random(f"{dataset}{model}{name}{seed}{data_seed}")
    base = clean if clean is not None else 0.81 + noise.gauss(0, 0.008)
    if model == "mlp":
        base -= 0.2
    spec = {
        "dataset": {"name": dataset}, "model": {"name": model, "hidden": 16},
        "training": {"epochs": 200}, "defense": {"name": name} if name == defense else defense,
        "attack": {"name": attack, **changes.pop("attack_fields", {})},
        "threat": {
            "name": "threat", "access": ACCESS, "adaptive": adaptive, "targets": "test",
            "timing": "inference" if link else "evasion", "position": "outside",
            "budget": {"name": "budget", "edges": budget},
        },
        "game": {"name": "links" if link else "open"}, "seed": seed, "data_seed": data_seed,
    }  # fmt: skip
    metrics = {"accuracy": metric(base, "clean accuracy")}
    curves = {}
    if link:
        auc = value if value is not None else 0.85 + noise.gauss(0, 0.01)
        x = np.linspace(0, 1, 41)
        curves["roc"] = {
            "x": x.tolist(), "y": (x ** (1 / auc - 1)).tolist(), "x_label": "", "y_label": ""
        }  # fmt: skip
        metrics["auc"] = metric(auc, "attack AUC", better=False)
    else:
        hurt = STRENGTH.get(attack, 0.1) * (1 - SHIELD.get(name, 0.5)) * (budget or 0) / 0.05
        hurt *= 1 if adaptive else 0.6
        attacked = value if value is not None else base - hurt + noise.gauss(0, 0.004)
        metrics["attacked_accuracy"] = metric(attacked, "accuracy under attack")
    timing = "inference" if link else "evasion"
    done = status == "done"
    made = Record(
        key=f"{dataset}-{model}-{defense}-{attack}-{budget}-{adaptive}-{seed}-{data_seed}"
        f"{spec['attack']}",
        row="", status=status, reason=reason, spec=spec,  # type: ignore[arg-type]
        metrics=metrics if done else {}, curves=curves if done else {},
        threat=f"{timing}; {'adaptive' if adaptive else 'not adaptive'}; sees "
        f"{', '.join(ACCESS)}; budget: {'none' if budget is None else f'edges {budget:g}'}",
        cost={
            "train_seconds": 1.5, "attack_seconds": 3.25 if attack == "prbcd" else 0.01,
            "peak_memory_mb": 612.0, "queries": 2708, "trainings": 1,
        } if done else {},
        versions={"graphsec": "0.1.0", "torch": "2.13.0"},
        graph={"name": dataset, "nodes": 2708, "edges": 5278, "features": 1433, "classes": 7,
               "fingerprint": "ab12"} if done else {},
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


def metric(value: float, label: str, *, better: bool = True) -> dict[str, Any]:
    """Make a metric as records hold it."""
    return {"value": value, "higher_is_better": better, "low": 0, "high": 1, "label": label}


def matrix(
    datasets: Iterable[str] = ("digits-knn", "cora"), budgets: Iterable[float] = (0.05,)
) -> list[Record]:
    """Make what the demo gives: 2 × 2 × 3 × 5 cells and the MLP line, three seeds each."""
    made = []
    for dataset in datasets:
        for seed in range(3):
            made.append(record("none", dataset=dataset, model="mlp", seed=seed))
            for model in ("gcn", "gat"):
                for defense in SHIELD:
                    for attack in ("none", "link-stealing"):
                        made.append(
                            record(attack, defense, dataset=dataset, model=model, seed=seed)
                        )
                    for budget in budgets:
                        for attack in ("random", "dice", "prbcd"):
                            made.append(
                                record(
                                    attack,
                                    defense,
                                    dataset=dataset,
                                    model=model,
                                    seed=seed,
                                    budget=budget,
                                )
                            )
    return made


class Page(HTMLParser):
    """Check that tags close in order, and collect ids, references and text."""

    VOID = frozenset({"meta", "input", "br", "link", "img", "hr"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if found.get("id"):
            self.ids.append(found["id"] or "")
        if (found.get("href") or "").startswith("#"):
            self.links.append((found["href"] or "")[1:])
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.stack.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def demo() -> str:
    """Give the report of the demo."""
    return report.render(matrix())


# -- the page ---------------------------------------------------------------------------------


def test_page_is_whole_and_asks_for_nothing(demo: str) -> None:
    page = Page(demo)
    assert len(page.ids) == len(set(page.ids))
    assert set(page.links) <= set(page.ids)
    assert "http" not in demo
    assert "@import" not in demo
    assert not {"link", "img", "iframe"} & {tag for tag, _ in page.tags}
    assert all("src" not in attrs for _, attrs in page.tags)


def test_page_can_be_heard_and_read(demo: str) -> None:
    page = Page(demo)
    tags = page.tags
    assert ("html", {"lang": "en"}) in tags
    levels = [int(tag[1]) for tag, _ in tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert all("scope" in attrs for tag, attrs in tags if tag == "th")
    plots = [attrs for tag, attrs in tags if tag == "svg"]
    # 2 data sets × 2 models × (3 attacks with a budget + utility and leakage + 2 ROC scales).
    assert len(plots) == 24
    for attrs in plots:
        assert attrs["role"] == "img"
        assert set((attrs["aria-labelledby"] or "").split()) <= set(page.ids)


def test_same_records_in_any_order_give_the_same_bytes(tmp_path: Path) -> None:
    records = matrix(["cora"])
    first = report.html(records, tmp_path / "deep" / "a.html")
    random.Random(0).shuffle(records)
    second = report.html(records, tmp_path / "b.html")
    assert first.read_bytes() == second.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["deep", "b.html"] or len(
        list(tmp_path.iterdir())
    ) == 2


def test_numbers_on_the_page_are_the_mean_and_interval_of_the_replicates(demo: str) -> None:
    values = [r.value("attacked_accuracy") for r in matrix(["cora"])
              if r.spec["attack"]["name"] == "prbcd" and r.spec["model"]["name"] == "gcn"
              and r.spec["defense"]["name"] == "jaccard"]  # fmt: skip
    half = 4.302652729911275 * np.std(values, ddof=1) / 3**0.5
    assert len(values) == 3
    assert f"<b>{np.mean(values):.3f}</b><small>±{half:.3f}</small>" in demo


def test_every_heat_map_row_names_its_threat_and_what_is_not_adaptive() -> None:
    records = [record("prbcd", d, seed=s, adaptive=a) for d in SHIELD for s in (0, 1)
               for a in (True, False)]  # fmt: skip
    page = report.render(records)
    lines = re.findall(r'<tr><th scope="row">prbcd.*?</tr>', page, flags=re.DOTALL)
    assert len(lines) == 2
    assert all(re.search(r'href="#T\d"', line) for line in lines)
    assert ["not adaptive" in line for line in lines] == [False, True]
    assert "prbcd (not adaptive)" in page
    text = report.text(records)
    assert "not adaptive" in text.split("\n\n")[0]
    for r in records:
        assert r.threat in Page(page).text
        assert r.threat in re.sub(r"\s+", " ", text)


def test_one_replicate_shows_no_interval() -> None:
    records = [record("prbcd", value=0.7), record("none", clean=0.8)]
    page = Page(report.render(records)).text
    assert "no interval" in page
    assert "±0.000" not in page
    assert "±" not in report.text(records).replace("± half", "")


def test_mlp_line_is_in_every_robustness_figure(demo: str) -> None:
    plots = re.findall(r'<svg class="plot".*?</svg>', demo, flags=re.DOTALL)
    robust = [p for p in plots if "accuracy over budget" in p]
    assert len(robust) == 12
    level = summary([r for r in book(matrix(["cora"])).rows if r.model == "mlp"], "accuracy")
    assert level is not None
    for plot in robust:
        assert ">MLP (no graph)<" in plot
        if ", cora," in plot:
            assert f"MLP (no graph): {level.text()}" in plot
    without = report.render([r for r in matrix(["cora"]) if r.spec["model"]["name"] == "gcn"])
    assert "MLP (no graph)" not in without


def test_curves_go_from_clean_over_all_budgets() -> None:
    records = [record("prbcd", seed=s, budget=b, clean=0.8, value=0.8 - b)
               for s in (0, 1) for b in (0.1, 0.02, 0.05)]  # fmt: skip
    page = report.render(records)
    plot = re.search(r"<desc[^>]*>(.*?)</desc>", page)
    assert plot is not None
    assert "none: 0.800 ±0.000, 0.780 ±0.000, 0.750 ±0.000, 0.700 ±0.000." in plot.group(1)
    assert "relative area" not in page  # there is no MLP to measure it from
    with_mlp = report.render([*records, record("none", model="mlp", clean=0.8)])  # accuracy .6
    assert "relative area above the MLP: none 0.375" in with_mlp  # (.5 + .25) / 2


def test_names_cannot_smuggle_markup() -> None:
    evil = '<script>alert(1)</script>"]'
    records = [
        record("prbcd", evil, dataset=evil, model=evil, seed=0),
        record("link-stealing", evil, dataset=evil, model=evil, seed=0),
        record("prbcd", "none", dataset=evil, seed=0, status="failed", reason=f"boom\n{evil}"),
    ]
    page = report.render(records)
    assert page.count("<script>") == 1
    assert "alert(1)" not in re.sub(r"&lt;script&gt;alert\(1\)&lt;/script&gt;", "", page)
    Page(page)
    assert "[bold]" in report.text([record("prbcd", "[bold]")])
    assert "\x1b" not in report.text([record("prbcd", "\x1b[2Jx")])


def test_skipped_and_failed_cells_are_listed_once_a_reason() -> None:
    records = [record("none", seed=s) for s in range(3)]
    records += [record("prbcd", model="mlp", seed=s, status="skipped", reason="ignores edges")
                for s in range(3)]  # fmt: skip
    records.append(record("dice", status="failed", reason="Traceback\n  x\nValueError: no"))
    page = Page(report.render(records)).text
    assert "3 of 7 cells done, 3 skipped, 1 failed" in page
    assert "3 skipped : ignores edges" in page
    assert page.count("ignores edges") == 1
    assert "1 failed : ValueError: no" in page
    text = report.text(records)
    assert "skipped" in text


def test_spec_on_the_page_rebuilds_every_cell(demo: str) -> None:
    import html
    import json

    block = re.search(r"<pre>(\{.*?)</pre>", demo, flags=re.DOTALL)
    assert block is not None
    spec = json.loads(html.unescape(block.group(1)))
    columns = spec["columns"]
    rebuilt = []
    for cell in spec["cells"]:
        fields = dict(zip(columns, cell, strict=True))
        rebuilt.append({k: v if "seed" in k else spec[k][v] for k, v in fields.items()})
    expected = [r.spec for r in matrix()]
    key = json.dumps
    assert sorted(key(s, sort_keys=True) for s in rebuilt) == sorted(
        key(s, sort_keys=True) for s in expected
    )


def test_incomplete_specs_and_no_records_do_not_break_the_page() -> None:
    broken = Record(
        key="invalid-1", row="invalid-1", status="skipped", reason="no attack 'prbdc'",
        spec={"dataset": "cora", "attack": "prbdc", "defense": ["jaccard", "none"]},
    )  # fmt: skip
    page = Page(report.render([broken, record("none")])).text
    assert "no attack 'prbdc'" in page
    assert "prbdc" in report.text([broken, record("none")])
    assert "0 of 0 cells" in Page(report.render([])).text
    assert report.text([])


def test_two_hundred_records_take_less_than_ten_seconds() -> None:
    records = matrix()
    assert len(records) > 180
    start = time.process_time()
    report.render(records)
    assert time.process_time() - start < 10


def test_a_failed_write_leaves_the_old_report(tmp_path: Path) -> None:
    (tmp_path / "r.html").mkdir()
    with pytest.raises(OSError, match=re.escape("r.html")):
        report.html([record("none")], tmp_path / "r.html")
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]


# -- findings ---------------------------------------------------------------------------------


def test_best_defense_is_judged_by_the_attack_strongest_against_it() -> None:
    numbers = {("none", "dice"): 0.7, ("none", "prbcd"): 0.6, ("jaccard", "dice"): 0.78,
               ("jaccard", "prbcd"): 0.5, ("soft-median", "dice"): 0.68,
               ("soft-median", "prbcd"): 0.69}  # fmt: skip
    records = [record(a, d, seed=s, value=v + 0.01 * s, clean=0.8)
               for (d, a), v in numbers.items() for s in range(3)]  # fmt: skip
    (found,) = findings(book(records))
    assert (found.defense, found.attack.attack) == ("soft-median", "dice")
    assert found.value.mean == pytest.approx(0.69)
    assert found.gain is not None
    # 0.68 against 0.60: each under its own strongest attack.
    assert found.gain.difference.mean == pytest.approx(0.08)


def test_gains_are_corrected_for_every_defense_looked_at() -> None:
    """Noise alone: the best of nine looks like a gain until the eight others count."""
    noise = np.random.default_rng(10).normal(0.7, 0.02, (10, 4))
    names = ["none", *(f"d{i}" for i in range(9))]
    records = [record("prbcd", d, seed=s, value=float(noise[i, s]))
               for i, d in enumerate(names) for s in range(4)]  # fmt: skip
    (found,) = findings(book(records))
    raw = {d: float(stats.ttest_rel(noise[i], noise[0]).pvalue)
           for i, d in enumerate(names) if d != "none"}  # fmt: skip
    assert found.comparisons == 9
    assert {d: g.p_value for d, g in found.gains.items()} == pytest.approx(raw)
    ranked = sorted(raw, key=lambda d: raw[d])
    assert found.adjusted[ranked[0]] == pytest.approx(min(1, 9 * raw[ranked[0]]))
    assert found.p_value is not None
    assert found.p_value > 0.05
    assert "its gain over no defense may be chance" in found.caveats
    assert "9 comparisons" in Page(report.render(records)).text
    alone = [r for r in records if r.spec["defense"]["name"] in ("none", found.defense)]
    (single,) = findings(book(alone))
    assert single.p_value is not None
    assert single.p_value == pytest.approx(raw[found.defense])
    assert single.p_value < 0.05


def test_a_gain_that_is_none_is_counted_and_a_sure_one_not_doubted() -> None:
    sure = [record("prbcd", d, seed=s, value=v + 0.001 * s * (d == "none"))
            for d, v in {"none": 0.6, "jaccard": 0.7}.items() for s in range(5)]  # fmt: skip
    worse = [record("prbcd", d, dataset="citeseer", seed=s, value=v + 0.001 * s * (d == "none"))
             for d, v in {"none": 0.6, "jaccard": 0.5}.items() for s in range(5)]  # fmt: skip
    lost, won = findings(book([*sure, *worse]))
    assert (lost.defense, lost.gain, lost.p_value) == ("none", None, None)
    assert won.comparisons == lost.comparisons == 2
    assert won.p_value is not None
    assert won.p_value < 1e-6
    assert won.caveats == ()


def test_least_leak_is_best_and_its_gain_positive() -> None:
    records = [record("link-stealing", d, seed=s, value=v + 0.01 * s * (d == "none"))
               for d, v in {"none": 0.9, "jaccard": 0.8}.items() for s in range(3)]  # fmt: skip
    (found,) = findings(book(records))
    assert found.defense == "jaccard"
    assert found.gain is not None
    assert found.gain.difference.mean == pytest.approx(0.11)


def test_an_unfinished_run_compares_shared_replicates_only() -> None:
    # Seed 0 is easy; jaccard has only that one, and is worse there.
    numbers = {("none", 0): 0.8, ("none", 1): 0.6, ("jaccard", 0): 0.75}
    records = [record("prbcd", d, seed=s, value=v) for (d, s), v in numbers.items()]
    (found,) = findings(book(records))
    assert found.defense == "none"
    assert found.value.mean == pytest.approx(0.7)
    assert "chosen on the 1 replicate that all defenses share" in found.caveats


def test_findings_say_what_weakens_them() -> None:
    records = [record("prbcd", "none", value=0.4), record("dice", "none", value=0.6),
               record("prbcd", "jaccard", value=0.5, adaptive=False),
               record("none", model="mlp", clean=0.8)]  # fmt: skip
    (found,) = findings(book(records))
    said = " / ".join(found.caveats)
    assert "no adaptive attack was run against it" in said
    assert "met 1 of 2 attacks" in said
    assert "below an MLP that ignores the graph (0.600)" in said
    assert "one replicate" in said


# -- names ------------------------------------------------------------------------------------


def test_labels_show_the_fields_that_differ() -> None:
    records = [record("prbcd", attack_fields={"steps": n}) for n in (125, 250)]
    records += [record("dice", {"name": "jaccard", "threshold": t}) for t in (0.01, 0.05)]
    records.append(record("dice", {"name": "compose", "parts": [{"name": "a"}, {"name": "b"}]}))
    made = book(records)
    assert {r.scenario.attack for r in made.rows} == {"prbcd steps=125", "prbcd steps=250", "dice"}
    assert {r.defense for r in made.rows} == {
        "none", "jaccard threshold=0.01", "jaccard threshold=0.05", "a + b"
    }  # fmt: skip


def test_intervals_are_over_splits_as_well_as_seeds() -> None:
    crossed = [record("none", seed=s, data_seed=d, value=0.7 + 0.05 * d) for s in range(5)
               for d in range(3)]  # fmt: skip
    once = [record("none", seed=0, data_seed=d, value=0.7 + 0.05 * d) for d in range(3)]
    many, few = (summary(book(r).rows, "attacked_accuracy") for r in (crossed, once))
    assert many is not None
    assert few is not None
    assert many.n == 15
    assert many.half_width == pytest.approx(few.half_width)


# -- the table --------------------------------------------------------------------------------


def test_text_fits_and_does_not_depend_on_cost_or_order() -> None:
    records = matrix()
    text = report.text(records)
    assert max(map(len, text.splitlines())) <= 120
    slower = [dataclasses.replace(r, cost={"train_seconds": 99.0}) for r in reversed(records)]
    assert report.text(slower) == text
    value = summary(
        [r for r in book(records).rows if r.dataset == "cora" and r.model == "gcn"
         and r.defense == "jaccard" and r.scenario.attack == "prbcd"],
        "attacked_accuracy",
    )  # fmt: skip
    assert value is not None
    assert value.text() in text


def test_many_attacks_become_lines() -> None:
    text = report.text(matrix(["cora"], budgets=(0.01, 0.05, 0.1)))
    assert max(map(len, text.splitlines())) <= 120
    assert "prbcd (edges 10 %) [T" in text


def test_cost_columns_are_medians() -> None:
    records = [dataclasses.replace(record("none", seed=s), cost={"train_seconds": t})
               for s, t in enumerate((1.0, 2.0, 60.0))]  # fmt: skip
    console = Console(width=120, record=True, quiet=True)
    with console.capture() as captured:
        console.quiet = False
        console.print(report.table(records, cost=True))
    assert "2.00" in captured.get()


# -- figures ----------------------------------------------------------------------------------


def test_roc_average_is_vertical() -> None:
    curves = [{"x": [0, 1], "y": [0, 1]}, {"x": [0, 0, 1], "y": [0, 1, 1]}]
    x, y = figures.average_roc(curves, [(0, 0), (1, 1)])
    middle = x.index(0.5)
    assert y[middle].mean == pytest.approx(0.75)


def test_the_front_holds_what_nothing_beats() -> None:
    place = {"a": (0.8, 0.9), "b": (0.7, 0.6), "c": (0.7, 0.7), "d": (0.6, 0.65), "e": (0.5, 0.5)}
    points = [
        figures.Point(label=k, kind=k, x=mean_interval([x]), y=mean_interval([y]))
        for k, (x, y) in place.items()
    ]
    assert [p.label for p in figures.front(points)] == ["e", "b", "a"]


def test_utility_and_leakage_are_drawn_for_three_defenses_or_more() -> None:
    """By the attack strongest against each; the front is said in words too."""
    ends = {"none": (0.8, 0.9), "mild": (0.7, 0.95), "strong": (0.6, 0.6)}
    records = [
        record("link-stealing", name, seed=seed, clean=x, value=y - weaker,
               attack_fields={"distance": weaker})
        for name, (x, y) in ends.items() for seed in range(3) for weaker in (0.0, 0.1)
    ]  # fmt: skip
    page = report.render(records)
    assert "None is better in both than the front: strong 0.600, 0.600; none 0.800, 0.900" in page
    assert "Utility and leakage" not in report.render(
        r for r in records if "mild" not in str(r.spec)
    )


def test_heat_map_text_contrasts_with_its_ground() -> None:
    def luminance(colour: str) -> float:
        full = colour if len(colour) == 7 else "#" + "".join(2 * c for c in colour[1:])
        rgb = [int(full[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    for ground, ink in figures.shades(np.linspace(0, 1, 101).tolist(), low=0, high=1):
        light, dark = sorted((luminance(ground), luminance(ink)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5
