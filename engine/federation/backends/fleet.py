"""A site's connection to a SuperLink: Flower's Fleet API, spoken by the site's own program.

``flower-supernode`` would download the server's app bundle, run it in a new process for every message (3 s of imports
each) and open a port of its own. This connection does none of that: one process, one outgoing connection, and nothing
is run at a site but the program that is installed there.
"""

from __future__ import annotations

import shlex
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.constant import VERSION_INCOMPATIBILITY_MESSAGE_METADATA_KEY
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, no_object_id_recompute
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectPushError,
    pull_and_inflate_object_from_tree,
    push_objects,
)
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from engine.errors import UserError
from engine.federation.backends.notes import damaged, read_number, write_note
from engine.federation.backends.packing import pack, unpack
from engine.federation.backends.superlink import patient
from engine.federation.connection_faults import plain_words

BEAT_EVERY_S = 15.0
"""A node counts as offline after 60 s of silence."""
OUTAGE_S = 60.0
"""How long one request is tried again before whoever asked hears of it."""
STILL_ONLINE_S, AGAIN_S = 75.0, 5.0
"""How long, and how often, a site asks to be let in whose node may be online still and is not known any more (ours)."""
FORGOTTEN = (ObjectPullError, ObjectPushError)
"""What sending or fetching a message raises whose run the server has ended meanwhile."""


