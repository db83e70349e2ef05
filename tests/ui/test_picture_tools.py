"""One answered picture: its probabilities, the threshold, clicks and strokes that correct the mask."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, Server, Watched, serving
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect

from app.strokes import Stroke, paint
from tests.patience import wait

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
MASK = """() => {  // what the canvas outlines and fills: of each pixel of the image its middle one of nine
  const canvas = document.querySelector('#overlay canvas');
  const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height), found = [];
  for (let y = 1; y < canvas.height; y += 3) for (let x = 1; x < canvas.width; x += 3)
    found.push(data[4 * (y * canvas.width + x) + 3] ? 1 : 0);
  return found;
}"""
ROWS = """([source, strokes, side]) => {  // what the browser covers with each stroke
  const {eachRow} = new Function(source + '; return {eachRow};')();
  return strokes.map(([size, ...places]) => {
    const pixels = new Set();
    places.forEach((place, n) => eachRow(places[Math.max(n - 1, 0)], place, size, (row, first, last) => {
      for (let column = first; column <= last; column++)
        if (row >= 0 && row < side && column >= 0 && column < side) pixels.add(row * side + column);
    }));
    return [...pixels];
  });
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


SIZE = "(({width, height}) => [width, height])(document.querySelector('#overlay canvas'))"
IMAGE_PIXEL = """(n) => {
  const image = document.querySelector('#overlay img'), canvas = document.querySelector('#overlay canvas');
  const sheet = document.createElement('canvas'), drawing = sheet.getContext('2d');
  sheet.width = canvas.width; sheet.height = canvas.height;
  drawing.drawImage(image, 0, 0, sheet.width, sheet.height);
  return [...drawing.getImageData(n % sheet.width, Math.floor(n / sheet.width), 1, 1).data];
}"""
"""The pixel of the image below what is drawn, by its number row by row."""


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
    page.locator("#tool").get_by_text("Remove region").click()
    found = page.evaluate(FIND_PIXEL, GREEN)
    canvas.click(position={"x": found["x"], "y": found["y"]})
    expect(page.locator("#legend")).to_contain_text("Corrected by hand: 1 click.")
    drawn(page, "mask,50,0.35,0,1")
    assert page.evaluate(ALPHA, found["n"]) == 0 and page.inner_text("#legend table") != own
    assert saved(page, "download")[0] == "example_1_corrected_by_hand_mask.png"
    name, content = saved(page, "save-picture")
    assert name == "example_1_corrected_by_hand_overlay.png"
    with Image.open(io.BytesIO(content)) as picture:
        assert list(picture.size) == page.evaluate(SIZE)
        drawn_HW4 = np.asarray(picture.convert("RGBA")).reshape(-1, 4)
    alone = page.evaluate(IMAGE_PIXEL, found["n"])
    assert drawn_HW4[found["n"]].tolist() == alone  # the region was removed there: the image alone is seen
    outlines = (drawn_HW4[:, :3] == (0, 158, 115)).all(axis=1)
    assert 100 < outlines.sum() < len(drawn_HW4) / 4
    canvas.click(position={"x": found["x"], "y": found["y"]})
    expect(page.locator("#click-note")).to_contain_text("Nothing was removed")
    page.keyboard.press("+")  # the place of the click is where the keys go on
    expect(page.locator("#legend")).to_contain_text("Corrected by hand: 2 clicks.")
    expect(page.locator("#click-note")).not_to_contain_text("Nothing")
    page.wait_for_function(f"({ALPHA})({found['n']}) > 0")
    page.keyboard.press("Backspace")
    expect(page.locator("#legend")).to_contain_text("Corrected by hand: 1 click.")
    page.keyboard.press("Control+Shift+Z")
    expect(page.locator("#legend")).to_contain_text("Corrected by hand: 2 clicks.")
    expect(page.locator("#redo-click")).to_be_disabled()
    page.locator("#undo-click").click()
    expect(page.locator("#redo-click")).to_be_enabled()
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
    page.locator("#tool").get_by_text("Remove region").tap()
    found = page.evaluate(FIND_PIXEL, GREEN)
    page.locator("#overlay canvas").tap(position={"x": found["x"], "y": found["y"]})
    expect(page.locator("#legend")).to_contain_text("Corrected by hand: 1 click.")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()


def mask_of(page: Page) -> np.ndarray:
    return np.array(page.evaluate(MASK), np.uint8).reshape(256, 256)


def saved_mask(page: Page) -> np.ndarray:
    with Image.open(io.BytesIO(saved(page, "download")[1])) as picture:
        return (np.asarray(picture) > 0).astype(np.uint8)


def choose(page: Page, tool: str) -> None:
    page.locator("#tool").get_by_text(tool).click()
    page.wait_for_function("document.querySelector('#overlay .stage.paints') !== null")


def draw(page: Page, *places: tuple[float, float]) -> None:
    """Draw with the mouse through places, of the picture's height and width in shares."""
    page.locator("#overlay canvas").scroll_into_view_if_needed()
    box = page.locator("#overlay canvas").bounding_box()
    assert box is not None
    points = [(box["x"] + across * box["width"], box["y"] + down * box["height"]) for down, across in places]
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=12)
    page.mouse.up()


