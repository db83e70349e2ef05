"""Pictures of every tab and of what people open there, wide and narrow, light and dark.

``make screenshots`` writes them to docs/screenshots, ``screenshots.py FOLDER NAME...`` those of the named views alone.
The page shows the records of ``seed_store`` and the shipped model. Pictures have a palette, so that they stay small;
what is longer than the window is shown in full.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from conftest import BROWSERS, CHROMIUM_FLAGS, ROOT, WAIT_MS, serving
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright
from scipy import ndimage
from seed_store import fill

COLOURS = 64
SIZES = {"wide": (1280, 900), "narrow": (390, 844)}
SHIPPED = "shipped/nuclei_cpu"
VOLUME = "organoid.nii.gz"


@dataclass(frozen=True)
class Shown:
    """The page of a picture, and the files that a person has at hand."""

    page: Page
    files: Path


@dataclass(frozen=True)
class View:
    """A picture's tab, what a person does there, and how much of the page is in the picture."""

    tab: str
    do: Callable[[Shown], None]
    is_whole: bool = True


def train(shown: Shown) -> None:
    """Wait for the table of results."""
    shown.page.wait_for_selector("#results table")


def form(shown: Shown) -> None:
    """Open the form of a new run and two of its sections, and ask for the plan."""
    page = shown.page
    page.get_by_role("button", name="Start a new run").click()
    for section in ("federation", "distillation"):
        page.locator(f"#section-{section} button.label-wrap").click()
    page.wait_for_selector("#field-distillation-temperature")
    page.locator("#plan").click()
    page.wait_for_selector("#plan-result table")


def samples(shown: Shown) -> None:
    """Wait for the gallery and the plot."""
    shown.page.wait_for_selector("#gallery img")
    shown.page.wait_for_selector("#scatter .points path")


def sample(shown: Shown) -> None:
    """Open a sample and try other values."""
    samples(shown)
    page = shown.page
    page.locator("#gallery button.thumbnail-item").nth(1).click()
    expect(page.locator("#detail figure img").first).to_be_visible()
    for slider, value in (("weight", "0.8"), ("rate", "0.3")):
        typed = page.locator(f"#what-if-{slider} input[type=number]")
        typed.fill(value)
        typed.press("Enter")
    expect(page.locator("#what-if-count")).to_contain_text("18 selected in place of 30")
    expect(page.locator("#gallery .caption-label").first).to_contain_text("was")


def segment(shown: Shown) -> None:
    """Segment an example of the shipped model."""
    page = shown.page
    page.wait_for_selector("#examples img")
    page.locator("#examples button.thumbnail-item").first.click()
    page.wait_for_selector("#overlay img")


def volume(shown: Shown) -> None:
    """Segment a volume, although a scanner's file is unlike what the shipped model was made for."""
    page = shown.page
    page.wait_for_selector("#examples img")
    page.locator("#volume-upload input[type=file]").set_input_files(shown.files / VOLUME)
    expect(page.locator("#volume-upload")).to_contain_text(VOLUME.partition(".")[0])
    page.locator("#volume-start").click()
    page.locator("#volume-anyway").click()
    page.wait_for_selector(".viewer[data-drawn]")


def tables(shown: Shown) -> None:
    """Wait for the standing of the tables."""
    shown.page.wait_for_selector("#table-standing table")


def compare(shown: Shown) -> None:
    """Wait for three runs side by side."""
    shown.page.wait_for_selector("#compare-tables table")
    shown.page.wait_for_selector("#compare-curves .js-plotly-plot .points path")


def bubbles(shown: Shown) -> None:
    """Have the figure of traffic, Dice and inference time drawn."""
    compare(shown)
    shown.page.locator("#compare-bubbles-draw").click()
    shown.page.wait_for_selector("#compare-bubbles-plot .js-plotly-plot .points path")


VIEWS = {
    "train": View("train", train, is_whole=False),
    "form": View("train", form),
    "samples": View("samples", samples, is_whole=False),
    "sample": View("samples", sample),
    "segment": View("segment", segment, is_whole=False),
    "volume": View("segment", volume),
    "tables": View("tables", tables, is_whole=False),
    "compare": View("compare", compare, is_whole=False),
    "bubbles": View("compare", bubbles),
}


def write_volume(path: Path) -> None:
    """Write bright balls on dark as a NIfTI file: what the model of fluorescent nuclei can find in planes."""
    rng = np.random.default_rng(5)
    seeds = np.zeros((96, 96, 40), bool)
    seeds[tuple(rng.integers(0, side, 70) for side in seeds.shape)] = True
    far = ndimage.distance_transform_edt(~seeds, sampling=(1, 1, 2))
    voxels = 20 + 180 * (far < 6.5) + rng.normal(0, 6, seeds.shape)
    affine = np.diag([-1.0, -1.0, 2.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(ndimage.gaussian_filter(voxels, 0.8).astype(np.int16), affine), path)


def take(shown: Shown, view: View, path: Path) -> None:
    """Write a picture of the tab that the page shows once what it shows is there."""
    page = shown.page
    view.do(shown)
    page.wait_for_function("[...document.images].every((image) => image.complete)")
    page.evaluate("document.activeElement?.blur(); window.scrollTo(0, 0)")
    page.screenshot(path=path, full_page=view.is_whole)
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(COLOURS).save(path, optimize=True)


def photograph(browser: Browser, address: str, *, files: Path, folder: Path, names: Sequence[str]) -> None:
    """Write the pictures of the named views to ``folder``; ``address`` says which runs and which model are shown."""
    for theme in ("light", "dark"):
        for size, (width, height) in SIZES.items():
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=theme)
            page.set_default_timeout(WAIT_MS)
            for name in names:
                page.goto(f"{address}&tab={VIEWS[name].tab}&__theme={theme}")
                take(Shown(page, files), VIEWS[name], folder / f"{name}_{size}_{theme}.png")
            page.close()


def main(folder: Path, names: Sequence[str]) -> None:
    """Serve a home made for it and write the pictures to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as made, sync_playwright() as playwright:
        home = Path(made)
        shutil.copytree(ROOT / "assets" / "models", home / "shipped")
        write_volume(home / VOLUME)
        run_id = fill(home)
        fewer = fill(home, settings={"name": "fewer rounds", "federation.rounds": 5}, gain=-0.04)
        other = fill(home, settings={"name": "other seed", "seed": 3}, gain=0.02)
        path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
        browser = playwright.chromium.launch(executable_path=path, args=list(CHROMIUM_FLAGS), timeout=WAIT_MS)
        with serving(home) as server:
            address = f"{server.address}/?run={run_id}&runs={run_id},{fewer},{other}&model={SHIPPED}"
            photograph(browser, address, files=home, folder=folder, names=names or list(VIEWS))
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
