"""Named seed streams: every random draw in graphsec comes from one of these."""

from __future__ import annotations

import hashlib
import random
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator


@dataclass(frozen=True)
class Rng:
    """A stream of randomness with a name; ``rng["attack"]`` is a child stream.

    Streams depend only on the seed and the path of names, never on how often or in
    which order other streams were used, so adding a draw in one stage cannot change
    another stage.

    Args:
        seed: Any integer ≥ 0.
        path: Names from the root to this stream.
    """

    seed: int
    path: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int | np.integer):
            raise TypeError(f"seed must be an integer, got {self.seed!r}")
        if self.seed < 0:
            raise ValueError(f"seed must be ≥ 0, got {self.seed}")

    def __getitem__(self, name: str | int) -> Rng:
        """Child stream called ``name``."""
        return Rng(self.seed, (*self.path, str(name)))

    @property
    def entropy(self) -> int:
        """64 bits that identify this stream."""
        text = "\x1f".join((str(int(self.seed)), *self.path))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")

    def numpy(self) -> np.random.Generator:
        """A numpy generator at the start of the stream."""
        return np.random.default_rng(self.entropy)

    def torch(self, device: torch.device | str = "cpu") -> Generator:
        """A torch generator at the start of the stream."""
        generator = torch.Generator(device=device)
        generator.manual_seed(self.entropy % 2**63)
        return generator

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Seed the global generators from this stream, and restore them on leaving.

        Dropout and parameter initialisation draw from torch's global generator; inside
        the scope they are repeatable, outside nothing has changed.
        """
        python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(self.entropy % 2**63)
            random.seed(self.entropy)
            np.random.seed(self.entropy % 2**32)  # noqa: NPY002 - third parties draw from it
            try:
                yield
            finally:
                random.setstate(python)
                np.random.set_state(legacy)  # noqa: NPY002

    @staticmethod
    def secure() -> Generator:
        """A torch generator seeded by the operating system.

        Exempt from "same seed, same result": noise that can be replayed protects nobody. On a CPU
        torch keeps 32 bits of a seed, which can be tried one by one: ``secure_numpy`` is for noise.
        """
        generator = torch.Generator()
        generator.manual_seed(secrets.randbits(63))
        return generator

    @staticmethod
    def fresh() -> Rng:
        """A stream that the operating system seeds: exempt from "same seed, same result"."""
        return Rng(secrets.randbits(64))

    @staticmethod
    def secure_numpy() -> np.random.Generator:
        """A numpy generator seeded with 256 bits of the operating system, for privacy noise."""
        return np.random.default_rng(secrets.randbits(256))
