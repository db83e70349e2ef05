"""Images that a person leaves out of a fork: a button at the image that is shown, and the list of those left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from app import markup, region_text, region_view, sample_text
from app.access import visitor_of
from app.asked_samples import Asked, chosen, read
from app.left_out import LeftOut, kept, sentence
from app.studio import Studio
from app.tabs import sample_fork, sample_region

QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


@dataclass(frozen=True)
class Parts:
    """The button at the image, what is left out in words, the button that takes all back in, and the ids."""

    button: gr.Button
    said: gr.HTML
    clear: gr.Button
    ids: gr.State
    """The run and what its fork leaves out, or ``None`` before anybody has chosen."""

    def wire(
        self, studio: Studio, run: gr.Dropdown, picked: gr.Textbox, region: sample_region.Parts, asked: list[Any]
    ) -> None:
        """Follow the run and the image that is chosen; ``picked`` has its id.

        The buttons of ``region`` treat all samples alike that are chosen in the plot, as the controls ``asked`` say.
        """
        outputs = [self.button, self.said, self.clear, self.ids]

        def shown(request: gr.Request, run_id: str | None, sample_id: str, state: LeftOut) -> dict[Any, Any]:
            return self._shown(studio, request, run_id or "", sample_id, kept(studio, run_id or "", state))

        def toggled(request: gr.Request, run_id: str | None, sample_id: str, state: LeftOut) -> dict[Any, Any]:
            ids = kept(studio, run_id or "", state)
            if studio.sample(run_id or "", sample_id, None) is None:
                return self._shown(studio, request, run_id or "", "", ids)
            ids = tuple(one for one in ids if one != sample_id) if sample_id in ids else (*ids, sample_id)
            return self._shown(studio, request, run_id or "", sample_id, ids)

        def cleared(request: gr.Request, run_id: str | None, sample_id: str) -> dict[Any, Any]:
            return self._shown(studio, request, run_id or "", sample_id, ())

        inputs = [run, picked, self.ids]
        gr.on([run.change, picked.change], shown, inputs, outputs, trigger_mode="always_last", **QUIET)
        self.button.click(toggled, inputs, outputs, **QUIET)
        self.clear.click(cleared, [run, picked], outputs, **QUIET)
        for how, button in (("leave", region.leave), ("keep", region.keep), ("back", region.back)):
            many = self._many(studio, region, how)
            button.click(many, [picked, self.ids, *asked], [*outputs, region.done], **QUIET)

    def _many(self, studio: Studio, region: sample_region.Parts, how: region_view.How) -> Callable[..., dict[Any, Any]]:
        """Return what a button of the plot's choice does."""

        def handler(request: gr.Request, sample_id: str, state: LeftOut, *controls: Any) -> dict[Any, Any]:
            wanted = Asked(*controls)
            run_id = wanted.run_id or ""

            def after() -> tuple[tuple[str, ...], int]:
                ranked = read(studio, wanted)
                found, everything = chosen(ranked, wanted), ranked.pool.sample_ids
                these = () if found is None else everything[found.mask].tolist()
                ids = region_view.left_out(kept(studio, run_id, state), these, everything.tolist(), how=how)
                return ids, len(everything)

            found, box = studio.attempt(after)
            if found is None:
                return {region.done: box}
            ids, total = found
            done = markup.notice(region_text.DONE.format(count=len(ids), total=total))
            return self._shown(studio, request, run_id, sample_id, ids) | {region.done: done}

        return handler

    def _shown(
        self, studio: Studio, request: gr.Request, run_id: str, sample_id: str, ids: tuple[str, ...]
    ) -> dict[Any, Any]:
        may, _ = studio.attempt(lambda: sample_fork.stage_of(studio, run_id, by=visitor_of(request)))
        words = sample_text.TAKE_BACK if sample_id in ids else sample_text.LEAVE_OUT
        total = studio.store.samples(run_id, limit=1).total if ids else 0
        return {
            self.button: gr.Button(words, visible=bool(may and sample_id)),
            self.said: sentence(ids, total=total) if may else "",
            self.clear: gr.Button(visible=bool(may and ids)),
            self.ids: (run_id, ids),
        }


def place() -> Parts:
    """Place the button and the list; both are hidden until somebody is there who may fork the run."""
    with gr.Row(elem_classes="actions"):
        button = gr.Button(sample_text.LEAVE_OUT, size="sm", visible=False, elem_id="leave-out")
        clear = gr.Button(sample_text.LEFT_OUT_CLEAR, size="sm", visible=False, elem_id="left-out-clear")
    return Parts(button, gr.HTML(elem_id="left-out"), clear, gr.State(None))
