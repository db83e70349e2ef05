"""A Flower Grid inside one process: the server's messages are answered by a ClientApp, site after site.

This is the only file that touches Flower's private paths (``flwr.supercore``); tests/contract pins them to flwr 1.41.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Sequence
from time import monotonic

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from engine.types import RunCancelled

_RUN_ID = 1
_SERVER_NODE_ID = 1
_FIRST_SITE_NODE_ID = 1001


class LocalError(Error):
    """An error reply that still knows the exception behind it; only an in-process site can give one."""

    def __init__(self, cause: Exception) -> None:
        reason = "".join(traceback.format_exception_only(cause)).strip()
        super().__init__(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason)
        self.cause = cause


class InProcessGrid(Grid):
    """Answer messages in this process with ``client_app``; one node a site, in the given order.

    A pushed message is answered when it is pulled, one a pull, so that replies arrive singly as they do over a
    network and whoever pulls can save each before the next site starts. A site has one message at a time: pushing
    another drops the one that nobody pulled. ``RunCancelled`` goes through to whoever pulls; any other exception
    becomes an error reply. Where it is not ``alone``, another grid of this process has said which task is running.
    """

    def __init__(self, client_app: ClientApp, *, sites: Sequence[str], alone: bool = True) -> None:
        # Flower reads the identity of the running task from the process when a Message is built.
        if alone:
            TaskIdentity.run_id = _RUN_ID
            TaskIdentity.node_id = _SERVER_NODE_ID
            TaskIdentity.task_id = _RUN_ID
        self._client_app = client_app
        self._run = Run.create_empty(_RUN_ID)
        self._contexts = {
            node_id: Context(
                run_id=_RUN_ID,
                node_id=node_id,
                node_config={"site": site, "partition-id": index, "num-partitions": len(sites)},
                state=RecordDict(),
                run_config={},
            )
            for index, (site, node_id) in enumerate(
                zip(sites, range(_FIRST_SITE_NODE_ID, _FIRST_SITE_NODE_ID + len(sites)), strict=True)
            )
        }
        self._pending: dict[str, Message] = {}
        self._num_pushed = 0

    @property
    def run(self) -> Run:
        """The empty Run that messages of this process belong to."""
        return self._run

    def set_run(self, run: Run) -> None:
        """Replace the Run (part of Flower's interface)."""
        self._run = run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Return a message from the server to a node (part of Flower's interface)."""
        return Message(content, dst_node_id=dst_node_id, message_type=message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> list[int]:
        """Return the node ids, in the order of the sites."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Queue messages; returns their ids."""
        message_ids = []
        waiting = {old.metadata.dst_node_id: key for key, old in self._pending.items()}
        for message in messages:
            node_id = message.metadata.dst_node_id
            if node_id not in self._contexts:
                raise ValueError(f"There is no node {node_id}; nodes are {list(self._contexts)}.")
            if node_id in waiting:
                del self._pending[waiting[node_id]]
            self._num_pushed += 1
            message_id = f"message-{self._num_pushed}"
            message.metadata.__dict__["_message_id"] = message_id
            self._pending[message_id] = message
            waiting[node_id] = message_id
            message_ids.append(message_id)
        return message_ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Answer the first of ``message_ids`` that is still queued; returns its reply alone, or nothing."""
        for message_id in message_ids:
            if message_id in self._pending:
                return [self._answer(self._pending.pop(message_id))]
        return []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Push messages and return their replies; after ``timeout`` seconds no further site is started."""
        started = monotonic()
        message_ids = self.push_messages(messages)
        replies: list[Message] = []
        while len(replies) < len(message_ids) and (timeout is None or monotonic() - started < timeout):
            replies += self.pull_messages(message_ids)
        return replies

    def _answer(self, message: Message) -> Message:
        # Strategies put one RecordDict into all messages and mods pop from it: every site gets its own copy.
        content = RecordDict({k: type(v)(dict(v)) for k, v in message.content.items()})  # type: ignore[arg-type]
        own = Message(content, metadata=message.metadata)  # type: ignore[call-overload]
        try:
            reply = self._client_app(own, self._contexts[message.metadata.dst_node_id])
        except RunCancelled:
            raise
        except Exception as error:
            return Message(LocalError(error), reply_to=message)
        reply.metadata.__dict__["_message_id"] = f"reply-to-{message.metadata.message_id}"
        return reply
