"""The Ray back end: sites side by side, failures by name, stops, and nothing that is left running or listening."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from ray_world import SITES, ones, toy_grid

from engine.config import RunConfig
from engine.errors import UserError
from engine.federation.backends import ray_cluster
from engine.federation.backends.ray_worker import Told
from engine.federation.backends.raygrid import RayGrid
from engine.federation.exchange import ask
from engine.federation.rounds import Failure, call_once, run_rounds
from engine.federation.side_by_side import num_workers, threads_of_worker
from engine.federation.tasks import SiteRequest
from engine.types import RunCancelled
from tests.patience import WAIT_S, wait

pytestmark = pytest.mark.timeout(2 * WAIT_S)
Told_ = tuple[str, int, Told]


class World:
    """A grid of toys with two workers, what they have told, and the folder that they write to."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.told = folder, list[Told_]()
        self.others = set(psutil.Process().children(recursive=True))  # a browser's driver, of the tests before
        self.grid: RayGrid = toy_grid(folder, hear=lambda *said: self.told.append(said))

    def ask(self, what: str = "", **how: object) -> dict:
        return call_once(
            self.grid, task="query.x", kind="k", sites=SITES, arrays=ones(), settings={"what": what}, **how
        )


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("toys"))
    yield world
    world.grid.close()


@pytest.fixture
def world(shared: World) -> World:
    """Return the shared grid with sites that were never visited."""
    for path in shared.folder.iterdir():
        path.unlink()
    shared.told.clear()
    return shared


def test_two_sites_work_at_a_time_each_in_its_process(world: World) -> None:
    replies = world.ask("meet", round_number=3)
    assert list(replies) == list(SITES)
    assert all(reply.arrays["w"].tolist() == [2.0, 2.0, 2.0] for reply in replies.values())
    assert [reply.num_examples for reply in replies.values()] == [5, 5, 4]
    pids = {reply.texts["pid"] for reply in replies.values()} - {str(os.getpid())}
    assert len(pids) == 2
    nice = {psutil.Process(int(pid)).nice() for pid in pids}
    assert nice == {psutil.Process().nice()}, "beside other work it gets its share of a core"
    assert {(reply.texts["stage"], reply.texts["threads"]) for reply in replies.values()} == {("toys", "1")}
    expected = [(site, 3, told) for site in SITES for told in (Told(1, 2), Told(3, name="loss", value=0.5))]
    assert sorted(world.told, key=str) == sorted(expected, key=str)


