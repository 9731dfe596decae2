"""What parties and server say to each other: typed messages, as bytes and back."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Kind = Literal[
    "setup", "degrees", "public", "sums", "neighbours", "gradient", "finish", "ready",
    "weights", "update",
]  # fmt: skip
KINDS: tuple[str, ...] = Kind.__args__  # type: ignore[attr-defined]

TERNARY = "ternary"
_TYPES = {"float32": torch.float32, "float64": torch.float64, TERNARY: torch.int8}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}


class Refused(ValueError):
    """A message that breaks a rule of the protocol; says who sent it, which field and which rule.

    Attributes:
        party: Who sent it.
        field: What is wrong with it ("round", "tensors.sums", …).
    """

    def __init__(self, party: str, name: str, rule: str) -> None:
        super().__init__(f"{party}: {name} {rule}")
        self.party, self.field = party, name


@dataclass(frozen=True, eq=False, kw_only=True)
class Message:
    """One message.

    Attributes:
        sender: "server" or "party:3".
        receiver: Likewise.
        round: Round of training; −1 is before the first.
        kind: What it is. The server sends setup, degrees (their totals), public (parameters),
            neighbours (the other parties' sums) and finish; a party answers degrees (its own),
            ready, sums or gradient. In a horizontal federation the server sends weights, a client
            answers update.
        layer: Layer of sums and neighbours; −1 for other kinds.
        tensors: float32 and float64 tensors, or int8 ones of −1, 0 and 1, which travel in two
            bits each.
    """

    sender: str
    receiver: str
    round: int
    kind: str
    layer: int = -1
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def fields(self) -> tuple[tuple[str, str, tuple[int, ...]], ...]:
        """(name, type, shape) of each tensor."""
        return tuple((n, _NAMES[t.dtype], tuple(t.shape)) for n, t in self.tensors.items())

    def encode(self) -> bytes:
        """The message as it travels: length of the header, the header (JSON), the raw tensors."""
        content = {
            "sender": self.sender, "receiver": self.receiver, "round": self.round,
            "kind": self.kind, "layer": self.layer, "tensors": self.fields,
        }  # fmt: skip
        header = json.dumps(content, separators=(",", ":")).encode()
        parts = [_pack(t) if t.dtype == torch.int8 else t.detach().contiguous().numpy().tobytes()
                 for t in self.tensors.values()]  # fmt: skip
        return b"".join([struct.pack("<I", len(header)), header, *parts])

    @staticmethod
    def decode(content: bytes, sender: str) -> Message:
        """The message in ``content``, which came from ``sender``.

        Nothing but numbers and text is read, never code.

        Raises:
            Refused: It is no message, or is signed by somebody else.
        """
        try:
            (size,) = struct.unpack_from("<I", content)
            header = json.loads(content[4 : 4 + size])
            place, tensors = 4 + size, {}
            for name, kind, shape in header.pop("tensors"):
                count = int(np.prod(shape, dtype=np.int64))
                length = -(-count // 4) if kind == TERNARY else count * _TYPES[kind].itemsize
                raw = content[place : place + length]
                if count < 0 or len(raw) != length:
                    raise ValueError(f"tensor {name!r} is cut off")
                flat = _unpack(raw, count) if kind == TERNARY else torch.from_numpy(
                    np.frombuffer(raw, kind).copy()
                )  # fmt: skip
                tensors[str(name)] = flat.reshape(shape)
                place += length
            if place != len(content):
                raise ValueError(f"{len(content) - place} bytes follow its end")
            made = Message(**header, tensors=tensors)
            if not (type(made.round) is type(made.layer) is int and made.kind in KINDS):
                raise ValueError(f"round {made.round!r}, layer {made.layer!r}, kind {made.kind!r}")
        except Refused:
            raise
        except Exception as error:  # whatever garbage does to a parser, it is garbage
            raise Refused(sender, "content", f"must be a message, found {error}") from None
        if made.sender != sender:
            raise Refused(sender, "sender", f"must be {sender!r}, found {made.sender!r}")
        return made


def _pack(values: Tensor) -> bytes:
    """Two bits a value."""
    codes = (values.reshape(-1).numpy() + 1).astype(np.uint8)
    codes = np.pad(codes, (0, -len(codes) % 4)).reshape(-1, 4)
    packed: bytes = (codes << np.array([0, 2, 4, 6], np.uint8)).sum(1, dtype=np.uint8).tobytes()
    return packed


def _unpack(raw: bytes, count: int) -> Tensor:
    codes = (np.frombuffer(raw, np.uint8)[:, None] >> np.array([0, 2, 4, 6], np.uint8)) & 3
    codes = codes.reshape(-1)[:count]
    if (codes > 2).any():
        raise ValueError("a ternary value is not −1, 0 or 1")
    return torch.from_numpy(codes.astype(np.int8) - 1)


def party_name(index: int) -> str:
    """Name of a party, as in ``Threat.position``."""
    return f"party:{index}"
