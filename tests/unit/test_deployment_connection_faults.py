"""What is said about a connection that fails: wrong servers of each kind on loopback, and answers of Flower."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx
import pytest

from engine.deployment import certificates
from engine.errors import UserError
from engine.federation.connection_faults import clock_difference_s, plain_words, refusal


@contextmanager
def tls_server(folder: Path) -> Iterator[int]:
    """Serve one 404 after another with the folder's server certificate; gives the port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    plain, _ = listener.accept()
                except OSError:
                    return
                try:
                    with context.wrap_socket(plain, server_side=True) as connection:
                        connection.recv(65_536)
                        connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nhello")
                except OSError:
                    continue

        threading.Thread(target=serve, daemon=True).start()
        yield int(listener.getsockname()[1])


def made(folder: Path, monkeypatch: pytest.MonkeyPatch, *, days: int = 10, host: str = "localhost") -> Path:
    """Give a folder with a CA and a certificate for ``host`` alone, which ends in ``days``."""
    folder.mkdir()
    certificates.make_ca(folder, federation="test")
    monkeypatch.setattr(certificates, "SERVER_DAYS", days)
    monkeypatch.setattr(certificates, "_LOOPBACK", ())
    certificates.make_server_certificate(folder, hosts=[host], into=folder)
    monkeypatch.undo()
    return folder


def said(url: str, *, ca: Path) -> UserError:
    context = ssl.create_default_context(cafile=str(ca))
    with pytest.raises(UserError) as raised, plain_words("the-address"), httpx.Client(verify=context) as client:
        client.post(url, timeout=10).raise_for_status()
    return raised.value


@pytest.mark.parametrize(
    ("days", "host", "code", "words"),
    [
        (10, "localhost", "federation.not_a_server", "the answer 404 of another program"),
        (-1, "localhost", "federation.certificate_time", "has expired"),
        (10, "elsewhere", "federation.certificate", "for another name"),
    ],
)
def test_certificates_of_a_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int, host: str, code: str, words: str
) -> None:
    if days < 0:  # before CLOCK_MARGIN, so that it has begun
        monkeypatch.setattr(certificates, "CLOCK_MARGIN", timedelta(days=3))
    folder = made(tmp_path / "own", monkeypatch, days=days, host=host)
    with tls_server(folder) as port:
        error = said(f"https://localhost:{port}/v1/fleet/x", ca=folder / "ca.crt")
    assert error.code == code and words in error.what


def test_a_certificate_that_is_not_valid_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "CLOCK_MARGIN", -timedelta(days=2))
    folder = made(tmp_path / "own", monkeypatch)
    with tls_server(folder) as port:
        error = said(f"https://localhost:{port}/", ca=folder / "ca.crt")
    assert error.code == "federation.certificate_time" and "not valid yet" in error.what and "NTP" in error.fix


def test_a_server_of_another_federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, other = made(tmp_path / "own", monkeypatch), made(tmp_path / "other", monkeypatch)
    with tls_server(folder) as port:
        error = said(f"https://localhost:{port}/", ca=other / "ca.crt")
    assert error.code == "federation.certificate" and "wrong CA" in error.what


def test_a_port_without_tls_and_one_without_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made(tmp_path / "own", monkeypatch)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"SSH-2.0-OpenSSH_9.2p1 and so on\r\n")

        threading.Thread(target=answer, daemon=True).start()
        port = listener.getsockname()[1]
        assert said(f"https://localhost:{port}/", ca=folder / "ca.crt").code == "federation.not_a_server"
    error = said(f"https://localhost:{port}/", ca=folder / "ca.crt")
    assert error.code == "federation.server_unreachable" and "refused" in error.what


def test_a_name_that_nobody_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made(tmp_path / "own", monkeypatch)
    assert said("https://no-such-host.invalid/", ca=folder / "ca.crt").code == "federation.server_name"


def answer(status: int, text: str, *, behind_s: float = 0.0) -> httpx.Response:
    date = format_datetime(datetime.now(UTC) - timedelta(seconds=behind_s), usegmt=True)
    return httpx.Response(status, text=text, headers={"date": date}, request=httpx.Request("POST", "https://a/"))


@pytest.mark.parametrize(
    ("response", "code", "words"),
    [
        (
            lambda: answer(403, '{"code": 2004, "detail": "no"}'),
            "federation.key_refused",
            "does not take this site's key",
        ),
        (lambda: answer(401, '{"detail": "Invalid SuperNode authentication"}'), "federation.key_refused", "not accept"),
        (lambda: answer(401, "{}", behind_s=420.0), "federation.clock", "7 minutes ahead of"),
        (lambda: answer(401, "{}", behind_s=-900.0), "federation.clock", "15 minutes behind"),
        (lambda: answer(400, '{"code": 2007}'), "federation.run_over", "has ended this run"),
        (lambda: answer(502, "<html>Bad Gateway</html>"), "federation.not_a_server", "the answer 502"),
        (lambda: answer(500, '{"code": 3002}'), "federation.server_refused", "error 3002"),
    ],
)
def test_answers_that_refuse(response: Callable[[], httpx.Response], code: str, words: str) -> None:
    error = refusal(response(), address="fed.example.org:9443")
    assert error.code == code and words in error.what


def test_the_difference_of_clocks_is_measured_by_the_answer_s_date() -> None:
    assert clock_difference_s(answer(200, "", behind_s=100.0)) == pytest.approx(100.0, abs=5.0)
    assert clock_difference_s(httpx.Response(200)) is None


def test_an_answer_that_is_no_flower_message_is_named_and_other_errors_of_values_stay_themselves() -> None:
    with pytest.raises(UserError) as caught, plain_words("host:1"):
        raise ValueError("Error parsing protobuf message")
    assert caught.value.code.startswith("federation.") and "not Flower's" in caught.value.what
    with pytest.raises(ValueError, match="a number of ours"), plain_words("host:1"):
        raise ValueError("a number of ours")
