"""The long-lived program of a site in a deployed federation: it asks the server for questions and answers them."""

from __future__ import annotations

import secrets
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from time import monotonic
from typing import Protocol

from flwr.app import ConfigRecord, Error, Message

from engine.errors import UserError
from engine.federation.backends.fleet import FORGOTTEN, FleetConnection
from engine.federation.client_app import SiteError
from engine.federation.exchange import failure_told
from engine.federation.payload import PROGRAM_RECORD, RUN_RECORD, TOLD_RECORD, read_request, records, reply_content
from engine.federation.tasks import APPROVAL, AT_WORK, HOW_FAR, ROUND, STEP, TOTAL, Listener, SiteReply, SiteRequest
from engine.site.disclosure import for_server
from engine.types import RunCancelled

POLL_S = 0.5
"""How often a site asks that was asked something lately (ours)."""
QUIET_POLL_S = 3.0
"""How often it asks later, as Flower's own nodes do: four that ask twice a second take 0.4 of a core of the server."""
LATELY_S = 60.0
"""A run that goes on asks its sites more often than that, but for long work elsewhere (ours)."""
RETRY_S = 10.0
"""How long a site waits before it tries an unreachable server again (ours)."""
MOST_ATTEMPTS = 3
"""A message with which the program was killed so often is not begun again (ours)."""
WANTED_S = 10.0
"""How often a working site asks whether anybody still waits for its answer (ours)."""
TELL_EVERY_S = 5.0
"""How often a working site looks for somebody who asks how far it is, and tells it (ours)."""
PROGRAM_ID = secrets.token_hex(8)
"""Of this process: two programs in one site's name, with copies of one folder, are told apart by it."""
RAISED = 2
"""Flower's error code for an exception at a site (ErrorCode.CLIENT_APP_RAISED_EXCEPTION)."""
PASSING = (
    "federation.server_unreachable", "federation.server_name", "federation.not_a_server", "federation.certificate_time",
    "federation.clock",
)  # fmt: skip
"""What ends by itself: a server that restarts, a proxy whose server is away, a certificate that is renewed there."""

Say = Callable[[str], None]


class Program(Protocol):
    """What answers at a site."""

    def answer(self, request: SiteRequest, *, run: Mapping[str, str], listener: Listener) -> SiteReply:
        """Answer a request of the run that ``run`` describes; what it raises is told to the server."""

    def told_progress(self, task: str, round_number: int, steps: Sequence[tuple[int, int]], *, run_id: str) -> None:
        """Hear that the server was told, while a request was answered, that it was at each (step, number of steps)."""

    def idle(self) -> None:
        """Hear that nothing is asked just now; called every ``QUIET_POLL_S`` seconds at least."""


def serve(
    connect: Callable[[], FleetConnection], program: Program, *, site: str, stop: threading.Event, say: Say = print
) -> None:
    """Answer the server's messages until ``stop`` is set, through outages of the server.

    ``say`` gets one sentence for each thing that happens. Raises ``UserError`` ``federation.*`` for what somebody has
    to mend first, such as a refused key.
    """
    was, heard_at = "", monotonic()
    while not stop.is_set():
        try:
            with connect() as connection:
                say(f"Connected to the server at {connection.address} as {site}.")
                was = ""
                while not stop.is_set():
                    message = connection.receive()
                    if message is None:
                        program.idle()
                        stop.wait(POLL_S if monotonic() - heard_at < LATELY_S else QUIET_POLL_S)
                    else:
                        _handle(message, connection, program, site=site, stop=stop, say=say)
                        heard_at = monotonic()
        except UserError as error:
            if error.code not in PASSING:
                raise
            if error.what != was:  # once, not every 10 s
                say(f"{error.what} Trying again every {RETRY_S:.0f} s.")
                was = error.what
            stop.wait(RETRY_S)


def _handle(
    message: Message, connection: FleetConnection, program: Program, *, site: str, stop: threading.Event, say: Say
) -> None:
    if message.metadata.message_type == HOW_FAR:  # what it was asked beside has been answered
        with suppress(UserError, *FORGOTTEN):
            connection.send(_how_far(message, task="", round_number=0, step=0, total=0))
        connection.drop()
        return
    about = f"{message.metadata.message_type} (round {message.metadata.group_id or 0})"
    is_poll = message.metadata.message_type == APPROVAL  # comes every few seconds, for as long as nobody decides
    if not is_poll:
        say(f"Asked for {about}.")
    listener = _Listener(connection, message=message, stop=stop, say=say)
    if connection.attempt > 1:
        say(f"The program was ended while it was at work on this; attempt {connection.attempt}.")
    reply = _answer(message, program, listener, site=site, attempt=connection.attempt, say=say)
    if listener.told:
        run = records(message.content, ConfigRecord).get(RUN_RECORD, {})
        task, number = message.metadata.message_type, int(message.metadata.group_id or 0)
        program.told_progress(task, number, listener.told, run_id=str(run.get("id", "")))
    if reply is None:
        if not stop.is_set():  # else it is gone on with when the program is started again
            say(f"Stopped {about}: nobody waits for it any more.")
            connection.drop()
        return
    try:
        connection.send(reply)
    except UserError as error:
        if error.code != "federation.run_over":
            raise
        say(f"Nobody waits for the answer to {about} any more: its run has ended.")
        connection.drop()
        return
    if reply.has_error() or not is_poll:
        failed = reply.has_error()
        say(f"The server was told: {_sentence(reply.error, site=site)}" if failed else f"Answered {about}.")


