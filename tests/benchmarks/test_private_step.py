"""A private step at 1,024 roots beside a plain one, Opacus and vmap, on the same subtrees."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]
SCRIPT = Path(__file__).with_name("private_once.py")


def once(*arguments: object) -> Any:
    """What ``private_once.py`` measures, in a process of its own."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(command, check=True, env=env, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("layers", [1, 2])
def test_clipped_sums_are_those_of_the_peers(layers: int) -> None:
    assert max(once(layers, "check").values()) < 1e-5


@pytest.mark.parametrize("layers", [1, 2])
def test_a_private_step_costs_about_what_a_plain_one_does(layers: int) -> None:
    """At most 2.2 times a plain step, which aggregates first as ours does; peers 3 to 5 times."""
    taken = once(layers, "time")
    print({name: round(value, 1) for name, value in taken.items()}, flush=True)  # noqa: T201
    best = min(value for name, value in taken.items() if name.startswith("vmap"))
    assert taken["ours"] <= 2.2 * taken["plain"]
    assert 5 * taken["ours"] <= min(taken["hooks"], taken["opacus"])
    assert 3 * taken["ours"] <= best


@pytest.mark.parametrize("layers", [1, 2])
def test_a_private_step_takes_a_third_of_the_memory(layers: int) -> None:
    """Of what Opacus and hooks take.

    Beside vmap in chunks of 64, its fastest, it was .25 to .6 in some runs at one layer, where a
    plain step is no better, and .27 to .34 at two: a third is not promised there.
    """
    chunked = "vmap-64"
    ways = ("plain", "ours", "hooks", "opacus", "opacus-ghost", chunked)
    extra = {way: once(layers, "memory", way) for way in ways}
    print({name: round(value) for name, value in extra.items()}, flush=True)  # noqa: T201
    assert 3 * extra["ours"] <= min(extra["hooks"], extra["opacus"])
    assert extra["ours"] < extra[chunked]
