"""What every test shares: one thread, disturbed global randomness, the folder of real data."""

from __future__ import annotations

import os
import random
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

torch.set_num_threads(1)

SEED = "GRAPHSEC_TEST_SEED"
seed_key = pytest.StashKey[int]()


@pytest.fixture(autouse=True)
def disturbed_globals(request: pytest.FixtureRequest) -> Iterator[int]:
    """Seed the global generators with something new, so a result that leans on them shows.

    Only ``graphsec.rng`` streams may decide a result. The seed is printed with a failure; set
    ``GRAPHSEC_TEST_SEED`` to it to repeat that test.
    """
    given = os.environ.get(SEED)
    seed = int(given) if given else int.from_bytes(os.urandom(4), "little")
    request.node.stash[seed_key] = seed
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    torch_state = torch.random.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    yield seed
    random.setstate(python_state)
    np.random.set_state(numpy_state)  # noqa: NPY002
    torch.random.set_rng_state(torch_state)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Print the seed of the global generators with a failure."""
    report = yield
    seed = item.stash.get(seed_key, None)
    if report.failed and seed is not None:
        report.sections.append(("global seed", f"repeat with {SEED}={seed}"))
    return report


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Give the folder of published data sets, or skip: they are not part of the project."""
    given = os.environ.get("GRAPHSEC_DATA")
    if not given:
        pytest.skip("real data: set GRAPHSEC_DATA to the folder that holds it")
    folder = Path(given)
    if not folder.is_dir():
        pytest.skip(f"real data: GRAPHSEC_DATA={given} is not a folder")
    return folder
