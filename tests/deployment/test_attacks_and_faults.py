"""Who is refused and why, what faces the outside, and what a killed process costs: real processes on loopback."""

from __future__ import annotations

import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from engine.cli import main
from engine.deployment import certificates
from engine.deployment.server import link_of
from engine.errors import UserError
from engine.federation.backends.superlink import Control
from engine.federation.rounds import run_rounds
from tests.deployment.deployed import NUMBERS, PROXIES, Deployed, deployed
from tests.deployment.deployed import proxied as before
from tests.deployment.test_one_round import arrays, in_process
from tests.patience import WAIT_S, wait

SITES = tuple(NUMBERS)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(6 * WAIT_S)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    with deployed(tmp_path_factory.mktemp("deployed")) as world:
        world.start_server()
        for site in SITES:
            world.start_site(site)
        wait(lambda: world.online() == set(SITES), timeout_s=WAIT_S, every_s=1.0)
        yield world


@pytest.fixture(scope="module", params=PROXIES)
def proxied(world: Deployed, request: pytest.FixtureRequest) -> Iterator[Deployed]:
    """Give the world with a proxy before it."""
    with before(world, name=request.param):
        yield world


def rounds(
    world: Deployed, *, number: int, sites: tuple[str, ...] = SITES, **settings: object
) -> dict[str, np.ndarray]:
    with world.grid() as grid:
        how = {"settings": settings, "wait_s": WAIT_S}
        return run_rounds(grid, arrays=arrays(), sites=sites, rounds=number, **how)  # type: ignore[arg-type]


def equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)


def test_three_sites_give_what_they_give_in_process(world: Deployed) -> None:
    assert equal(rounds(world, number=3), dict(in_process(world, rounds=3, sites=SITES)))


def test_a_fault_of_images_reaches_the_server_without_their_names(world: Deployed) -> None:
    with pytest.raises(
        UserError, match=r"something is wrong with its images or files \(data\.mask_missing\)"
    ) as raised:
        rounds(world, number=1, fail="south")
    assert raised.value.code == "data.mask_missing" and "x.png" not in str(raised.value.as_dict())
    assert "x.png has no mask." in (world.folder / "at" / "south" / "logs" / "site.log").read_text()


def test_a_program_that_is_killed_at_work_begins_it_again(world: Deployed) -> None:
    expected = dict(in_process(world, rounds=2, sites=SITES))
    assert equal(rounds(world, number=2, die="west", times=2), expected)
    log = (world.folder / "at" / "west" / "logs" / "site.log").read_text()
    assert log.count("was killed by SIGKILL") == 2 and "attempt 3" in log


def test_a_message_that_kills_the_program_each_time_is_given_up_by_name(world: Deployed) -> None:
    (world.folder / "at" / "west" / "images" / "deaths.txt").write_text("")
    with pytest.raises(UserError, match=r"site west was killed 3 times at train\.student") as raised:
        rounds(world, number=1, die="west", times=100)
    assert raised.value.code == "federation.site_killed"
    (world.folder / "at" / "west" / "images" / "deaths.txt").write_text("")
    assert equal(rounds(world, number=1), dict(in_process(world, rounds=1, sites=SITES)))


def test_the_server_is_started_again_and_sites_come_back(world: Deployed) -> None:
    (server,) = (process for process in world.processes if process.output.name == "server.txt")
    (link,) = psutil.Process(server.process.pid).children()
    link.kill()
    wait(lambda: "was killed by SIGKILL" in server.said(), timeout_s=WAIT_S)
    assert equal(rounds(world, number=2), dict(in_process(world, rounds=2, sites=SITES)))


def test_a_second_attempt_ends_what_the_first_has_left(world: Deployed, tmp_path: Path) -> None:
    note = tmp_path / "flower_run.txt"
    first = world.grid(note=note)
    first.__enter__()
    left = note.read_text()
    with world.grid(note=note) as second:
        assert note.read_text() == str(second.run_id) != left
        with pytest.raises(UserError) as raised:
            list(first.pull_messages(["0" * 64]))
    assert raised.value.code in ("federation.run_over", "federation.key_refused")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/list-nodes",
        "/v1/control/start-run",
        "/v1/runtime/acquire-task",
        "/v1/fleet/../control/list-nodes",
        "/v1/fleet/%2e%2e/control/list-nodes",
        "/v1/fleet//../control/list-nodes",
        "/v1/fleet/..%2fcontrol/list-nodes",
        "/V1/CONTROL/list-nodes",
        "//v1/control/list-nodes",
        "/v1/fleet/%252e%252e/control/list-nodes",
        "/v1/fleet/..;/control/list-nodes",
        "/v1/fleet/register-node",
        "/v1/fleet/get-fab",
        "/v1/fleet/pull-messages/",
        "/V1/FLEET/pull-messages",
        "/docs",
        "/openapi.json",
        "/health",
        "/",
    ],
)
def test_the_proxy_lets_nothing_but_what_sites_ask_through(proxied: Deployed, path: str) -> None:
    """Whatever the SuperLink answers is protobuf or JSON; nginx answers with a page of its own, Caddy with none."""
    for method in ("GET", "POST"):
        status, text = raw_request(proxied, method, path)
        assert status in (400, 403, 404), (path, text[:200])
        assert not any(word in text for word in ("protobuf", "application/json", "detail")), (path, text[:200])