def strokes_in(held: list[Route]) -> list[Stroke]:
    """Return the strokes among the events that a page asks for; its clock asks, too."""
    told = [json.loads(route.request.post_data or "").get("event_data") or {} for route in held]
    return [
        Stroke(one["value"], 0, one["stroke"][0], np.array(one["stroke"][1:], "<i4").tobytes())
        for one in told
        if "stroke" in one
    ]


def test_the_browser_and_the_server_cover_the_same_pixels(browser: Browser) -> None:
    rng, side = np.random.default_rng(4), 60
    strokes = [[int(rng.integers(1, 22)), *rng.integers(0, side, (3, 2)).tolist()] for _ in range(200)]
    page = browser.new_page()
    found = page.evaluate(ROWS, [(ROOT / "app" / "brush.js").read_text(), strokes, side])
    page.close()
    for (size, *places), pixels in zip(strokes, found, strict=True):
        mask = np.zeros((side, side), np.uint8)
        paint(mask, Stroke("brush", 0, size, np.array(places, "<i4").tobytes()))
        assert sorted(pixels) == np.flatnonzero(mask).tolist(), (size, places)


def test_a_brush_and_an_eraser_paint_what_is_kept(shipped_server: Server, open_page: Callable[..., Watched]) -> None:
    seen = open_page(shipped_server.address)
    page = seen.page
    answered(page)
    own = mask_of(page)
    choose(page, "Brush")
    expect(page.locator("#brush-size input[type=number]")).to_have_value("7")  # 3 % of 256 pixels
    expect(page.locator("#reach")).to_be_hidden()
    held: list[Route] = []
    page.route("**/queue/join*", lambda route: held.append(route))
    draw(page, (0.1, 0.1), (0.5, 0.62), (0.31, 1.2))  # also out of the picture
    drawn(page, "mask,50,0.35,0,1")
    page.wait_for_function("document.querySelector('#overlay .ring').hidden")
    wait(lambda: page.evaluate("1") and strokes_in(held))  # what the page asks for is heard while it is spoken to
    (told,) = strokes_in(held)  # one event, when the button is let go
    wanted = own.copy()
    assert paint(wanted, told) > 500
    assert np.array_equal(mask_of(page), wanted), "painted before anybody is asked"
    page.unroute("**/queue/join*")  # lets go on what was held
    expect(page.locator("#legend")).to_contain_text("Corrected by hand: 1 stroke.")
    assert np.array_equal(saved_mask(page), wanted) and np.array_equal(mask_of(page), wanted)
    choose(page, "Eraser")
    page.locator("#overlay canvas").hover()
    page.keyboard.press("]")
    expect(page.locator("#brush-size input[type=number]")).to_have_value("9")
    draw(page, (0.05, 0.2), (0.4, 0.2))
    draw(page, (0.9, 0.1), (0.9, 0.9), (0.6, 0.1))  # while the one before may still wait
    expect(page.locator("#legend")).to_contain_text("Corrected by hand: 3 strokes.")
    page.locator("#overlay .stage").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("[")
    page.locator("#tool").get_by_text("Brush").click()
    page.locator("#overlay .stage").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#legend")).to_contain_text("Corrected by hand: 4 strokes.")
    assert np.array_equal(saved_mask(page), mask_of(page))
    page.locator("#overlay .stage").focus()
    page.keyboard.press("Backspace")
    expect(page.locator("#legend")).to_contain_text("Corrected by hand: 3 strokes.")
    set_slider(page, "threshold", "0.9")
    expect(page.locator("#legend")).to_contain_text("Threshold 0.90")
    kept = mask_of(page)
    assert np.array_equal(saved_mask(page), kept) and kept.sum() < wanted.sum()
    page.get_by_role("button", name="Back to the model's mask").click()
    expect(page.locator("#legend")).not_to_contain_text("by hand")
    set_slider(page, "threshold", "0.5")
    expect(page.locator("#legend .notice")).to_have_count(0)
    page.route("**/queue/join*", lambda route: route.fulfill(status=429, json={"detail": "Too many."}))
    draw(page, (0.1, 0.1), (0.5, 0.62))
    drawn(page, "mask,50,0.35,0,0")  # what did not reach the server does not stay
    assert np.array_equal(mask_of(page), own) and seen.faults == []


