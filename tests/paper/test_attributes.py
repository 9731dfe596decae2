"""The private attribute of nodes of German and Bail: what of docs/measured.md must hold again."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphsec.matrix import Matrix
from graphsec.results import Results

pytestmark = [pytest.mark.paper, pytest.mark.timeout(1800)]

SPEC = Path(__file__).parents[2] / "examples" / "attributes.toml"


@pytest.fixture(scope="module")
def results() -> Results:
    """All of the committed spec."""
    return Matrix.from_toml(SPEC).run(store=None, progress=False)


def advantage(results: Results, dataset: str, knows: str, trained: bool) -> tuple[float, float]:
    """(low, high) of the 95 % interval, of the logistic regression over the best baseline."""
    frame = results.advantage("attribute-features")
    mine = frame[
        (frame.dataset == dataset)
        & (frame.attack == f"attribute-inference{knows}")
        & frame.game.str.contains(f'"trained": {str(trained).lower()}')
    ]
    assert len(mine) == 1
    line = mine.iloc[0]
    print(f"\n {dataset} {knows} {trained}: {line.advantage:+.3f} ({line.low:.3f}…{line.high:.3f})")  # noqa: T201
    return float(line.low), float(line.high)


HIDDEN, ALL, BOTH = "(knows=['hidden'])", "(knows=['features', 'hidden', 'outputs'])", ""


@pytest.mark.parametrize("trained", [False, True])
def test_german_hidden_states_tell_more_than_features(results: Results, trained: bool) -> None:
    assert advantage(results, "german", HIDDEN, trained)[0] > 0.03


def test_bail_states_tell_more_only_if_the_attribute_was_trained_on(results: Results) -> None:
    assert advantage(results, "bail", ALL, False)[1] < 0
    assert advantage(results, "bail", ALL, True)[0] > 0.02


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("dataset", ["german", "bail"])
def test_outputs_add_next_to_nothing(results: Results, dataset: str, trained: bool) -> None:
    assert advantage(results, dataset, BOTH, trained)[1] < 0.02
