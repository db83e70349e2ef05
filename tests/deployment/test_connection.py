"""A site's connection and its loop in this process, beside a server and one other site in processes of their own."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from flwr.supercore.task_identity import TaskIdentity

from engine.errors import UserError
from engine.federation.backends.fleet import FleetConnection
from engine.site.node import serve
from tests.deployment.deployed import ROOT, Deployed, deployed
from tests.deployment.toy_site import program
from tests.patience import WAIT_S, wait

SITES = ("north", "south")
ROUNDS = """
import sys
from pathlib import Path
import numpy as np
from engine.deployment import federations
from engine.deployment.server import link_of
from engine.federation.backends.superlink import SuperlinkGrid
from engine.federation.rounds import run_rounds

federation = federations.load(Path(sys.argv[1]))
with SuperlinkGrid(link_of(federation), keys=federations.accepted_keys(federation)) as grid:
    arrays = {"a": np.array([0.5, -2.0], np.float32)}
    found = run_rounds(grid, arrays=arrays, sites=("north", "south"), rounds=2, wait_s=float(sys.argv[3]))
np.savez(sys.argv[2], **found)
"""
"""A coordinator's worker: one process is either a site or a server, for Flower keeps who it is in the process."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    with deployed(tmp_path_factory.mktemp("connection"), sites=SITES) as world:
        world.start_server()
        world.start_site("north")
        yield world


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give this process back who it was for Flower."""
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, None)


def connection(world: Deployed) -> FleetConnection:
    folder = world.folder / "at" / "south"
    return FleetConnection(world.address, ca=folder / "ca.crt", key=folder / "site.key", notes=folder)


@contextmanager
def served(world: Deployed, said: list[str]) -> Iterator[None]:
    """Let the site south answer from a thread of this process."""
    stop, faults = threading.Event(), []

    def work() -> None:
        toy = program("south", world.folder / "at" / "south" / "images", world.folder / "at" / "south", said.append)
        try:
            serve(lambda: connection(world), toy, site="south", stop=stop, say=said.append)
        except BaseException as error:
            faults.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        wait(lambda: f"Connected to the server at {world.address} as south." in said or bool(faults))
        assert not faults, faults
        yield
    finally:
        stop.set()
        thread.join(WAIT_S)
        assert not faults, (faults, said)


def rounds(world: Deployed, out: Path) -> np.ndarray:
    words = [sys.executable, "-c", ROUNDS, str(world.federation_folder), str(out), str(WAIT_S)]
    subprocess.run(words, check=True, cwd=ROOT, timeout=3 * WAIT_S)
    return np.load(out)["a"]


def by_hand() -> np.ndarray:
    """Return two rounds of what sites do, w + sin(w + mean * round), weighted by 3 numbers of mean 2 and 1 of 10."""
    weights = np.array([0.5, -2.0])
    for number in (1, 2):
        weights = weights + (3 * np.sin(weights + 2 * number) + np.sin(weights + 10 * number)) / 4
    return weights


@pytest.mark.slow
@pytest.mark.timeout(6 * WAIT_S)
def test_a_site_answers_every_round_and_is_the_same_node_when_it_comes_back(world: Deployed, tmp_path: Path) -> None:
    folder, said = world.folder / "at" / "south", list[str]()
    with served(world, said):
        np.testing.assert_allclose(rounds(world, tmp_path / "one.npz"), by_hand(), atol=1e-6)
        assert not (folder / "at_work.bin").exists(), "what is answered is not kept"
        node = (folder / "node_id.txt").read_text()
        with connection(world) as second:  # as after a SIGKILL: the node is online still
            assert str(second.node.node_id) == node
            assert second.receive() is None and second.attempt == 0
    assert said[0] == f"Connected to the server at {world.address} as south."
    assert [words for words in said if "train.student" in words] == [
        f"{done} train.student (round {number})." for number in (1, 2) for done in ("Asked for", "Answered")
    ]


@pytest.mark.slow
@pytest.mark.timeout(6 * WAIT_S)
def test_a_run_that_nobody_knows_is_not_waited_for(world: Deployed) -> None:
    with connection(world) as south:
        assert not south.wanted(12345)
        (world.folder / "at" / "south" / "at_work.bin").write_bytes(b"2\n")
        south.attempt = 2
        south.drop()
        assert south.attempt == 0 and not (world.folder / "at" / "south" / "at_work.bin").exists()


@pytest.mark.slow
@pytest.mark.timeout(6 * WAIT_S)
def test_a_key_of_another_is_refused_by_name(world: Deployed, tmp_path: Path) -> None:
    folder = world.add_site("stranger", accept=False)
    stranger = FleetConnection(world.address, ca=folder / "ca.crt", key=folder / "site.key", notes=tmp_path)
    with pytest.raises(UserError) as refused, stranger:
        pass
    assert refused.value.code == "federation.key_refused"