def test_a_finger_draws_and_the_page_stays(shipped_server: Server, browser: Browser) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
    context.set_default_timeout(300_000)
    page = context.new_page()
    page.goto(shipped_server.address)
    answered(page)
    page.locator("#tool").get_by_text("Brush").tap()
    page.wait_for_function("document.querySelector('#overlay .stage.paints') !== null")
    page.locator("#overlay canvas").scroll_into_view_if_needed()
    own, top = mask_of(page), page.evaluate("window.scrollY")
    box = page.locator("#overlay canvas").bounding_box()
    assert box is not None
    finger = context.new_cdp_session(page)
    for kind, share in (("touchStart", 0.2), *(("touchMove", 0.2 + 0.05 * n) for n in range(1, 12)), ("touchEnd", 0)):
        at = {"x": box["x"] + share * box["width"], "y": box["y"] + share * box["height"]}
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [at] if share else []})
    expect(page.locator("#legend")).to_contain_text("Corrected by hand: 1 stroke.")
    drawn(page, "mask,50,0.35,0,1")
    assert page.evaluate("window.scrollY") == top and page.evaluate("document.documentElement.scrollWidth") <= 390
    found = mask_of(page)
    assert found.sum() > own.sum() + 200 and np.array_equal(saved_mask(page), found)
    context.close()


def test_boxes_by_pointer_and_keys_change_nothing_outside(
    shipped_server: Server, open_page: Callable[..., Watched]
) -> None:
    seen = open_page(shipped_server.address)
    page = seen.page
    answered(page)
    expect(page.locator("#overlay .prompts")).to_contain_text("This model was not taught what clicks and boxes mean.")
    own = mask_of(page)
    page.locator("#tool").get_by_text("Box").click()
    page.wait_for_selector("#overlay .stage.boxes")
    draw(page, (0.2, 0.25), (0.6, 0.7))
    expect(page.locator("#legend")).to_contain_text("Corrected by hand: 1 box.")
    expect(page.locator("#overlay .mark.box")).to_have_count(1)
    boxed = mask_of(page)
    outside = boxed != own
    outside[int(0.2 * 256) - 1 : int(0.6 * 256) + 2, int(0.25 * 256) - 1 : int(0.7 * 256) + 2] = False
    assert np.array_equal(saved_mask(page), boxed) and not outside.any() and (boxed != own).any()
    stage = page.locator("#overlay .stage")
    stage.focus()
    page.keyboard.press("Enter")  # where the pointer was last
    expect(page.locator("#overlay .overlay-value")).to_contain_text("First corner set.")
    page.keyboard.press("Escape")
    expect(page.locator("#overlay .overlay-value")).to_contain_text("given up")
    expect(page.locator("#overlay .frame")).to_be_hidden()
    page.keyboard.press("Backspace")
    expect(page.locator("#legend")).not_to_contain_text("by hand")
    expect(page.locator("#overlay .mark")).to_have_count(0)
    page.keyboard.press("Enter")
    for _ in range(8):  # about the same box, from its other end
        page.keyboard.press("Shift+ArrowUp")
        page.keyboard.press("Shift+ArrowLeft")
    expect(page.locator("#overlay .frame")).to_be_visible()
    page.keyboard.press("Enter")
    expect(page.locator("#legend")).to_contain_text("Corrected by hand: 1 box.")
    page.get_by_role("button", name="Back to the model's mask").click()
    expect(page.locator("#legend")).not_to_contain_text("by hand")
    expect(page.locator("#overlay .mark")).to_have_count(0)
    page.locator("#redo-click").click()
    expect(page.locator("#legend")).to_contain_text("Corrected by hand: 1 box.")
    page.locator("#overlay .stage").focus()
    page.keyboard.press("Backspace")
    expect(page.locator("#legend")).not_to_contain_text("by hand")
    drawn(page, "mask,50,0.35,0,0")
    assert np.array_equal(mask_of(page), own) and seen.faults == []
