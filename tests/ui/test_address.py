"""Tab, run, model, sample and epoch are in the address: a reload and a shared link show the same."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import parse_qs, urlparse

import pytest
from conftest import Server, Watched
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.ui


def asked(page: Page) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlparse(page.url).query).items()}


@pytest.mark.slow
@pytest.mark.parametrize("latency_ms", [0, 200])
def test_a_shared_link_shows_the_same_sample_at_the_same_epoch(
    layout_server: Server, open_page: Callable[..., Watched], latency_ms: int
) -> None:
    page = open_page(layout_server.address).page
    page.get_by_role("tab", name="Samples").click()
    page.wait_for_selector("#gallery img")
    expect(page.locator("#epoch input[type=number]")).to_have_value("4")  # all of the first answer is there
    page.locator("#epoch input[type=number]").fill("2")
    page.locator("#epoch input[type=number]").press("Enter")
    page.wait_for_url(lambda address: "epoch=2" in address)
    page.locator("#gallery button.thumbnail-item").nth(1).click()
    expect(page.locator("#detail dd").first).to_have_text("2")
    page.wait_for_url(lambda address: "sample=" in address)
    assert asked(page).keys() == {"tab", "run", "sample", "epoch"} and asked(page)["tab"] == "samples"
    title, numbers = page.locator("#detail h3").inner_text(), page.locator("#detail dl").inner_text()

    other = open_page(page.url, latency_ms=latency_ms).page
    expect(other.get_by_role("tab", name="Samples")).to_have_attribute("aria-selected", "true")
    expect(other.locator("#detail h3")).to_have_text(title)
    expect(other.locator("#epoch input[type=number]")).to_have_value("2")
    expect(other.locator("#detail dl")).to_have_text(numbers, use_inner_text=True)
    other.reload()
    expect(other.locator("#detail dl")).to_have_text(numbers, use_inner_text=True)
    assert asked(other) == asked(page)


@pytest.mark.slow
@pytest.mark.parametrize("latency_ms", [0, 200])
def test_the_tab_and_the_model_stay(layout_server: Server, open_page: Callable[..., Watched], latency_ms: int) -> None:
    page = open_page(layout_server.address, latency_ms=latency_ms).page
    page.get_by_role("tab", name="Segment").click()
    page.wait_for_url(lambda address: "tab=segment" in address)
    page.locator("#model input").click()
    page.get_by_role("option").last.click()
    page.wait_for_url(lambda address: "model=" in address)
    chosen = page.locator("#model input").input_value()
    page.reload()
    expect(page.get_by_role("tab", name="Segment")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#model input")).to_have_value(chosen)


@pytest.mark.slow
def test_a_tab_that_is_chosen_while_the_page_still_asks_stays(
    layout_server: Server, open_page: Callable[..., Watched]
) -> None:
    page = open_page(layout_server.address, latency_ms=300).page
    page.get_by_role("tab", name="Segment").click()
    page.wait_for_url(lambda address: "run=" in address)  # the server's first answer is there
    page.wait_for_selector("#examples img")
    expect(page.get_by_role("tab", name="Segment")).to_have_attribute("aria-selected", "true")
    assert asked(page)["tab"] == "segment"
