"""Named streams of randomness."""

from __future__ import annotations

import random

import numpy as np
import torch

from graphsec.rng import Rng
from graphsec.testing.common import global_state, same


def draw(rng: Rng) -> float:
    return float(rng.numpy().random())


def test_streams_depend_on_seed_and_path_only() -> None:
    rng = Rng(3)
    wanted = draw(rng["attack"])
    rng["other"].numpy().random(100)
    assert draw(Rng(3)["attack"]) == wanted
    assert draw(Rng(4)["attack"]) != wanted
    assert draw(Rng(3)["attack"]["attack"]) != wanted
    assert draw(Rng(3)["a"]["b"]) != draw(Rng(3)["ab"]) != draw(Rng(3)["b"]["a"])
    assert Rng(3)[1] == Rng(3)["1"]


def test_torch_and_numpy_generators_start_anew() -> None:
    rng = Rng(1)["x"]
    one, two = (torch.rand(3, generator=rng.torch()) for _ in range(2))
    assert torch.equal(one, two)
    assert np.array_equal(rng.numpy().random(3), rng.numpy().random(3))


def test_scope_seeds_and_restores_all_globals() -> None:
    def values() -> tuple[float, float, float]:
        return torch.rand(1).item(), np.random.rand(), random.random()  # noqa: NPY002

    before = global_state()
    with Rng(0)["s"].scope():
        first = values()
    assert same(before, global_state())
    values()
    with Rng(0)["s"].scope():
        assert values() == first
        with Rng(0)["t"].scope():
            assert values() != first


def test_scope_restores_after_an_error() -> None:
    before = global_state()
    try:
        with Rng(0).scope():
            torch.rand(1)
            raise RuntimeError
    except RuntimeError:
        pass
    assert same(before, global_state())


def test_secure_generators_never_repeat() -> None:
    one, two = (torch.rand(4, generator=Rng.secure()) for _ in range(2))
    assert not torch.equal(one, two)
