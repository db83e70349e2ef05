"""Work that goes on in a process of its own beside the sites of this machine, as a Flower Grid."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from flwr.app import Error, Message

from engine.federation.backends.inprocess import InProcessGrid
from engine.federation.backends.side_process import SideProcess, Told, clear_replies
from engine.federation.client_app import build_client_app
from engine.federation.payload import read_content, reply_content
from engine.federation.sites import Desk

ENTRY = "engine.federation.backends.site_programs:open_sites"
RAISED = 2
"""Flower's error code for an exception at a site (ErrorCode.CLIENT_APP_RAISED_EXCEPTION)."""


class BesideGrid(InProcessGrid):
    """One node a site; each process answers for one after the other, and nobody who pulls waits for it.

    Parameters
    ----------
    sites : sequence of str
        The sites' names.
    arguments, threads
        What opens the sites' programs there, and with how many CPU threads.
    folder : Path
        Of the run's checkpoints.
    desk : Desk
        Of the stage whose work this is.
    processes : int
        How many sites work at a time.
    """

    def __init__(
        self,
        *,
        sites: Sequence[str],
        arguments: Mapping[str, Any],
        threads: int | None,
        folder: Path,
        desk: Desk,
        processes: int = 1,
    ) -> None:
        super().__init__(build_client_app({}), sites=sites)
        self._sites, self._desk = dict(zip(self.get_node_ids(), sites, strict=True)), desk
        what: dict[str, Any] = {"entry": ENTRY, "arguments": arguments, "threads": threads, "folder": folder}
        self._processes = [SideProcess(**what, hear=self._hear, flush=desk.flush) for _ in range(processes)]
        clear_replies(folder)

    def site_nodes(self, sites: Sequence[str], *, wait_s: float) -> dict[str, int]:
        """Return the node id of each of ``sites``: nobody has to be asked."""
        nodes = {name: node_id for node_id, name in self._sites.items()}
        return {site: nodes[site] for site in sites}

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Queue messages, shared out over the processes, which begin at once. Returns their ids."""
        given = list(messages)
        ids = super().push_messages(given)
        for key, message, process in zip(ids, given, cycle(self._processes), strict=False):
            site = self._sites[message.metadata.dst_node_id]
            request = read_content(message.content, task=message.metadata.message_type, site=site)
            process.ask(key, request, stage=self._desk.stage)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the reply that came first of those that are there, or nothing."""
        outcome = next((found for process in self._processes if (found := process.outcome()) is not None), None)
        if outcome is None or outcome.key not in self._pending:
            return []
        message = self._pending.pop(outcome.key)
        if outcome.failure:
            return [Message(Error(RAISED, outcome.failure), reply_to=message)]
        reply = Message(reply_content(outcome.reply()), reply_to=message)
        reply.metadata.__dict__["_message_id"] = f"reply-to-{outcome.key}"
        return [reply]

    def close(self) -> None:
        """End the processes; what a site has begun is kept on its disk."""
        for process in self._processes:
            process.ask_to_stop()
        for process in self._processes:
            process.stop()

    def _hear(self, told: Told) -> None:
        if told.name:
            self._desk.listener.metric(told.site, told.name, told.value, told.step)
        else:
            self._desk.listener.progress(told.site, 0, told.step, told.total)
