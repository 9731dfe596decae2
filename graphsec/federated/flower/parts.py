"""What a party's process is given, in a folder of its own: its data, its settings, its seed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphsec.federated.federation import no_holdout, write_whole
from graphsec.federated.party import Party
from graphsec.federated.protocol import Protocol
from graphsec.graph import Graph
from graphsec.rng import Rng

KEPT = 2  # states of a party: the server may have stopped an epoch before it


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a party's process; plain values.

    Attributes:
        index: Number of the party.
        protocol: ``Protocol.spec()``.
        seed: Of the party's stream, which leads to nobody else's.
        ticket: What the party shows the server to be let in.
        resume: Round that the server goes on with; None starts anew.
    """

    index: int
    protocol: Mapping[str, Any]
    seed: int
    ticket: str
    resume: int | None = None


def pack(folder: Path, graph: Graph, settings: Settings) -> None:
    """Write a party's folder; states of an earlier training go unless it is resumed."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    if settings.resume is None:
        for old in folder.glob("state-*.pt"):
            old.unlink()
    values = {f.name: getattr(graph, f.name) for f in fields(graph)}
    plain = {n: v for n, v in values.items() if isinstance(v, Tensor | str | bool)}
    write_whole(folder / "part.pt", plain)
    (folder / "settings.json").write_text(json.dumps(vars(settings)))
    (folder / "settings.json").chmod(0o600)


def unpack(folder: Path) -> tuple[Party, Settings]:
    """The party of a folder, and its settings."""
    settings = Settings(**json.loads((folder / "settings.json").read_text()))
    plain = torch.load(folder / "part.pt", weights_only=True)
    if plain["task"] == "ranking":
        plain["holdout"] = no_holdout()
    protocol = Protocol.of(settings.protocol)
    party = Party(settings.index, Graph(**plain), protocol, Rng(settings.seed))
    if settings.resume is not None:
        found = latest(folder, before=settings.resume)
        if found is not None:
            party.restore(found)
    return party, settings


def keep(folder: Path, party: Party) -> None:
    """Write a party's state down, and forget the oldest."""
    write_whole(folder / f"state-{party.round:06d}.pt", party.state())
    for old in sorted(folder.glob("state-*.pt"))[:-KEPT]:
        old.unlink()


def latest(folder: Path, before: int | None = None) -> dict[str, Any] | None:
    """The newest state in a folder, of a round before ``before``; None if there is none."""
    for path in sorted(folder.glob("state-*.pt"), reverse=True):
        state: dict[str, Any] = torch.load(path, weights_only=True)
        if before is None or state["round"] < before:
            return state
    return None
