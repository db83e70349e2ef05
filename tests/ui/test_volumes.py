"""Whole volumes on the Segment tab: planes that answer without the server, files to save, and what is refused."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from conftest import Server, Watched
from playwright.sync_api import Page, expect
from test_axe import found

from tests.unit.volume_files import PATIENT, write_series

pytestmark = pytest.mark.ui

TOO_WIDE = "() => document.documentElement.scrollWidth - window.innerWidth"
GREYS = """(plane) => {
  const canvas = document.querySelector(`.viewer figure[data-plane=${plane}] canvas`);
  const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  return [...data];
}"""


@pytest.fixture(params=[pytest.param(1280, marks=pytest.mark.slow), 390])
def watched(request: pytest.FixtureRequest, layout_server: Server, open_page: Callable[..., Watched]) -> Watched:
    shown = open_page(layout_server.address, width=request.param)
    shown.page.get_by_role("tab", name="Segment").click()
    shown.page.wait_for_selector("#examples img")
    return shown


def send(page: Page, path: Path) -> None:
    page.locator("#volume-upload input[type=file]").set_input_files(path)
    expect(page.locator("#volume-upload")).to_contain_text(path.stem.split(".")[0])
    page.locator("#volume-start").click()


def test_a_volume_is_read_by_wheel_keys_and_window_without_the_server(watched: Watched, tmp_path: Path) -> None:
    page = watched.page
    voxels = np.full((16, 20, 6), 100, np.int16)  # to the left, the back and the head
    voxels[2, 3, :] = 900
    affine = np.diag([-1.0, -2.0, 3.0, 1.0])
    affine[:3, 3] = (7, 9, 11)
    nibabel.save(nibabel.Nifti1Image(voxels, affine), tmp_path / "scan.nii.gz")
    send(page, tmp_path / "scan.nii.gz")
    expect(page.locator("#volume-message [role=alert]")).to_contain_text("A NIfTI file holds a scanner's images")
    page.locator("#volume-anyway").click()
    page.wait_for_selector(".viewer[data-drawn]")
    expect(page.locator("#volume-message")).to_contain_text("Answered although")
    expect(page.locator("#volume-anyway")).to_be_hidden()
    assert page.evaluate(TOO_WIDE) <= 0
    axial = page.locator("figure[data-plane=axial]")
    assert [axial.locator(f".edge.{side}").inner_text() for side in ("left", "right", "top", "bottom")] == list("RLAP")
    assert watched.faults == [] and watched.foreign == []
    page.context.set_offline(True)  # slices, window and mask answer in the browser

    thresholds(page)
    page.locator(".viewer .shown").select_option("nothing")
    page.locator(".viewer .centre").fill("500")
    page.locator(".viewer .width").fill("1000")
    # 255 x (100 - 0) / 1000 and 255 x (900 - 0) / 1000: both numbers of the window are in what is drawn.
    page.wait_for_function(f"() => Math.abs(({GREYS})('axial')[0] - 26) <= 1")
    greys = np.array(page.evaluate(GREYS, "axial")).reshape(20, 16, 4)
    assert {tuple(at) for at in np.argwhere(greys[..., 0] > 200)} == {(3, 2)}, "front at the top, right on the left"
    assert abs(int(greys[0, 0, 0]) - round(255 * 0.1)) <= 1 and abs(int(greys[3, 2, 0]) - round(255 * 0.9)) <= 1

    canvas, slider = axial.locator("canvas"), axial.locator("input")
    canvas.focus()
    page.keyboard.press("Home")
    expect(slider).to_have_value("1")
    page.keyboard.press("ArrowUp")
    expect(slider).to_have_value("2")
    canvas.hover()
    page.mouse.wheel(0, 100)
    expect(slider).to_have_value("3")
    expect(page.locator(".viewer-value")).to_contain_text("100")
    expect(page.locator(".viewer-value")).to_contain_text("disc 0.")
    zooms(page, before=page.locator(".viewer").get_attribute("data-drawn") or "")
    page.context.set_offline(False)

    with page.expect_download() as download:
        page.locator("#volume-masks").click()
    assert download.value.suggested_filename == "scan_unlike_training_mask.nii.gz"
    mask = nibabel.load(download.value.path().rename(tmp_path / "mask.nii.gz"))
    assert mask.shape == voxels.shape
    np.testing.assert_array_equal(mask.affine, affine)


def test_a_mask_is_corrected_on_a_plane_by_mouse_and_keys(watched: Watched, tmp_path: Path) -> None:
    page = watched.page
    nibabel.save(nibabel.Nifti1Image(np.full((16, 20, 6), 100, np.int16), np.eye(4)), tmp_path / "scan.nii.gz")
    page.locator("#volume-threshold input[type=number]").fill("0.99")
    page.locator("#volume-threshold input[type=number]").press("Enter")  # nothing is as likely: the mask is empty
    send(page, tmp_path / "scan.nii.gz")
    page.locator("#volume-anyway").click()
    page.wait_for_selector(".viewer[data-drawn]")
    viewer, axial = page.locator(".viewer"), page.locator("figure[data-plane=axial]")
    expect(axial.locator(".cross.row")).to_be_visible()
    page.locator(".viewer .cross-lines").uncheck()
    expect(axial.locator(".cross.row")).to_be_hidden()
    page.locator(".viewer .opacity").fill("1")
    own = page.evaluate(GREYS, "axial")
    page.locator(".viewer .tool").select_option("brush")
    page.locator(".viewer .brush-size").fill("3")
    canvas = axial.locator("canvas")
    box = canvas.bounding_box()
    assert box is not None
    canvas.scroll_into_view_if_needed()
    canvas.click(position={"x": (4 + 0.5) / 16 * box["width"], "y": (9 + 0.5) / 20 * box["height"]})
    expect(viewer).to_have_attribute("data-strokes", "1")
    page.wait_for_function(f"(before) => ({GREYS})('axial').join() !== before.join()", arg=own)
    drawn = np.array(page.evaluate(GREYS, "axial")).reshape(20, 16, 4)
    painted = {tuple(at) for at in np.argwhere((drawn != np.array(own).reshape(20, 16, 4)).any(2)).tolist()}
    assert painted == {(row, column) for row in (8, 9, 10) for column in (3, 4, 5)}
    page.locator(".viewer .shown").select_option("edge:0")
    page.wait_for_function(f"(before) => ({GREYS})('axial').join() !== before.join()", arg=drawn.ravel().tolist())
    edge = np.array(page.evaluate(GREYS, "axial")).reshape(20, 16, 4)
    assert (edge[9, 4] != drawn[9, 4]).any(), "an outline leaves what is inside as it is"
    page.locator(".viewer .shown").select_option("mask:0")

    canvas.focus()  # the same by keys: once to the right and a dab, then both are taken back and one is done again
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Space")
    expect(viewer).to_have_attribute("data-strokes", "2")
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+z")
    expect(viewer).to_have_attribute("data-strokes", "0")
    page.wait_for_function(f"(before) => ({GREYS})('axial').join() === before.join()", arg=own)
    page.keyboard.press("Control+Shift+z")
    expect(viewer).to_have_attribute("data-strokes", "1")
    expect(page.locator("#volume-corrections")).to_contain_text("1 stroke by hand")
    page.locator("#volume-settle").click()
    expect(page.locator("#volume-corrections")).to_contain_text("voxels of disc changed")
    with page.expect_download() as download:
        page.locator("#volume-masks").click()
    assert download.value.suggested_filename == "scan_unlike_training_threshold_0.99_corrected_by_hand_mask.nii.gz"
    stored = np.asarray(nibabel.load(download.value.path().rename(tmp_path / "mask.nii.gz")).dataobj)
    number = int(axial.locator("input").input_value()) - 1
    flipped = {(15 - column, 19 - row, number) for row in (8, 9, 10) for column in (3, 4, 5)}
    assert {tuple(at) for at in np.argwhere(stored == 1).tolist()} >= flipped, "where it was drawn, in the file's axes"
    assert found(page) == []
    assert watched.faults == [] and page.evaluate(TOO_WIDE) <= 0


def thresholds(page: Page) -> None:
    """Another threshold is drawn at once, and said; a map has the colours of its probabilities in place of the mask."""
    note, threshold = page.locator(".viewer-threshold"), page.locator("#volume-threshold input[type=number]")
    expect(note).to_be_empty()
    drawn = page.evaluate(GREYS, "axial")
    threshold.fill("0.01")
    expect(page.locator(".viewer")).to_have_attribute("data-percent", "1")
    expect(note).to_contain_text("Drawn at threshold 0.01. Files and figures are of 0.50")
    page.wait_for_function(f"(before) => ({GREYS})('axial').join() !== before.join()", arg=drawn)
    threshold.fill("0.5")
    expect(note).to_be_empty()
    page.wait_for_function(f"(before) => ({GREYS})('axial').join() === before.join()", arg=drawn)
    expect(page.locator(".viewer .scale")).to_be_hidden()
    page.locator(".viewer .shown").select_option(label="Probability of disc")
    expect(page.locator(".viewer .scale")).to_be_visible()
    expect(page.locator(".viewer-key")).to_be_hidden()
    page.wait_for_function(f"(before) => ({GREYS})('axial').join() !== before.join()", arg=drawn)


def zooms(page: Page, *, before: str) -> None:
    """Zoom the plane under the pointer, move it, and zoom all planes out again; the slices stay."""
    viewer, canvas = page.locator(".viewer"), page.locator("figure[data-plane=axial] canvas")
    page.keyboard.down("Control")
    page.mouse.wheel(0, -300)
    page.keyboard.up("Control")
    expect(viewer).to_have_attribute("data-zoom", "2.72,1,1")  # e to the power of 300 / 300
    box = canvas.bounding_box()
    frame = page.locator("figure[data-plane=axial] .frame").bounding_box()
    assert box and frame and box["height"] > 2 * frame["height"]
    page.mouse.down()
    middle = (frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2)
    page.mouse.move(middle[0] + 40, middle[1] + 10)
    page.mouse.up()
    moved = canvas.bounding_box()
    assert moved and abs(moved["x"] - box["x"] - 40) < 1 and abs(moved["y"] - box["y"] - 10) < 1
    assert page.evaluate(TOO_WIDE) <= 0
    page.get_by_role("button", name="Zoom in").click()
    expect(viewer).to_have_attribute("data-zoom", "4.08,1.5,1.5")
    canvas.focus()
    page.keyboard.press("0")
    expect(viewer).to_have_attribute("data-zoom", "1,1.5,1.5")
    page.get_by_role("button", name="Whole pictures").click()
    expect(viewer).to_have_attribute("data-zoom", "1,1,1")
    expect(viewer).to_have_attribute("data-drawn", before)


def test_a_series_without_a_slice_is_refused_and_one_with_all_names_no_patient(
    watched: Watched, tmp_path: Path
) -> None:
    page = watched.page
    frames = np.random.default_rng(6).integers(0, 90, (5, 24, 20)).astype(np.int16)
    paths = write_series(tmp_path / "series", frames)
    for name, left_out in (("gap.zip", 2), ("whole.zip", None)):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for number, path in enumerate(paths):
                if number != left_out:
                    archive.write(path, f"series/IM{number}")
    send(page, tmp_path / "gap.zip")
    box = page.locator("#volume-message [role=alert]")
    expect(box).to_contain_text("gap.zip")
    expect(box).to_contain_text("missing between")
    expect(page.locator("#volume-stop")).to_be_hidden()
    page.locator(
        "#volume-upload button[aria-label=Clear], #volume-upload [aria-label='Remove this file']"
    ).first.click()
    expect(page.locator("#volume-message")).to_contain_text("No volume yet")
    send(page, tmp_path / "whole.zip")
    page.locator("#volume-anyway").click()
    page.wait_for_selector(".viewer[data-drawn]")
    expect(page.locator("#volume-message")).to_contain_text("PatientName")
    assert not any(value in page.content() for value in PATIENT.values())
    with page.expect_download() as download:
        page.locator("#volume-masks").click()
    assert download.value.suggested_filename == "whole_unlike_training_seg.dcm"
