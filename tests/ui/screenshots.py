"""Pictures of every tab, wide and narrow, light and dark: ``make screenshots`` writes them to docs/screenshots.

The page shows the records of ``seed_store`` and the shipped model. Pictures have a palette, so that they stay small.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from conftest import BROWSERS, CHROMIUM_FLAGS, ROOT, WAIT_MS, serving
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from seed_store import fill

COLOURS = 64
SIZES = {"wide": (1280, 900), "narrow": (390, 844)}
READY = {
    "train": "#results table",
    "samples": "#gallery img",
    "segment": "#examples img",
    "tables": "#table-standing table",
    "compare": "#compare-tables table",
}


def take(page: Page, tab: str, path: Path) -> None:
    """Write a picture of the tab that the page shows once what it shows is there."""
    page.wait_for_selector(READY[tab])
    if tab == "samples":
        page.wait_for_selector("#scatter .points path")
    if tab == "compare":
        page.wait_for_selector("#compare-curves .js-plotly-plot .points path")
    if tab == "segment":
        page.locator("#examples button.thumbnail-item").first.click()
        page.wait_for_selector("#overlay img")
    page.wait_for_function("[...document.images].every((image) => image.complete)")
    page.evaluate("window.scrollTo(0, 0)")
    page.screenshot(path=path)
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(COLOURS).save(path, optimize=True)


def main(folder: Path) -> None:
    """Serve a home made for it and write the pictures to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as made, sync_playwright() as playwright:
        home = Path(made)
        shutil.copytree(ROOT / "assets" / "models", home / "shipped")
        run_id = fill(home)
        fewer = fill(home, settings={"name": "fewer rounds", "federation.rounds": 5}, gain=-0.04)
        other = fill(home, settings={"name": "other seed", "seed": 3}, gain=0.02)
        path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
        browser = playwright.chromium.launch(executable_path=path, args=list(CHROMIUM_FLAGS), timeout=WAIT_MS)
        with serving(home) as server:
            for size, (width, height) in SIZES.items():
                for theme in ("light", "dark"):
                    page = browser.new_page(
                        viewport={"width": width, "height": height}, color_scheme="dark" if theme == "dark" else "light"
                    )
                    page.set_default_timeout(WAIT_MS)
                    for tab in READY:
                        page.goto(
                            f"{server.address}/?run={run_id}&tab={tab}&runs={run_id},{fewer},{other}&__theme={theme}"
                        )
                        take(page, tab, folder / f"{tab}_{size}_{theme}.png")
                    page.close()
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
