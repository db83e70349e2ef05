"""A Flower Grid whose messages are answered side by side, by processes that Ray keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

from flwr.app import Error, Message

from engine.errors import UserError
from engine.federation.backends.inprocess import InProcessGrid
from engine.federation.backends.ray_cluster import RayCluster, reason_of, wait_ready
from engine.federation.backends.ray_worker import Answer, Told
from engine.federation.client_app import SiteError, build_client_app
from engine.federation.exchange import no_check

PULL_S = 0.2
"""How long a pull waits for a reply; then whoever pulls looks whether a stop was asked for (ours)."""
LET_GO_S = 30.0
"""A question that nobody waits for ends at its next step; a process without one by then is ended (ours)."""
CLOSE_S = 1.5
"""How long a stopped run waits for sites to keep what they have begun (ours)."""
RAISED = 2
"""Flower's error code for an exception at a site (ErrorCode.CLIENT_APP_RAISED_EXCEPTION)."""

Hear = Callable[[str, int, Told], None]
"""Called with site, round and what was told."""


@dataclass
class _Job:
    ticket: int
    message: Message
    site: str
    answer: Any
    """Ray's reference to the answer that is to come."""
    dropped_at: float | None = None
    """Since when nobody waits for it."""

    @property
    def round(self) -> int:
        return int(self.message.metadata.group_id or 0)


@dataclass
class _Worker:
    handle: Any
    job: _Job | None = None
    heard: Any = None
    """Ray's reference to what it tells, while that is on its way."""


