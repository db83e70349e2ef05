"""What an address asks for, and what is no part of one."""

from __future__ import annotations

import pytest

from app.address import CHOOSE_TAB, TABS, Wanted, set_tab, setter


def test_an_address_asks_for_what_it_names() -> None:
    query = {"run": "261126-a", "model": "shipped/nuclei_cpu", "sample": "a/0001", "epoch": "3"}
    assert Wanted.of(query) == Wanted("261126-a", "shipped/nuclei_cpu", "a/0001", 3)
    assert Wanted.of({}) == Wanted()


@pytest.mark.parametrize("query", [
    {"run": ""}, {"epoch": "0"}, {"epoch": "-1"}, {"epoch": "1e3"}, {"epoch": "٣"},
    {"epoch": "9" * 5000}, {"sample": "x" * 201}, {"other": "1"},
])  # fmt: skip
def test_what_cannot_be_is_passed_over(query: dict[str, str]) -> None:
    assert Wanted.of(query) == Wanted()


def test_the_browser_writes_what_is_read() -> None:
    assert all(f"'tab', '{tab}'" in set_tab(tab) and f'"{tab}"' in CHOOSE_TAB for tab in TABS)
    assert "searchParams.set('sample', value)" in setter("sample")