def test_only_loopback_hears_the_cluster_and_it_wants_a_token(world: World) -> None:
    world.ask()
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    listening = [c.laddr for p in family for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert len(listening) > 3
    assert {place.ip.removeprefix("::ffff:") for place in listening} == {"127.0.0.1"}
    assert 8265 not in {place.port for place in listening}
    assert os.environ["RAY_AUTH_MODE"] == "token" and len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_what_a_site_raises_comes_back_with_its_four_fields(world: World) -> None:
    with pytest.raises(UserError) as caught:
        world.ask("refuse south")
    assert caught.value.as_dict() == {
        "code": "data.mask_missing", "what": "Site south: x.png has no mask.", "why": "It is needed.", "fix": "Add it.",
    }  # fmt: skip


def test_a_killed_worker_is_a_named_failure_and_another_takes_its_place(world: World) -> None:
    with pytest.raises(UserError, match="The process that worked for site south ended") as caught:
        world.ask("die south")
    assert caught.value.code == "federation.worker_died"
    assert world.ask()["south"].metrics["visits"] == 2


def test_on_failure_asks_a_killed_workers_site_again_or_goes_on_without_it(world: World) -> None:
    failures: list[Failure] = []
    how = {"arrays": ones(), "sites": SITES, "rounds": 1, "task": "query.x", "settings": {"what": "die west"}}
    averaged = run_rounds(world.grid, **how, retries=1, on_failure=failures.append)
    assert averaged["w"].tolist() == [2.0, 2.0, 2.0]
    assert [(f.site, f.attempt, f.error.code) for f in failures] == [("west", 1, "federation.worker_died")]
    (world.folder / "west.txt").unlink()
    run_rounds(world.grid, **how, quorum=2, on_failure=failures.append)
    assert [(f.site, f.attempt) for f in failures[1:]] == [("west", None)]


@pytest.mark.slow
def test_a_late_site_is_stopped_when_it_is_asked_again(world: World) -> None:
    world.ask()  # the workers are there: what is waited for below is not their start
    for visits in world.folder.iterdir():
        visits.unlink()
    requests = [SiteRequest(site, "query.x", 0, {"what": "hang north"}, ones()) for site in SITES]
    nodes = world.grid.site_nodes(SITES, wait_s=0)
    answers = ask(world.grid, requests, nodes=nodes, kind="k", deadline_s=10.0)
    assert {site for site, _ in answers} == {"south", "west"}
    replies = dict(ask(world.grid, requests, nodes=nodes, kind="k"))
    assert sorted(replies) == sorted(SITES)
    assert replies["north"].metrics["visits"] == 2  # the first answer never comes


def test_a_stop_is_heard_while_sites_work(world: World) -> None:
    def stop() -> None:
        if any(site == "north" for site, _, _ in world.told):
            raise RunCancelled("asked to stop")

    with pytest.raises(RunCancelled):
        world.ask("hang north", check_cancelled=stop)
    assert world.ask()["north"].metrics["visits"] == 2


def test_sigterm_means_to_a_run_what_it_meant_before(world: World) -> None:
    world.ask()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.slow
def test_nothing_is_left_after_the_end(world: World) -> None:
    world.ask()
    ours = f"{ray_cluster.PREFIX}{os.getpid()}-"
    (folder,) = Path(tempfile.gettempdir()).glob(f"{ours}*")
    assert folder.stat().st_mode & 0o777 == 0o700
    started = set(psutil.Process().children(recursive=True)) - world.others
    assert len(started) > 3
    world.grid.close()
    assert not folder.exists()
    wait(lambda: not any(_runs(process) for process in started), timeout_s=WAIT_S)
    assert world.ask()["north"].metrics["visits"] == 2  # and it can begin again


@pytest.mark.slow
def test_nothing_is_left_of_a_killed_run(tmp_path: Path) -> None:
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here), str(here.parents[1])])
    program = subprocess.Popen(
        [sys.executable, str(here / "ray_killed.py"), str(tmp_path)],
        stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": paths}, text=True,
    )  # fmt: skip
    assert program.stdout is not None
    assert any("north works" in line for line in program.stdout)
    started = psutil.Process(program.pid).children(recursive=True)
    assert len(started) > 3
    os.kill(program.pid, signal.SIGKILL)
    program.wait()
    wait(lambda: not any(_runs(process) for process in started), timeout_s=WAIT_S)
    left = list(Path(tempfile.gettempdir()).glob(f"{ray_cluster.PREFIX}{program.pid}-*"))
    ray_cluster.clear_leftovers()
    assert left and not left[0].exists()


def test_without_ray_a_sentence_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -r requirements-ray\.txt"):
        ray_cluster.require_ray()


@pytest.mark.parametrize(
    ("settings", "sites", "workers"),
    [({}, 5, 4), ({}, 3, 3), ({"workers": 2}, 5, 2), ({"workers": 8}, 5, 5), ({"ray_address": "a:1"}, 9, 9)],
)
def test_one_site_a_core_works_where_nothing_else_is_said(
    settings: dict[str, object], sites: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.federation.side_by_side.available_cores", lambda: 4)
    assert num_workers(RunConfig(**settings), num_sites=sites) == workers


@pytest.mark.parametrize(
    ("workers", "cores", "given", "threads"), [(2, 4, None, 2), (3, 4, None, 1), (8, 4, None, 1), (2, 4, 3, 3)]
)
def test_workers_share_the_cores_out(workers: int, cores: int, given: int | None, threads: int) -> None:
    assert threads_of_worker(workers, cores=cores, threads=given) == threads


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