class RayGrid(InProcessGrid):
    """One node a site, as in-process; as many sites work at a time as there are workers.

    A worker takes the first waiting site that it has had before, so that images stay in its memory, else any: what a
    site keeps lies on the disk, and which process works for it changes no number. A worker that ends makes its site's
    reply an error, ``federation.worker_died``, and another one takes its place.

    Parameters
    ----------
    sites : sequence of str
        The sites' names.
    open_cluster : callable
        Starts the workers' cluster; called when the first message is pulled.
    entry, arguments
        What answers in each worker, see :class:`SiteWorker`.
    stage : callable
        Gives the run's stage that asks.
    hear : callable
        Told what sites tell while they work.
    check_cancelled : callable
        Called while workers begin.
    """

    def __init__(
        self,
        *,
        sites: Sequence[str],
        open_cluster: Callable[[], RayCluster],
        entry: str,
        arguments: Mapping[str, Any],
        stage: Callable[[], str] = lambda: "",
        hear: Hear = lambda _site, _round, _told: None,
        check_cancelled: Callable[[], None] = no_check,
    ) -> None:
        super().__init__(build_client_app({}), sites=sites)
        self._sites = dict(zip(self.get_node_ids(), sites, strict=True))
        self._open_cluster, self._entry, self._arguments = open_cluster, entry, arguments
        self._stage, self._hear, self._check_cancelled = stage, hear, check_cancelled
        self._cluster: RayCluster | None = None
        self._workers: list[_Worker] = []
        self._homes: dict[str, _Worker] = {}
        self._num_asked = 0

    def site_nodes(self, sites: Sequence[str], *, wait_s: float) -> dict[str, int]:
        """Return the node id of each of ``sites``: nobody has to be asked."""
        nodes = {name: node_id for node_id, name in self._sites.items()}
        return {site: nodes[site] for site in sites}

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Queue messages; whatever their sites still work on is stopped. Returns their ids."""
        given = list(messages)
        asked = {self._sites.get(message.metadata.dst_node_id) for message in given}
        for worker in self._workers:
            if worker.job is not None and worker.job.site in asked:
                self._drop(worker)
        return super().push_messages(given)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Let free workers begin on ``message_ids``; return the replies that come within a moment."""
        wanted = list(message_ids)
        self._hand_out(wanted)
        busy = [worker for worker in self._workers if worker.job is not None]
        if not busy:
            return []
        import ray

        done, _ = ray.wait([worker.job.answer for worker in busy if worker.job], timeout=PULL_S)
        self._listen(busy)
        replies = []
        for worker in busy:
            job = worker.job
            if job is not None and job.answer in done:
                reply = self._finish(worker, job)
                replies += [] if reply is None or job.dropped_at is not None else [reply]
            elif job is not None and job.dropped_at is not None and monotonic() - job.dropped_at > LET_GO_S:
                self._replace(worker)
        self._hand_out(wanted)
        return replies

    def close(self) -> None:
        """Stop what is under way, and end the workers."""
        if self._cluster is None:
            return
        import ray

        busy = [worker for worker in self._workers if worker.job is not None]
        for worker in busy:
            self._drop(worker)
        ray.wait([w.job.answer for w in busy if w.job], num_returns=max(1, len(busy)), timeout=CLOSE_S) if busy else ()
        self._cluster.close()
        self._cluster, self._workers, self._homes = None, [], {}

    def _hand_out(self, wanted: Sequence[str]) -> None:
        # A site's files are for one process at a time: one that is still being stopped is not begun elsewhere.
        busy = {worker.job.site for worker in self._workers if worker.job is not None}
        waiting = [key for key in wanted if key in self._pending and self._site(key) not in busy]
        if waiting and self._cluster is None:
            self._begin()
        for worker in self._workers:
            if worker.job is not None or not waiting:
                continue
            key = next((key for key in waiting if self._homes.get(self._site(key), worker) is worker), waiting[0])
            waiting.remove(key)
            self._ask(worker, self._pending.pop(key))

    def _begin(self) -> None:
        self._cluster = self._open_cluster()
        self._workers = [_Worker(self._hire()) for _ in range(self._cluster.workers)]
        wait_ready([worker.handle for worker in self._workers], check_cancelled=self._check_cancelled)

    def _hire(self) -> Any:
        assert self._cluster is not None
        return self._cluster.hire(self._entry, self._arguments)

    def _site(self, key: str) -> str:
        return self._sites[self._pending[key].metadata.dst_node_id]

    def _ask(self, worker: _Worker, message: Message) -> None:
        site = self._sites[message.metadata.dst_node_id]
        self._num_asked += 1
        question = (self._num_asked, site, message.metadata.message_type, self._stage(), message.content)
        worker.job = _Job(self._num_asked, message, site, worker.handle.answer.remote(*question))
        self._homes[site] = worker

    def _finish(self, worker: _Worker, job: _Job) -> Message | None:
        """Return the reply; None where the question was stopped."""
        import ray

        worker.job = worker.heard = None
        try:
            answer: Answer = ray.get(job.answer)
        except ray.exceptions.RayError as error:
            if not isinstance(error, ray.exceptions.RayTaskError):
                self._replace(worker)
            return _failed(job.message, str(SiteError(site=job.site, error=_died(job.site, error))))
        if job.dropped_at is None:
            for told in answer.told:
                self._hear(job.site, job.round, told)
        if answer.failure:
            return _failed(job.message, answer.failure)
        if answer.content is None:
            return None
        reply = Message(answer.content, reply_to=job.message)
        reply.metadata.__dict__["_message_id"] = f"reply-to-{job.message.metadata.message_id}"
        return reply

    def _listen(self, busy: Sequence[_Worker]) -> None:
        import ray

        for worker in busy:
            job = worker.job
            if job is None or job.dropped_at is not None:
                continue
            if worker.heard is None:
                worker.heard = worker.handle.heard.remote()
            elif ray.wait([worker.heard], timeout=0)[0]:
                heard, worker.heard = worker.heard, None
                try:
                    for told in ray.get(heard):
                        self._hear(job.site, job.round, told)
                except ray.exceptions.RayError:
                    continue  # it has died: its answer says so

    def _drop(self, worker: _Worker) -> None:
        if worker.job is not None and worker.job.dropped_at is None:
            worker.job.dropped_at = monotonic()
            worker.handle.stop.remote(worker.job.ticket)

    def _replace(self, worker: _Worker) -> None:
        import ray

        ray.kill(worker.handle)
        worker.handle, worker.job, worker.heard = self._hire(), None, None


def _failed(message: Message, reason: str) -> Message:
    return Message(Error(RAISED, reason), reply_to=message)


def _died(site: str, error: Exception) -> UserError:
    return UserError(
        "federation.worker_died",
        what=f"The process that worked for site {site} ended: {reason_of(error)}",
        why="Its part of the round is missing; what the site had kept is on its disk.",
        fix="Look whether memory is short (fewer workers need less) and resume the run, or let federation.on_failure "
        "ask again.",
    )
