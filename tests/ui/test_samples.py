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
    expect(page.locator("#detail figure img")).to_have_count(2 + 2 * 5)
    expect(page.locator("#detail h4")).to_have_text(["disc", "cup", "Over the epochs"])
    expect(page.locator("#detail")).to_contain_text("Where they disagree")
    expect(page.locator("#detail dl")).to_contain_text("Rank")
    expect(page.locator("#detail dd").first).to_have_text("2")


@pytest.mark.slow
def test_a_point_of_the_plot_opens_its_detail(page: Page) -> None:
    point = page.locator("#scatter .points path").nth(40)
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page.locator("#detail figure img")).to_have_count(2 + 2 * 5)


@pytest.mark.slow
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


def test_sliders_rank_anew_mark_what_changes_and_go_back(page: Page) -> None:
    count = page.locator("#what-if-count")
    expect(count).to_contain_text("These are the run's own values: 30 of 60")
    typed = page.locator("#what-if-rate input[type=number]")
    typed.fill("0.25")
    typed.press("Enter")
    expect(count).to_contain_text("15 of 60 samples would change: 0 in, 15 out; 15 selected in place of 30.")
    expect(page.locator("#scatter .legend")).to_contain_text("with these values")
    page.get_by_label("Would go out").check()
    expect(page.locator("#position")).to_contain_text("Page 1 of 1 · 15 images")
    expect(page.locator("#gallery .caption-label").first).to_have_text("rank 16 (was 16), − would go out")
    page.locator("#what-if-reset").click()
    expect(count).to_contain_text("These are the run's own values")
    expect(typed).to_have_value("0.5")
    expect(page.locator("#position")).to_contain_text("No image matches")


@pytest.mark.slow
def test_search_narrows_and_a_page_is_gone_to_by_its_number(page: Page) -> None:
    number = page.locator("#page-number input")
    number.fill("3")
    number.press("Enter")
    expect(page.locator("#position")).to_contain_text("Page 3 of 3")
    expect(page.locator("#gallery .caption-label").first).to_have_text("rank 41, not selected")
    page.locator("#sample-search textarea, #sample-search input").fill("/0003")
    expect(page.locator("#position")).to_contain_text("Page 1 of 1 · 1 image")


@pytest.mark.slow
def test_two_epochs_the_list_and_the_fork_of_other_values(page: Page) -> None:
    page.locator("#samples-epochs > button").click()
    page.locator("#compare-epochs").click()
    expect(page.locator("#epochs-told")).to_contain_text("From epoch 1 to epoch 4")
    expect(page.locator("#epochs-plot .points path").first).to_be_attached()
    page.locator("#samples-list").click()
    with page.expect_download() as waited:
        page.locator("#samples-list-csv").click()
    assert len(waited.value.path().read_text().splitlines()) == 61
    typed = page.locator("#what-if-weight input[type=number]")
    typed.fill("0.9")
    typed.press("Enter")
    expect(page.locator("#what-if-count")).to_contain_text("would change")
    expect(page.locator("#leave-out")).to_be_hidden()
    page.locator("#gallery button.thumbnail-item").first.click()
    name = page.locator("#detail h3").inner_text()
    page.locator("#leave-out").click()
    expect(page.locator("#left-out")).to_contain_text("1 of 60 images")
    expect(page.locator("#leave-out")).to_have_text("Take this image back in")
    page.locator("#samples-fork").click()
    page.locator("#samples-fork-yes").click()
    expect(page.locator("#fork-note")).to_contain_text("Mutual distillation")
    page.locator("#section-distillation button").first.click()
    expect(page.locator("#field-distillation-learnability_lambda input")).to_have_value("0.9")
    left_out = page.locator("#field-distillation-excluded_samples").locator("input, textarea").input_value()
    site, _, number = left_out.partition("/")
    assert name == f"Synthetic image {int(number)} of {site}"
