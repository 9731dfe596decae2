"""Rows of the robustness table of docs/measured.md, split 0, as examples/robustness.toml has them.

Beside Are Defenses for GNNs Robust? (Mujkanovic et al., NeurIPS 2022): Cora, 5 % of the edges,
five splits of theirs. Rows that finish in minutes; one split, so that tolerances are wide.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from graphsec.matrix import Matrix

pytestmark = [pytest.mark.paper, pytest.mark.timeout(3600)]
TABLE = Path(__file__).parents[2] / "examples" / "robustness.toml"
# Clean, adaptive, transfer.
PUBLISHED = {
    "none": (0.848, 0.749, 0.762),
    "jaccard": (0.839, 0.736, 0.785),
    "gnnguard": (0.826, 0.723, 0.792),
    "svd": (0.787, 0.089, 0.769),
}
SLOW = {"svd": ("prbcd", "grbcd")}  # singular vectors in every step; transfer has none


@functools.cache
def row(name: str) -> tuple[float, float, float]:
    """(clean, adaptive, transfer) accuracy of a defense: adaptive is its strongest attack."""
    table = Matrix.from_toml(TABLE)
    *_, defense = (spec for spec in table.defenses if of(spec) == name)  # svd: with min_degree
    attacks = [a for a in table.attacks if blind(a) or of(a) not in SLOW.get(name, ())]
    small = dataclasses.replace(
        table, defenses=[defense], attacks=attacks, seeds=[0], mlp_line=False
    )
    records = small.run(store=None, progress=False).records
    assert [r.status for r in records] == ["done"] * len(attacks), [r.reason for r in records]
    found: dict[bool, list[float]] = {True: [], False: []}
    for record in records:
        found[record.spec["threat"]["adaptive"]].append(record.value("attacked_accuracy"))
    values = records[0].value("accuracy"), min(found[True]), min(found[False])
    seconds = sum(sum(v for k, v in r.cost.items() if "seconds" in k) for r in records)
    print(f"\n{name}: clean, adaptive, transfer {values}, all {found}, {seconds:.0f} s")  # noqa: T201
    return values


def of(spec: Any) -> Any:
    """Name of a spec."""
    return spec["name"] if isinstance(spec, Mapping) else spec


def blind(attack: Any) -> bool:
    """Whether an entry is the attacker who does not know the defense."""
    return isinstance(attack, Mapping) and not attack.get("threat", {}).get("adaptive", True)


@pytest.mark.parametrize("name", PUBLISHED)
def test_row_is_as_published_or_falls_further(name: str) -> None:
    """Clean no more than .02 below the published figure, adaptive no more than .02 above it.

    Transfer within .03. Clean may be higher: our GNNGuard has .860 on this split, published .826.
    """
    clean, adaptive, transfer = row(name)
    published = PUBLISHED[name]
    assert clean >= published[0] - 0.02
    assert adaptive <= published[1] + 0.02
    assert transfer == pytest.approx(published[2], abs=0.03)


@pytest.mark.parametrize("name", PUBLISHED)
def test_adaptive_is_never_weaker_than_transfer(name: str) -> None:
    _, adaptive, transfer = row(name)
    assert adaptive <= transfer


@pytest.mark.parametrize("name", ["jaccard", "gnnguard", "svd"])
def test_no_defense_gains_against_who_knows_it(name: str) -> None:
    """Adaptive, it keeps no more than .02 above no defense; by transfer it seemed to gain."""
    _, adaptive, transfer = row(name)
    _, plain, blind = row("none")
    assert adaptive <= plain + 0.02
    assert transfer > blind


def test_svd_collapses() -> None:
    """To a tenth, though transfer alone leaves it beside the others."""
    _, adaptive, transfer = row("svd")
    assert adaptive <= 0.15
    assert transfer > 0.7
