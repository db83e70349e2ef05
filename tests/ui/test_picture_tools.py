"""One answered picture: its probabilities, the threshold, and clicks that correct the mask, with the shipped model."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import ROOT, Server, Watched, serving
from playwright.sync_api import Browser, Page, Route, expect

pytestmark = pytest.mark.ui
FIND_PIXEL = """(green) => {  // an outlined pixel with its like beside it: its place on the screen, and in the picture
  const canvas = document.querySelector('#overlay canvas'), box = canvas.getBoundingClientRect();
  const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height), w = canvas.width;
  const is = (n) => data[4 * n + 3] === 255 && data[4 * n + 1] === green;
  for (let y = w >> 2; y < canvas.height - 9; y++) for (let x = w >> 2; x < w - 9; x++) {
    const n = y * w + x;
    if (is(n) && is(n + 1) && is(n - 1))
      return {n, x: (x + 0.5) * box.width / w, y: (y + 0.5) * box.height / canvas.height};
  }
}"""
ALPHA = """(n) => {
  const canvas = document.querySelector('#overlay canvas');
  return canvas.getContext('2d').getImageData(n % canvas.width, Math.floor(n / canvas.width), 1, 1).data[3];
}"""
OPAQUE = """() => {
  const canvas = document.querySelector('#overlay canvas');
  const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  return data.every((value, at) => at % 4 !== 3 || value === 255);
}"""
GREEN = 158
"""Of the first class's colour."""


@pytest.fixture(scope="module")
def shipped_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve an empty home with the shipped model, as one that looks at the whole of images, and drawn examples."""
    home = tmp_path_factory.mktemp("shipped")
    shutil.copytree(ROOT / "assets" / "models", home / "shipped", ignore=shutil.ignore_patterns("examples"))
    path = home / "shipped" / "nuclei_cpu" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"looks": None}))
    with serving(home) as server:
        yield server


def drawn(page: Page, state: str) -> None:
    expect(page.locator("#overlay .overlay")).to_have_attribute("data-drawn", state)


def answered(page: Page) -> None:
    """Open the tab and answer an example."""
    page.get_by_role("tab", name="Segment").click()
    page.wait_for_selector("#examples img")
    page.locator("#examples button.thumbnail-item").first.click()
    drawn(page, "mask,50,0.35,0,0")


def set_slider(page: Page, name: str, value: str) -> None:
    field = page.locator(f"#{name} input[type=number]")
    field.fill(value)
    field.press("Enter")


def saved(page: Page, name: str) -> tuple[str, bytes]:
    with page.expect_download() as download:
        page.locator(f"#{name}").click()
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


def test_the_threshold_answers_in_the_browser_and_files_follow(
    shipped_server: Server, open_page: Callable[..., Watched]
) -> None:
    seen = open_page(shipped_server.address)
    page = seen.page
    answered(page)
    own = page.inner_text("#legend table")
    page.locator("#view").get_by_text("Probability").click()
    drawn(page, "probability,50,0.35,0,0")
    expect(page.locator("#overlay .scale")).to_contain_text("Probability of nucleus")
    assert page.evaluate(OPAQUE)
    held: list[Route] = []
    page.route("**/queue/join*", lambda route: held.append(route))  # the picture waits for nobody
    set_slider(page, "threshold", "0.2")
    drawn(page, "probability,20,0.35,0,0")
    page.unroute("**/queue/join*")  # lets go on what was held
    set_slider(page, "threshold", "0.3")
    expect(page.locator("#legend")).to_contain_text("Threshold 0.30, not the model's own 0.50.")
    assert page.inner_text("#legend table") != own
    assert saved(page, "download")[0] == "example_1_threshold_0.30_mask.png"
    name, content = saved(page, "picture-csv")
    (row,) = csv.DictReader(content.decode().splitlines())
    assert name == "example_1_threshold_0.30_figures.csv" and row["threshold"] == "0.3" and float(row["share"]) > 0
    set_slider(page, "threshold", "0.5")
    expect(page.locator("#legend .notice")).to_have_count(0)
    assert page.inner_text("#legend table") == own
    assert saved(page, "download")[0] == "example_1_mask.png"


def test_clicks_and_keys_correct_the_mask_and_can_be_taken_back(
    shipped_server: Server, open_page: Callable[..., Watched]
) -> None:
    seen = open_page(shipped_server.address)
    page = seen.page
    answered(page)
    own, canvas = page.inner_text("#legend table"), page.locator("#overlay canvas")
    found = page.evaluate(FIND_PIXEL, GREEN)
    canvas.click(position={"x": found["x"], "y": found["y"]})  # only looks
    expect(page.locator("#overlay .overlay-value")).to_contain_text("nucleus")
    page.locator("#tool").get_by_text("removes").click()
    found = page.evaluate(FIND_PIXEL, GREEN)
    canvas.click(position={"x": found["x"], "y": found["y"]})
    expect(page.locator("#legend")).to_contain_text("Corrected by hand: 1 click.")
    drawn(page, "mask,50,0.35,0,1")
    assert page.evaluate(ALPHA, found["n"]) == 0 and page.inner_text("#legend table") != own
    assert saved(page, "download")[0] == "example_1_corrected_by_hand_mask.png"
    canvas.click(position={"x": found["x"], "y": found["y"]})
    expect(page.locator("#click-note")).to_contain_text("Nothing was removed")
    page.keyboard.press("+")  # the place of the click is where the keys go on
    expect(page.locator("#legend")).to_contain_text("Corrected by hand: 2 clicks.")
    expect(page.locator("#click-note")).not_to_contain_text("Nothing")
    page.wait_for_function(f"({ALPHA})({found['n']}) > 0")
    page.keyboard.press("Backspace")
    expect(page.locator("#legend")).to_contain_text("Corrected by hand: 1 click.")
    set_slider(page, "threshold", "0.4")
    expect(page.locator("#legend")).to_contain_text("Threshold 0.40, not the model's own 0.50. Corrected by hand: 1")
    page.get_by_role("button", name="Back to the model's mask").click()
    expect(page.locator("#legend")).not_to_contain_text("by hand")
    drawn(page, "mask,40,0.35,0,0")
    expect(page.locator("#undo-click")).to_be_disabled()
    set_slider(page, "threshold", "0.5")
    expect(page.locator("#legend .notice")).to_have_count(0)
    assert page.inner_text("#legend table") == own and seen.faults == []


def test_a_finger_on_a_narrow_screen(shipped_server: Server, browser: Browser) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
    context.set_default_timeout(300_000)
    page = context.new_page()
    page.goto(shipped_server.address)
    answered(page)
    page.locator("#tool").get_by_text("removes").tap()
    found = page.evaluate(FIND_PIXEL, GREEN)
    page.locator("#overlay canvas").tap(position={"x": found["x"], "y": found["y"]})
    expect(page.locator("#legend")).to_contain_text("Corrected by hand: 1 click.")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()
