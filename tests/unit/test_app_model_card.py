"""A model's card is text of whoever made the model: nothing in it acts, and nothing is fetched for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from app import model_card, model_text
from app.settings import REPOSITORY
from export.manifest import CARD_FILE


@pytest.mark.parametrize("words", [
    "![seen](http://elsewhere.example/a.png)", "<img src=http://elsewhere.example/a.png>",
    "<form action=http://elsewhere.example><input name=password></form>",
    "<a style='position:fixed;inset:0' href=http://elsewhere.example>x</a>", "[sign in](http://elsewhere.example)",
    "![a][b]\n\n[b]: http://elsewhere.example/a.png", "`<b>` <!-- x",
])  # fmt: skip
def test_what_acts_in_markdown_is_text(tmp_path: Path, words: str) -> None:
    (tmp_path / CARD_FILE).write_text(f"# A model\n\n{words}", encoding="utf-8")
    shown = model_card.shown(tmp_path)
    assert shown.startswith("# A model") and not {"<", "["} & set(shown)


def test_an_honest_card_is_shown_as_it_was_written() -> None:
    folder = REPOSITORY / "assets" / "models" / "nuclei_cpu"
    shown = model_card.shown(folder)
    assert shown.replace("&#91;", "[") == (folder / CARD_FILE).read_text(encoding="utf-8")
    assert "| --" in shown or "|--" in shown or "|:--" in shown


def test_a_card_that_is_none_is_no_fault(tmp_path: Path) -> None:
    assert model_card.shown(tmp_path) == model_text.NO_CARD
    (tmp_path / CARD_FILE).write_bytes(b"\xff" * 10**6)
    assert 0 < len(model_card.shown(tmp_path)) <= model_card.MAX_BYTES
