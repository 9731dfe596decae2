"""Who works on a cell, and whether that worker is still alive."""

from __future__ import annotations

import os
import socket
import time
import uuid
from pathlib import Path

SILENCE = 60.0
"""Seconds without a heartbeat after which a worker on another host counts as dead."""
HUNG = 600.0
"""The same on this host, where a living process is normally proof enough."""


def new_owner() -> str:
    """A name for a worker in this process: host:pid:start of the process:unique part."""
    pid = os.getpid()
    return f"{_host()}:{pid}:{_start_time(pid) or 0}:{uuid.uuid4().hex[:8]}"


def process_of(owner: str) -> int:
    """Process id of a worker."""
    return int(owner.rsplit(":", 3)[1])


def is_dead(owner: str, heartbeat: float | None, now: float | None = None) -> bool:
    """Whether a worker is gone.

    On its own host a worker lives while its process does (same id, same start time) and is not
    silent for ten minutes; on another host, or where the system has no /proc, one minute of
    silence is death.
    """
    silent = (time.time() if now is None else now) - (heartbeat or 0.0)
    host, pid, start, _ = owner.rsplit(":", 3)
    if host != _host() or start == "0":
        return silent > SILENCE
    return str(_start_time(int(pid))) != start or silent > HUNG


def _host() -> str:
    """This host, and the process namespace in it: containers may share a host's name."""
    try:
        space = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        space = ""
    return f"{socket.gethostname()}/{space}"


def _start_time(pid: int) -> int | None:
    """Start of a process in the kernel's ticks; None if it is gone, or without /proc."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name in brackets may hold spaces; the state (3rd field) follows the last bracket.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])
