"""A researcher with images: a zip is uploaded in the form, looked at by itself, and its folder stands in the form."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Server, Watched
from playwright.sync_api import expect
from test_axe import found
from test_layout import NAMELESS, NO_ALT, TOO_WIDE

from engine.data.phantoms import write_dataset
from tests.unit.data_world import write_nnunet

pytestmark = pytest.mark.ui


def test_an_uploaded_dataset_is_looked_at_and_stands_in_the_form(
    layout_server: Server, open_page: Callable[..., Watched], tmp_path: Path
) -> None:
    root = write_dataset("polyp", tmp_path / "polyps", images_per_site=3, image_px=64)
    (site,) = [path.name for path in root.iterdir() if path.is_dir()][:1]
    next((root / site / "masks").iterdir()).unlink()
    with zipfile.ZipFile(tmp_path / "polyps.zip", "w") as archive:
        for file in root.rglob("*"):
            archive.write(file, file.relative_to(tmp_path).as_posix())
    seen = open_page(layout_server.address, width=390, dark=True)
    page = seen.page
    page.get_by_role("button", name="Start a new run").click()
    page.locator("#data-look").click()
    expect(page.locator("#data-found .survey h4").first).to_contain_text("phantom")
    page.get_by_label("A folder on this server").check()
    expect(page.locator("#data-found .survey")).to_have_count(0)
    page.locator("#data-upload input[type=file]").set_input_files(tmp_path / "polyps.zip")
    expect(page.locator("#data-found .survey h4").first).to_contain_text("cannot begin")
    expect(page.locator("#data-found [role=alert]")).to_contain_text("has no mask")
    expect(page.locator("#data-found tbody tr")).to_have_count(4)
    box = page.locator("#field-data-root textarea, #field-data-root input")
    expect(box).to_have_value(re.compile(rf"{layout_server.home}/datasets/uploaded_\w+/polyps$"))
    expect(page.locator("#data-look")).to_be_enabled()
    assert found(page) == []
    assert page.evaluate(TOO_WIDE) <= 0
    assert page.evaluate(NAMELESS) == [] and page.evaluate(NO_ALT) == []
    assert seen.faults == [] and seen.foreign == []


def test_a_folder_of_nnunet_is_made_a_dataset_and_looked_at(
    layout_server: Server, open_page: Callable[..., Watched], tmp_path: Path
) -> None:
    for name in ("Dataset001_North", "Dataset002_South"):
        write_nnunet(tmp_path / "raw" / name, count=4)
    seen = open_page(layout_server.address, width=390, dark=False)
    page = seen.page
    page.get_by_role("button", name="Start a new run").click()
    page.get_by_label("A folder on this server").check()
    box = page.locator("#field-data-root textarea, #field-data-root input")
    box.fill(str(tmp_path / "raw"))
    expect(page.locator("#data-convert")).to_have_count(0)
    page.locator("#data-look").click()
    expect(page.locator("#data-found")).to_contain_text("layout of nnU-Net")
    expect(page.locator("#data-found")).to_contain_text("Make a dataset of it")
    page.locator("#data-convert").click()
    expect(page.locator("#data-converted")).to_contain_text("8 images of 2 sites")
    expect(box).to_have_value(re.compile(rf"{layout_server.home}/datasets/prepared_\w+$"))
    expect(page.locator("#data-found tbody tr")).to_have_count(2)
    expect(page.locator("#data-found")).to_contain_text("Dataset002_South")
    expect(page.locator("#data-convert")).to_have_count(0)
    assert found(page) == []
    assert page.evaluate(TOO_WIDE) <= 0
    assert seen.faults == [] and seen.foreign == []


def test_real_cpu_is_fitted_after_a_look_and_what_was_changed_by_hand_stays_until_one_presses(
    layout_server: Server, open_page: Callable[..., Watched], tmp_path: Path
) -> None:
    root = write_dataset("polyp", tmp_path / "polyps", images_per_site=4, image_px=64)
    seen = open_page(layout_server.address, width=1280, dark=False)
    page = seen.page
    page.get_by_role("button", name="Start a new run").click()
    page.locator("#preset input").click()
    page.get_by_role("option", name=re.compile("^real_cpu")).click()
    rounds, side = page.locator("#field-federation-rounds input"), page.locator("#field-data-image_px input")
    for section in ("federation", "data"):
        page.locator(f"#section-{section} button.label-wrap").click()
    expect(rounds).to_have_value("25")
    rounds.fill("7")
    page.locator("#field-data-root textarea, #field-data-root input").fill(str(root))
    page.locator("#data-look").click()
    expect(page.locator("#data-fitted li").first).to_contain_text("128")
    expect(page.locator("#data-fitted")).to_contain_text("the images' shorter side is 64 pixels")
    expect(side).to_have_value("128")
    expect(rounds).to_have_value("7")
    page.locator("#data-fit").click()
    expect(rounds).to_have_value("100")
    expect(page.locator("#field-federation-patience").locator("input, textarea")).to_have_value("8")
    assert found(page) == []
    assert seen.faults == [] and seen.foreign == []
