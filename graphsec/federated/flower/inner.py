"""The names inside Flower that graphsec uses, all in this file: a new Flower breaks it here only.

Flower starts a process for each message, and its SuperNodes look for one every three seconds: a
training of some hundred rounds would take hours. In Flower's own ``--isolation process``, what
executes is a process of ours that stays: a party in its SuperNode's, the server in the caller's.
Messages, SuperLink, SuperNodes, keys and certificates are Flower's.

Written for flwr 1.41 and 1.42. Import it only where flwr is.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import httpx
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.cli.build import build_fab_from_disk
from flwr.common.constant import SubStatus
from flwr.common.serde import fab_to_proto, run_from_proto
from flwr.proto.control_pb2 import RegisterNodeRequest, StartRunRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullAppMessagesRequest,
    PullTaskInputRequest,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.constant import TaskType
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

__all__ = ["Error", "HttpGrid", "Message", "RecordDict"]

log = logging.getLogger(__name__)

SOON, LATE = 0.01, 0.25  # seconds between two looks for a message
HEARTBEAT = 10.0
RECORD = "graphsec"
ACQUIRE = frozenset({"/flwr.proto.Runtime/AcquireTask"})
APP = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "federation"
version = "1.0.0"
dependencies = []
[tool.flwr.app]
publisher = "graphsec"
[tool.flwr.app.components]
serverapp = "app:none"
clientapp = "app:none"
"""

public_bytes: Callable[[Any], bytes] = public_key_to_bytes


# -- messages ---------------------------------------------------------------------------------


def message(content: dict[str, Any], topic: str, node: int, ttl: float) -> Message:
    """A message of plain values to a node."""
    record = RecordDict({RECORD: ConfigRecord(content)})
    return Message(record, dst_node_id=node, message_type=f"query.{topic}", ttl=ttl)


def reply(content: dict[str, Any], to: Message) -> Message:
    """The answer to a message."""
    return Message(RecordDict({RECORD: ConfigRecord(content)}), reply_to=to)


def content_of(message: Message) -> dict[str, Any]:
    """The plain values of a message; empty where it is none of ours."""
    if not message.has_content() or RECORD not in message.content.config_records:
        return {}
    return dict(message.content.config_records[RECORD])


class Reply(NamedTuple):
    """What came back.

    Attributes:
        request: Id of the message that it answers.
        node: Who sent it.
        content: Plain values; empty where it says nothing.
        reason: Why it says nothing.
    """

    request: str
    node: int
    content: dict[str, Any]
    reason: str = ""


class Mailbox:
    """Takes replies from a grid, as far as they have come.

    Flower's own ``pull_messages`` waits up to minutes for the rest of a reply that its sender has
    begun to upload, which one that is killed, or a liar, never finishes. Here nobody waits for it.
    """

    def __init__(self, grid: HttpGrid) -> None:
        self.grid = grid
        self._begun: dict[str, tuple[Any, list[str], dict[str, bytes]]] = {}

    def take(self, requests: Iterable[str]) -> list[Reply]:
        """The replies to messages of these ids that are there as a whole."""
        client, run = self.grid._runtime_client, self.grid.run.run_id
        asked = [request for request in requests if request not in self._begun]
        if asked:
            found = client.PullMessages(PullAppMessagesRequest(message_ids=asked))
            for header, tree in zip(found.messages_list, found.message_object_trees, strict=True):
                needed = [each.object_id for each in iterate_object_tree(tree)]
                self._begun[header.metadata.reply_to_message_id] = header, needed, {}
        return [reply for request in list(self._begun) if (reply := self._whole(request, run))]

    def _whole(self, request: str, run: int) -> Reply | None:
        header, needed, there = self._begun[request]
        client, node, sender = (
            self.grid._runtime_client,
            self.grid.node,
            header.metadata.src_node_id,
        )
        for each in needed:
            if each in there:
                continue
            part = client.PullObject(PullObjectRequest(node=node, run_id=run, object_id=each))
            if not part.object_found:
                del self._begun[request]
                return Reply(request, sender, {}, "its reply was never finished")
            if not part.object_available:
                return None
            there[each] = part.object_content
        del self._begun[request]
        name = header.metadata.message_id
        client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(node=node, run_id=run, message_object_id=name)
        )
        try:
            whole = inflate_object_from_contents(name, there)
            if whole.has_error():
                return Reply(request, sender, {}, whole.error.reason)
            return Reply(request, sender, content_of(whole))
        except Exception as error:  # whatever a liar has uploaded
            return Reply(request, sender, {}, f"its reply is none of Flower's: {error}")


# -- a SuperLink and a server -----------------------------------------------------------------


