"""What make, Docker and the page's users file are told to do by the documents, executed as in ``test_commands.py``."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import documents
import pytest
from documents import ROOT

from engine.cli import main
from engine.runs.store import RunStore
from tests.patience import WAIT_S, wait

COMMANDS = list(dict.fromkeys(command.text.removeprefix(".venv/bin/") for command in documents.documented()))


def recipe(command: str, *more: str) -> str:
    """Return what ``make`` would do, nothing of it done."""
    words = [*shlex.split(command), *more, f"PYTHON={sys.executable}"]
    done = subprocess.run([words[0], "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make ")])
def test_make_knows_its_target(command: str) -> None:
    """What its recipe runs: this very test (test, test-all), the tools below, or a command that is executed here."""
    steps = recipe(command, "-B")
    if "TORCH_INDEX" in command:
        assert re.search(r'-n "URL"[^\n]*\n[^\n]*--index-url "URL"', steps)
    if "clean" in command:
        assert "rm -rf .venv" in steps
    else:
        assert "-r requirements.txt" in steps, "every other target installs first"
        assert "--compile-bytecode" in steps, "once, not each time a process starts"
    tools = set(re.findall(r"^\.venv/bin/(ruff|mypy)\b", steps, re.M))
    assert tools == ({"ruff", "mypy"} if re.search(r"test|lint", command) else set())
    runs = {"python " + words for words in re.findall(r"^\.venv/bin/python (-m engine .*)$", steps, re.M)}
    assert runs == (
        {"python -m engine run --preset phantom_cpu_demo"} & set(COMMANDS) if "headless" in command else set()
    )
    assert ("-m app.main --demo" in steps) == (command == "make demo")
    tested = re.search(r"-m pytest .*", steps)
    assert bool(tested) == ("test" in command)
    quick = command.split()[1] == "test"
    assert not tested or (' -m "not slow" ' in tested[0]) == quick


def test_make_demo_serves_the_page_and_starts_the_demo_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (line,) = re.findall(r"^\.venv/bin/python (-m app\.main .*)$", recipe("make demo", f"PORT={port}"), re.M)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "DSFEDMED_HOME": str(tmp_path)}
    page = subprocess.Popen(
        [sys.executable, *line.split()], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert page.stdout is not None
        assert page.stdout.readline().startswith(f"DSFedMed Studio: http://127.0.0.1:{port}")
        store = RunStore(tmp_path)
        wait(lambda: store.list(status=("queued", "running")))
        assert [run.name for run in store.list()] == ["phantom_cpu_demo", "nuclei_cpu"], "the shipped one is older"
        store.close()
    finally:
        page.terminate()
        page.wait(timeout=WAIT_S)
    monkeypatch.setenv("DSFEDMED_HOME", str(tmp_path))  # a command sets it to its own home, for good
    assert main(["cancel", "last", "--force", "--home", str(tmp_path)]) == 0


def test_what_docker_runs_is_executed_here() -> None:
    for command in (c for c in COMMANDS if c.startswith("docker run")):
        _, module, rest = command.partition(" python -m ")
        assert not module or f"python -m {rest}" in COMMANDS or rest.startswith("app.users ")


@pytest.mark.parametrize("command", [c for c in COMMANDS if "python -m app.users " in c])
def test_the_command_that_keeps_the_users_file(command: str, tmp_path: Path) -> None:
    words = shlex.split(command.partition("python -m ")[2])[2:]
    run = [sys.executable, "-m", "app.users", str(tmp_path / "users.json")]
    subprocess.run([*run, *words, "--password-stdin"], input="a password of nobody", text=True, check=True, cwd=ROOT)
    told = subprocess.run([*run, "list"], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert told == "NAME\toperator\n"
