"""The command line as a process: Ctrl-C, a terminal, and a run that goes on when its follower is gone."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from engine.runs import lifecycle
from engine.runs.store import RunStore
from tests.patience import WAIT_S, wait

ROOT = Path(__file__).resolve().parents[2]
TINY = ["run", "--preset", "phantom_cpu_smoke", "--set", "method=fedtinysam", "--set", "student.weights=none"]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunStore]:
    monkeypatch.setenv("DSFEDMED_STAND_INS", "tests.integration.lifecycle_stages:STAGES")
    monkeypatch.setenv("DSFEDMED_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    store = RunStore(tmp_path / "home")
    yield store
    for record in store.list(status=("running",)):
        if record.pid is not None and psutil.pid_exists(record.pid):
            os.kill(record.pid, signal.SIGKILL)
    store.close()


def start(*settings: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "engine", *TINY, *(word for text in settings for word in ("--set", text))]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def running_id(store: RunStore) -> str:
    wait(lambda: any(store.stages(record.run_id)[0].step >= 2 for record in store.list(status=("running",))))
    return store.list(limit=1)[0].run_id


def test_ctrl_c_asks_the_run_to_stop_and_says_how_to_go_on(store: RunStore) -> None:
    command = start("federation.rounds=2000", "data.images_per_site=30")
    run_id = running_id(store)
    command.send_signal(signal.SIGINT)
    _, said = command.communicate(timeout=WAIT_S)
    assert command.returncode == 130, said
    assert store.get(run_id).status == "cancelled"
    assert f"engine resume {run_id}" in said


def test_a_run_survives_whoever_started_it(store: RunStore) -> None:
    command = start("federation.rounds=40", "data.images_per_site=30")
    run_id = running_id(store)
    command.kill()
    command.communicate()
    wait(lambda: not store.get(run_id).active)
    assert store.get(run_id).status == "finished"


def test_a_terminal_gets_a_live_display(store: RunStore) -> None:
    controller, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
    command = [
        sys.executable,
        "-m",
        "engine",
        *TINY,
        "--set",
        "federation.rounds=20",
        "--set",
        "data.images_per_site=30",
    ]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=terminal, stdin=terminal, text=True
    )
    os.close(terminal)
    seen = b""
    while True:
        try:
            chunk = os.read(controller, 65536)
        except OSError:  # the other end is closed: the process has ended
            break
        if not chunk:
            break
        seen += chunk
    os.close(controller)
    assert process.stdout is not None
    printed = process.stdout.read()
    assert process.wait(timeout=WAIT_S) == 0
    display = seen.decode("utf-8", errors="replace")
    assert "federated_training" in display and "left in all" in display and "step " in display
    assert "\x1b[" in display and "\x1b[" not in printed
    assert "On the unseen site" in printed
    assert lifecycle.advance_queue(store) == ()
