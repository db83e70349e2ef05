"""What people call a run, on the page: plain text in lists and headings, and who may change it."""

from __future__ import annotations

from html import escape

from app import labels_text as words
from app.access import Visitor
from app.studio import Studio
from engine.runs.labels import Labels
from engine.runs.lifecycle import said_by


def shown(labels: Labels) -> str:
    """Return tags and notes as HTML, every letter as it was typed; nothing where there are none."""
    tags = "".join(f"<li>{escape(tag)}</li>" for tag in labels.tags)
    listed = f"<ul class='tags' aria-label='{words.TAGS}'>{tags}</ul>" if tags else ""
    notes = (
        f"<p class='notes' role='note' aria-label='{words.NOTES}'>{escape(labels.notes)}</p>" if labels.notes else ""
    )
    return listed + notes


def change(
    studio: Studio, run_id: str, *, title: str | None, tags: str | None, notes: str | None, by: Visitor
) -> Labels:
    """Keep what was typed with the run, all of it or nothing, and return it as it is kept.

    Raises ``UserError``: those of ``Permissions.check_run``, and ``run.labels``.
    """
    studio.permissions.check_run(by, run_id)
    labels = Labels.written(title or "", tags or "", notes or "")
    studio.store.update_run(run_id, **labels.columns())
    said = said_by(words.LOG, studio.permissions.signature(by))
    if said is not None:
        studio.store.write_log(run_id, "info", said)
    return labels
