"""The long-lived program of a site in a deployed federation: it asks the server for questions and answers them."""

from __future__ import annotations

import threading
from collections.abc import Callable

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from engine.errors import UserError
from engine.federation.backends.fleet import FleetConnection
from engine.types import RunCancelled

POLL_S = 1.0
"""How often an idle site asks (ours); Flower's own nodes ask every 3 s."""
RETRY_S = 10.0
"""How long a site waits before it tries an unreachable server again (ours)."""
RAISED = 2
"""Flower's error code for an exception at a site (ErrorCode.CLIENT_APP_RAISED_EXCEPTION)."""
PASSING = ("federation.server_unreachable", "federation.server_name", "federation.not_a_server")
"""What ends by itself: a server that restarts, a proxy whose server is away."""

Say = Callable[[str], None]


def serve(
    connect: Callable[[], FleetConnection],
    client_app: ClientApp,
    *,
    site: str,
    stop: threading.Event,
    say: Say = print,
) -> None:
    """Answer the server's messages with ``client_app`` until ``stop`` is set, through outages of the server.

    ``say`` gets one sentence for each thing that happens. Raises ``UserError`` ``federation.*`` for what somebody has
    to mend first, such as a refused key.
    """
    was = ""
    while not stop.is_set():
        try:
            with connect() as connection:
                say(f"Connected to the server at {connection.address} as {site}.")
                was = ""
                _answer_all(connection, client_app, site=site, stop=stop, say=say)
        except UserError as error:
            if error.code not in PASSING:
                raise
            if error.what != was:  # once, not every 10 s
                say(f"{error.what} Trying again every {RETRY_S:.0f} s.")
                was = error.what
            stop.wait(RETRY_S)


def _answer_all(
    connection: FleetConnection, client_app: ClientApp, *, site: str, stop: threading.Event, say: Say
) -> None:
    contexts: dict[int, Context] = {}
    while not stop.is_set():
        message = connection.receive()
        if message is None:
            stop.wait(POLL_S)
            continue
        metadata = message.metadata
        context = contexts.setdefault(
            metadata.run_id,
            Context(
                run_id=metadata.run_id,
                node_id=connection.node.node_id,
                node_config={"site": site},
                state=RecordDict(),
                run_config={},
            ),
        )
        say(f"Asked for {metadata.message_type} (round {metadata.group_id or 0}).")
        reply = _answer(message, client_app, context)
        try:
            connection.send(reply)
        except UserError as error:
            if error.code != "federation.run_over":
                raise
            say(f"Nobody waits for the answer to {metadata.message_type} any more: its run has ended.")
            continue
        say(f"Answered {metadata.message_type}." if not reply.has_error() else f"Failed: {reply.error.reason}")


def _answer(message: Message, client_app: ClientApp, context: Context) -> Message:
    try:
        return client_app(message, context)
    except RunCancelled as error:
        failure: Exception = error
    except Exception as error:  # as Flower's own nodes tell it: the server reads SiteError's record out of the text
        failure = error
    return Message(Error(RAISED, f"{type(failure)}:<'{failure}'>"), reply_to=message)
