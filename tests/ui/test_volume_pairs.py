"""A second model for a whole volume: both masks, where they differ, and figures side by side."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
import seed_store
import torch
from conftest import Server, Watched, serving
from playwright.sync_api import Page, expect
from torch import nn

from engine.config import parse_config
from export.package import BundleContent, write_bundle

pytestmark = pytest.mark.ui

SIDE, SLICES = 64, 3
FIRST, SECOND = "bright", "brighter"
YELLOW, BLUE, BOTH, CLASS = (240, 228, 66), (0, 114, 178), (213, 94, 0), (0, 158, 115)
TOO_WIDE = "() => document.documentElement.scrollWidth - window.innerWidth"
COLOURS = """() => {
  const canvas = document.querySelector('.viewer figure[data-plane=axial] canvas');
  const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  return [...data];
}"""


class Bright(nn.Module):
    """Ten times the red channel minus ``shift``, pixel by pixel."""

    mask_stride = 1

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, image_B3HW: torch.Tensor) -> torch.Tensor:
        return image_B3HW[:, :1] * 10 - self.shift


def write_model(folder: Path, name: str, shift: float) -> None:
    """Write a bundle that finds what is brighter than a tenth of ``shift``, of values from 0 to 100."""
    config = parse_config({"data": {"image_px": SIDE}})
    content = BundleContent(
        name=name, role="distilled_student", task="t", modality="m", classes=("lesion",), model=config.student,
        config=config, metrics=(), run_id="run-1", value_range=(0.0, 100.0),
    )  # fmt: skip
    write_bundle(folder / name, Bright(shift), content=content)


def write_scan(path: Path) -> None:
    """Write voxels of 6 mm³: in the middle slice 200 of 100, that both models find, and 200 of 40 for the second."""
    voxels = np.zeros((SIDE, SIDE, SLICES), np.int16)
    voxels[10:20, 20:40, 1] = 100
    voxels[20:30, 20:40, 1] = 40
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([-1.0, -2.0, 3.0, 1.0])), path)


@pytest.fixture(scope="module")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("two")
    seed_store.fill(home)  # a third model, of other classes
    write_model(home / "shipped", FIRST, 5.0)
    write_model(home / "shipped", SECOND, 3.0)
    with serving(home) as server:
        yield server


@pytest.fixture(params=[1280, pytest.param(390, marks=pytest.mark.slow)])
def watched(request: pytest.FixtureRequest, two_models: Server, open_page: Callable[..., Watched]) -> Watched:
    shown = open_page(f"{two_models.address}/?tab=segment&model=shipped/{FIRST}", width=request.param)
    expect(shown.page.locator("#model input")).to_have_value(f"Try-out: {FIRST} · lesion · not measured · shipped")
    return shown


def choose(page: Page, picker: str, name: str) -> None:
    page.evaluate("document.activeElement?.blur()")
    offered = page.locator("[role=option]")  # not those of the viewer's own list
    expect(offered).to_have_count(0)  # those of the choice before go a moment later
    page.locator(f"{picker} input").click()
    offered.filter(has_text=name).click()


def answered(watched: Watched, folder: Path) -> Page:
    """Have the scan segmented with both models."""
    page = watched.page
    write_scan(folder / "scan.nii.gz")
    page.locator("#volume-upload input[type=file]").set_input_files(folder / "scan.nii.gz")
    expect(page.locator("#volume-upload")).to_contain_text("scan")
    return compared(page)


def compared(page: Page) -> Page:
    """Have the file that is there segmented with both models."""
    choose(page, "#volume-second", f"{SECOND} · lesion")
    page.locator("#volume-start").click()
    page.wait_for_selector(".viewer[data-drawn]")
    return page


def test_a_second_model_is_measured_saved_and_drawn_beside_the_first(watched: Watched, tmp_path: Path) -> None:
    page = answered(watched, tmp_path)
    assert page.evaluate(TOO_WIDE) <= 0
    cells = page.locator("#volume-figures table").first.locator("tbody tr").first.locator("th, td")
    assert cells.all_inner_texts() == [
        "scan.nii.gz", "lesion", "1.20 mL", "2.40 mL", "0.667", "0.00 mL", "1.20 mL", "1.20 mL"
    ]  # fmt: skip
    files(page, tmp_path)
    assert watched.faults == [] and watched.foreign == []
    page.context.set_offline(True)  # all of it is drawn in the browser
    pictures(page)


def test_only_models_of_the_same_classes_are_offered_and_another_choice_clears_the_answer(
    watched: Watched, tmp_path: Path
) -> None:
    page = watched.page
    expect(page.locator("#volume-second input")).to_be_enabled()
    page.locator("#volume-second input").click()
    expect(page.locator("[role=option]")).to_have_text(
        [re.compile("No second model"), re.compile(f"{SECOND} · lesion")]
    )
    answered(watched, tmp_path)
    page.evaluate("() => new Promise((done) => setTimeout(done, 6000))")  # the list of models is looked at anew
    expect(page.locator(".viewer")).to_have_count(1)
    choose(page, "#volume-second", "No second model")
    expect(page.locator("#volume-message")).to_contain_text("No volume yet")
    expect(page.locator(".viewer")).to_have_count(0)
    expect(page.locator("#volume-second-masks")).to_be_hidden()
    compared(page)
    choose(page, "#model", "fundus")
    expect(page.locator("#volume-message")).to_contain_text("No volume yet")
    expect(page.locator(".viewer")).to_have_count(0)
    expect(page.locator("#volume-second input")).to_have_value("No second model")
    expect(page.locator("#volume-second")).to_contain_text("No other model here finds the same classes")
    expect(page.locator("#volume-second input")).to_be_disabled()


def drawn(page: Page) -> np.ndarray:
    """Return the axial picture as (rows, columns, 3), once it has been drawn."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return np.array(page.evaluate(COLOURS)).reshape(SIDE, SIDE, 4)[..., :3]