def raw_request(world: Deployed, method: str, path: str) -> tuple[int, str]:
    """Send a request whose path no library has tidied."""
    context = ssl.create_default_context(cafile=str(world.federation_folder / "ca.crt"))
    with (
        socket.create_connection(("127.0.0.1", world.public_port), timeout=WAIT_S) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n"
        connection.sendall(f"{head}Content-Type: application/protobuf\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while part := connection.recv(65_536):
            answer += part
    return int(answer.split()[1]), answer.decode(errors="replace")


def test_a_site_works_through_the_proxy(proxied: Deployed, request: pytest.FixtureRequest) -> None:
    name = f"outside-{request.node.callspec.params['proxied']}"
    proxied.add_site(name)
    outside = proxied.start_site(name, server=f"localhost:{proxied.public_port}")
    outside.wait_for("Connected to the server")
    sites = (*SITES, name)
    assert equal(rounds(proxied, number=1, sites=sites), dict(in_process(proxied, rounds=1, sites=sites)))
    assert outside.terminate() == 0


def test_another_ca_is_refused(world: Deployed, tmp_path: Path) -> None:
    certificates.make_ca(tmp_path, federation="another")
    folder = world.add_site("elsewhere")
    shutil.copy(tmp_path / "ca.crt", folder / "ca.crt")
    process = world.start_site("elsewhere")
    process.wait_for("Error (federation.certificate)")
    assert "wrong CA" in process.said() and process.process.wait(timeout=WAIT_S) == 2


def test_a_revoked_key_is_refused_at_once_and_never_accepted_again(world: Deployed) -> None:
    world.add_site("leaving")
    leaving = world.start_site("leaving")
    leaving.wait_for("Connected to the server")
    assert main(["federation", "revoke", str(world.federation_folder), "leaving"]) == 0
    leaving.wait_for("Error (federation.key_")
    assert leaving.process.wait(timeout=WAIT_S) == 2
    again = world.start_site("leaving")
    again.wait_for("Error (federation.key_revoked)")
    request = str(world.folder / "at" / "leaving" / "site.csr")
    words = ["federation", "add-site", str(world.federation_folder), "leaving", "--request", request]
    assert main(words) == 2
    assert main(["site", "keys", str(world.folder / "at" / "leaving"), "--new"]) == 0
    assert main(words) == 0
    world.start_site("leaving").wait_for("Connected to the server")


def test_something_else_at_the_address_is_told(world: Deployed) -> None:
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    folder = world.add_site("lost")
    process = world.start("site", "up", str(folder), "--data", str(folder / "images"), "--server",
                          f"localhost:{server.server_port}", name="lost")  # fmt: skip
    process.wait_for("is not a server of a federation")
    server.shutdown()


def test_a_second_server_says_that_one_runs(world: Deployed) -> None:
    second = world.start("server", "up", str(world.federation_folder), name="second")
    second.wait_for("Error (deployment.running)")


def test_nothing_but_loopback_is_listened_on(world: Deployed) -> None:
    mine = {process.process.pid for process in world.processes if process.process.poll() is None}
    mine |= {child.pid for pid in mine for child in psutil.Process(pid).children(recursive=True)}
    listening = [c for c in psutil.net_connections("inet") if c.pid in mine and c.status == psutil.CONN_LISTEN]
    assert {c.laddr.ip for c in listening} == {"127.0.0.1"}
    assert {c.laddr.port for c in listening} == {world.port}, "sites open no port"
    remote = {c.raddr.ip for c in psutil.net_connections("inet") if c.pid in mine and c.raddr}
    assert remote <= {"127.0.0.1", "::1"}


def test_the_control_api_needs_no_login_and_so_the_fleet_is_checked_by_key(world: Deployed) -> None:
    """Whoever has an account on the server's machine can register a node: a grid knows only keys that were accepted."""
    with httpx.Client(verify=False) as client:
        assert client.post(f"https://localhost:{world.port}/v1/control/list-nodes").status_code != 404
    control = Control(link_of(world.federation))
    intruder = certificates.public_pem(certificates.new_key().public_key())
    node_id = control.register("north", intruder)
    try:
        with world.grid() as grid:
            assert node_id not in {node.node_id for node in grid.nodes().values()}
    finally:
        control.revoke(node_id)
        control.close()
