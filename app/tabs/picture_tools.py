"""The tools beside an answered picture: what is shown of it, the threshold, and what corrects the mask."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from app import answers, markup, strokes, text
from app import overlay_text as words
from app.corrections import MAX_CORRECTIONS, MAX_WORK_PX, correction_of, work_px
from app.picture_results import Result
from app.studio import Studio
from app.tabs import segment_answers
from export.levels import MODEL_PERCENT, STEPS, percent_of

SET = "(value) => {{ window.dsfedmedOverlay?.set?.({{{name}: {value}}}); }}"
SIZE_NOW = "() => window.dsfedmedOverlay.size"
SAVE = "() => { window.dsfedmedOverlay?.save?.(); }"
ANSWERED = "() => { window.dsfedmedOverlay?.answered?.(); }"
OPACITY, REACH_PERCENT = 0.35, 15
Values = tuple[Any, ...]
"""Of legend, download, csv, changes, result, note, undo, redo and reset, in this order."""


@dataclass(frozen=True)
class Tools:
    """The components; ``box`` holds them all."""

    box: gr.Column
    view: gr.Radio
    shown_class: gr.Dropdown
    opacity: gr.Slider
    threshold: gr.Slider
    tool: gr.Radio
    reach: gr.Slider
    size: gr.Slider
    note: gr.HTML
    undo: gr.Button
    redo: gr.Button
    reset: gr.Button
    picture: gr.Button


def place() -> Tools:
    """Place the tools, unseen until there is an answer."""
    with gr.Column(visible=False, elem_id="picture-tools") as box:
        with gr.Row():
            view = gr.Radio(list(words.VIEWS), value="mask", label=words.VIEW, elem_id="view")
            shown_class = gr.Dropdown([("", 0)], value=0, label=words.CLASS, visible=False, elem_id="shown-class")
        with gr.Row():
            own, least = MODEL_PERCENT / STEPS, 1 / STEPS
            threshold = gr.Slider(
                least, 1 - least, own, step=least, label=words.THRESHOLD, info=words.THRESHOLD_INFO, elem_id="threshold"
            )
            opacity = gr.Slider(
                0, 1, OPACITY, step=0.05, label=text.OPACITY_LABEL, info=text.OPACITY_INFO, elem_id="opacity"
            )
        with gr.Row():
            tool = gr.Radio(list(words.TOOLS), value=segment_answers.LOOK, label=words.TOOL, elem_id="tool")
            reach = gr.Slider(1, 100, REACH_PERCENT, step=1, label=words.REACH, info=words.REACH_INFO, elem_id="reach")
            size = gr.Slider(
                1, strokes.MAX_SIZE_PX, 9, step=2, label=words.SIZE, info=words.SIZE_INFO, elem_id="brush-size"
            )
        note = gr.HTML(elem_id="click-note")
        with gr.Row(elem_classes="actions"):
            undo = gr.Button(words.UNDO, interactive=False, elem_id="undo-click")
            redo = gr.Button(words.REDO, interactive=False, elem_id="redo-click")
            reset = gr.Button(words.RESET, interactive=False, elem_id="reset-clicks")
            picture = gr.Button(words.PICTURE_FILE, elem_id="save-picture")
    return Tools(box, view, shown_class, opacity, threshold, tool, reach, size, note, undo, redo, reset, picture)


def wire(studio: Studio, tools: Tools, overlay: gr.HTML, *, result: gr.State, takes: list[Any]) -> None:
    """Let the picture follow the tools in the browser, and figures and files on the server.

    ``takes`` are legend, download, csv and changes.
    """
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    for control, name, value in (
        (tools.view, "view", "value"),
        (tools.shown_class, "shown", "Number(value)"),
        (tools.opacity, "opacity", "Number(value)"),
        (tools.threshold, "percent", f"Math.round({STEPS} * value)"),
        (tools.tool, "tool", "value"),
        (tools.size, "size", "Number(value)"),
    ):
        control.input(None, control, None, js=SET.format(name=name, value=value), **quiet)
    overlay.input(None, None, tools.size, js=SIZE_NOW, **quiet)  # keys changed it
    tools.picture.click(None, None, None, js=SAVE, **quiet)
    outputs = [*takes, result, tools.note, tools.undo, tools.redo, tools.reset]
    handlers = Correcting(studio)
    # One at a time: each reads what the one before it has left of the corrections.
    one: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "correct", **quiet}
    state = [result, tools.threshold]
    tools.threshold.input(handlers.anew, state, outputs, trigger_mode="always_last", **one)
    # Strokes are quick: each is asked for, also while others wait. The browser then shows what has come of them.
    asked = [*state, tools.shown_class, tools.reach]
    corrected = overlay.select(handlers.correct, asked, outputs, trigger_mode="multiple", **one)
    corrected.then(js=ANSWERED)
    corrected.failure(js=ANSWERED)  # what the gate refuses has no answer to come after
    tools.undo.click(handlers.undo, state, outputs, **one)
    tools.redo.click(handlers.redo, state, outputs, **one)
    tools.reset.click(handlers.reset, state, outputs, **one)
    result.change(handlers.buttons, result, [tools.note, tools.undo, tools.redo, tools.reset], **quiet)


@dataclass(frozen=True)
class Correcting:
    """The tools' events. ``shown`` is what the browser's session remembers of the answer."""

    studio: Studio

    def anew(self, shown: answers.Shown | None, threshold: float) -> Values:
        """Return figures and files at a threshold."""
        return self._settled(shown, threshold, shown)

    def correct(
        self, shown: answers.Shown | None, threshold: float, class_index: object, reach: float, event: gr.SelectData
    ) -> Values:
        """Correct the mask at the place that was clicked, or along a stroke."""
        answer = self.studio.answers.get(shown.key) if shown else None
        if shown is None or answer is None:
            return self._settled(shown, threshold, None)
        one = correction_of(
            event.value, class_index, index=event.index, stroke=getattr(event, "stroke", None), reach=reach,
            shown_hw=answer.shown_hw, size_hw=answer.kept.size_hw, num_classes=len(answer.classes),
        )  # fmt: skip
        if one is None:
            return _told("")
        if len(shown.corrections) >= MAX_CORRECTIONS:
            return _told(markup.notice(words.TOO_MANY.format(most=MAX_CORRECTIONS)))
        all_of_them = (*shown.corrections, one)
        if sum(work_px(each, size_hw=answer.kept.size_hw) for each in all_of_them) > MAX_WORK_PX:
            return _told(markup.notice(words.TOO_MUCH))
        return self._settled(shown, threshold, replace(shown, corrections=all_of_them, undone=()), is_new=True)

    def undo(self, shown: answers.Shown | None, threshold: float) -> Values:
        """Take the last correction back."""
        if shown is None or not shown.corrections:
            return self._settled(shown, threshold, shown)
        undone = (*shown.undone, shown.corrections[-1])
        return self._settled(shown, threshold, replace(shown, corrections=shown.corrections[:-1], undone=undone))

    def redo(self, shown: answers.Shown | None, threshold: float) -> Values:
        """Do again what was taken back last."""
        if shown is None or not shown.undone:
            return self._settled(shown, threshold, shown)
        corrections = (*shown.corrections, shown.undone[-1])
        return self._settled(shown, threshold, replace(shown, corrections=corrections, undone=shown.undone[:-1]))

    def reset(self, shown: answers.Shown | None, threshold: float) -> Values:
        """Take all corrections back; they can be done again, the first one first."""
        if shown is None or not shown.corrections:
            return self._settled(shown, threshold, shown)
        undone = (*shown.undone, *reversed(shown.corrections))
        return self._settled(shown, threshold, replace(shown, corrections=(), undone=undone))

    def buttons(self, shown: answers.Shown | None) -> Values:
        """Offer to take corrections back where there are any, and put the note of another answer away."""
        there = bool(shown and shown.corrections)
        return gr.skip() if there else "", *_offered(shown)

    def _settled(
        self, shown: answers.Shown | None, threshold: float, now: answers.Shown | None, *, is_new: bool = False
    ) -> Values:
        """Return the values of what is to be remembered ``now``; a correction that ``is_new`` has to do something."""
        answer = self.studio.answers.get(shown.key) if shown else None
        if shown is None or now is None or answer is None:
            return _told(markup.notice(text.SEGMENT_EXPIRED))
        percent, corrections = percent_of(threshold), now.corrections

        def work() -> Values:
            found: Result = answers.settled(answer, percent=percent, corrections=corrections)
            if is_new and not found.last_px:
                said = words.NOTHING_DONE[corrections[-1].kind]
                return _told(markup.notice(said.format(name=answer.classes[corrections[-1].class_index])))
            return *segment_answers.taken_away(self.studio, shown.key, answer, found), now, "", *_offered(now)

        values, box = self.studio.attempt(work)
        return _told(box) if values is None else values


def _told(note: str) -> Values:
    """Return values that change nothing but the note below the tools."""
    same = gr.skip()
    return same, same, same, same, same, note, same, same, same


def _offered(shown: answers.Shown | None) -> Values:
    """Return the buttons undo, redo and reset: each is offered where there is something for it."""
    done, undone = bool(shown and shown.corrections), bool(shown and shown.undone)
    return gr.Button(interactive=done), gr.Button(interactive=undone), gr.Button(interactive=done)
