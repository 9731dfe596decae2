"""Attacks from 10⁴ to 10⁷ edges, on a GCN and on PPRGo: seconds and peak memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.bench
SCRIPT = Path(__file__).with_name("scale_once.py")


def once(*arguments: object) -> dict[str, float]:
    """What ``scale_once.py`` measures, in a process of its own."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(command, check=True, env=env, stdout=subprocess.PIPE, text=True)
    row: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print({k: round(v, 4) for k, v in row.items()}, flush=True)  # noqa: T201
    return row


def test_a_step_grows_no_faster_than_edges_and_block() -> None:
    """Blocks of a tenth of the edges; 10⁷ edges and 10⁶ pairs under 8 GiB."""
    rows = [once(edges, edges // 10) for edges in (10_000, 100_000, 1_000_000, 10_000_000)]
    size = np.log([row["edges"] + row["block"] for row in rows])
    seconds = np.log([row["seconds"] for row in rows])
    # Below 10⁵ edges the cost is that of calls, so that only the larger ones tell the growth.
    exponent = np.polyfit(size[1:], seconds[1:], 1)[0]
    print(f"seconds a step grow with (edges + block)^{exponent:.2f}")  # noqa: T201
    assert exponent < 1.2
    assert rows[-1]["gib"] < 8
    assert all(row["attacked"] < row["clean"] for row in rows)


@pytest.mark.parametrize("defense", ["none", "soft-median"])
@pytest.mark.parametrize("edges", [100_000, 10_000_000])
def test_pprgo_trains_answers_and_is_attacked(edges: int, defense: str) -> None:
    """Plain and robust, up to 10⁶ nodes and 10⁷ edges, within 24 GiB."""
    row = once(edges, edges // 10, defense)
    assert row["accuracy"] > 0.4  # of five classes
    assert row["attacked"] < row["clean"]
    assert row["gib"] < 24
