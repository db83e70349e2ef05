"""An image that the chosen model was not made for, and answers that belong to the model that is named."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Server, Watched
from playwright.sync_api import Page, expect
from pydicom.data import get_testdata_file

pytestmark = pytest.mark.ui


@pytest.fixture
def page(layout_server: Server, open_page: Callable[..., Watched]) -> Page:
    shown = open_page(layout_server.address).page
    shown.get_by_role("tab", name="Segment").click()
    shown.wait_for_selector("#examples img")
    return shown


def test_a_ct_given_to_a_fundus_model_is_answered_only_on_request(page: Page, tmp_path: Path) -> None:
    page.locator("#upload input[type=file]").set_input_files(str(get_testdata_file("CT_small.dcm")))
    notice = page.locator("#segment-message [role=alert]")
    expect(notice).to_contain_text("DICOM Modality CT")
    expect(page.locator("#overlay")).to_be_hidden()
    expect(page.locator("#download")).to_be_hidden()
    page.get_by_role("button", name="Segment anyway").click()
    expect(page.locator("#overlay img")).to_be_visible()
    expect(page.locator("#segment-message")).to_contain_text("unlike those of training")
    expect(page.locator("#anyway")).to_be_hidden()
    with page.expect_download() as saved:
        page.locator("#download").click()
    assert re.search(r"CT_small_unlike_training", saved.value.suggested_filename)
    # What is asked for is one answer, and nothing of it is left for the next image.
    page.locator("#examples button.thumbnail-item").first.click()
    expect(page.locator("#legend")).to_contain_text("Example 1")
    expect(page.locator("#segment-message")).not_to_contain_text("unlike")
