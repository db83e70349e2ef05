"""Pictures of every tab and of what people open there, wide and narrow, light and dark.

``make screenshots`` writes them to docs/screenshots; with ``SHOTS="NAME ..."`` those of the named views alone. The page
shows the shipped model and the records of ``seed_store``, which nobody has measured: to look at the page, not to be
shown to others. ``SHOTS="--home HOME --runs ID,ID NAME ..."`` shows runs that were made; the README's pictures are
such. Pictures have a palette, so that they stay small; what is longer than the window is shown in full.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from conftest import ROOT, serving
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from scipy import ndimage
from seed_store import fill

from tests.browsers import WAIT_MS, chromium

COLOURS = 256
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
    expect(page.locator("#what-if-count")).to_contain_text("samples would change")
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


def seeded(home: Path) -> list[str]:
    """Fill a home with made-up records; return the runs' ids."""
    fewer = {"name": "fewer rounds", "federation.rounds": 5}
    made = [fill(home), fill(home, settings=fewer, gain=-0.04)]
    return [*made, fill(home, settings={"name": "other seed", "seed": 3}, gain=0.02)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve a home and write the pictures of what it holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for the pictures")
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(VIEWS)}; all when left out")
    parser.add_argument("--home", type=Path, help="a home with runs that were made")
    parser.add_argument("--runs", type=lambda text: text.split(","), help="ids of its runs, the shown one first")
    chosen = parser.parse_args(arguments)
    chosen.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as made, chromium() as browser:
        files = Path(made)
        write_volume(files / VOLUME)
        home, runs = (chosen.home, chosen.runs) if chosen.home else (files, seeded(files))
        shutil.copytree(ROOT / "assets" / "models", home / "shipped", dirs_exist_ok=True)
        with serving(home) as server:
            address = f"{server.address}/?run={runs[0]}&runs={','.join(runs)}&model={SHIPPED}"
            photograph(browser, address, files=files, folder=chosen.folder, names=chosen.names or list(VIEWS))


if __name__ == "__main__":
    main()
