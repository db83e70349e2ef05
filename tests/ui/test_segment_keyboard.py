"""Segment without a mouse: from the tab to a file, a model, the mask, a correction with the eraser, and a download."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Server, Watched
from PIL import Image
from playwright.sync_api import Page, expect

from engine.data.phantoms import TASKS, render

pytestmark = pytest.mark.ui

MOST_PRESSES = 80
FOCUSED = "(wanted) => document.activeElement?.matches(wanted) ?? false"
HAS_RING = """() => {
  const now = document.activeElement, box = now.getBoundingClientRect();
  const near = [now, now.parentElement, now.closest('label, .wrap, .block')].filter(Boolean);
  return box.width > 0 && near.map((one) => getComputedStyle(one)).some((style) =>
    (style.outlineStyle !== 'none' && style.outlineWidth !== '0px') || style.boxShadow !== 'none');
}"""
"""Whoever goes by keys sees where they are."""


def go_to(page: Page, wanted: str, *, key: str = "Tab") -> None:
    """Press the key until the focus is on what ``wanted`` selects, and can be seen there."""
    for _ in range(MOST_PRESSES):
        page.keyboard.press(key)
        if page.evaluate(FOCUSED, wanted):
            assert page.evaluate(HAS_RING), f"the focus on {wanted} cannot be seen"
            return
    where = page.evaluate("document.activeElement.outerHTML.slice(0, 300)")
    raise AssertionError(f"{MOST_PRESSES} presses of {key} do not reach {wanted}; the focus is on {where}")


def saved(page: Page) -> np.ndarray:
    """Return the pictures of a zip that is downloaded with Enter, those by class and the labels, (K + 1, H, W)."""
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    with zipfile.ZipFile(download.value.path()) as zipped:
        pictures = [Image.open(io.BytesIO(zipped.read(name))) for name in sorted(zipped.namelist())]
        return np.stack([np.asarray(picture) > 0 for picture in pictures])


def test_segment_by_keyboard_alone(layout_server: Server, open_page: Callable[..., Watched], tmp_path: Path) -> None:
    path, task = tmp_path / "eye.png", TASKS["fundus"]
    Image.fromarray(render("fundus", site=task.sites[-1], index=0, image_px=64).image).save(path)
    seen = open_page(layout_server.address)
    page = seen.page
    page.wait_for_url("**run=**")
    go_to(page, "[role=tab][data-tab-id=segment]")
    page.keyboard.press("Enter")
    expect(page.get_by_role("tab", name="Segment")).to_have_attribute("aria-selected", "true")
    page.wait_for_selector("#examples img")  # the model that is offered first is chosen
    go_to(page, "#model input")
    expect(page.locator("#model [role=option]").first).to_be_visible()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("#model [role=option]").first).to_be_hidden()
    chosen = page.locator("#model input").input_value()
    assert chosen
    go_to(page, "#upload button, #upload [role=button]")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(path)
    expect(page.locator("#overlay img")).to_be_visible()
    expect(page.locator("#model input")).to_have_value(chosen)
    expect(page.locator("#download")).to_be_visible()
    go_to(page, "#tool input[type=radio][value=erase]")
    page.keyboard.press("Space")
    page.wait_for_selector("#overlay .stage.paints")
    go_to(page, "#overlay .stage", key="Shift+Tab")
    for key in ("]", "ArrowUp", "ArrowLeft", "Enter"):
        page.keyboard.press(key)
    expect(page.locator("#legend")).to_contain_text("Corrected by hand: 1 stroke.")
    go_to(page, "#download, #download *")
    corrected = saved(page)
    go_to(page, "#undo-click", key="Shift+Tab")
    page.keyboard.press("Space")
    expect(page.locator("#legend")).not_to_contain_text("by hand")
    go_to(page, "#download, #download *")
    own = saved(page)
    assert corrected.shape == own.shape == (3, 64, 64), "two classes and the labels"
    assert (own & ~corrected).any() and not (corrected & ~own).any(), "erased, and nothing else"
    assert seen.faults == []
