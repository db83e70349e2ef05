"""What the form refuses stands at its field: its section is opened, it is marked and described, and has the focus."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from conftest import Server, Watched
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.ui

ROUNDS, SEED = "#field-federation-rounds input", "#field-seed input"


def fold(page: Page, section: str) -> None:
    page.locator(f"#section-{section} button.label-wrap").click()


def type_in(page: Page, section: str, control: str, value: str) -> None:
    """Open a section, change a number once it stands there, and close the section again."""
    fold(page, section)
    expect(page.locator(control)).not_to_have_value("")
    page.locator(control).fill(value)
    fold(page, section)
    expect(page.locator(control)).to_be_hidden()


@pytest.mark.parametrize(("button", "width"), [("#plan", 1280), ("#launch", 390)])
def test_two_faults_are_told_at_their_fields_and_go_with_a_change(
    layout_server: Server, open_page: Callable[..., Watched], button: str, width: int
) -> None:
    watched = open_page(layout_server.address, width=width)
    page = watched.page
    page.locator("#new-run > button.label-wrap").click()
    type_in(page, "federation", ROUNDS, "-3")
    type_in(page, "run", SEED, "2.5")
    page.locator(button).click()
    box = page.locator("#plan-result .refusal")
    expect(box).to_contain_text("2 settings are not possible.")
    expect(box).not_to_contain_text("federation.rounds")
    expect(box).not_to_contain_text("python")
    for control, said in ((SEED, "Must be a whole number; it is 2.5."), (ROUNDS, "Must be 1 to 10000; it is -3.")):
        expect(page.locator(control)).to_be_visible()
        expect(page.locator(control)).to_have_attribute("aria-invalid", "true")
        expect(page.locator(control)).to_have_accessible_description(said)
    expect(page.locator(SEED)).to_be_focused()
    expect(page.locator(SEED)).to_be_in_viewport()

    box.get_by_role("button", name="Rounds").click()
    expect(page.locator(ROUNDS)).to_be_focused()
    page.locator(ROUNDS).press("ControlOrMeta+a")
    page.locator(ROUNDS).press_sequentially("2")
    expect(page.locator(ROUNDS)).not_to_have_attribute("aria-invalid", "true")
    expect(page.locator("#field-federation-rounds .field-refusal")).to_have_count(0)
    expect(box.locator("li:visible")).to_have_count(1)
    expect(page.locator(SEED)).to_have_attribute("aria-invalid", "true")
    page.locator(SEED).fill("7")
    page.locator(SEED).press("Tab")
    expect(box).to_contain_text("Press Plan or Launch again.")
    expect(page.locator("[aria-invalid=true]")).to_have_count(0)

    page.locator(SEED).fill("2.5")
    page.locator(button).click()  # the same refusal as at first, but for what was mended
    expect(page.locator(SEED)).to_have_attribute("aria-invalid", "true")
    page.locator(SEED).fill("7")
    page.locator("#plan").click()
    expect(page.locator("#plan-result")).to_contain_text("This run can start.")
    expect(page.locator("[aria-invalid=true]")).to_have_count(0)
    assert watched.faults == []


def test_a_folder_that_is_not_named_is_told_at_its_field(
    layout_server: Server, open_page: Callable[..., Watched]
) -> None:
    page = open_page(layout_server.address).page
    page.locator("#new-run > button.label-wrap").click()
    page.get_by_label("A folder on this server").check()
    expect(page.locator("#field-data-root textarea")).to_be_visible()
    page.locator("#plan").click()
    root = page.locator("#field-data-root textarea")
    expect(root).to_have_attribute("aria-invalid", "true")
    expect(root).to_be_focused()
    root.fill("/nowhere/at/all")
    expect(root).not_to_have_attribute("aria-invalid", "true")
    page.locator("#plan").click()
    expect(root).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#plan-result .refusal")).not_to_contain_text("data.root")
