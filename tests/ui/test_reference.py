"""A mask that the visitor has: its figures beside the answer's, on the real page."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, Server, Watched, serving
from PIL import Image
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.ui


@pytest.fixture(scope="module")
def shipped_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve an empty home with the shipped model and drawn examples."""
    home = tmp_path_factory.mktemp("shipped")
    shutil.copytree(ROOT / "assets" / "models", home / "shipped", ignore=shutil.ignore_patterns("examples"))
    with serving(home) as server:
        yield server


def saved(page: Page, name: str) -> bytes:
    with page.expect_download() as download:
        page.locator(f"#{name}").click()
    return Path(download.value.path()).read_bytes()


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_a_mask_is_compared_and_put_away_with_its_picture(
    shipped_server: Server, open_page: Callable[..., Watched], tmp_path: Path, width: int, dark: bool
) -> None:
    seen = open_page(shipped_server.address, width=width, dark=dark)
    page = seen.page
    page.get_by_role("tab", name="Segment").click()
    page.wait_for_selector("#examples img")
    expect(page.locator("#compare-with")).to_be_hidden()  # there is nothing to compare with
    page.locator("#examples button.thumbnail-item").first.click()
    expect(page.locator("#legend")).to_contain_text("Example 1")
    mask = np.asarray(Image.open(io.BytesIO(saved(page, "download"))))
    Image.fromarray(mask).save(tmp_path / "reader.png")
    page.locator("#compare-with").get_by_role("button").first.click()
    page.locator("#reference input[type=file]").set_input_files(tmp_path / "reader.png")
    expect(page.locator("#legend")).to_contain_text("1.000 (within 2.00 px)")
    expect(page.locator("#reference-note")).to_contain_text("Compared with reader.png")
    field = page.locator("#threshold input[type=number]")
    field.fill("0.3")
    field.press("Enter")
    expect(page.locator("#legend table").nth(1)).not_to_contain_text("0.00 px")  # HD95 of the same mask
    (row,) = csv.DictReader(saved(page, "picture-csv").decode().splitlines())
    assert 0.5 < float(row["dice"]) < 1 and row["threshold"] == "0.3" and float(row["surface_tolerance"]) == 2
    Image.fromarray(mask[:, :100]).save(tmp_path / "narrow.png")
    page.locator("#reference").get_by_label("Clear").or_(
        page.locator("#reference").get_by_label("Remove")
    ).first.click()
    expect(page.locator("#legend")).not_to_contain_text("Surface Dice")
    page.locator("#reference input[type=file]").set_input_files(tmp_path / "narrow.png")
    expect(page.locator("#reference-note")).to_contain_text("narrow.png has 1 slices of 100 x")
    expect(page.locator("#legend")).not_to_contain_text("IoU")
    page.locator("#examples button.thumbnail-item").nth(1).click()
    expect(page.locator("#legend")).to_contain_text("Example 2")
    expect(page.locator("#reference-note")).to_be_empty()
    expect(page.locator("#reference input[type=file]")).to_have_count(1)  # the field is empty: it takes a file again
    assert not seen.faults and not seen.foreign
