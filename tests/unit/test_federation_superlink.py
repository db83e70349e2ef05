"""The same round loop on a real SuperLink with two SuperNodes, each with client processes of its own (minutes long)."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.patience import WAIT_S

REPOSITORY = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SITES = ("north", "south")
PATIENCE_S = WAIT_S

PYPROJECT = """
[project]
name = "federation-test"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "tests"

[tool.flwr.app.components]
serverapp = "app:server"
clientapp = "app:client"

[tool.flwr.app.config]
result = ""
fail = false
"""

APP = """
import json
from pathlib import Path

import numpy as np

from engine.errors import UserError
from engine.federation.client_app import build_client_app
from engine.federation.rounds import run_rounds
from engine.federation.tasks import SiteReply
from flwr.serverapp import ServerApp

SITES = ("north", "south")
STEP = {"north": 1.0, "south": 4.0}
COUNT = {"north": 3, "south": 1}


def train(request):
    if request.settings["fail"] and request.site == "south":
        raise UserError("data.mask_missing", what="x.png has no mask.", why="It is needed.", fix="Add it.")
    weight = request.arrays["w"] + np.float32(STEP[request.site] * request.round)
    return SiteReply({"w": weight}, {"loss": 1.0 / request.round}, COUNT[request.site])


client = build_client_app({"student": train})
server = ServerApp()


@server.main()
def main(grid, context):
    path = Path(context.run_config["result"])
    fail = bool(context.run_config["fail"])
    rounds, traffic = [], []
    try:
        arrays = run_rounds(
            grid,
            arrays={"w": np.zeros(3, np.float32)},
            sites=SITES,
            rounds=2,
            settings={"fail": fail},
            on_round=lambda result: rounds.append([result.round, result.num_examples, result.wall_s]),
            on_traffic=lambda sent: traffic.append([sent.site, sent.direction, sent.kind, sent.payload_bytes]),
            wait_s=120.0,
        )
        outcome = {"w": arrays["w"].tolist(), "rounds": rounds, "traffic": traffic}
    except UserError as error:
        outcome = {"error": error.as_dict()}
    path.with_suffix(".part").write_text(json.dumps(outcome))
    path.with_suffix(".part").replace(path)
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def process(name: str, *arguments: str, env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Flower command in a process group of its own, ended with everything that it started."""
    with log.open("wb") as file:
        started = subprocess.Popen(
            [str(BIN / name), *arguments], env=env, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            yield started
        finally:
            with suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)
            started.wait()


def wait_for(condition: Callable[[], bool], *, what: str, logs: Path) -> None:
    """Wait until ``condition()``, or fail with the end of every log."""
    until = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > until:
            tails = "\n".join(f"{path.name}: {path.read_text(errors='replace')[-2000:]}" for path in logs.glob("*.log"))
            pytest.fail(f"{what} did not happen in {PATIENCE_S:.0f} s.\n{tails}")
        time.sleep(0.2)


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def link(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """Start a SuperLink and a SuperNode a site; yield (folder of the app, environment of the flwr command)."""
    folder = tmp_path_factory.mktemp("superlink")
    port = free_port()
    env = {
        **os.environ,
        "FLWR_HOME": str(folder / "home"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "PYTHONPATH": str(REPOSITORY),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    (folder / "home").mkdir()
    connection = f'[superlink]\ndefault = "test"\n\n[superlink.test]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    (folder / "home" / "config.toml").write_text(connection)
    (folder / "app").mkdir()
    (folder / "app" / "pyproject.toml").write_text(PYPROJECT)
    (folder / "app" / "app.py").write_text(APP)
    with ExitStack() as stack:
        address = ["--host", "127.0.0.1", "--port", str(port), "--insecure"]
        server_log = folder / "superlink.log"
        offline = "--disable-runtime-dependency-installation"
        stack.enter_context(process("flower-superlink", *address, offline, env=env, log=server_log))
        wait_for(lambda: listening(port), what="The SuperLink", logs=folder)
        for site in SITES:
            node = ["--superlink", f"127.0.0.1:{port}", "--host", "127.0.0.1", "--port", str(free_port()), "--insecure"]
            node += ["--node-config", f'site="{site}"']
            stack.enter_context(process("flower-supernode", *node, env=env, log=folder / f"{site}.log"))
        yield folder, env


def run_app(link: tuple[Path, dict[str, str]], *, fail: bool) -> dict:
    folder, env = link
    result = folder / f"result-{fail}.json"
    config = f'result="{result}" fail={str(fail).lower()}'
    command = [str(BIN / "flwr"), "run", str(folder / "app"), "test", "-c", config]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr
    wait_for(result.is_file, what="The run's result", logs=folder)
    return json.loads(result.read_text())


@pytest.mark.slow
def test_rounds_on_a_superlink_equal_the_sum_by_hand(link: tuple[Path, dict[str, str]]) -> None:
    result = run_app(link, fail=False)
    assert result["w"] == [5.25, 5.25, 5.25]  # per round r: (3 * 1 r + 1 * 4 r) / 4 = 1.75 r; r = 1, 2
    assert [entry[:2] for entry in result["rounds"]] == [[1, {"north": 3, "south": 1}], [2, {"north": 3, "south": 1}]]
    students = [entry for entry in result["traffic"] if entry[2] == "student"]
    assert sorted(entry[:2] for entry in students) == sorted([[s, d] for s in SITES for d in ("down", "up")] * 2)
    assert len({entry[3] for entry in students}) == 1


@pytest.mark.slow
def test_a_user_error_at_a_supernode_reaches_the_server_by_name(link: tuple[Path, dict[str, str]]) -> None:
    assert run_app(link, fail=True) == {
        "error": {
            "code": "data.mask_missing",
            "what": "Site south: x.png has no mask.",
            "why": "It is needed.",
            "fix": "Add it.",
        }
    }
