"""Recipe cards: how a model is trained on a dataset, and the accuracy to expect.

One TOML file a model, one table a dataset: ``gcn.toml`` with ``[cora]`` is the card ``gcn/cora``.
``graphsec run --recipe gcn/cora`` runs a card; ``python -m graphsec.recipes`` writes the docs page.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from graphsec.registry import SpecError, did_you_mean

if TYPE_CHECKING:
    from graphsec.matrix import Matrix
    from graphsec.results import Results


@dataclass(frozen=True, kw_only=True)
class Card:
    """A recipe and what it should give.

    Attributes:
        name: "model/dataset".
        dataset: Spec of the dataset, split included.
        model: Spec of the model.
        training: Fields of ``Training`` in which the recipe differs from the model's own.
        seeds: Number of seeds, from 0.
        metric: What is compared.
        selection: Which parameters are kept, in words.
        expected: Where the mean over the seeds must lie, (low, high).
        measured: What we measured, in words.
        published: The published figure, in words.
        source: Where it was published.
        fingerprint: First 12 digits of the graph's fingerprint, split included; empty if drawn.
        notes: What to know before quoting it.
    """

    name: str
    dataset: str | Mapping[str, Any]
    model: str | Mapping[str, Any]
    training: Mapping[str, Any] = field(default_factory=dict)
    seeds: int = 10
    metric: str = "accuracy"
    selection: str
    expected: tuple[float, float]
    measured: str
    published: str
    source: str
    fingerprint: str = ""
    notes: str = ""

    def matrix(self, seeds: int | None = None) -> Matrix:
        """The card as a matrix of one row and ``seeds`` seeds (default: the card's)."""
        from graphsec.matrix import Matrix

        return Matrix(
            name=self.name, datasets=[self.dataset], models=[self.model], training=self.training,
            seeds=range(seeds or self.seeds), mlp_line=False,
        )  # fmt: skip

    def judge(self, results: Results) -> tuple[str, bool]:
        """(one line about mean, deviation, expectation and publication, whether it holds)."""
        from statistics import mean, stdev

        values = [record.value(self.metric) for record in results if record.status == "done"]
        if not values:
            return f"{self.name}: no cell was finished", False
        low, high = self.expected
        average = mean(values)
        spread = f" ± {stdev(values):.4f}" if len(values) > 1 else ""
        holds = low <= average <= high
        graphs = {record.graph["fingerprint"][:12] for record in results if record.graph}
        text = (
            f"{self.name}: {self.metric} {average:.4f}{spread} over {len(values)} seeds; "
            f"expected {low:g} … {high:g}: {'holds' if holds else 'FAILS'}; "
            f"published {self.published} ({self.source})"
        )
        if self.fingerprint and graphs != {self.fingerprint}:
            text += f"; the graph is {', '.join(sorted(graphs))}, not {self.fingerprint}"
            holds = False
        return text, holds


@cache
def cards() -> dict[str, Card]:
    """All cards by name.

    Raises:
        SpecError: A file has a key that no card has, or lacks one.
    """
    known = {f.name: f for f in dataclasses.fields(Card)}
    found = {}
    for file in sorted(files(__name__).iterdir(), key=lambda one: one.name):
        model, dot, ending = file.name.partition(".")
        if dot + ending != ".toml":
            continue
        for dataset, fields in tomllib.loads(file.read_text(encoding="utf-8")).items():
            name = f"{model}/{dataset}"
            for key in fields:
                if key not in known:
                    raise SpecError(
                        f"recipe {name!r} has no key {key!r}; {did_you_mean(key, [*known])}"
                    )
            try:
                found[name] = Card(name=name, **{**fields, "expected": tuple(fields["expected"])})
            except (KeyError, TypeError) as error:
                raise SpecError(f"recipe {name!r}: {error}") from None
    return found


def card(name: str) -> Card:
    """The card of a name.

    Raises:
        SpecError: There is none.
    """
    if name not in cards():
        raise SpecError(f"no recipe {name!r}; {did_you_mean(name, [*cards()])}")
    return cards()[name]


def page() -> str:
    """The docs page of all cards, in Markdown."""
    lines = [
        "# Recipes",
        "",
        "Made from `graphsec/recipes/*.toml` by `python -m graphsec.recipes > docs/recipes.md`.",
        "`graphsec run --recipe gcn/cora` runs one and compares the mean over its seeds with the",
        "expected interval.",
        "",
        "| recipe | metric | expected mean | measured | published | source | selection |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in cards().values():
        low, high = one.expected
        lines.append(
            f"| `{one.name}` | {one.metric} | {low:g} … {high:g} | {one.measured} | "
            f"{one.published} | {one.source} | {one.selection} |"
        )
    for one in cards().values():
        lines += ["", f"## {one.name}", "", f"- dataset `{_plain(one.dataset)}`"]
        lines += [f"- model `{_plain(one.model)}`", f"- training `{_plain(one.training)}`"]
        lines += [f"- {one.seeds} seeds"]
        lines += [f"- graph with split `{one.fingerprint}`"] if one.fingerprint else []
        lines += ["", one.notes] if one.notes else []
    return "\n".join(lines) + "\n"


def _plain(spec: Any) -> str:
    if isinstance(spec, str):
        return spec
    return ", ".join(f"{key} = {value!r}" for key, value in spec.items()) or "the model's own"
