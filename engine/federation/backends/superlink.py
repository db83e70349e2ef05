"""A Flower Grid on a SuperLink for a process that Flower did not start: the worker of a run.

The worker asks the SuperLink (started with ``--isolation process``) for a run and takes its ServerApp task itself, as
``flwr-serverapp`` would. The app bundle that Flower wants says only that nobody may run it: no code, weights or data
travel in it. Opening anew, after this process or the SuperLink was killed, gives a new Flower run; what the run is
about lies in our own checkpoints.

Private paths of Flower are touched here, in ``fleet.py`` and ``inprocess.py``; tests/contract pins them to 1.41.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep

import httpx
from flwr.app import Error, Message
from flwr.app.message import make_message
from flwr.cli.build import build_fab_from_files
from flwr.common.constant import HEARTBEAT_PATIENCE, ErrorCode, SubStatus
from flwr.common.serde import run_from_proto
from flwr.proto.control_pb2 import ListNodesRequest, RegisterNodeRequest, StartRunRequest, StopRunRequest
from flwr.proto.control_pb2 import UnregisterNodeRequest as RevokeNodeRequest
from flwr.proto.fab_pb2 import Fab
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullTaskInputRequest,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.constant import TaskType
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.retry import RetryInvoker, exponential
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid

from engine.errors import UserError
from engine.federation.backends.notes import read_number, write_note
from engine.federation.backends.packing import pack, unpack
from engine.federation.client_app import SiteError
from engine.federation.connection_faults import plain_words

BEAT_EVERY_S = 15.0
"""The SuperLink gives a task up that has been silent for 60 s."""
OUTAGE_S = 120.0
"""How long a SuperLink may be away, being restarted for instance, before a request fails (ours)."""
MESSAGE_LIFETIME_S = 30 * 86_400.0
"""A site may train for days; Flower's own limit is 12 hours."""
ACQUIRE_PATIENCE_S = 5.0
_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
_BUNDLE = {
    "pyproject.toml": b"""
[project]
name = "dsfedmed"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "dsfedmed"
[tool.flwr.app.components]
serverapp = "nobody:app"
clientapp = "nobody:app"
[tool.flwr.app.config]
""",
    "nobody.py": b'raise RuntimeError("Nothing is run from an app bundle: start sites with `site up`.")\n',
}


@dataclass(frozen=True)
class Link:
    """How to reach a SuperLink from its own machine: ``HOST:PORT``, its CA, the secret that only its worker reads."""

    address: str
    ca_pem: bytes = field(repr=False)
    secret: bytes = field(repr=False)


@dataclass(frozen=True)
class Node:
    """A registered node as the SuperLink knows it; times are seconds since 1970."""

    node_id: int
    name: str
    key_pem: bytes = field(repr=False)
    online: bool
    last_seen: float | None


def patient(*, outage_s: float = OUTAGE_S) -> RetryInvoker:
    """Return a retry policy for requests: again after lost connections for ``outage_s``, never after refusals."""
    return RetryInvoker(
        lambda: exponential(max_delay=5),
        (httpx.TransportError,),
        max_tries=None,
        max_time=outage_s,
        should_giveup=lambda error: any(word in str(error).lower() for word in ("certificate", "ssl", "tls")),
    )


class SiteTwice(UserError):
    """Two programs answer in the name of a site."""

    def __init__(self, site: str) -> None:
        super().__init__(
            "federation.site_twice",
            what=f"Two programs answer in the name of {site} by turns.",
            why="Each has a state and a record of its own, and what the site keeps would be torn in two.",
            fix=f"Stop one of both at {site}: its folder was copied to another machine, keys and all. Then resume the "
            "run.",
        )


