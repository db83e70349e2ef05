"""Every tab fits a desk and a phone, names its controls, and asks nothing of other machines."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import seed_store
from conftest import Server, Watched, serving
from playwright.sync_api import Page, expect

from engine.data.phantoms import TASKS, write_dataset
from engine.runs import lifecycle
from engine.runs.store import RunStore

pytestmark = pytest.mark.ui

READY = {
    "Train": "#status .badge",
    "Samples": "#gallery img",
    "Segment": "#examples img",
    "Tables": "#table-figures table",
    "Compare": "#compare-message .empty",
}
NAMELESS = """() => {
  const named = (e) => (e.labels && [...e.labels].some((l) => l.innerText.trim())) || e.getAttribute('aria-label')
    || e.getAttribute('aria-labelledby') || e.innerText?.trim() || e.title;
  return [...document.querySelectorAll('input, textarea, select, button, [role=slider]')]
    .filter((e) => e.offsetParent && e.type !== 'file' && !named(e)).map((e) => e.outerHTML.slice(0, 160));
}"""
NO_ALT = "() => [...document.images].filter((i) => i.offsetParent && !i.alt).map((i) => i.outerHTML.slice(0, 160))"
TOO_WIDE = "() => document.documentElement.scrollWidth - window.innerWidth"


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()
    page.wait_for_selector(READY[name])


@pytest.mark.slow
def test_a_page_at_rest_asks_seldom(layout_server: Server, open_page: Callable[..., Watched]) -> None:
    """A run that is over is looked at every five seconds, not every one: on a public page many are left open."""
    page = open_page(layout_server.address).page
    open_tab(page, "Samples")
    page.wait_for_timeout(6000)  # whatever was to be shown at first is there
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/queue/join" in request.url else None)
    page.wait_for_timeout(10_000)
    assert len(asked) <= 9, "three timers of 5 s; at work it would be 17"
    with page.expect_request(lambda request: "/queue/join" in request.url):
        pass


@pytest.mark.slow
def test_the_held_out_site_is_chosen_from_the_sites_of_the_images(
    layout_server: Server, open_page: Callable[..., Watched], tmp_path: Path
) -> None:
    write_dataset("polyp", tmp_path / "data", images_per_site=2, image_px=64, sites=TASKS["polyp"].sites[:2])
    page = open_page(layout_server.address).page
    page.get_by_role("button", name="Start a new run").click()
    offered = page.get_by_role("option")
    box = page.locator("#field-data-held_out input")
    page.locator("#field-data-task input").click()
    page.get_by_role("option", name=re.compile("^prostate")).click()
    expect(box).to_have_value("the last site")
    box.click()
    expect(offered).to_have_text([re.compile(site) for site in ("the last site", *sorted(TASKS["prostate"].sites))])
    page.get_by_label("A folder on this server").check()
    page.locator("#field-data-root textarea, #field-data-root input").fill(str(tmp_path / "data"))
    expect(offered).to_have_count(0)
    box.click()
    expect(offered).to_have_count(3)
    page.get_by_role("option", name=TASKS["polyp"].sites[1]).click()
    expect(box).to_have_value(TASKS["polyp"].sites[1])


def test_the_form_has_the_sections_that_the_method_reads(
    layout_server: Server, open_page: Callable[..., Watched]
) -> None:
    watched = open_page(layout_server.address)
    page = watched.page
    page.get_by_role("button", name="Start a new run").click()
    page.locator("#section-run button.label-wrap").click()
    page.locator("#section-distillation button.label-wrap").click()
    expect(page.locator("#field-distillation-mutual")).to_be_visible()
    for method, distils, chooses in (
        ("TinySAM by FedAvg alone", False, False),
        ("DSFedMed, SAM teaches only (", True, False),
        ("DSFedMed: federated dual", True, True),
    ):
        page.locator("#field-method input").click()
        page.get_by_role("option", name=method).click()
        expect(page.locator("#section-distillation")).to_be_visible(visible=distils)
        expect(page.locator("#section-teacher")).to_be_visible(visible=distils)
        expect(page.locator("#section-federation")).to_be_visible()
        expect(page.locator("#field-distillation-mutual")).to_be_visible(visible=chooses)
    assert not watched.faults


def test_a_failed_run_says_what_happened_and_what_to_do(
    layout_server: Server, open_page: Callable[..., Watched]
) -> None:
    page = open_page(layout_server.address).page
    page.get_by_role("combobox", name="Run").or_(page.locator("#run input")).first.click()
    page.get_by_role("option", name="layout failed").click()
    expect(page.locator("#status .error-box")).to_contain_text("not a number")
    expect(page.locator("#resume")).to_be_visible()
    expect(page.locator("#cancel")).to_be_hidden()
    expect(page.locator("#stepper li.failed, #stepper li.running")).to_have_count(1)


@pytest.mark.slow
def test_curves_chosen_for_one_run_do_not_hold_up_the_next(
    layout_server: Server, open_page: Callable[..., Watched]
) -> None:
    watched = open_page(layout_server.address)
    page = watched.page
    page.locator("#curves input").click()
    page.get_by_role("option", name="Mutual distillation").click()
    expect(page.locator("#loss .gtitle")).to_contain_text("Mutual distillation")
    page.locator("#run input").click()
    page.get_by_role("option", name="layout failed").click()  # it never came so far
    expect(page.locator("#status .badge")).to_have_text("Stopped by an error")
    expect(page.locator("#curves input")).to_have_value("the latest stage")
    expect(page.locator("#loss .gtitle")).to_contain_text("Generator training")
    expect(page.locator(".toast-body")).to_have_count(0)
    assert not watched.faults


@pytest.mark.slow
def test_a_refused_launch_shows_why(layout_server: Server, open_page: Callable[..., Watched]) -> None:
    page = open_page(layout_server.address, height=700).page
    page.get_by_role("button", name="Start a new run").click()
    page.get_by_role("button", name="Federated training").click()
    page.locator("#field-federation-rounds input").fill("")
    page.locator("#launch").click()
    box = page.locator("#plan-result [role=alert]")
    expect(box).to_contain_text("'Rounds' under 'Federated training' is empty")
    expect(box).to_be_in_viewport(ratio=1)


def test_the_log_opens_at_its_newest_line(layout_server: Server, open_page: Callable[..., Watched]) -> None:
    page = open_page(layout_server.address).page
    expect(page.locator("#log .log > *").last).to_be_visible()
    page.wait_for_function(
        """() => {
          const bottom = (part) => document.querySelector(part).getBoundingClientRect().bottom;
          return bottom('#log .log > :last-child') <= bottom('#log') + 1;
        }"""
    )


def test_the_finished_run_shows_its_table_and_plots(layout_server: Server, open_page: Callable[..., Watched]) -> None:
    page = open_page(layout_server.address).page
    expect(page.locator("#results table").first).to_contain_text("TinySAM, mutually distilled")
    expect(page.locator("#results-plot .js-plotly-plot")).to_be_visible()
    expect(page.locator("#traffic-note")).to_contain_text("to the server")
    expect(page.locator("#stepper li.finished")).to_have_count(7)


def test_an_address_of_an_unknown_run_is_explained(layout_server: Server, open_page: Callable[..., Watched]) -> None:
    page = open_page(f"{layout_server.address}/?run=nothing").page
    expect(page.locator("#page-note [role=alert]")).to_contain_text("nothing")
    page.wait_for_url("**run=2*")


def test_a_read_only_page_shows_runs_but_starts_and_stops_none(
    layout_server: Server, open_page: Callable[..., Watched]
) -> None:
    with serving(layout_server.home, "--read-only", "--demo") as server:
        page = open_page(server.address).page
        expect(page.locator("#status .badge")).to_have_text("Finished")
        expect(page.locator("#page-note")).to_contain_text("read-only")
        page.locator("#run input").click()
        page.get_by_role("option", name="layout failed").click()
        expect(page.locator("#status .badge")).to_have_text("Stopped by an error")
        expect(page.locator("#new-run, #launch, #resume, #cancel, #go-on").locator("visible=true")).to_have_count(0)
        page.get_by_role("tab", name="Segment").click()
        expect(page.locator("#examples img").first).to_be_visible()


@pytest.mark.slow
def test_an_extension_that_stopped_is_told_and_given_up_after_a_question(
    open_page: Callable[..., Watched], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSFEDMED_MAX_RUNNING", "0")
    run_id = seed_store.fill(tmp_path)
    store = RunStore(tmp_path)
    lifecycle.extend(store, run_id, rounds=store.get(run_id).config.federation.rounds + 3)
    lifecycle.cancel(store, run_id)
    with serving(tmp_path) as server:
        page = open_page(server.address, width=390).page
        expect(page.locator("#status .notice")).to_contain_text("has stopped; the results are those of before")
        expect(page.locator("#results table").first).to_contain_text("TinySAM, mutually distilled")
        page.locator("#drop").click()
        expect(page.locator("#drop-no")).to_be_focused()
        page.locator("#drop-no").click()
        expect(page.locator("#drop-ask")).to_be_hidden()
        assert store.extension(run_id) is not None and page.evaluate(TOO_WIDE) <= 0
        page.locator("#drop").click()
        page.locator("#drop-yes").click()
        expect(page.locator("#status .badge")).to_have_text("Finished")
        expect(page.locator("#drop, #drop-ask, #resume, #status .notice").locator("visible=true")).to_have_count(0)
    assert store.extension(run_id) is None and store.get(run_id).status == "finished"


def test_a_run_can_be_taken_to_a_terminal(layout_server: Server, open_page: Callable[..., Watched]) -> None:
    page = open_page(layout_server.address).page
    words = "python -m engine run --preset phantom_cpu_smoke --name 'layout finished' --set "
    expect(page.locator("#command code")).to_contain_text(words)
    page.locator("#command code").click()
    assert page.evaluate("getSelection().toString()").startswith(words), "a click chooses the whole line"


def test_lines_of_the_log_are_found(layout_server: Server, open_page: Callable[..., Watched]) -> None:
    page = open_page(layout_server.address).page
    lines = page.locator("#log .log > div:visible")
    expect(lines).to_have_count(7)
    page.get_by_label("Search the log").fill("GENERATION has")
    expect(lines).to_have_count(1)
    expect(page.locator("#log-search output")).to_have_text("1 of 7 lines")
    page.get_by_label("Search the log").fill("")
    page.get_by_label("Only warnings and errors").check()
    expect(page.locator("#log-search output")).to_have_text("0 of 7 lines")
    page.get_by_label("Only warnings and errors").uncheck()
    expect(lines).to_have_count(7)


def test_a_run_that_is_deleted_while_it_is_shown_is_put_away_with_a_word(
    layout_server: Server, open_page: Callable[..., Watched]
) -> None:
    run_id = seed_store.fill(layout_server.home, status="failed", until="generator_training")
    page = open_page(f"{layout_server.address}/?run={run_id}").page
    expect(page.locator("#status code")).to_have_text(run_id)
    store = RunStore(layout_server.home)
    lifecycle.delete(store, run_id)
    store.close()
    expect(page.locator("#train-message [role=alert]")).to_contain_text(f"There is no run '{run_id}'.")
    expect(page.locator("#train-message")).not_to_contain_text("python")
    expect(page.locator("#live")).to_be_hidden()
    expect(page.locator("#results")).to_be_hidden()