class Control:
    """What the operator of a SuperLink does: let nodes in, begin a run."""

    def __init__(self, address: str, ca: bytes | None) -> None:
        self.client = ControlHttpClient.from_server_address(
            address, ca is None, ca, [RuntimeVersionHttpInterceptor(component_name="flwr-cli")]
        )

    def register(self, public_key: bytes, name: str) -> int:
        """Let the owner of a key in; the number of its node."""
        request = RegisterNodeRequest(public_key=public_key, name=name)
        return int(self.client.RegisterNode(request).node_id)

    def start(self, folder: Path) -> int:
        """Begin a run; the app it needs does nothing, as everybody runs code of their own."""
        app = folder / "app"
        (app / "app").mkdir(parents=True, exist_ok=True)
        (app / "pyproject.toml").write_text(APP)
        (app / "app" / "__init__.py").write_text("none = None\n")
        content = build_fab_from_disk(app)
        fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
        return int(self.client.StartRun(StartRunRequest(fab=fab_to_proto(fab))).run_id)

    def close(self) -> None:
        """Close the connection."""
        self.client.close()


def acquire(client: RuntimeHttpClient, kind: TaskType) -> str | None:
    """The token of a task that waits for somebody; None if there is none."""
    found = client.AcquireTask(AcquireTaskRequest(supported_task_types=[kind]))
    return str(found.token) if found.HasField("task") and found.token else None


def runtime(address: str, ca: bytes | None, *more: Any) -> RuntimeHttpClient:
    """A client of the part of SuperLink or SuperNode that hands out tasks."""
    version = RuntimeVersionHttpInterceptor(component_name="SuperExec")
    return RuntimeHttpClient.from_server_address(address, ca is None, ca, [version, *more])


def signed(secret: bytes) -> Any:
    """Signs the requests for tasks: who doesn't know the secret gets none."""
    return SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=ACQUIRE)


class ServerTask:
    """The server's side of a run: a grid, kept alive until it is closed."""

    def __init__(self, address: str, ca: bytes | None, secret: bytes, timeout: float) -> None:
        client, end = runtime(address, ca, signed(secret)), time.monotonic() + timeout
        while (token := acquire(client, TaskType.SERVER_APP)) is None:
            if time.monotonic() > end:
                raise TimeoutError(f"SuperLink has given no task in {timeout:g} s")
            time.sleep(LATE)
        client.close()
        self.grid = HttpGrid(address, ca is None, ca, token=token)
        self.grid._retry_invoker.max_time = timeout
        given = self.grid._runtime_client.PullTaskInput(PullTaskInputRequest())
        self.grid.set_run(run_from_proto(given.run))
        TaskIdentity.task_id = given.task_id  # messages made in this process are of this run
        TaskIdentity.run_id = given.run.run_id
        TaskIdentity.node_id = given.context.node_id
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        while not self._stop.is_set():
            with suppress(httpx.HTTPError):
                self.grid._runtime_client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
            self._stop.wait(HEARTBEAT)

    def close(self) -> None:
        """End the run."""
        self._stop.set()
        self._thread.join(1)
        self.grid._retry_invoker.max_tries = 1
        with suppress(httpx.HTTPError):
            self.grid._runtime_client.PushTaskOutput(
                PushTaskOutputRequest(sub_status=SubStatus.COMPLETED)
            )
        self.grid.close()


# -- a SuperNode and a party ------------------------------------------------------------------


class Executor:
    """Answers what comes to the SuperNode at ``address``, one message after the other."""

    def __init__(self, address: str, secret: bytes, answer: Callable[[Message], Message]) -> None:
        self.address, self.answer = address, answer
        self.client = runtime(address, None, signed(secret))

    def step(self) -> bool:
        """Answer one message; whether there was one."""
        token = acquire(self.client, TaskType.CLIENT_APP)
        if token is None:
            return False
        task = runtime(self.address, None, RuntimeTokenHttpInterceptor(token))
        message, context, _, _ = pull_task_input(task)
        push_message(task, self.answer(message), context)
        push_task_output(task, context, SubStatus.COMPLETED, "")
        task.close()
        return True


def supernode(executor: Executor) -> None:
    """Flower's command ``flower-supernode``, with the arguments in ``sys.argv``.

    Its loop sleeps for three seconds where there is no message, and for half a second again and
    again where one waits to be answered: instead, it looks sooner, and answers it.
    """
    from flwr.supernode.cli import flower_supernode

    waits = Waits()

    def sleep(seconds: float) -> None:
        if seconds >= 1:
            waits.sleep()
            return
        waits.reset()
        if not executor.step():
            time.sleep(SOON)

    loop: Any = importlib.import_module("flwr.supernode.start_client_internal")
    loop.time = SimpleNamespace(sleep=sleep)
    flower_supernode()


class Waits:
    """Longer and longer waits between two looks, until there was something."""

    def __init__(self) -> None:
        self.next = SOON

    def reset(self) -> None:
        """There was something."""
        self.next = SOON

    def sleep(self) -> None:
        """There was nothing."""
        time.sleep(self.next)
        self.next = min(LATE, 1.5 * self.next)
