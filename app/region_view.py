"""What is said of the samples that are chosen in the plot, and what choosing them makes of a fork's list. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Literal

from app import markup, region_text
from app.asked_samples import Chosen
from app.scatter import num_drawn
from engine.config_distillation import MAX_EXCLUDED
from engine.errors import UserError

How = Literal["leave", "keep", "back"]
"""Leave the chosen samples out, keep them alone, or take them back in."""


def said(found: Chosen | None, *, site: str = "") -> str:
    """Return how many samples of how many are chosen, as HTML; nothing where nothing is chosen."""
    if found is None:
        return ""
    words = region_text.SAID_ONE if found.count == 1 else region_text.SAID
    sentence = words.format(count=found.count, total=found.total, place=region_text.PLACES[found.region.kind])
    notes = [region_text.OF_SITE.format(site=site)] if site else []
    if (shown := num_drawn(found.total)) < found.total:
        notes.append(region_text.UNDRAWN.format(shown=shown, total=found.total))
    return f"<p role='status'><b>{escape(sentence)}</b></p>{markup.quiet(' '.join(notes)) if notes else ''}"


def left_out(ids: Sequence[str], chosen: Sequence[str], everything: Sequence[str], *, how: How) -> tuple[str, ...]:
    """Return what a fork leaves out after a choice, in the order of ``everything``, which are all ids of the run.

    ``ids`` are left out before it. Raises ``UserError`` ``app.region`` where none is chosen, and ``app.left_out`` for
    more than a configuration names.
    """
    if not chosen:
        what, why, fix = region_text.BAD_WHAT, region_text.NOTHING_WHY, region_text.NOTHING_FIX
        raise UserError("app.region", what=what, why=why, fix=fix)
    before, these = set(ids), set(chosen)
    after = {"leave": before | these, "back": before - these}.get(how, set(everything) - these)
    if len(after) > MAX_EXCLUDED:
        raise UserError(
            "app.left_out",
            what=region_text.TOO_MANY_WHAT.format(count=len(after)),
            why=region_text.TOO_MANY_WHY.format(most=MAX_EXCLUDED),
            fix=region_text.TOO_MANY_FIX,
        )
    return tuple(one for one in everything if one in after)
