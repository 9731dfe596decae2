"""``flower-superlink`` that ends with the process that started it.

Run by its path, so that nothing of graphsec is loaded: ``python -P link.py PID ARGUMENTS``.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time


def end_with(pid: int) -> None:
    """End this process when its parent, process ``pid``, has ended, whatever ended it."""

    def watch() -> None:
        while os.getppid() == pid:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    from flwr.superlink.cli import flower_superlink

    end_with(int(sys.argv[1]))
    sys.argv = ["flower-superlink", *sys.argv[2:]]
    flower_superlink()
