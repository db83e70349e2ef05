"""The first minute with what came with the program: what it says of itself, two ways on, and a change of models."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import ROOT, Server, Watched, serving
from playwright.sync_api import expect

pytestmark = pytest.mark.ui


@pytest.fixture(scope="module")
def shipped_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve an empty home with the shipped model, and the same under another name that was measured worse."""
    home: Path = tmp_path_factory.mktemp("shipped")
    for name in ("nuclei_cpu", "worse"):
        shutil.copytree(ROOT / "assets" / "models" / "nuclei_cpu", home / "shipped" / name)
    path = home / "shipped" / "worse" / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["name"] = "worse"
    manifest["looks"] = None
    for row in manifest["metrics"]:
        row["dice"] = 0.099
    path.write_text(json.dumps(manifest), encoding="utf-8")
    with serving(home) as server:
        yield server


def test_an_empty_page_says_what_it_can_do_and_leads_on(
    shipped_server: Server, open_page: Callable[..., Watched]
) -> None:
    page = open_page(shipped_server.address).page
    expect(page.locator("#welcome")).to_contain_text("0.849 [0.837, 0.862]")
    expect(page.locator("#welcome")).to_contain_text("which its training never saw")
    page.locator("#way-train").click()
    expect(page.locator("#preset")).to_be_visible()
    page.locator("#way-segment").click()
    expect(page.get_by_role("tab", name="Segment")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#examples img").first).to_be_visible()


def test_the_best_model_comes_first_and_an_answer_belongs_to_the_model_that_is_named(
    shipped_server: Server, open_page: Callable[..., Watched]
) -> None:
    page = open_page(f"{shipped_server.address}/?tab=segment").page
    expect(page.locator("#model input")).to_have_value("nuclei_cpu · nucleus · Dice 0.85 unseen · shipped")
    page.locator("#examples button.thumbnail-item").first.click()
    expect(page.locator("#legend")).to_contain_text("by nuclei_cpu")
    expect(page.get_by_label("In smaller parts, enlarged")).to_be_checked()
    expect(page.locator("#legend")).to_contain_text("parts of 192 x 192")
    page.locator("#model input").click()
    page.get_by_role("option").last.click()
    # Nothing of the answer before stands under the name of another model.
    expect(page.locator("#legend")).not_to_contain_text("by nuclei_cpu")
    expect(page.locator("#model-facts")).to_contain_text("0.099")
    expect(page.locator("#legend")).to_contain_text("by worse")
    # Each looks at images as it does it best, or at the whole where nobody has measured it.
    expect(page.get_by_label("At the whole, reduced")).to_be_checked()
    expect(page.locator("#legend")).not_to_contain_text("parts of")
    expect(page.locator("#overlay img")).to_be_visible()
    expect(page.locator("#segment-message")).not_to_contain_text("Segmenting with")
    page.locator("#model-card button.label-wrap").click()
    expect(page.locator("#card")).to_contain_text("How to run it")


@pytest.mark.parametrize("options", [(), ("--read-only",)])
def test_a_fresh_home_begins_with_a_finished_run(
    tmp_path: Path, open_page: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    """Who only looks sees it, too: curves, results and samples; and both ways on stay in sight."""
    monkeypatch.setenv("DSFEDMED_RUNS_DIR", str(ROOT / "assets" / "runs"))
    (tmp_path / "home").mkdir()
    with serving(tmp_path / "home", *options) as server:
        seen = open_page(server.address, width=390, dark=False)
        page = seen.page
        expect(page.locator("#welcome")).to_be_visible()
        expect(page.locator("#way-train")).to_be_visible(visible=not options)
        expect(page.locator("#run input")).to_have_value(re.compile("nuclei_cpu · Finished"))
        expect(page.get_by_text("TinySAM, mutually distilled").first).to_be_visible()
        page.get_by_role("tab", name="Samples").click()
        expect(page.locator("#gallery img, .gallery img, .grid-wrap img").first).to_be_visible()
        expect(page.get_by_text("114 of 228 samples are selected")).to_be_visible()
        assert seen.faults == [] and seen.foreign == []


def test_a_model_that_is_gone_is_named_and_no_other_takes_its_place(
    shipped_server: Server, open_page: Callable[..., Watched]
) -> None:
    page = open_page(f"{shipped_server.address}/?tab=segment&model=shipped/worse").page
    expect(page.locator("#model-facts")).to_contain_text("0.099")
    page.locator("#examples button.thumbnail-item").first.click()
    expect(page.locator("#legend")).to_contain_text("by worse")
    worse = shipped_server.home / "shipped" / "worse"
    worse.rename(shipped_server.home / "worse")
    try:
        expect(page.locator("#model-gone")).to_contain_text("The model worse is not there any more")
        expect(page.locator("#model input")).to_have_value("")
        expect(page.locator("#legend")).to_contain_text("by worse")
        expect(page.locator("#overlay img")).to_be_visible()

        page.reload()
        expect(page.locator("#model-gone")).to_contain_text("The address names the model worse, which is not here")
        expect(page.locator("#model input")).to_have_value("")
        page.locator("#model input").click()
        page.get_by_role("option").first.click()
        expect(page.locator("#model-gone")).to_be_hidden()
        expect(page.locator("#model-facts")).to_contain_text("0.849")
    finally:
        (shipped_server.home / "worse").rename(worse)
