"""What corrects a volume's mask by hand: the viewer's strokes are kept, and figures and files made on request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from app import markup, volume_figures
from app import volume_text as words
from app.studio import Studio

if TYPE_CHECKING:
    from app.tabs.volumes import Parts
    from app.volume_corrections import Kept

HEARD = """
watch('value', () => {
  const told = element.querySelector('[data-heard]');
  if (told) window.dsfedmedVolume?.heard?.(Number(told.dataset.strokes), Number(told.dataset.heard));
});
"""
Values = tuple[Any, ...]


def place() -> tuple[gr.HTML, gr.Button]:
    """Place what is said of corrections, and the button for their figures and files."""
    told = gr.HTML("", elem_id="volume-corrections", js_on_load=HEARD)
    return told, gr.Button(words.SETTLE, variant="primary", visible=False, elem_id="volume-settle")


def wire(studio: Studio, parts: Parts) -> None:
    """Keep the viewer's strokes one after the other, and work out what follows from them when it is asked for."""
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    handlers = Correcting(studio)
    told = [parts.kept, parts.corrections, parts.settle]
    # One at a time, and each of them: a stroke is kept on top of the one before it.
    one: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "volume-strokes", "trigger_mode": "multiple"}
    parts.viewer.select(handlers.correct, parts.kept, told, **one, **quiet)
    visible: dict[str, Any] = {"api_visibility": "private", "show_progress_on": parts.corrections}
    outputs = [parts.figures, parts.corrections, *parts.files]
    parts.settle.click(
        handlers.settle, parts.kept, outputs, concurrency_limit=1, concurrency_id="volume-strokes", **visible
    )


@dataclass(frozen=True)
class Correcting:
    """The tools' events. ``kept`` is what the browser's session remembers of the volume, a ``Kept`` or None.

    (Gradio reads the hints of handlers, and what ``Kept`` lies with is not loaded before it is asked for.)
    """

    studio: Studio

    def correct(self, kept: Any, event: gr.SelectData) -> Values:
        """Keep a stroke, or take one back; say how many there are, and that figures and files are not of them yet."""
        if kept is None:
            return None, markup.notice(words.GONE_WHAT), gr.update(visible=False)
        now, refused = kept.after(event.index, event.value, getattr(event, "stroke", None))
        said = markup.notice(refused) if refused else ""
        count = len(now.strokes)
        if count or kept.strokes:
            strokes = words.CORRECTED[count != 1].format(count=count)
            said += markup.quiet(f"{strokes} {words.NOT_YET}")
        return now, f"{_state(now)}{said}", gr.update(visible=bool(count or kept.strokes or now.undone))

    def settle(self, kept: Any) -> Values:
        """Return figures and files of the corrected mask."""
        from app import volume_corrections
        from app.tabs.volumes import files_of

        same = (gr.skip(),) * 6
        if kept is None:
            return gr.skip(), markup.notice(words.GONE_WHAT), *same
        result, box = self.studio.attempt(lambda: volume_corrections.settle(self.studio, kept))
        if result is None:
            return gr.skip(), _state(kept) + box, *same
        counts = ", ".join(
            words.CHANGED_VOXELS.format(count=one.corrected_px, name=one.class_name) for one in result.measurements
        )
        figures = volume_figures.figures(result.measurements, result.compared)
        said = markup.notice(words.BY_HAND.format(counts=counts))
        return figures, _state(kept) + said, *files_of(result)


def _state(kept: Kept) -> str:
    """Return what tells the browser how many strokes are kept, and which of its events was the last."""
    return f"<i hidden data-heard='{kept.heard}' data-strokes='{len(kept.strokes)}'></i>"