def places(picture: np.ndarray, colour: tuple[int, int, int]) -> set[tuple[int, int]]:
    """Return the (row, column) of what has a colour."""
    return {(int(row), int(column)) for row, column in np.argwhere((picture == colour).all(axis=2))}


def pictures(page: Page) -> None:
    """Outlines, differences, masks and the map are those worked out by hand, at two thresholds."""
    shown, threshold = page.locator(".viewer .shown"), page.locator("#volume-threshold input[type=number]")
    page.locator(".viewer .opacity").fill("1")
    first = {(row, column) for row in range(20, 40) for column in range(10, 20)}
    second = {(row, column) for row in range(20, 40) for column in range(10, 30)}
    picture = drawn(page)
    around = {
        name: {(row, column) for row, column in inside if row in (20, 39) or column in (10, last)}
        for name, inside, last in (("first", first, 19), ("second", second, 29))
    }
    # Both outlines run together where the first's is; its inner edge at column 19 is its own.
    assert places(picture, BOTH) == around["first"] & around["second"]
    assert places(picture, YELLOW) == around["first"] - around["second"]
    assert places(picture, BLUE) == around["second"] - around["first"]
    expect(page.locator(".viewer-key:visible")).to_contain_text(f"B: {SECOND}")

    shown.select_option("differ")
    picture = drawn(page)
    assert places(picture, BLUE) == second - first and not places(picture, YELLOW)
    expect(page.locator(".viewer-key:visible")).to_contain_text(f"Only B: {SECOND}")
    for model, inside in (("mask:0", first), ("mask:1", second)):
        shown.select_option(model)
        assert places(drawn(page), CLASS) == inside

    shown.select_option("apart:0")  # of 40: 1 / (1 + e^1) is in the 27th hundredth, 1 / (1 + e^-1) in the 74th
    picture = drawn(page)
    expect(page.locator(".viewer .scale")).to_be_visible()
    expect(page.locator(".viewer .scale-of")).to_contain_text("|p(A) - p(B)| of lesion")
    shades = page.evaluate("() => JSON.parse(document.querySelector('.viewer').dataset.about).shades")
    assert places(picture, tuple(shades[73 - 26])) == second - first
    assert places(picture, tuple(shades[0])) == first

    shown.select_option("differ")
    threshold.fill("0.25")
    expect(page.locator(".viewer")).to_have_attribute("data-percent", "25")
    assert not places(drawn(page), BLUE), "below 0.26 both models find both"
    threshold.fill("0.5")
    expect(page.locator(".viewer")).to_have_attribute("data-percent", "50")
    assert places(drawn(page), BLUE) == second - first
    most, axial = page.get_by_role("button", name="Largest difference"), page.locator("figure[data-plane=axial] input")
    page.locator("figure[data-plane=axial] canvas").focus()
    page.keyboard.press("Home")
    expect(axial).to_have_value("1")
    most.click()
    expect(axial).to_have_value("2")
    page.locator("figure[data-plane=axial] canvas").hover()
    expect(page.locator(".viewer-value")).to_contain_text("(A) / ")


def files(page: Page, folder: Path) -> None:
    """Each mask has a name that says whose it is, and the table has both models."""
    found = {}
    for button in ("#volume-masks", "#volume-second-masks", "#volume-csv"):
        with page.expect_download() as download:
            page.locator(button).click()
        name = download.value.suggested_filename
        found[name] = Path(download.value.path()).rename(folder / f"saved_{name}")
    assert list(found) == ["scan_mask.nii.gz", f"scan_{SECOND}_mask.nii.gz", "scan_measurements.csv"]
    expect(page.locator("#volume-second-masks")).to_contain_text(f"by {SECOND}")
    masks = [nibabel.load(path).get_fdata() for path in list(found.values())[:2]]
    assert [int(mask.sum()) for mask in masks] == [200, 400]
    with found["scan_measurements.csv"].open() as stream:
        table = list(csv.DictReader(stream))
    assert [(row["model"], row["volume_ml"], row["only_here_ml"]) for row in table] == [
        (FIRST, "1.2", "0"), (SECOND, "2.4", "1.2")
    ]  # fmt: skip
