"""PR-BCD from 10⁴ to 10⁷ edges: seconds a step and peak memory."""

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


def test_a_step_grows_no_faster_than_edges_and_block() -> None:
    """Blocks of a tenth of the edges; 10⁷ edges and 10⁶ pairs under 8 GiB."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    rows = []
    for edges in (10_000, 100_000, 1_000_000, 10_000_000):
        command = [sys.executable, "-W", "ignore", str(SCRIPT), str(edges), str(edges // 10)]
        done = subprocess.run(command, check=True, env=env, capture_output=True, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print({k: round(v, 4) for k, v in rows[-1].items()}, flush=True)  # noqa: T201
    size = np.log([row["edges"] + row["block"] for row in rows])
    seconds = np.log([row["seconds"] for row in rows])
    # Below 10⁵ edges the cost is that of calls, so that only the larger ones tell the growth.
    exponent = np.polyfit(size[1:], seconds[1:], 1)[0]
    print(f"seconds a step grow with (edges + block)^{exponent:.2f}")  # noqa: T201
    assert exponent < 1.2
    assert rows[-1]["gib"] < 8
    assert all(row["attacked"] < row["clean"] for row in rows)
