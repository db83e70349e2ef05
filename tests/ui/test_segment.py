"""The Segment tab, with a real bundle: example, upload, opacity, download, and files that are no images."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from conftest import Server, Watched
from PIL import Image
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.ui
PIXELS = "document.querySelector('#overlay canvas').toDataURL()"


@pytest.fixture
def page(layout_server: Server, open_page: Callable[..., Watched]) -> Page:
    shown = open_page(layout_server.address).page
    shown.get_by_role("tab", name="Segment").click()
    shown.wait_for_selector("#examples img")
    return shown


def upload(page: Page, path: Path) -> None:
    page.locator("#upload input[type=file]").set_input_files(path)


def test_an_example_gives_an_overlay_and_a_new_opacity_needs_no_new_answer(page: Page) -> None:
    page.locator("#examples button.thumbnail-item").first.click()
    expect(page.locator("#overlay img")).to_be_visible()
    expect(page.locator("#legend")).to_contain_text("ms on CPU")
    for name in ("disc", "cup", "%"):
        expect(page.locator("#legend")).to_contain_text(name)
    expect(page.locator("#overlay .overlay")).to_have_attribute("data-drawn", "mask,50,0.35,0,0")
    before, told = page.evaluate(PIXELS), page.inner_text("#legend table")
    page.locator("#opacity input[type=number]").fill("0.9")
    page.locator("#opacity input[type=number]").press("Enter")
    expect(page.locator("#overlay .overlay")).to_have_attribute("data-drawn", "mask,50,0.9,0,0")
    assert page.evaluate(PIXELS) != before and page.inner_text("#legend table") == told


def test_an_uploaded_image_gives_its_mask_to_save(page: Page, tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 120 * 90, dtype=np.uint8).reshape(90, 120)
    Image.fromarray(np.stack([ramp, ramp.T[::-1].reshape(90, 120), ramp], axis=2)).save(tmp_path / "eye.png")
    (tmp_path / "eye.png").rename(tmp_path / "patient.v2.eye.png")
    upload(page, tmp_path / "patient.v2.eye.png")
    expect(page.locator("#overlay img")).to_be_visible()
    with page.expect_download() as download:
        page.locator("#download").click()
    assert download.value.suggested_filename == "patient.v2.eye_masks.zip"
    assert Path(download.value.path()).stat().st_size > 100
    page.get_by_label("Remove this file").or_(page.locator("#upload button[aria-label=Clear]")).first.click()
    expect(page.locator("#overlay")).to_be_hidden()
    expect(page.locator("#segment-message")).to_contain_text("No image yet")


def test_an_example_is_framed_as_long_as_it_is_what_is_shown(page: Page, tmp_path: Path) -> None:
    framed = page.locator("#examples .thumbnail-item.selected")
    page.locator("#examples button.thumbnail-item").first.click()
    expect(page.locator("#legend")).to_contain_text("Example 1")
    expect(framed).to_have_count(1)
    Image.fromarray(np.random.default_rng(2).integers(0, 255, (64, 64, 3)).astype(np.uint8)).save(tmp_path / "own.png")
    upload(page, tmp_path / "own.png")
    expect(page.locator("#legend").or_(page.locator("#segment-message [role=alert]"))).not_to_contain_text("Example 1")
    expect(framed).to_have_count(0)


def test_a_zip_goes_on_to_the_field_of_what_is_segmented_as_a_whole(page: Page, tmp_path: Path) -> None:
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(tmp_path / "one.png")
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        archive.write(tmp_path / "one.png", "one.png")
    upload(page, tmp_path / "many.zip")
    expect(page.locator("#segment-message")).to_contain_text("'Volumes, series and many images' below")
    expect(page.locator("#volume-upload")).to_contain_text("many")
    expect(page.locator("#upload")).not_to_contain_text("many")
    expect(page.locator("#volume-upload")).to_be_in_viewport()
    page.locator("#volume-start").click()  # the file is this visitor's here, too
    expect(page.locator("#volume-message")).to_contain_text(re.compile("64 x 64 pixels|not made for this image"))


@pytest.mark.slow
def test_a_volume_offers_its_slices(page: Page, tmp_path: Path) -> None:
    volume = np.random.default_rng(1).integers(0, 255, (6, 40, 32, 3)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "scan.tif", volume, photometric="rgb")
    upload(page, tmp_path / "scan.tif")
    expect(page.locator("#slice")).to_be_visible()
    expect(page.locator("#slice input[type=number]")).to_have_value("4")
    expect(page.locator("#legend")).to_contain_text("scan.tif, slice 4 of 6")
    page.locator("#slice input[type=number]").fill("2")
    page.locator("#slice input[type=number]").press("Enter")
    expect(page.locator("#legend")).to_contain_text("scan.tif, slice 2 of 6")
    with page.expect_download() as download:
        page.locator("#download").click()
    assert download.value.suggested_filename == "scan_slice002_masks.zip"
    page.locator("#examples button.thumbnail-item").first.click()
    expect(page.locator("#legend")).to_contain_text("Example 1")
    expect(page.locator("#slice")).to_be_hidden()
    expect(page.locator("#upload")).not_to_contain_text("scan.tif")


@pytest.mark.slow
def test_a_large_image_is_looked_at_in_parts(page: Page, tmp_path: Path) -> None:
    """The whole says how far it was reduced; parts are counted, also of an example, and back again."""
    drawn = np.random.default_rng(2).integers(0, 255, (200, 300, 3)).astype(np.uint8)
    Image.fromarray(drawn).save(tmp_path / "slide.png")
    upload(page, tmp_path / "slide.png")
    expect(page.locator("#legend")).to_contain_text("slide.png")
    expect(page.locator("#legend")).not_to_contain_text("parts")
    expect(page.locator("#segment-message")).to_contain_text("of its size")
    page.get_by_label("In smaller parts, enlarged").check()
    expect(page.locator("#legend")).to_contain_text("parts of 48 x 48")
    page.get_by_label("In parts, at full resolution").check()
    expect(page.locator("#legend")).to_contain_text("parts of 64 x 64")
    expect(page.locator("#segment-message")).not_to_contain_text("of its size")
    with page.expect_download() as download:
        page.locator("#download").click()
    assert download.value.suggested_filename == "slide_parts_masks.zip"
    page.get_by_label("At the whole, reduced").check()
    expect(page.locator("#legend")).not_to_contain_text("parts of")
    expect(page.locator("#legend")).to_contain_text("slide.png")


@pytest.mark.parametrize(
    ("name", "content"),
    [pytest.param("note.txt", b"hello", marks=pytest.mark.slow), ("broken.png", b"\x89PNG\r\n\x1a\nrest")],
)
def test_a_file_that_is_no_image_is_explained(page: Page, tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    upload(page, tmp_path / name)
    box = page.locator("#segment-message [role=alert]")
    expect(box).to_contain_text(name)
    expect(box).to_contain_text("What to do")
    assert "/tmp" not in box.inner_text() and "Traceback" not in page.content()
    expect(page.locator("#overlay")).to_be_hidden()
