"""What a site's connection writes down of the message that it is at work on, and a disk that has no place for it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from flwr.proto.fleet_pb2 import PullMessagesResponse
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest, SendNodeHeartbeatResponse
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import Metadata as ProtoMetadata

from engine.deployment import certificates, federations, site_process
from engine.errors import UserError
from engine.federation.backends import fleet, superlink
from engine.federation.backends.fleet import FleetConnection
from engine.federation.backends.notes import read_number, write_note
from tests.patience import WAIT_S


def at(folder: Path) -> FleetConnection:
    """Return a connection that is connected to nothing: what it keeps is in files."""
    found = FleetConnection.__new__(FleetConnection)
    found._at_work, found._held, found._unwritten, found.attempt = folder / "at_work.bin", folder / "held", [], 0
    return found


def test_a_message_that_was_begun_is_found_again_with_how_often(tmp_path: Path) -> None:
    at(tmp_path)._keep(asked(1))
    again = at(tmp_path)
    assert again._left() == asked(1) and again.attempt == 1


@pytest.mark.parametrize(("fault", "goes_on"), [(errno.ENOSPC, True), (errno.EIO, False)])
def test_without_a_place_for_the_note_the_message_is_answered_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: int, goes_on: bool
) -> None:
    """The answer then tells the server of the full disk; without one it would only miss the site."""
    write = Path.write_bytes

    def half(path: Path, content: bytes) -> int:
        write(path, content[:1])
        raise OSError(fault, "-")

    monkeypatch.setattr(Path, "write_bytes", half)
    connection = at(tmp_path)
    if goes_on:
        connection._keep(PullMessagesResponse())
        assert connection.attempt == 1 and list(tmp_path.iterdir()) == []
    else:
        with pytest.raises(OSError, match="-"):
            connection._keep(PullMessagesResponse())


def asked(run_id: int) -> PullMessagesResponse:
    return PullMessagesResponse(messages_list=[ProtoMessage(metadata=ProtoMetadata(run_id=run_id))])


def test_what_comes_meanwhile_is_kept_in_order_until_it_is_begun(tmp_path: Path) -> None:
    connection = at(tmp_path)
    for number in (1, 2):
        connection._hold(asked(number))
    again = at(tmp_path)  # as after a SIGKILL
    for number in (1, 2):
        found = again._held_back()
        assert found == asked(number) == again._held_back(), "until it has been begun"
        again._keep(found)
    assert again._held_back() is None and again._left() == asked(2)


def test_on_a_full_disk_what_comes_meanwhile_is_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = at(tmp_path)
    connection._hold(asked(1))

    def full(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "-")

    with monkeypatch.context() as disk:
        disk.setattr(Path, "write_bytes", full)
        connection._hold(asked(2))
    first = connection._held_back()
    assert first == asked(1)
    connection._keep(first)
    assert connection._held_back() == asked(2) and connection._held_back() is None
    monkeypatch.setattr(Path, "write_bytes", lambda path, content: (_ for _ in ()).throw(OSError(errno.EIO, "-")))
    with pytest.raises(OSError, match="-"):
        connection._hold(asked(3))


DAMAGED = (b"", b"\n", b"\0\0\0\0", b"x7", b"-1", "\u0663".encode(), b"9" * 5000)
"""What a full disk, a power cut or a hand leaves of a number."""


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_note_of_a_number_is_none(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "node_id.txt"
    path.write_bytes(content)
    assert read_number(path) is None and read_number(tmp_path / "none") is None
    assert write_note(path, b"7") and read_number(path) == 7
    # the site's program: a revoked key is told as a refused one
    (tmp_path / site_process.ACCEPTED).write_bytes(content)
    refused = UserError("federation.key_refused", what="w", why="y", fix="f")
    assert site_process._since_accepted(refused, tmp_path) is refused
    # the server's worker: nothing is known of a Flower run of before
    path.write_bytes(content)
    grid = superlink.SuperlinkGrid.__new__(superlink.SuperlinkGrid)
    grid._note, grid._control = path, None
    monkeypatch.setattr(grid, "_acquire", lambda: (_ for _ in ()).throw(KeyError("as far as this")))
    with pytest.raises(KeyError):
        grid.__enter__()


def test_a_note_is_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, written = tmp_path / "node_id.txt", list[bytes]()
    assert write_note(path, b"1")
    replace = Path.replace
    monkeypatch.setattr(os, "fsync", lambda _: written.append(path.with_suffix(".part").read_bytes()))
    monkeypatch.setattr(Path, "replace", lambda part, to: written.append(b"renamed") or replace(part, to))
    assert write_note(path, b"2") and written == [b"2", b"renamed"], "on the disk before it has its name"

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "-")

    monkeypatch.setattr(os, "fsync", full)
    assert not write_note(path, b"3") and path.read_bytes() == b"2" and list(tmp_path.iterdir()) == [path]


class Server:
    """Lets a node in at the third time."""

    def __init__(self) -> None:
        self.asked = 0

    def ActivateNode(self, request: object) -> object:
        self.asked += 1
        if self.asked < 3:
            raise UserError("federation.key_refused", what="w", why="y", fix="f")
        return fleet.Node(node_id=9)


def test_a_node_that_a_damaged_note_hides_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is online for a minute still, and cannot be activated; a key that was never accepted is told of at once."""
    monkeypatch.setattr(fleet, "AGAIN_S", 0.0)
    for content, answered in ((b"", True), (None, False)):
        found = at(tmp_path)
        found._node_note, found.address, found._public_pem = tmp_path / "node_id.txt", "a:1", b""
        found._over, found._client = fleet.threading.Event(), Server()  # type: ignore[assignment]
        found._node_note.unlink(missing_ok=True)
        if content is not None:
            found._node_note.write_bytes(content)
        assert not found._goes_on()
        if answered:
            assert found._activated().node_id == 9
            continue
        with pytest.raises(UserError):
            found._activated()


