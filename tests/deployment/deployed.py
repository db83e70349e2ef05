"""A federation of real processes on this machine, started by the documented commands, for tests."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from engine.cli import main
from engine.deployment import federations
from engine.deployment.server import link_of, status
from engine.federation.backends.superlink import SuperlinkGrid
from tests.patience import WAIT_S, wait

ROOT = Path(__file__).resolve().parents[2]
TOY = "tests.deployment.toy_site:program"
NUMBERS = {"north": "1 2 3", "south": "10", "west": "4 4.5"}
HIDING = (
    "unshare", "--mount", "--propagation", "private", "sh", "-c",
    'while [ "$1" != -- ]; do mount -t tmpfs -o size=1m none "$1" || exit 9; shift; done; shift; exec "$@"', "sh",
)  # fmt: skip
"""Runs a command to which some folders are empty, whoever its user is: their paths follow, then ``--`` and it."""


def can_hide() -> bool:
    """Return whether this machine lets a process have mounts of its own, as root's on Linux may."""
    with TemporaryDirectory() as folder:
        try:
            return subprocess.run([*HIDING, folder, "--", "true"], capture_output=True, timeout=WAIT_S).returncode == 0
        except FileNotFoundError:
            return False


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Process:
    """A command of ours in a session of its own, with what it prints in a file."""

    def __init__(
        self, *words: str, output: Path, env: Mapping[str, str] | None = None, hidden: Sequence[Path] = ()
    ) -> None:
        self.output = output
        hiding = [*HIDING, *map(str, hidden), "--"] if hidden else []
        with output.open("ab") as file:
            self.process = subprocess.Popen(
                [*hiding, sys.executable, "-m", "engine", *words],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "DSFEDMED_SITE_PROGRAM": TOY, **(env or {})},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def said(self) -> str:
        """Return everything that it has printed."""
        return self.output.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, words: str) -> None:
        """Wait until it has printed ``words``; fail with all that it printed where it ends or stays silent."""
        try:
            wait(lambda: words in self.said() or self.process.poll() is not None, timeout_s=WAIT_S)
        except AssertionError:
            pytest.fail(f"'{words}' was not printed in time:\n{self.said()}")
        assert words in self.said(), f"ended with status {self.process.poll()}:\n{self.said()}"

    def terminate(self) -> int:
        """Send SIGTERM; return the exit status."""
        self.process.terminate()
        return self.process.wait(timeout=WAIT_S)

    def kill(self) -> None:
        """Send SIGKILL to it alone."""
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Deployed:
    """A federation's folder with its sites, and the processes that serve it."""

    def __init__(self, folder: Path, *, sites: tuple[str, ...] = tuple(NUMBERS)) -> None:
        self.folder, self.sites = folder, sites
        self.port, self.public_port = free_port(), free_port()
        folder.mkdir(exist_ok=True)
        self.federation_folder = folder / "federation"
        words = ["--address", f"localhost:{self.public_port}", "--port", str(self.port)]
        assert main(["federation", "init", str(self.federation_folder), *words]) == 0
        self.federation = federations.load(self.federation_folder)
        self.processes: list[Process] = []
        for site in sites:
            self.add_site(site)

    @property
    def address(self) -> str:
        """Where the server is without the proxy."""
        return f"localhost:{self.port}"

    def add_site(self, site: str, *, accept: bool = True) -> Path:
        """Do what coordinator and site do before a site can start; return the site's folder."""
        assert main(["federation", "add-site", str(self.federation_folder), site]) == 0
        folder = self.folder / "at" / site
        folder.parent.mkdir(exist_ok=True)
        (self.federation_folder / "for-sites" / site).rename(folder)
        assert main(["site", "keys", str(folder)]) == 0
        (folder / "images").mkdir()
        (folder / "images" / "numbers.txt").write_text(NUMBERS.get(site, "1"))
        (folder / "images" / "deaths.txt").touch()
        if accept:
            self.accept(site)
        return folder

    def accept(self, site: str) -> None:
        """Accept a site's signing request."""
        request = str(self.folder / "at" / site / "site.csr")
        assert main(["federation", "add-site", str(self.federation_folder), site, "--request", request]) == 0

    def start(
        self, *words: str, name: str, env: Mapping[str, str] | None = None, hidden: Sequence[Path] = ()
    ) -> Process:
        """Start one of our commands, ended with the test; ``hidden`` folders are empty to it and all that it starts."""
        process = Process(*words, output=self.folder / f"{name}.txt", env=env, hidden=hidden)
        self.processes.append(process)
        return process

    def start_server(self, *, hidden: Sequence[Path] = ()) -> Process:
        """Start the server and wait until it is up."""
        process = self.start("server", "up", str(self.federation_folder), name="server", hidden=hidden)
        process.wait_for("Sites connect to")
        return process

    def start_site(
        self,
        site: str,
        *,
        server: str | None = None,
        env: Mapping[str, str] | None = None,
        hidden: Sequence[Path] = (),
    ) -> Process:
        """Start a site's program."""
        folder = self.folder / "at" / site
        where = ("--data", str(folder / "images"), "--server", server or self.address)
        return self.start("site", "up", str(folder), *where, name=site, env=env, hidden=hidden)

    def grid(self, *, note: Path | None = None) -> SuperlinkGrid:
        """Return the grid of this federation, not opened yet."""
        return SuperlinkGrid(link_of(self.federation), keys=federations.accepted_keys(self.federation), note=note)

    def online(self) -> set[str]:
        """Return the names of the sites that are online."""
        return {site.name for site in status(self.federation).sites if site.connection == "online"}

    def end(self) -> None:
        """End everything that was started."""
        started = [process.process for process in reversed(self.processes)]
        for process in started:
            if process.poll() is None:
                process.terminate()
        for process in started:
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


PROXIES = {"nginx": ("-p", ".", "-c", "nginx.conf", "-g", "daemon off;"), "caddy": ("run", "--config", "Caddyfile")}


@contextmanager
def proxied(world: Deployed, *, name: str) -> Iterator[str]:
    """Start a proxy before the server, by the configuration that `federation init` has written; gives its address."""
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed here (Debian's packages: nginx-light, caddy)")
    said = world.folder / f"{name}.txt"
    with said.open("ab") as output:
        process = subprocess.Popen(
            [program, *PROXIES[name]], cwd=world.federation.server, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        wait(lambda: answers(world.public_port) or process.poll() is not None)
        assert process.poll() is None, said.read_text()
        yield f"localhost:{world.public_port}"
    finally:
        process.terminate()
        process.wait(timeout=WAIT_S)


def answers(port: int) -> bool:
    """Return whether somebody listens on a port of loopback."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def deployed(folder: Path, *, sites: tuple[str, ...] = tuple(NUMBERS)) -> Iterator[Deployed]:
    """Give a federation that is ended with the block."""
    world = Deployed(folder, sites=sites)
    try:
        yield world
    finally:
        world.end()
