"""The page as a Space and as a container start it: by the very command and environment, without either around."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from app import markup, text
from tests.patience import WAIT_S, wait

ROOT = Path(__file__).resolve().parents[2]
OURS = re.compile(r"DSFEDMED_|GRADIO_|SPACE_|PORT$|PYTHONPATH$|SYSTEM$")
SPACE = {"SYSTEM": "spaces", "SPACE_ID": "someone/studio", "SPACE_HOST": "someone-studio.hf.space",
         "GRADIO_SERVER_NAME": "0.0.0.0"}  # fmt: skip
"""What Hugging Face sets where a Space of the Gradio SDK runs."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment(**given: str) -> dict[str, str]:
    """Return this process's variables without those that decide how the page starts, and ``given``."""
    return {key: value for key, value in os.environ.items() if not OURS.match(key)} | given


@contextmanager
def started(command: list[str], variables: dict[str, str], *, log: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a command whose first word is ``python`` in the repository's folder, and stop it at the end."""
    assert command[0] == "python"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, *command[1:]], cwd=ROOT, env=variables, stdout=file, stderr=subprocess.STDOUT, text=True
        )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(timeout=WAIT_S)


def health(address: str, process: subprocess.Popen[str], log: Path) -> bool:
    assert process.poll() is None, log.read_text()
    try:
        return httpx.get(f"{address}/health", timeout=WAIT_S).text == "ok"
    except httpx.ConnectError:
        return False


def is_demonstration(config: dict[str, Any]) -> bool:
    """Return whether the page says to its visitors that it is one."""
    note = markup.notice(text.DEMO_NOTE.format(hours="24"))
    return note in [block["props"].get("value") for block in config["components"]]


def test_a_space_starts_as_a_demonstration_under_its_own_name(tmp_path: Path) -> None:
    card = yaml.safe_load((ROOT / "README.md").read_text().split("---\n")[1])
    assert card["sdk"] == "gradio"
    port, log = free_port(), tmp_path / "page.log"
    variables = environment(**SPACE, GRADIO_SERVER_PORT=str(port), DSFEDMED_HOME=str(tmp_path / "home"))
    with started(["python", card["app_file"]], variables, log=log) as process:
        address = f"http://127.0.0.1:{port}"
        wait(lambda: health(address, process, log), every_s=0.5)
        named = httpx.get(f"{address}/config", headers={"host": "someone-studio.hf.space"}, timeout=WAIT_S)
        assert named.status_code == 200 and is_demonstration(named.json())
        assert "secure" in named.headers["set-cookie"].lower(), "the page is framed by huggingface.co"
        assert httpx.get(f"{address}/config", headers={"host": "evil.example"}).status_code == 421
    assert "Traceback" not in log.read_text()


def test_the_container_starts_as_a_demonstration_and_its_health_check_tells(tmp_path: Path) -> None:
    lines = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text()).splitlines()
    told = dict(pair.split("=", 1) for line in lines if line.startswith("ENV ") for pair in shlex.split(line)[1:])
    (command,) = [json.loads(line.removeprefix("CMD ")) for line in lines if line.startswith("CMD ")]
    (check,) = [json.loads(line.split("CMD ", 1)[1]) for line in lines if line.startswith("HEALTHCHECK ")]
    assert (told["DSFEDMED_HOST"], told["DSFEDMED_PORT"], told["DSFEDMED_ACCESS"]) == ("0.0.0.0", "7860", "demo")
    port, log = free_port(), tmp_path / "page.log"
    variables = environment(**told | {"DSFEDMED_PORT": str(port), "DSFEDMED_HOME": str(tmp_path / "home")})

    def healthy() -> bool:
        asked = [sys.executable, *check[1:]]
        return subprocess.run(asked, env=variables, capture_output=True, timeout=WAIT_S).returncode == 0

    assert not healthy(), "nothing serves yet"
    with started(command, variables, log=log) as process:
        address = f"http://127.0.0.1:{port}"
        wait(lambda: health(address, process, log), every_s=0.5)
        wait(healthy, timeout_s=WAIT_S)
        assert is_demonstration(httpx.get(f"{address}/config", timeout=WAIT_S).json())
        assert f"http://0.0.0.0:{port}" in log.read_text()
    assert not healthy() and "Traceback" not in log.read_text()
