"""A run is taken in from a zip, named, found by its tag and deleted; another browser's list of runs follows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import seed_store
from conftest import Server, Watched
from playwright.sync_api import expect

from engine.runs.archive_export import export_run
from engine.runs.store import RunStore

pytestmark = pytest.mark.ui


@pytest.mark.slow
def test_a_run_is_taken_in_named_found_and_deleted(
    layout_server: Server, open_page: Callable[..., Watched], tmp_path: Path
) -> None:
    run_id = seed_store.fill(tmp_path / "other", settings={"name": "from elsewhere"})
    store = RunStore(tmp_path / "other")
    export_run(store, run_id, tmp_path / "run.zip")
    store.close()
    seen = open_page(layout_server.address)
    page, picker = seen.page, seen.page.locator("#run input")
    page.wait_for_url("**run=**")
    page.locator("#take-in button.label-wrap").click()
    page.locator("#take-in-upload input[type=file]").set_input_files(tmp_path / "run.zip")
    expect(page.locator("#take-in-said")).to_contain_text(f"The run {run_id} is there")
    expect(page.locator("#status code")).to_have_text(run_id)

    page.locator("#labels button.label-wrap").click()
    expect(page.locator("#labels-title")).to_contain_text("from elsewhere")  # the fields are this run's by now
    page.wait_for_timeout(500)  # a section that was just opened gets its values a frame later
    page.locator("#labels-title").get_by_role("textbox").fill("Eyes <b>of</b> May")
    page.locator("#labels-tags").get_by_role("textbox").fill("pilot, to keep")
    page.locator("#labels-notes").get_by_role("textbox").fill("First line.\n<img src=x onerror=alert(1)>")
    page.locator("#labels-save").click()
    expect(page.locator("#status h2")).to_contain_text("Eyes <b>of</b> May")
    expect(page.locator("#status ul.tags li")).to_have_text(["pilot", "to keep"])
    expect(page.locator("#status .notes")).to_contain_text("<img src=x")

    other = open_page(f"{layout_server.address}/?run={run_id}").page
    expect(other.locator("#labels")).to_be_visible()
    picker.click()
    picker.press("ControlOrMeta+a")
    picker.press_sequentially("pilot")
    expect(page.locator("#run [role=option]")).to_have_count(1)
    picker.press("Enter")
    expect(page.locator("#status code")).to_have_text(run_id)

    page.locator("#go-on button.label-wrap").click()
    page.locator("#delete").click()
    page.locator("#delete-yes").click()
    expect(page.locator("#status code")).not_to_have_text(run_id)
    expect(other.locator("#train-message")).to_contain_text("It has been deleted")
    other.locator("#run input").click()
    expect(other.locator("#run [role=option]").first).to_be_visible()
    expect(other.locator("#run [role=option]").filter(has_text="Eyes <b>of</b> May")).to_have_count(0)
    assert seen.faults == []
