"""GIFD beside Inverting Gradients on digits: what of docs/leakage_priors.md must hold again."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphsec.matrix import Matrix
from graphsec.results import Results

pytestmark = [pytest.mark.paper, pytest.mark.timeout(1800)]

SPEC = Path(__file__).parents[2] / "examples" / "leakage_priors.toml"


@pytest.fixture(scope="module")
def results() -> Results:
    """All of the committed spec: five seeds."""
    return Matrix.from_toml(SPEC).run(store=None, progress=False)


@pytest.mark.parametrize("defense", ["noisy-gradients(std=0.03)", "prune-gradients(keep=0.03)"])
def test_gifd_is_a_decibel_ahead_where_gradients_are_noisy_or_pruned(
    results: Results, defense: str
) -> None:
    frame = results.advantage("gradient-matching", metric="psnr")
    mine = frame[(frame.defense == defense) & frame.attack.str.startswith("gifd")]
    assert len(mine) == 2
    for _, line in mine.iterrows():
        gain, low = float(line.advantage), float(line.low)
        print(f"\n {defense} {line.attack}: {gain:+.2f} dB ({low:+.2f} …)")  # noqa: T201
        assert int(line.pairs) == 5
        assert gain > 1
        assert low > 0