@pytest.mark.parametrize("content", [b"", b"1\n", b"x\n" + b"\x0a", b"1\n\xff\xff\xff", b"\0" * 40])
def test_a_damaged_note_of_a_question_is_named(content: bytes, tmp_path: Path) -> None:
    found = at(tmp_path)
    found._at_work.write_bytes(content)
    with pytest.raises(UserError, match=r"at_work\.bin is damaged") as raised:
        found._left()
    assert raised.value.code == "federation.site_note_damaged"
    found._held.mkdir()
    (found._held / "000001.bin").write_bytes(content.partition(b"\n")[2])
    with pytest.raises(UserError, match=r"000001\.bin is damaged"):
        found._held_back()


def keys_that_are_none() -> dict[str, bytes]:
    pem = (Encoding.PEM, PrivateFormat.PKCS8)
    own = ec.generate_private_key(ec.SECP384R1())
    return {
        "empty": b"",
        "garbage": b"-----BEGIN PRIVATE KEY-----\nnothing\n-----END PRIVATE KEY-----\n",
        "of another kind": rsa.generate_private_key(65537, 2048).private_bytes(*pem, NoEncryption()),
        "with a password": own.private_bytes(*pem, BestAvailableEncryption(b"secret")),
    }


@pytest.mark.parametrize("kind", ["empty", "garbage", "of another kind", "with a password"])
def test_a_key_that_is_none_is_named_and_the_program_is_not_started_again(kind: str, tmp_path: Path) -> None:
    made = federations.create(tmp_path / "fed", name="f", public_address="localhost:9")
    folder = federations.invite(made, "north")
    (folder / "logs").mkdir()
    certificates.write_private(folder / "site.key", keys_that_are_none()[kind])
    with pytest.raises(UserError, match=r"site\.key") as raised:
        FleetConnection("localhost:9", ca=folder / "ca.crt", key=folder / "site.key", notes=folder)
    assert raised.value.code == "federation.site_key" and f"site keys --new {folder}" in raised.value.fix
    if kind == "garbage":
        words = ["--data", str(tmp_path), "--server", "localhost:9", "--program", "tests.deployment.toy_site:program"]
        done = subprocess.run(
            [sys.executable, "-m", "engine.deployment.site_process", str(folder), *words],
            capture_output=True, text=True, timeout=WAIT_S, check=False,
        )  # fmt: skip
        assert done.returncode == 2 and "Traceback" not in done.stdout + done.stderr
    with pytest.raises(UserError, match=r"site\.key") as told:
        certificates.site_fingerprint(folder)
    assert "site keys --new" in told.value.fix


@pytest.mark.parametrize(("status", "goes_on"), [(200, True), (401, False), (503, None)])
def test_a_node_goes_on_unless_the_server_does_not_know_it(status: int, goes_on: bool | None, tmp_path: Path) -> None:
    """Another server, or new keys: the site is let in anew. A server that is ill has said nothing of that."""
    connection = at(tmp_path)
    connection._node_note = tmp_path / "node_id.txt"
    beats = list[int]()

    class Client:
        def SendNodeHeartbeat(self, request: SendNodeHeartbeatRequest) -> SendNodeHeartbeatResponse:
            beats.append(request.node.node_id)
            asked = httpx.Request("POST", "https://localhost:9")
            httpx.Response(status, request=asked).raise_for_status()
            return SendNodeHeartbeatResponse(success=True)

    connection._client = Client()  # type: ignore[assignment]
    assert not connection._goes_on() and beats == [], "it has no node yet"
    write_note(connection._node_note, b"12")
    if goes_on is None:
        with pytest.raises(httpx.HTTPStatusError, match="503"):
            connection._goes_on()
    else:
        assert connection._goes_on() is goes_on
    assert beats == [12]