def _sentence(told: Error, *, site: str) -> str:
    """Return what the server hears of a fault, as it will say it: the reason itself is written for programs."""
    return failure_told(told.reason or "", site=site).what


def _answer(
    message: Message, program: Program, listener: _Listener, *, site: str, attempt: int, say: Say
) -> Message | None:
    run = {key: str(value) for key, value in records(message.content, ConfigRecord).get(RUN_RECORD, {}).items()}
    try:
        if attempt > MOST_ATTEMPTS:
            raise UserError(
                "federation.site_killed",
                what=f"The program of site {site} was killed {attempt - 1} times at {message.metadata.message_type}.",
                why="It is not begun once more: it would end the same way.",
                fix=f"Look at the end of logs/site.log at {site} (short of memory: lower batch sizes), then resume.",
            )
        answer = program.answer(read_request(message, site=site), run=run, listener=listener)
        content = reply_content(answer)
    except RunCancelled:
        return None
    except Exception as error:  # told to the server by site and reason, as Flower's own nodes tell it
        say(error.what if isinstance(error, UserError) else "".join(traceback.format_exception(error)).rstrip())
        failure = SiteError(site=site, error=for_server(error, site=site, task=message.metadata.message_type))
        return Message(Error(RAISED, f"{type(failure)}:<'{failure}'>"), reply_to=message)
    content[PROGRAM_RECORD] = ConfigRecord({"id": PROGRAM_ID})
    if listener.names:
        content[TOLD_RECORD] = ConfigRecord(
            {"names": listener.names, "values": listener.values, "steps": listener.steps}
        )
    return Message(content, reply_to=message)


def _how_far(asked: Message, *, task: str, round_number: int, step: int, total: int) -> Message:
    reply = SiteReply({}, {STEP: step, TOTAL: total, ROUND: round_number}, 1, {AT_WORK: task})
    return Message(reply_content(reply), reply_to=asked)


class _Listener:
    """Keeps the points of curves for the reply, tells the server how far this is, and notices that nobody waits."""

    def __init__(self, connection: FleetConnection, *, message: Message, stop: threading.Event, say: Say) -> None:
        self._connection, self._about, self._stop, self._say = connection, message.metadata, stop, say
        self._asked_at = self._said_at = self._told_at = monotonic()
        self._at = (0, 0)
        self.told: list[tuple[int, int]] = []
        """Each (step, number of steps) that the server was told."""
        self.names: list[str] = []
        self.values: list[float] = []
        self.steps: list[int] = []

    def check_cancelled(self) -> None:
        if self._stop.is_set():
            raise RunCancelled("this program is being stopped")
        if monotonic() - self._asked_at > WANTED_S:
            self._asked_at = monotonic()
            if not self._connection.wanted(self._about.run_id):
                raise RunCancelled("the run has ended")
        if monotonic() - self._told_at > TELL_EVERY_S:
            self._tell()
            self._told_at = monotonic()

    def _tell(self) -> None:
        """Say how far this is, where somebody asks. Nothing depends on it: a run that ends meanwhile, or a server that
        is away, is met by the work itself."""
        with suppress(UserError, *FORGOTTEN):
            asked = self._connection.receive_meanwhile(HOW_FAR)
            if asked is None:
                return
            ours = asked.metadata.run_id == self._about.run_id
            step, total = self._at if ours else (0, 0)
            task, number = (self._about.message_type, int(self._about.group_id or 0)) if ours else ("", 0)
            reply = _how_far(asked, task=task, round_number=number, step=step, total=total)
            self._connection.send_meanwhile(reply)
            if ours:
                self.told.append((step, total))

    def progress(self, step: int, total: int, *, message: str = "") -> None:
        self._at = (step, total)
        self.check_cancelled()
        if monotonic() - self._said_at > WANTED_S:
            self._said_at = monotonic()
            self._say(f"Step {step} of {total}.")

    def metric(self, name: str, value: float, *, step: int) -> None:
        self.names.append(name)
        self.values.append(float(value))
        self.steps.append(step)
