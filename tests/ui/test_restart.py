"""The page's server is killed while a run is at work and started again under an open page; then two browsers on it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import Watched, free_port, serving
from playwright.sync_api import Page, expect

from engine.config import parse_config
from engine.runs.store import RunStore
from tests.patience import is_over, wait

pytestmark = pytest.mark.ui

STAND_INS = "tests.integration.lifecycle_stages:STAGES"
STEPS, STEP_MS = 10_000, 100
"""So many, and so long, that a run is still at work when all has been looked at, however busy the machine is."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunStore]:
    """Give a home; its workers outlive the page, and end with the test."""
    store = RunStore(tmp_path / "home")
    yield store
    for record in store.list(status=("running",)):
        if record.pid is not None and not is_over(record.pid):
            os.kill(record.pid, signal.SIGKILL)
    store.close()


def queued(store: RunStore) -> str:
    settings = {"method": "fedtinysam", "data": {"images_per_site": STEP_MS}, "federation": {"rounds": STEPS}}
    return store.create_run(parse_config(settings), queued=True).run_id


def steps(store: RunStore, run_id: str) -> int:
    return store.stages(run_id)[0].step


def shown_steps(page: Page) -> int:
    """Return how far the run's first stage is, as the page says it."""
    said = page.locator("#stepper li").first.inner_text()
    return int(said.partition("step ")[2].split()[0])


@pytest.mark.slow
def test_a_killed_page_comes_back_by_itself_and_the_run_goes_on(
    store: RunStore, open_page: Callable[..., Watched]
) -> None:
    run_id, port = queued(store), free_port()
    with ExitStack() as served:
        first = served.enter_context(serving(store.home, port=port, stand_ins=STAND_INS))
        page = open_page(first.address).page
        expect(page.locator("#status .badge")).to_have_text("Running")
        wait(lambda: steps(store, run_id) >= 5)
        worker = store.get(run_id)
        first.kill()
        expect(page.get_by_text("Connection to the server was lost")).to_be_visible()
        reached = steps(store, run_id)
        wait(lambda: steps(store, run_id) > reached + 5)  # nobody serves, and the run goes on
        served.enter_context(serving(store.home, port=port, stand_ins=STAND_INS))
        expect(page.get_by_text("Connection to the server was lost")).to_be_hidden()
        expect(page.locator("#status code")).to_have_text(run_id)
        wait(lambda: shown_steps(page) > reached + 5)
        assert store.get(run_id).pid == worker.pid and store.get(run_id).attempt == worker.attempt == 1

        other = open_page(f"{first.address}/?run={run_id}", width=390, height=844).page
        expect(other.locator("#status .badge")).to_have_text("Running")
        page.locator("#cancel").click()
        page.locator("#cancel-yes").click()
        for seen in (page, other):
            expect(seen.locator("#status .badge")).to_have_text("Cancelled")
            expect(seen.locator("#resume")).to_be_visible()
        told = store.metrics(run_id, name="x")[0].steps
        assert told == tuple(range(1, len(told) + 1)), "no step was lost, and none told twice"
