"""The Samples tab: filters, order, pages, the plot and the detail."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from conftest import Server, Watched
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.ui


@pytest.fixture
def page(layout_server: Server, open_page: Callable[..., Watched]) -> Page:
    shown = open_page(layout_server.address).page
    shown.get_by_role("tab", name="Samples").click()
    shown.wait_for_selector("#gallery img")
    return shown


def test_filters_and_pages(page: Page) -> None:
    expect(page.locator("#position")).to_contain_text("Page 1 of 3 · 60 images")
    expect(page.locator("#gallery .caption-label").first).to_have_text("rank 1, selected")
    page.get_by_label("Not selected").check()
    expect(page.locator("#position")).to_contain_text("Page 1 of 2 · 30 images")
    expect(page.locator("#gallery .caption-label").first).to_have_text("rank 31, not selected")
    page.locator("#next").click()
    expect(page.locator("#position")).to_contain_text("Page 2 of 2")
    expect(page.locator("#gallery img")).to_have_count(10)
    expect(page.locator("#next")).to_be_disabled()


def test_a_picture_opens_its_detail(page: Page) -> None:
    page.locator("#gallery button.thumbnail-item").nth(1).click()
    expect(page.locator("#detail figure")).to_have_count(2 + 2 * 4)
    expect(page.locator("#detail h4")).to_have_text(["disc", "cup"])
    expect(page.locator("#detail")).to_contain_text("Where they disagree")
    expect(page.locator("#detail dl")).to_contain_text("Rank")
    expect(page.locator("#detail dd").first).to_have_text("2")


def test_a_point_of_the_plot_opens_its_detail(page: Page) -> None:
    point = page.locator("#scatter .points path").nth(40)
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page.locator("#detail figure")).to_have_count(2 + 2 * 4)


def test_a_typed_epoch_is_shown_with_its_scores_and_the_chosen_sample_stays(page: Page) -> None:
    page.locator("#gallery button.thumbnail-item").first.click()
    expect(page.locator("#detail dd").first).to_have_text("1")
    title = page.locator("#detail h3").inner_text()
    before = page.locator("#detail dl").inner_text()
    page.locator("#epoch input[type=number]").fill("1")
    page.locator("#epoch input[type=number]").press("Enter")
    expect(page.locator("#detail dl")).not_to_have_text(before, use_inner_text=True)
    assert page.locator("#detail h3").inner_text() == title
    expect(page.locator("#gallery .caption-label").first).to_have_text("rank 1, selected")
    expect(page.locator("#picked")).to_be_hidden()
