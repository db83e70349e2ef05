"""What a site's connection writes down of the message that it is at work on, and a disk that has no place for it."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from flwr.proto.fleet_pb2 import PullMessagesResponse
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import Metadata as ProtoMetadata

from engine.federation.backends.fleet import FleetConnection


def at(folder: Path) -> FleetConnection:
    """Return a connection that is connected to nothing: what it keeps is in files."""
    found = FleetConnection.__new__(FleetConnection)
    found._at_work, found._held, found._unwritten, found.attempt = folder / "at_work.bin", folder / "held", [], 0
    return found


def test_a_message_that_was_begun_is_found_again_with_how_often(tmp_path: Path) -> None:
    at(tmp_path)._keep(PullMessagesResponse())
    again = at(tmp_path)
    assert again._left() == PullMessagesResponse() and again.attempt == 1


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
