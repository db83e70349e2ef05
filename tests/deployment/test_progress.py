"""A site says how far it is while it works, and what it is asked meanwhile is answered later, also by a program that is
started anew; it runs in this process, beside a server and two coordinators' workers in processes of their own."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import pytest
from flwr.supercore.task_identity import TaskIdentity

from engine.federation.backends.fleet import FleetConnection
from engine.federation.tasks import Listener, SiteReply, SiteRequest
from engine.site import node
from tests.deployment.deployed import ROOT, Deployed, deployed
from tests.patience import WAIT_S, wait

ASKS = """
import sys, time
from pathlib import Path
import numpy as np
from flwr.app import Message
from engine.deployment import federations
from engine.deployment.server import link_of
from engine.federation.backends.how_far import HowFar
from engine.federation.backends.superlink import SuperlinkGrid
from engine.federation.payload import read_reply, request_content, to_payload
from engine.federation.tasks import SiteRequest

federation = federations.load(Path(sys.argv[1]))
with SuperlinkGrid(link_of(federation), keys=federations.accepted_keys(federation)) as grid:
    node_id = grid.site_nodes(["south"], wait_s=float(sys.argv[3]))["south"]
    request = SiteRequest("south", "train.student", 3, {"times": int(sys.argv[2])})
    content = request_content(request, arrays=to_payload({"a": np.ones(2, np.float32)}))
    messages = [Message(content, node_id, request.task, group_id="3")]
    counted = []
    far = HowFar("run", tell=lambda *told: print("told", *told, flush=True), count=counted.append)
    (key,) = grid.push_messages(messages)
    far.begun(messages, [key], sites={node_id: "south"})
    print("asked", flush=True)
    answer = None
    while answer is None:
        far.ask(grid.push_messages)
        for reply in grid.pull_messages([key, *far.keys]):
            if not far.heard(reply):
                answer = reply
        time.sleep(0.1)
    print("answered", read_reply(answer).arrays["a"].tolist(), flush=True)
    print("counted", sorted({(r.direction, r.kind, r.round) for r in counted}), flush=True)
"""


class Patient:
    """Works until it is let go, and says at each step how far it is."""

    def __init__(self) -> None:
        self.release, self.begun = threading.Event(), list[int]()
        self.told: list[tuple[str, int, list[tuple[int, int]]]] = []

    def answer(self, request: SiteRequest, *, run: Mapping[str, str], listener: Listener) -> SiteReply:
        times = int(request.settings["times"])
        self.begun.append(times)
        step = 0
        while not self.release.is_set():
            step = min(step + 1, 99)
            listener.progress(step, 100)
            time.sleep(0.02)
        return SiteReply({"a": times * request.arrays["a"]}, {"loss": 0.0}, 1)

    def told_progress(self, task: str, round_number: int, steps: Sequence[tuple[int, int]], *, run_id: str) -> None:
        self.told.append((task, round_number, list(steps)))

    def idle(self) -> None: ...


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    with deployed(tmp_path_factory.mktemp("progress"), sites=("south",)) as world:
        world.start_server()
        yield world


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give this process back who it was for Flower; look often for who asks."""
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, None)
    monkeypatch.setattr(node, "TELL_EVERY_S", 0.1)


@contextmanager
def served(world: Deployed, program: Patient) -> Iterator[None]:
    folder, stop, faults = world.folder / "at" / "south", threading.Event(), list[BaseException]()

    def connect() -> FleetConnection:
        return FleetConnection(world.address, ca=folder / "ca.crt", key=folder / "site.key", notes=folder)

    def work() -> None:
        try:
            node.serve(connect, program, site="south", stop=stop, say=lambda _: None)
        except BaseException as error:
            faults.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(WAIT_S)
        assert not faults and not thread.is_alive(), faults


class Worker:
    """A coordinator's worker that asks the site for ``times`` times its numbers."""

    def __init__(self, world: Deployed, times: int) -> None:
        self.output = world.folder / f"asks_{times}.log"
        words = [sys.executable, "-c", ASKS, str(world.federation_folder), str(times), str(WAIT_S)]
        with self.output.open("wb") as file:
            self.process = subprocess.Popen(words, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)

    def lines(self, word: str) -> list[str]:
        """Return the lines that begin with ``word``, of those that it has printed."""
        assert self.process.poll() in (None, 0), self.output.read_text()
        return [line for line in self.output.read_text().splitlines() if line.startswith(word)]

    def wait_for(self, word: str, *, count: int = 1) -> None:
        """Wait until it has printed so many such lines."""
        wait(lambda: len(self.lines(word)) >= count)

    def finish(self) -> list[str]:
        """Wait until it has its answer; return what it was."""
        self.wait_for("counted")
        assert self.process.wait(WAIT_S) == 0
        return self.lines("answered")


@pytest.fixture
def ask(world: Deployed) -> Iterator[Callable[[int], Worker]]:
    """Give a function that starts a worker; all are ended with the test."""
    workers: list[Worker] = []

    def started(times: int) -> Worker:
        workers.append(Worker(world, times))
        workers[-1].wait_for("asked")
        return workers[-1]

    yield started
    for worker in workers:
        worker.process.kill()
        worker.process.wait()


@pytest.mark.slow
@pytest.mark.timeout(6 * WAIT_S)
def test_it_is_told_while_it_works_and_what_comes_meanwhile_is_not_lost(
    world: Deployed, ask: Callable[[int], Worker]
) -> None:
    held, site = world.folder / "at" / "south" / "held", Patient()
    with served(world, site):
        first = ask(2)
        first.wait_for("told south 3 ", count=2)
        second = ask(5)
        wait(lambda: any(held.glob("*.bin")))
        first.wait_for("told", count=len(first.lines("told")) + 2)
    assert site.begun == [2] and second.lines("told") == [], "the second waits"
    steps = [int(line.split()[3]) for line in first.lines("told")]
    assert (
        steps == sorted(steps) and len(set(steps)) > 2 and {line.split()[4] for line in first.lines("told")} == {"100"}
    )

    ((task, number, told),) = site.told  # a record of it is possible; the last may not have been fetched
    assert (task, number) == ("train.student", 3) and [step for step, _ in told][: len(steps)] == steps

    again = Patient()  # the program is started anew; both are still waited for
    with served(world, again):
        wait(lambda: again.begun == [2])
        again.release.set()
        assert (first.finish(), second.finish()) == (["answered [2.0, 2.0]"], ["answered [5.0, 5.0]"])
    assert again.begun == [2, 5] and not any(held.glob("*.bin"))
    assert first.lines("counted") == ["counted [('down', 'metrics', 2000000), ('up', 'metrics', 2000000)]"]
