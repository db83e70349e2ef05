"""Runs side by side in the browser: chosen, in the address, shared, taken away, and no wider than the page."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import seed_store
from conftest import Watched, serving
from playwright.sync_api import Page, expect
from test_layout import NAMELESS, TOO_WIDE

pytestmark = pytest.mark.ui


def choose(page: Page, name: str) -> None:
    page.locator("#compare-runs input").click()
    page.get_by_role("option", name=name).click()


def test_two_runs_are_compared_shared_and_taken_away(open_page: Callable[..., Watched], tmp_path: Path) -> None:
    first = seed_store.fill(tmp_path, settings={"name": "as planned"})
    second = seed_store.fill(tmp_path, settings={"name": "fewer rounds", "federation.rounds": 5}, gain=-0.1)
    with serving(tmp_path) as server:
        watched = open_page(server.address)
        page = watched.page
        page.get_by_role("tab", name="Compare").click()
        expect(page.locator("#compare-message .empty")).to_contain_text("Choose two to six runs")
        choose(page, "as planned")
        choose(page, "fewer rounds")
        page.wait_for_url(f"**runs={first},{second}*")
        tables = page.locator("#compare-tables")
        rounds = tables.locator("tr").filter(has=page.get_by_role("rowheader", name="Rounds", exact=True))
        expect(rounds.locator("td").last).to_have_text("5")
        expect(tables.locator("tr", has_text="-0.100").first).to_contain_text("worse")
        expect(page.locator("#compare-curves .js-plotly-plot")).to_contain_text("A: as planned")
        with page.expect_download() as waiting:
            page.locator("#compare-csv").click()
        lines = list(csv.DictReader(Path(waiting.value.path()).read_text(encoding="utf-8").splitlines()))
        assert {line["run_id"] for line in lines} == {first, second}
        page.get_by_role("radio", name="HD95 (px)").click()
        expect(tables).to_contain_text("of 34 images; 2 missed, 3 false")
        expect(tables.locator("tr", has_text="34 images of both").first).to_contain_text("worse")
        with page.expect_download() as waiting:
            page.locator("#compare-tex").click()
        assert r"\begin{tabular}" in Path(waiting.value.path()).read_text(encoding="utf-8")
        page.locator("#compare-bubbles-draw").click()
        expect(page.locator("#compare-bubbles-table")).to_contain_text("A: as planned")
        expect(page.locator("#compare-bubbles-plot .js-plotly-plot")).to_contain_text("DSFedMed")
        page.get_by_role("radio", name="Dice", exact=True).click()
        expect(tables).to_contain_text("Dice of the final models")
        expect(page.locator("#compare-bubbles-table")).to_contain_text("B: fewer rounds")
        assert page.evaluate(TOO_WIDE) <= 0 and page.evaluate(NAMELESS) == []

        shared = open_page(page.url, width=390)
        expect(shared.page.get_by_role("tab", name="Compare")).to_have_attribute("aria-selected", "true")
        expect(shared.page.locator("#compare-tables")).to_have_text(tables.inner_text(), use_inner_text=True)
        expect(shared.page.locator("#compare-curves .js-plotly-plot")).to_be_visible()
        assert shared.page.evaluate(TOO_WIDE) <= 0 and shared.page.evaluate(NAMELESS) == []
        assert not watched.faults + shared.faults + watched.foreign + shared.foreign