class Control:
    """The SuperLink's Control API: who is registered, and runs. It has no login, so it listens on loopback only."""

    def __init__(self, link: Link, *, outage_s: float = OUTAGE_S) -> None:
        self._address = link.address
        self._client = ControlHttpClient.from_server_address(
            link.address,
            insecure=False,
            root_certificates=link.ca_pem,
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
            retry_invoker=patient(outage_s=outage_s),
        )

    def nodes(self) -> tuple[Node, ...]:
        """Return every registered node, sorted by name."""
        with plain_words(self._address):
            known = self._client.ListNodes(ListNodesRequest()).nodes_info
        return tuple(sorted((_node(info) for info in known if info.status != "unregistered"), key=lambda n: n.name))

    def register(self, name: str, key_pem: bytes) -> int:
        """Let the holder of a public key (PEM, ECDSA P-384) take part under ``name``; returns its node id."""
        with plain_words(self._address):
            return int(self._client.RegisterNode(RegisterNodeRequest(public_key=key_pem, name=name)).node_id)

    def revoke(self, node_id: int) -> None:
        """Refuse a node's key from now on."""
        with plain_words(self._address):
            self._client.UnregisterNode(RevokeNodeRequest(node_id=node_id))

    def start_run(self) -> int:
        """Make a run whose ServerApp task waits for whoever has the secret; returns its id."""
        bundle, _ = build_fab_from_files(_BUNDLE)
        with plain_words(self._address):
            return int(self._client.StartRun(StartRunRequest(fab=Fab(content=bundle))).run_id)

    def stop_run(self, run_id: int) -> None:
        """End a run; nothing happens where it has ended already."""
        with plain_words(self._address), suppress(httpx.HTTPStatusError):
            self._client.StopRun(StopRunRequest(run_id=run_id))

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


