"""The quick case of deployment: a server and two sites over TLS with keys, one federated round, one stranger."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pytest

from engine.federation.backends.inprocess import InProcessGrid
from engine.federation.client_app import build_client_app
from engine.federation.rounds import run_rounds
from engine.federation.tasks import SiteReply, SiteRequest
from tests.deployment.deployed import Deployed, deployed
from tests.deployment.toy_site import tasks
from tests.patience import WAIT_S

SITES = ("north", "south")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    with deployed(tmp_path_factory.mktemp("deployed"), sites=SITES) as world:
        world.start_server()
        for site in SITES:
            world.start_site(site)
        yield world


def arrays() -> dict[str, np.ndarray]:
    return {"a": np.linspace(-1, 1, 11, dtype=np.float32), "b": np.full((2, 3), 0.1, np.float32)}


def in_process(world: Deployed, *, rounds: int, sites: tuple[str, ...] = SITES) -> Mapping[str, np.ndarray]:
    """Return what the same rounds give in this process, on the same folders."""
    folders = {site: world.folder / "at" / site / "images" for site in sites}

    def train(request: SiteRequest) -> SiteReply:
        return tasks(request.site, folders[request.site])["student"](request)

    grid = InProcessGrid(build_client_app({"student": train}), sites=sites)
    return run_rounds(grid, arrays=arrays(), sites=sites, rounds=rounds)


@pytest.mark.timeout(4 * WAIT_S)
def test_a_round_on_a_superlink_equals_the_one_in_process(world: Deployed) -> None:
    with world.grid() as grid:
        deployed = run_rounds(grid, arrays=arrays(), sites=SITES, rounds=1, wait_s=WAIT_S)
        assert world.online() == set(SITES)
        assert {name: node.online for name, node in grid.nodes().items()} == {"north": True, "south": True}
    expected = in_process(world, rounds=1)
    assert deployed.keys() == expected.keys()
    for name, value in deployed.items():
        assert value.dtype == np.float32
        assert (value == expected[name]).all(), name
    # By hand: (3 * sin(0.1 + 2) + 1 * sin(0.1 + 10)) / 4 + 0.1, sites' means 2 and 10 of 3 and 1 numbers.
    assert np.allclose(deployed["b"], 0.1 + (3 * np.sin(2.1) + np.sin(10.1)) / 4, atol=1e-6)


@pytest.mark.timeout(4 * WAIT_S)
def test_a_key_that_nobody_registered_is_refused(world: Deployed) -> None:
    world.add_site("stranger", accept=False)
    stranger = world.start_site("stranger")
    stranger.wait_for("Error (federation.key_refused)")
    assert stranger.process.wait(timeout=WAIT_S) == 2
    assert "not registered" in stranger.said() and "Fix: Send the signing request" in stranger.said()
    assert "stranger" not in world.online()
