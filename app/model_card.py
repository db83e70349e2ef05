"""A model's card as the page shows it. It may be anybody's: a run's zip brings its own."""

from __future__ import annotations

from pathlib import Path

from app import model_text

MAX_BYTES = 64 * 1024
"""Of a card (ours): an export writes 3 kB."""
AS_TEXT = str.maketrans({"<": "&lt;", "[": "&#91;"})
"""In Markdown these begin HTML, links and pictures. Gradio takes no more than scripts out of it: a form would stay, and
what lies over the whole page, and what a browser asks of other machines."""


def shown(folder: Path) -> str:
    """Return the card of the bundle in ``folder`` as Markdown that is text, headings and tables alone."""
    from export.manifest import CARD_FILE  # late: the first paint needs no manifest

    path = folder / CARD_FILE
    if not path.is_file():
        return model_text.NO_CARD
    with path.open("rb") as stream:
        return stream.read(MAX_BYTES).decode("utf-8", "replace").translate(AS_TEXT)
