"""The way of a newcomer on the real smoke preset: launch, reload, second page, cancel, resume, samples, segment."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import pytest
from conftest import Server, Watched, serving
from PIL import Image
from playwright.sync_api import Page, expect

from engine.config import load_config
from engine.data.phantoms import TASKS, render
from engine.runs import lifecycle
from engine.runs.identity import changed_keys
from engine.runs.store import RunStore
from tests.patience import RUN_S

pytestmark = pytest.mark.ui

RUN_MS = 1000 * RUN_S
LONG_ROUNDS = 6
"""So many that a run is still at work after a reload and a second page, however long these take."""
FEWER_IMAGES = 6
"""At each site, for the preset's 12: all stages take about half as long."""


@pytest.fixture(scope="module")
def fresh_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("fresh")) as server:
        yield server


@pytest.fixture
def finished_run(fresh_server: Server) -> str:
    """Give the smoke run that the launch test has finished, or one made here where this test runs alone."""
    store = RunStore(fresh_server.home)
    done = store.list(status=("finished",))
    run_id = done[-1].run_id if done else lifecycle.submit(store, load_config("phantom_cpu_smoke"))
    deadline = time.monotonic() + RUN_MS / 1000
    while store.get(run_id).status != "finished":
        assert time.monotonic() < deadline and not store.get(run_id).resumable, store.get(run_id)
        time.sleep(0.2)
    store.close()
    return run_id


def run_of(page: Page) -> str:
    page.wait_for_url(lambda address: "run" in parse_qs(urlparse(address).query))
    return parse_qs(urlparse(page.url).query)["run"][0]


def choose(page: Page, control: str, option: str) -> None:
    page.locator(f"{control} input").click()
    page.get_by_role("option", name=re.compile(option)).click()


NOTIFICATIONS = """() => {
  window.told = [];
  window.Notification = class {
    static permission = 'default';
    static async requestPermission() { return this.permission = 'granted'; }
    constructor(words) { window.told.push(words); }
  };
}"""
"""The browser's own notices, which a browser without a screen refuses."""


def ask_to_be_told(page: Page) -> None:
    """Press the button below a run that is at work; the title of the tab says how far that is."""
    expect(page).to_have_title(re.compile(r"^\d+ % · DSFedMed Studio$"))
    page.evaluate(NOTIFICATIONS)
    page.locator("#status .tell-end").click()
    expect(page.locator("#status .tell-end")).to_be_hidden()


@pytest.mark.slow
def test_an_empty_home_tells_the_next_step_on_every_tab(
    fresh_server: Server, open_page: Callable[..., Watched]
) -> None:
    page = open_page(fresh_server.address).page
    expect(page.locator("#train-message")).to_contain_text("Launch")
    expect(page.locator("#preset")).to_be_visible()
    page.get_by_role("tab", name="Samples").click()
    expect(page.locator("#samples-message")).to_contain_text("Train")
    page.get_by_role("tab", name="Segment").click()
    expect(page.locator("#segment-message")).to_contain_text("Launch a run")


def fill_rounds(page: Page, rounds: str) -> None:
    """Change the smoke preset's two rounds, once they stand there: an opened section gets its values a moment later."""
    page.locator("#section-federation button.label-wrap").click()
    expect(page.locator("#field-federation-rounds input")).to_have_value("2")
    page.locator("#field-federation-rounds input").fill(rounds)


def test_an_impossible_setting_is_refused_before_the_launch(
    fresh_server: Server, open_page: Callable[..., Watched]
) -> None:
    page = open_page(fresh_server.address).page
    choose(page, "#preset", "^phantom_cpu_smoke · Every stage of DSFedMed")
    fill_rounds(page, "0")
    page.locator("#launch").click()
    expect(page.locator("#plan-result [role=alert]")).to_contain_text(
        "'Rounds' under 'Federated training' must be 1 to 10000; it is 0."
    )


