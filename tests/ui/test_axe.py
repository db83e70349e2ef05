"""Every tab, with what people open there, fits, names everything and passes axe-core: wide, narrow, light, dark."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from conftest import Server, Watched
from playwright.sync_api import Page, expect
from test_layout import NAMELESS, NO_ALT, READY, TOO_WIDE, open_tab

pytestmark = pytest.mark.ui

GRADIOS_OWN = {
    "image-redundant-alt": "a gallery says a picture's caption as its alternative text, too",
    "aria-prohibited-attr": "a plot that is not drawn yet is a box with a name and no role",
}
"""What Gradio's components do by themselves; none of it withholds anything from anybody."""
AXE = Axe()
RESTS = """() => [...document.querySelectorAll('.pending')].every((e) => !e.offsetParent)
  && document.getAnimations().every((a) => a.playState !== 'running' || a.effect.getTiming().iterations === Infinity)"""
"""Nothing waits for an answer and nothing fades in: Gradio dims what an answer will replace to a fifth."""


def found(page: Page) -> list[str]:
    """Return what breaks a rule on a page at rest: the rule, how bad, where, and what is wrong."""
    page.wait_for_function(RESTS)
    rules = {rule: {"enabled": False} for rule in GRADIOS_OWN}
    told = AXE.run(page, options={"resultTypes": ["violations"], "rules": rules}).response
    assert told["testEngine"]["name"] == "axe-core" and told["url"] == page.url
    return [
        f"{broken['id']} ({broken['impact']}): {node['target']} {node['failureSummary']}"
        for broken in told["violations"]
        for node in broken["nodes"]
    ]


LOOKS = [
    pytest.param(1280, False, id="light-1280", marks=pytest.mark.slow),
    pytest.param(390, True, id="dark-390"),
    pytest.param(1280, True, id="dark-1280", marks=pytest.mark.slow),
    pytest.param(390, False, id="light-390", marks=pytest.mark.slow),
]
"""One in every run; the others take as long each."""


@pytest.mark.parametrize(("width", "dark"), LOOKS)
def test_no_tab_breaks_a_rule(layout_server: Server, open_page: Callable[..., Watched], width: int, dark: bool) -> None:
    seen = open_page(layout_server.address, width=width, dark=dark)
    page = seen.page
    for name in READY:
        open_tab(page, name)
        OPENED.get(name, lambda _page: None)(page)
        assert found(page) == [], name
        assert page.evaluate(TOO_WIDE) <= 0, name
        assert page.evaluate(NAMELESS) == [], name
        assert page.evaluate(NO_ALT) == [], name
    assert seen.foreign == []
    assert seen.faults == []


def open_form(page: Page) -> None:
    page.locator("#go-on button.label-wrap").click()
    page.wait_for_selector("#fork-stage input")
    page.get_by_role("button", name="Start a new run").click()
    for section in ("data", "federation", "distillation"):
        page.locator(f"#section-{section} button.label-wrap").click()
    page.wait_for_selector("#field-distillation-temperature")


def open_sample(page: Page) -> None:
    page.locator("#gallery button.thumbnail-item").first.click()
    expect(page.locator("#detail figure img").first).to_be_visible()


def open_example(page: Page) -> None:
    """Answer an example, and ask to keep it for training."""
    page.locator("#examples button").first.click()
    expect(page.locator("#overlay img")).to_be_visible()
    page.locator("#teach button.label-wrap").click()
    for name, words in (("name", "Ours"), ("site", "ward"), ("patient", "p1")):
        page.locator(f"#teach-{name}").locator("input, textarea").fill(words)
    page.locator("#teach-ask").click()
    expect(page.locator("#teach-no")).to_be_focused()


def compare_two(page: Page) -> None:
    for name in ("layout finished", "layout failed"):
        page.locator("#compare-runs input").click()
        page.get_by_role("option", name=name).click()
    expect(page.locator("#compare-tables table").first).to_be_visible()


OPENED = {"Train": open_form, "Samples": open_sample, "Segment": open_example, "Compare": compare_two}
"""What a person opens on a tab."""
