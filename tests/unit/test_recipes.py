"""Recipe cards: they name what exists, run as matrices, and are judged by their intervals."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from graphsec.cell import Record
from graphsec.recipes import Card, card, cards, page
from graphsec.registry import SpecError
from graphsec.results import Results

ROOT = Path(__file__).parents[2]


def results(*values: float, fingerprint: str = "") -> Results:
    return Results(
        Record(
            key=str(i), row="r", status="done", spec={}, metrics={"accuracy": {"value": value}},
            graph={"fingerprint": fingerprint},
        )
        for i, value in enumerate(values)
    )  # fmt: skip


@pytest.mark.parametrize("name", list(cards()))
def test_a_card_builds_its_cells_and_expects_an_interval(name: str) -> None:
    made = card(name)
    matrix = made.matrix(seeds=2)
    assert matrix.problems() == []
    low, high = made.expected
    assert low < high
    assert made.name.partition("/")[0] == matrix.entries[0].spec["model"]["name"]
    assert all((made.selection, made.measured, made.published, made.source))


def test_the_docs_page_is_made_from_the_cards() -> None:
    assert (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8") == page()


@pytest.mark.parametrize(
    ("values", "holds"), [((0.81, 0.82), True), ((0.70, 0.72), False), ((), False)]
)
def test_a_mean_outside_the_interval_fails(values: tuple[float, ...], holds: bool) -> None:
    made = dataclasses.replace(card("gcn/cora"), expected=(0.8, 0.83), fingerprint="")
    text, verdict = made.judge(results(*values))
    assert verdict is holds
    assert "gcn/cora" in text


def test_another_graph_fails() -> None:
    made: Card = dataclasses.replace(card("gcn/cora"), expected=(0, 1), fingerprint="abc")
    assert made.judge(results(0.5, fingerprint="abc"))[1]
    assert not made.judge(results(0.5, fingerprint="xyz"))[1]


def test_an_unknown_card_is_named() -> None:
    with pytest.raises(SpecError, match=r"no recipe 'gcn/coar'; did you mean 'gcn/cora'"):
        card("gcn/coar")


def test_run_takes_a_spec_or_a_recipe_but_not_both(capsys: Any) -> None:
    from graphsec import cli

    with pytest.raises(SpecError, match="one of the two"):
        cli.run(None, None)
