"""A party's process: the party, in a SuperNode of Flower's.

``python -m graphsec.federated.flower.child FOLDER PID --superlink 127.0.0.1:8000 …`` runs the party
of a folder (``parts.pack``) as long as process PID lives; the rest are arguments of
``flower-supernode``.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from graphsec.federated.flower.link import end_with, free_port

log = logging.getLogger(__name__)


class Host:
    """Answers for a party, one message at a time.

    Args:
        folder: The party's folder (``parts.pack``).
    """

    def __init__(self, folder: Path) -> None:
        import torch

        from graphsec.federated.flower import parts

        torch.set_num_threads(1)
        self.folder = folder
        self.party, self.settings = parts.unpack(folder)

    def handle(self, content: bytes) -> bytes:
        """The party's answer. Its state is written down before an epoch's last one leaves."""
        from graphsec.federated.flower import parts
        from graphsec.federated.messages import Message

        asked = Message.decode(content, "server")
        said = self.party.answer(asked)
        last = (self.party.round + 1) % self.party.protocol.steps == 0
        if (said.kind == "gradient" and last) or asked.kind == "finish":
            parts.keep(self.folder, self.party)
        return said.encode()

    def answer(self, message: object) -> object:
        """The answer to a message of Flower's."""
        from graphsec.federated.flower import inner
        from graphsec.federated.messages import Refused

        assert isinstance(message, inner.Message)
        if message.metadata.message_type == "query.hello":
            who = {"party": self.settings.index, "ticket": self.settings.ticket}
            return inner.reply(who, message)
        try:
            content = inner.content_of(message).get("content", b"")
            return inner.reply({"content": self.handle(content)}, message)
        except Refused as error:
            log.warning("refused: %s", error)
            return inner.Message(inner.Error(code=0, reason=str(error)), reply_to=message)


def party(folder: Path, port: int, host: type[Host] = Host) -> None:
    """Run a party in its SuperNode, until it is ended."""
    from graphsec.federated.flower import inner

    made = host(folder)
    secret = (folder / "secret").read_bytes()
    executor = inner.Executor(f"127.0.0.1:{port}", secret, made.answer)
    sys.argv += ["--isolation", "process", "--host", "127.0.0.1", "--port", str(port)]
    sys.argv += ["--superexec-auth-secret-file", str(folder / "secret")]
    inner.supernode(executor)


def main(host: type[Host] = Host) -> None:
    """The command: FOLDER PID, and what ``flower-supernode`` takes."""
    folder, pid = Path(sys.argv[1]), int(sys.argv[2])
    end_with(pid)
    logging.getLogger("graphsec").addHandler(logging.StreamHandler())
    sys.argv = ["flower-supernode", *sys.argv[3:]]
    party(folder, free_port(), host)


if __name__ == "__main__":
    main()