class SuperlinkGrid(HttpGrid):
    """A Grid on a SuperLink, to be used in a ``with`` statement.

    Parameters
    ----------
    link : Link
        Where the SuperLink is.
    keys : mapping
        Public key (PEM) of each site that may take part, by the site's name. Whatever else has registered with the
        SuperLink does not exist for this grid.
    note : Path, optional
        Where to remember the Flower run, so that the next attempt ends what a killed one has left: sites then do not
        work on a question that nobody waits for.
    presence_s : float
        How long to wait for sites that are not connected, at least.
    check : callable
        Called while waiting; raises what ends the wait.
    """

    def __init__(
        self,
        link: Link,
        *,
        keys: Mapping[str, bytes],
        note: Path | None = None,
        presence_s: float = 0.0,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._link, self._keys, self._note = link, dict(keys), note
        self._presence_s, self._check = presence_s, check
        self._asked: dict[str, int] = {}
        self.goes_on_without = False
        """Whether sites that are not connected are asked all the same: their failure comes back, for a policy."""
        self.known: dict[str, int] = {}
        """Node id of each site that was asked for, by name."""
        self._control = Control(link)
        self._over = threading.Event()
        self._lost: UserError | None = None
        super().__init__(link.address, insecure=False, root_certificates=link.ca_pem, token="not acquired yet")
        self._retry_invoker = patient()

    def __enter__(self) -> SuperlinkGrid:
        before = None if self._note is None else read_number(self._note)
        if before is not None:
            self._control.stop_run(before)
        self._token = self._acquire()
        with plain_words(self._addr):
            given = self._runtime_client.PullTaskInput(PullTaskInputRequest())
        TaskIdentity.task_id, TaskIdentity.run_id = given.task_id, given.run.run_id
        TaskIdentity.node_id = given.context.node_id
        self.set_run(run_from_proto(given.run))
        if self._note is not None:
            write_note(self._note, str(given.run.run_id).encode())
        self._heart = threading.Thread(target=self._beat, name="superlink heartbeat", daemon=True)
        self._heart.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._over.set()
        self._retry_invoker.max_time = 5.0
        status = SubStatus.COMPLETED if kind is None else SubStatus.FAILED
        # The SuperLink may be what has failed: the run then ends by its silence.
        with suppress(httpx.HTTPError):
            self._runtime_client.PushTaskOutput(
                PushTaskOutputRequest(sub_status=status, details="" if kind is None else kind.__name__)
            )
        self.close()
        self._control.close()

    @property
    def run_id(self) -> int:
        """The id of the Flower run."""
        return self.run.run_id

    def nodes(self) -> dict[str, Node]:
        """Return the registered nodes of the sites that may take part, online or not, by the site's name."""
        names = {key.strip(): name for name, key in self._keys.items()}
        known = ((names.get(node.key_pem.strip()), node) for node in self._control.nodes())
        return {name: node for name, node in known if name is not None}

    def site_nodes(self, sites: Sequence[str], *, wait_s: float) -> dict[str, int]:
        """Return the node id of each of ``sites`` by its registered key, once all of them are connected.

        Raises ``UserError`` ``federation.site_absent`` after ``wait_s`` or ``presence_s`` seconds, the longer one.
        """
        until = monotonic() + max(wait_s, self._presence_s)
        while True:
            nodes = {name: node for name, node in self.nodes().items() if node.online or self.goes_on_without}
            absent = [site for site in sites if site not in nodes]
            if not absent:
                found = {site: nodes[site].node_id for site in sites}
                self.known |= found
                return found
            self._check()
            if monotonic() > until:
                raise UserError(
                    "federation.site_absent",
                    what=f"Not connected: {', '.join(absent)}; connected: {', '.join(sorted(nodes)) or 'none'}.",
                    why="Every site of the run has to be there before the first round.",
                    fix="Ask the missing sites to start their program (site up), or leave them out of data.sites; then "
                    "resume the run.",
                )
            sleep(0.5)

    def get_node_ids(self) -> list[int]:
        """Return the ids of the nodes that are online and may take part, by the site's name (Flower's interface)."""
        return [node.node_id for _, node in sorted(self.nodes().items()) if node.online]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send messages to sites; returns their ids."""
        sent = list(messages)
        for message in sent:
            message.metadata.ttl = MESSAGE_LIFETIME_S
        pack(sent)
        with self._told():
            ids = list(super().push_messages(sent))
        self._asked |= {key: message.metadata.dst_node_id for key, message in zip(ids, sent, strict=True)}
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that are there by now, perhaps none."""
        with self._told():
            replies = list(super().pull_messages(message_ids))
        return [self._opened(reply) for reply in replies]

    def opened(self, reply: Message) -> None:
        """Take out of a reply what is no part of its content.

        :class:`SiteTwice` is the site's failure then; whatever else this raises makes the reply a bad one.
        """

    def _opened(self, reply: Message) -> Message:
        """Return the reply with its arrays unpacked, or an error reply where a site has not written it as ours do."""
        asked = self._asked.pop(reply.metadata.reply_to_message_id, None)
        if not reply.has_content():
            return reply
        try:
            if reply.metadata.src_node_id != asked:
                raise ValueError("it comes from a site that was not asked")
            unpack(reply.content)
            self.opened(reply)
        except SiteTwice as twice:
            return _failed(reply, twice)
        except Exception as fault:  # a hostile site may write anything at all: its reply is bad, the round goes on
            bad = UserError(
                "federation.bad_reply",
                what=f"Its reply cannot be read: {type(fault).__name__}: {fault}.",
                why="One bad reply would spoil the model of all sites.",
                fix="Look whether the site runs this version of the program.",
            )
            return _failed(reply, bad)
        return reply

    @contextmanager
    def _told(self) -> Iterator[None]:
        if self._lost is not None:
            raise self._lost
        with plain_words(self._addr):
            yield

    def _acquire(self) -> str:
        """Return the token of a waiting ServerApp task, of our own run or of one that a killed worker has left."""
        client = RuntimeHttpClient.from_server_address(
            self._addr,
            insecure=False,
            root_certificates=self._cert,
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperExec"),
                SuperExecAuthHttpInterceptor(master_secret=self._link.secret, protected_methods={_ACQUIRE}),
            ],
            retry_invoker=patient(),
        )
        wanted = AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP])
        with client, plain_words(self._addr):
            token = str(client.AcquireTask(wanted).token)
            while not token:
                self._control.start_run()
                until = monotonic() + ACQUIRE_PATIENCE_S
                # Two workers that begin at once may take each other's task: they are alike.
                while not token and monotonic() < until:
                    token = str(client.AcquireTask(wanted).token)
                    sleep(0.0 if token else 0.2)
            return token

    def _beat(self) -> None:
        while not self._over.wait(BEAT_EVERY_S):
            try:
                with plain_words(self._addr):
                    known = self._runtime_client.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success
            except UserError as error:
                if self._over.is_set():
                    return
                known, self._lost = False, error
            if not known:
                self._lost = self._lost or UserError(
                    "federation.run_over",
                    what=f"The SuperLink at {self._addr} has given this run up.",
                    why="It was stopped there, or this machine was silent for more than a minute.",
                    fix="Resume the run.",
                )
                return


def _failed(reply: Message, error: UserError) -> Message:
    reason = str(SiteError(site="", error=error))
    return make_message(metadata=reply.metadata, error=Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=reason))


def _node(info: NodeInfo) -> Node:
    seen = info.online_until - HEARTBEAT_PATIENCE * info.heartbeat_interval if info.online_until else None
    return Node(info.node_id, info.name, info.public_key, info.status == "online", seen)