class FleetConnection:
    """A site's place in a federation, to be used in a ``with`` statement.

    Parameters
    ----------
    address : str
        ``HOST:PORT`` of the server, or of the proxy before it.
    ca : Path
        Certificate of the federation's CA (PEM).
    key : Path
        The site's private key (PEM, ECDSA P-384).
    notes : Path
        Folder for what a program that is started again must know: its node, and the message that was being worked on.

    Raises ``UserError`` ``federation.*`` where the server cannot be reached, is another, or refuses the key.
    """

    def __init__(self, address: str, *, ca: Path, key: Path, notes: Path) -> None:
        self.address = address
        private = _site_key(key)
        self._public_pem = public_key_to_bytes(private.public_key())
        self._retry = patient(outage_s=OUTAGE_S)
        self._client = FleetHttpClient.from_server_address(
            address,
            False,
            ca.read_bytes(),
            interceptors=[_SameVersion(), NodeAuthHttpInterceptor(private, private.public_key())],
        )
        self.on_accepted: Callable[[], object] = lambda: None
        """Called when the server has accepted the key."""
        self._over = threading.Event()
        self._refused: UserError | None = None
        self._at_work, self._node_note = notes / "at_work.bin", notes / "node_id.txt"
        self._held = notes / "held"
        self._unwritten: list[PullMessagesResponse] = []
        """What came while another was worked on and the disk was full."""
        self.attempt = 0
        """How often the message that was received last has been begun, this time included."""

    def __enter__(self) -> FleetConnection:
        with plain_words(self.address):
            goes_on = self._goes_on()
        if not goes_on:
            self.node = self._activated()
        write_note(self._node_note, str(self.node.node_id).encode())
        self.on_accepted()
        self._heart = threading.Thread(target=self._beat, name="fleet heartbeat", daemon=True)
        self._heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        # With work begun, the server waits a minute for this site to come back. It may also be what is gone.
        if not self._at_work.is_file():
            with suppress(httpx.HTTPError):
                self._client.DeactivateNode(DeactivateNodeRequest(node_id=self.node.node_id))
        self._client.close()

    def _goes_on(self) -> bool:
        """Return whether the node that was killed or cut off is this site's still: online, it cannot be activated."""
        known = read_number(self._node_note)
        if known is None:
            return False
        self.node = Node(node_id=known)
        beat = SendNodeHeartbeatRequest(node=self.node, heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL)
        try:
            return bool(self._client.SendNodeHeartbeat(beat).success)
        except httpx.HTTPStatusError as error:
            if error.response.status_code != httpx.codes.UNAUTHORIZED:
                raise
            return False  # another server, or new keys

    def _activated(self) -> Node:
        """Return this site's node, activated: where a damaged note hides one that is online, once it is no longer."""
        request = ActivateNodeRequest(public_key=self._public_pem, heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL)
        until = monotonic() + (STILL_ONLINE_S if self._node_note.is_file() and not read_number(self._node_note) else 0)
        while True:
            try:
                with plain_words(self.address):
                    return Node(node_id=self._client.ActivateNode(request).node_id)
            except UserError as error:
                if error.code != "federation.key_refused" or monotonic() > until:
                    raise
            self._over.wait(AGAIN_S)

    def receive(self) -> Message | None:
        """Return the next message, whole, or None where there is none; messages of runs that are over are dropped.

        A message that a killed program was at work on comes again: it stays at the server until it is answered.
        """
        if self._refused is not None:
            raise self._refused
        with plain_words(self.address):
            given = self._left() or self._held_back() or self._pull()
            if not given.messages_list:
                return None
            self._keep(given)
            if not self.wanted(given.messages_list[0].metadata.run_id):
                self.drop()
                return None
            return self._message(given)

    def receive_meanwhile(self, message_type: str) -> Message | None:
        """Return the next message where it is of ``message_type``, to be answered while another is worked on.

        None where there is none. One of another type is held back for :meth:`receive`, on the disk.
        """
        with plain_words(self.address):
            given = self._pull()
            if not given.messages_list:
                return None
            if given.messages_list[0].metadata.message_type == message_type:
                return self._message(given)
        self._hold(given)
        return None

    def _hold(self, given: PullMessagesResponse) -> None:
        last = max((int(path.stem) for path in self._held.glob("*.bin")), default=0)
        if not write_note(self._held / f"{last + 1:06d}.bin", given.SerializeToString()):
            self._unwritten.append(given)  # it is answered all the same, but for a program that is killed before

    def _pull(self) -> PullMessagesResponse:
        return self._retry.invoke(self._client.PullMessages, PullMessagesRequest(node=self.node))

    def _held_back(self) -> PullMessagesResponse | None:
        """Return the earliest of the messages that came while another was worked on."""
        first = min(self._held.glob("*.bin"), default=None)
        if first is not None:
            return _noted(first, first.read_bytes())
        return self._unwritten.pop(0) if self._unwritten else None

    def _message(self, given: PullMessagesResponse) -> Message:
        """Return the message whole."""
        run_id, tree = given.messages_list[0].metadata.run_id, given.message_object_trees[0]
        message = pull_and_inflate_object_from_tree(
            tree,
            make_pull_object_fn_protobuf(self._tried(self._client.PullObject), self.node, run_id),
            lambda _: None,  # confirmed with the answer
            return_type=Message,
        )
        message.metadata.__dict__["_message_id"] = tree.object_id
        unpack(message.content)
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, self.node.node_id, run_id
        return message

    def drop(self) -> None:
        """Let go of the message that was received last: nobody waits for its answer."""
        self._at_work.unlink(missing_ok=True)
        self.attempt = 0

    def _left(self) -> PullMessagesResponse | None:
        if not self._at_work.is_file():
            return None
        number, _, content = self._at_work.read_bytes().partition(b"\n")
        if not number.isdigit():
            raise damaged(self._at_work)
        found = _noted(self._at_work, content)
        self.attempt = int(number)
        return found

    def _keep(self, given: PullMessagesResponse) -> None:
        self.attempt += 1
        content = given.SerializeToString()
        if not write_note(self._at_work, f"{self.attempt}\n".encode() + content):
            return  # it goes on without the note; what the site then cannot do is told to the server
        for held in self._held.glob("*.bin"):  # also where the program was killed between these lines
            if held.read_bytes() == content:
                held.unlink()

    def wanted(self, run_id: int) -> bool:
        """Return whether a run is still going on, so that an answer to it has a reader."""
        try:
            with plain_words(self.address):
                self._retry.invoke(self._client.GetRun, GetRunRequest(node=self.node, run_id=run_id))
        except UserError as error:
            if error.code == "federation.run_over":
                return False
            raise
        return True

    def send(self, reply: Message) -> None:
        """Send the reply to the message received last; ``UserError`` ``federation.run_over`` where nobody waits for it
        any more."""
        self.send_meanwhile(reply)
        self.drop()

    def send_meanwhile(self, reply: Message) -> None:
        """Send a reply to a message of :meth:`receive_meanwhile`; errors as of :meth:`send`."""
        run_id = reply.metadata.run_id
        if reply.has_content():
            pack([reply])
        reply.metadata.__dict__["_message_id"] = reply.object_id
        with plain_words(self.address), no_object_id_recompute():
            request = PushMessagesRequest(
                node=self.node,
                messages_list=[message_to_proto(remove_content_from_message(reply))],
                message_object_trees=[get_object_tree(reply)],
            )
            confirm = make_confirm_message_received_fn_protobuf(
                self._tried(self._client.ConfirmMessageReceived), self.node, run_id
            )
            confirm(reply.metadata.reply_to_message_id)
            answer = self._retry.invoke(self._client.PushMessages, request)
            push_objects(
                get_all_nested_objects(reply),
                make_push_object_fn_protobuf(
                    self._tried(self._client.PushObject), self.node, run_id, answer.session_id
                ),
                object_ids_to_push=set(answer.objects_to_push),
            )

    def _tried(self, call: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda request: self._retry.invoke(call, request)

    def _beat(self) -> None:
        while not self._over.wait(BEAT_EVERY_S):
            try:
                with plain_words(self.address):
                    self._client.SendNodeHeartbeat(
                        SendNodeHeartbeatRequest(node=self.node, heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL)
                    )
            except UserError as error:
                # An outage passes; whoever receives meets it too. A refused key does not.
                if error.code in ("federation.key_refused", "federation.clock", "federation.certificate"):
                    self._refused = error
                    return


def _noted(path: Path, content: bytes) -> PullMessagesResponse:
    """Return a message that was written down, whole."""
    try:
        given = PullMessagesResponse.FromString(content)
    except Exception as error:  # of protobuf, which is Flower's and no package of ours
        raise damaged(path) from error
    if not given.messages_list:  # an empty file is a valid one of protobuf's
        raise damaged(path)
    return given


def _site_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Return the site's private key; ``UserError`` ``federation.site_key`` where the file holds none."""
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key
    raise UserError(
        "federation.site_key",
        what=f"{path}, this site's key, cannot be read: it is damaged, or no key of `site keys`.",
        why="The server knows a site by its key.",
        fix=f"Restore it from a backup; or make new keys with `python -m engine site keys --new "
        f"{shlex.quote(str(path.parent))}`, and send site.csr to the coordinator.",
    )


class _SameVersion:
    """Tell the server our Flower's version, and refuse to go on where it says that it has another."""

    def __init__(self) -> None:
        self._own = dict(RuntimeVersionMetadata.from_local_component("SuperNode").as_metadata())

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Add the headers, look at the answer's."""
        context.request.headers.update(self._own)
        response = call_next(context)
        told = response.headers.get(VERSION_INCOMPATIBILITY_MESSAGE_METADATA_KEY)
        if told:
            raise UserError(
                "federation.other_version",
                what=f"This program and the server's differ in their version of Flower: {told}",
                why="They would misunderstand each other.",
                fix="Install the version of this program that the coordinator uses.",
            )
        return response
