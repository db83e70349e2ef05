"""A site's side of the federation: a Flower ClientApp around plain functions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from engine.errors import UserError
from engine.federation.payload import read_request, reply_content
from engine.federation.tasks import SiteTask, message_type
from engine.types import RunCancelled

WHO_ACTION = "who"
WHO_TASK = f"query.{WHO_ACTION}"
"""Answered by every site: its name. Node ids are random on Flower's other back ends."""


class SiteError(Exception):
    """A failure at a site, as JSON text: over a network only an exception's text reaches the server."""

    def __init__(self, *, site: str, error: BaseException) -> None:
        text = f"{type(error).__name__}: {error}"
        fields = error.as_dict() if isinstance(error, UserError) else {"what": text}
        self.record = {"site": site, "kind": type(error).__name__, **fields}
        super().__init__(json.dumps(self.record))


def build_client_app(tasks: Mapping[str, SiteTask], *, sites: Sequence[str] = ()) -> ClientApp:
    """Return a ClientApp that answers each task of ``tasks``.

    Parameters
    ----------
    tasks : mapping
        Task name to function. ``student`` and ``train.student`` are registered as ``train.student``,
        ``query.masks`` as itself.
    sites : sequence of str
        Names of the sites by ``partition-id``; only needed where nodes are not started with a ``site`` of their own.
    """
    app = ClientApp()

    @app.query(WHO_ACTION)
    def who(message: Message, context: Context) -> Message:
        name = ConfigRecord({"name": site_of(context, sites=sites)})
        return Message(RecordDict({WHO_ACTION: name}), reply_to=message)

    for name, task in tasks.items():
        category, action = message_type(name).split(".")
        register = app.train if category == "train" else app.query
        register(action)(_handler(task, sites=sites))
    return app


def site_of(context: Context, *, sites: Sequence[str] = ()) -> str:
    """Return the name of the site that a node is: its node config's ``site``, else ``sites[partition-id]``."""
    config = context.node_config
    if "site" in config:
        return str(config["site"])
    if "partition-id" in config and int(config["partition-id"]) < len(sites):
        return sites[int(config["partition-id"])]
    raise UserError(
        "federation.unnamed_node",
        what=f"A node with the configuration {dict(config)} does not say which site it is.",
        why="Sites are known by name, not by node number.",
        fix="""Start the node with --node-config 'site="NAME"'.""",
    )


def _handler(task: SiteTask, *, sites: Sequence[str]) -> Callable[[Message, Context], Message]:
    def handle(message: Message, context: Context) -> Message:
        site = site_of(context, sites=sites)
        try:
            reply = task(read_request(message, site=site))
            return Message(reply_content(reply), reply_to=message)
        except RunCancelled:
            raise
        except (Exception, SystemExit) as error:  # a site's own exit ends that site's work, not the server's
            raise SiteError(site=site, error=error) from error

    return handle
