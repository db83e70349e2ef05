"""Which images a fork of a run leaves out, and how the page says so. Pure, but for the run's own list."""

from __future__ import annotations

from html import escape

from app import markup, sample_text
from app.studio import Studio

SHOWN = 6
"""Of ids, in the sentence."""
LeftOut = tuple[str, tuple[str, ...]] | None
"""A run and the ids that its fork leaves out; ``None`` before anybody has chosen."""


def kept(studio: Studio, run_id: str, state: LeftOut) -> tuple[str, ...]:
    """Return the ids that a fork of the run leaves out: those chosen here, or before that the run's own."""
    if state is not None and state[0] == run_id:
        return tuple(state[1])
    found, _ = studio.attempt(lambda: studio.store.get(run_id).config.distillation.excluded_samples)
    return found or ()


def sentence(ids: tuple[str, ...], *, total: int) -> str:
    """Return what is left out, in words; nothing where nothing is."""
    if not ids:
        return ""
    names = ", ".join(ids[:SHOWN])
    if len(ids) > SHOWN:
        names = sample_text.LEFT_OUT_MORE.format(names=names, count=len(ids) - SHOWN)
    said = sample_text.LEFT_OUT.format(count=len(ids), total=total, names=names)
    warned = markup.notice(sample_text.LEFT_OUT_ALL) if len(ids) >= total else ""
    return f"<p>{escape(said)}</p>{markup.quiet(sample_text.LEFT_OUT_NOTE)}{warned}"
