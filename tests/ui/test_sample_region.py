"""Samples that are chosen in the plot of the Samples tab: by a lasso, a box and ranges, wide and narrow."""

from __future__ import annotations

import csv
from collections.abc import Callable

import pytest
from conftest import Server, Watched
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.ui

WHOLE, LEFT_HALF = (0.01, 0.01, 0.99, 0.99), (0.01, 0.01, 0.4, 0.99)
"""Parts of the plot's width and height: left, top, right and bottom."""
TOO_WIDE = "() => document.documentElement.scrollWidth - window.innerWidth"
FAINT = "() => [...document.querySelectorAll('#scatter .points path')].filter((p) => p.style.opacity < 0.5).length"
OUTLINES = "() => document.querySelectorAll('#scatter .selectionlayer path').length"


SAME_PLOT = """() => {
  const plot = document.querySelector('#scatter .nsewdrag'), isSame = plot !== null && plot === window.plotBefore;
  window.plotBefore = plot;
  return isSame;
}"""
"""A plot that comes anew while the page is being filled takes the place of what is drawn on."""


def draw(page: Page, mode: str, part: tuple[float, float, float, float]) -> None:
    """Draw round a part of the plot by the mouse."""
    page.get_by_label(mode).check()
    page.wait_for_function(SAME_PLOT, polling=500)
    page.evaluate("() => document.querySelector('#scatter .nsewdrag').scrollIntoView({block: 'center'})")
    box = page.locator("#scatter .nsewdrag").first.bounding_box()
    assert box is not None
    left, right = (box["x"] + part[at] * box["width"] for at in (0, 2))
    top, bottom = (box["y"] + part[at] * box["height"] for at in (1, 3))
    page.mouse.move(left, top)
    page.mouse.down()
    corners = [(right, top), (right - 9, bottom), (left, bottom)] if "lasso" in mode else [(right, bottom)]
    for corner in corners:
        page.mouse.move(*corner, steps=5)
    page.mouse.up()


def count(page: Page) -> int:
    return int(page.locator("#region-said b").inner_text().split(" ")[0])


@pytest.mark.parametrize("width", [pytest.param(1280, marks=pytest.mark.slow), 390])
def test_samples_are_chosen_listed_exported_and_left_out(
    width: int, layout_server: Server, open_page: Callable[..., Watched]
) -> None:
    watched = open_page(layout_server.address, width=width, dark=width == 390)
    page = watched.page
    page.get_by_role("tab", name="Samples").click()
    page.wait_for_selector("#scatter .points path")
    said, position = page.locator("#region-said"), page.locator("#position")

    draw(page, "draws a lasso", LEFT_HALF)
    expect(said).to_contain_text("of 60 samples are within the lasso.")
    few = count(page)
    assert 0 < few < 60
    expect(position).to_contain_text(f"{few} images, within the lasso")
    page.wait_for_function(f"() => ({OUTLINES})() > 0")
    page.wait_for_function(f"(faint) => ({FAINT})() === faint", arg=60 - few)
    draw(page, "draws a box", WHOLE)  # begins within the lasso
    expect(said).to_contain_text("60 of 60 samples are within the box.")
    draw(page, "draws a lasso", LEFT_HALF)
    expect(said).to_contain_text(f"{few} of 60 samples are within the lasso.")
    assert page.evaluate(TOO_WIDE) <= 0

    page.locator("#samples-list").click()
    expect(page.locator("#samples-list-message")).to_contain_text(f"{few} of 60 samples: those within the lasso.")
    with page.expect_download() as waited:
        page.locator("#samples-list-csv").click()
    rows = list(csv.DictReader(waited.value.path().open()))
    assert len(rows) == few and waited.value.suggested_filename.endswith("_lasso.csv")
    page.locator("#region-keep").click()
    expect(page.locator("#region-done")).to_contain_text(f"leaves out {60 - few} of 60 images now")
    expect(page.locator("#left-out")).to_contain_text(f"{60 - few} of 60 images")
    page.locator("#region-clear").click()
    expect(said).to_be_empty()
    expect(position).to_contain_text("60 images")
    page.wait_for_function(f"() => ({OUTLINES})() === 0 && ({FAINT})() === 0")

    page.locator("#region-ranges > button").click()
    ends = [page.locator(f"#region-x-{end} input") for end in ("from", "to")]
    for end, value in zip(ends, ("2", "1"), strict=True):
        end.fill(value)
    ends[1].press("Enter")
    expect(page.locator("#region-refused")).to_contain_text("the first is the greater")
    largest = max(float(row["l_gt"]) for row in rows)
    ends[0].fill("")
    ends[1].fill(f"{largest:.4f}9")
    ends[1].press("Enter")
    expect(said).to_contain_text(f"{few} of 60 samples are within the ranges.")
    expect(page.locator("#region-refused")).to_be_empty()
    page.locator("#region-back").click()
    expect(page.locator("#region-done")).to_contain_text(f"leaves out {60 - few} of 60 images now")
    expect(said).to_contain_text(f"{few} of 60 samples are within the ranges.")  # the drawn outline is no box of theirs
    assert watched.faults == [] and watched.foreign == []