@pytest.mark.parametrize("repeat", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
def test_what_is_typed_into_a_section_just_opened_is_what_counts(
    fresh_server: Server, open_page: Callable[..., Watched], repeat: int
) -> None:
    """Without ``keep_what_is_typed`` every third repeat fails or so."""
    page = open_page(fresh_server.address, frame_ms=700).page
    choose(page, "#preset", "^phantom_cpu_smoke · Every stage of DSFedMed")
    fill_rounds(page, str(LONG_ROUNDS))
    page.wait_for_timeout(1500)  # two frames: whatever the page still wanted to write has been written
    page.locator("#plan").click()
    expect(page.locator("#plan-result")).to_contain_text(f"{LONG_ROUNDS} rounds at")
    expect(page.locator("#field-federation-rounds input")).to_have_value(str(LONG_ROUNDS))


def segment_a_frame(page: Page, path: Path) -> None:
    Image.fromarray(render("polyp", site=TASKS["polyp"].sites[-1], index=0).image).save(path)
    page.locator("#upload input[type=file]").set_input_files(path)
    expect(page.locator("#overlay img")).to_be_visible()
    with page.expect_download() as download:
        page.locator("#download").click()
    with Image.open(download.value.path()) as mask:
        assert mask.size == (256, 256)


def test_launch_reload_second_page_cancel_resume_samples_segment(
    fresh_server: Server, open_page: Callable[..., Watched], tmp_path: Path
) -> None:
    beside = open_page(fresh_server.address).page
    expect(beside.locator("#train-message")).to_contain_text("Launch")
    page = open_page(fresh_server.address).page
    choose(page, "#preset", "^phantom_cpu_smoke · Every stage of DSFedMed")
    expect(page.locator("#field-data-task input")).to_have_value(re.compile("^polyp"))
    fill_rounds(page, str(LONG_ROUNDS))
    page.locator("#section-data button.label-wrap").click()
    expect(page.locator("#field-data-images_per_site input")).to_have_value("12")
    page.locator("#field-data-images_per_site input").fill(str(FEWER_IMAGES))
    page.locator("#plan").click()
    expect(page.locator("#plan-result")).to_contain_text("Expected time")
    page.locator("#launch").click()
    expect(page.locator("#status .badge")).to_have_text("Running", timeout=RUN_MS)
    run_id = run_of(page)
    expect(beside.locator("#status code")).to_have_text(run_id)  # a page that showed an empty store follows by itself
    beside.close()
    store = RunStore(fresh_server.home)
    preset, stored = load_config("phantom_cpu_smoke"), store.get(run_id).config
    assert set(changed_keys(preset, stored)) == {"data.images_per_site", "federation.rounds"}
    assert (stored.data.images_per_site, stored.federation.rounds) == (FEWER_IMAGES, LONG_ROUNDS)
    store.close()

    expect(page.locator("#loss .js-plotly-plot .lines path").first).to_be_attached(timeout=RUN_MS)
    page.reload()
    expect(page.locator("#status code")).to_have_text(run_id)
    second = open_page(f"{fresh_server.address}/?run={run_id}", width=390, height=844).page
    expect(second.locator("#status code")).to_have_text(run_id)
    ask_to_be_told(page)
    page.locator("#cancel").click()
    expect(page.locator("#cancel-no")).to_be_focused()
    page.keyboard.press("Enter")  # the safe answer
    expect(page.locator("#cancel-ask")).to_be_hidden()
    expect(page.locator("#status .badge")).to_have_text("Running")
    page.locator("#cancel").press("Enter")
    expect(page.locator("#cancel-no")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#status .badge")).to_have_text("Cancelled", timeout=RUN_MS)
    expect(second.locator("#status .badge")).to_have_text("Cancelled")
    expect(second).to_have_title("Cancelled · DSFedMed Studio")
    second.locator("#resume").click()
    expect(second.locator("#status .badge")).to_have_text("Running", timeout=RUN_MS)
    assert second.evaluate("window.told") is None, "nobody has asked there"
    second.close()
    expect(page.locator("#status .badge")).to_have_text("Finished", timeout=RUN_MS)
    assert page.evaluate("window.told") == [f"{stored.name}: Cancelled", f"{stored.name}: Finished"]
    expect(page.locator("#stepper li.finished")).to_have_count(7)
    expect(page.locator("#results table").first).to_contain_text("TinySAM, mutually distilled")

    page.get_by_role("tab", name="Samples").click()
    page.wait_for_selector("#gallery img")
    page.locator("#gallery button.thumbnail-item").first.click()
    expect(page.locator("#detail figure img")).to_have_count(6)

    page.get_by_role("tab", name="Segment").click()
    page.wait_for_selector("#examples img")
    segment_a_frame(page, tmp_path / "frame.png")


@pytest.mark.slow
def test_a_finished_run_is_forked_with_another_setting(
    fresh_server: Server, finished_run: str, open_page: Callable[..., Watched]
) -> None:
    seen = open_page(f"{fresh_server.address}/?run={finished_run}")
    page = seen.page
    page.locator("#go-on button.label-wrap").click()
    expect(page.locator("#fork-stage input")).to_have_value("Mutual distillation")
    page.locator("#fork").click()
    expect(page.locator("#fork-note")).to_contain_text(finished_run)
    expect(page.locator("#section-federation")).to_be_hidden()
    page.locator("#section-distillation button.label-wrap").click()
    expect(page.locator("#field-distillation-selection_rate input")).to_have_value("0.5")
    page.locator("#field-distillation-selection_rate input").fill("0.25")
    page.locator("#launch").click()
    expect(page.locator("#status code")).not_to_have_text(finished_run)
    child = page.locator("#status code").inner_text()
    expect(page).to_have_url(re.compile(child))
    expect(page.locator("#status .badge")).to_have_text("Finished", timeout=RUN_MS)
    expect(page.locator("#status")).to_contain_text(f"fork of {finished_run} from Mutual distillation")
    store = RunStore(fresh_server.home)
    before, after = store.get(finished_run).config, store.get(child).config
    assert changed_keys(before, after) == ("name", "distillation.selection_rate")
    assert store.stages(child)[-1].planned_s is not None
    store.close()
    assert seen.faults == []


@pytest.mark.slow
def test_a_finished_run_is_extended_after_a_question(
    fresh_server: Server, finished_run: str, open_page: Callable[..., Watched]
) -> None:
    """What it makes anew takes as long as a run; that old results stay until then is held without a browser, too."""
    store = RunStore(fresh_server.home)
    rounds = store.get(finished_run).config.federation.rounds
    seen = open_page(f"{fresh_server.address}/?run={finished_run}")
    page = seen.page
    expect(page.locator("#status code")).to_have_text(finished_run)
    page.locator("#go-on button.label-wrap").click()
    page.locator("#extend").click()
    expect(page.locator("#extend-ask")).to_contain_text("until all new ones are there")
    page.locator("#extend-yes").click()
    expect(page.locator("#status .badge")).to_have_text("Running", timeout=RUN_MS)
    expect(page.locator("#go-on")).to_be_hidden()
    expect(page.locator("#status .badge")).to_have_text("Finished", timeout=RUN_MS)
    expect(page.locator("#log")).to_contain_text(f"Extended from {rounds} to {rounds + 1} rounds.")
    steps = [curve.steps for curve in store.metrics(finished_run) if curve.name == "val_dice" and curve.site is None]
    assert max(steps[0]) == rounds + 1 == store.get(finished_run).config.federation.rounds
    store.close()
    assert seen.faults == []
