"""What the Segment tab answers: files and examples, by the model that is chosen when the answer is there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from app import (
    answers,
    examples,
    looks_text,
    markup,
    model_text,
    overlay_view,
    prompting,
    references,
    strokes,
    text,
    variant_choice,
    viewmodels,
)
from app.picture_results import Result, packed
from app.studio import Studio
from engine.data.modalities import Origin
from engine.data.tiling import Looks
from engine.errors import UserError
from export.foreign import CODE as FOREIGN
from export.levels import MODEL_PERCENT, STEPS

Values = tuple[Any, ...]
"""Of what :data:`SHOWN` names, in this order."""
SHOWN = (
    "overlay",
    "tools",
    "threshold",
    "shown_class",
    "tool",
    "size",
    "legend",
    "download",
    "csv",
    "changes",
    "message",
    "result",
)
UNCHANGED: Values = (gr.skip(),) * len(SHOWN)
FILE_ROUTE = "/gradio_api/file="
LOOK = "look"
"""What a click does before somebody chooses otherwise: nothing."""


@dataclass(frozen=True)
class Handlers:
    """The tab's events. ``chosen`` is the key of a model, ``number`` counts slices from 1, ``result`` is what the
    browser's session remembers of what it shows, ``looks`` how the model looks at an image
    (a value of ``app.variant_choice.choices``).
    """

    studio: Studio

    def look(self, chosen: str | None, path: str | None) -> Any:
        """Offer the slices of a volume; a picture has none."""
        studio = self.studio
        count = studio.attempt(lambda: answers.num_slices(studio, chosen, Path(path)))[0] if path else None
        many = bool(count and count > 1)
        return gr.Slider(maximum=max(2, count or 1), value=(count or 1) // 2 + 1 if many else 1, visible=many)

    def segment_file(
        self, chosen: str | None, looks: Looks, path: str | None, number: float, *, anyway: bool = False
    ) -> Values:
        """Answer an uploaded file, or a slice of it."""
        if not path:
            return UNCHANGED
        studio, file = self.studio, Path(path)
        count, box = studio.attempt(lambda: answers.num_slices(studio, chosen, file))
        if count is None:
            return nothing(box)
        number = min(max(1, int(number)), count)
        image = Given(
            *_named(Path(studio.uploads.name_of(file)), number, count),
            lambda: answers.read_upload(studio, chosen, file, number - 1),
            origin=lambda: answers.origin(studio, chosen, file),
            place=answers.place(studio, chosen, file, number - 1, count),
        )
        return answer(studio, chosen, image, looks=looks, anyway=anyway)

    def answer_example(self, chosen: str | None, looks: Looks, number: int, *, anyway: bool = False) -> Values:
        """Answer an example of the chosen model."""
        title, stem = text.SAMPLE_BUTTON.format(number=number + 1), f"example_{number + 1}"
        image = Given(title, stem, lambda: examples.image(self.studio, chosen or "", number), example=number)
        return answer(self.studio, chosen, image, looks=looks, anyway=anyway)

    def segment_example(self, chosen: str | None, looks: Looks, event: gr.SelectData) -> Values:
        """Answer an example; a file that was uploaded before is put away, for the result is no longer its own."""
        number = min(viewmodels.selected_index(event.index), examples.MOST - 1)
        return *self.answer_example(chosen, looks, number), None, gr.Slider(visible=False)

    def segment_again(
        self,
        chosen: str | None,
        looks: Looks,
        path: str | None,
        number: float,
        result: answers.Shown | None,
        *,
        anyway: bool = False,
    ) -> Values:
        """Answer what is shown by the model that is chosen now, as it looks now."""
        if not anyway and _is_of(result, chosen, looks):
            return UNCHANGED
        if path:  # another model may read the file's values otherwise
            return self.segment_file(chosen, looks, path, number, anyway=anyway)
        if result is None or result.example is None:
            return UNCHANGED
        return self.answer_example(chosen, looks, result.example, anyway=anyway)

    def segment_anyway(
        self, chosen: str | None, looks: Looks, path: str | None, number: float, result: answers.Shown | None
    ) -> Values:
        """Answer what is shown although it is unlike the images of training."""
        return self.segment_again(chosen, looks, path, number, result, anyway=True)

    def clear_stale(self, chosen: str | None, looks: Looks, path: str | None, result: answers.Shown | None) -> Values:
        """Take the answer of another model, or of another way of looking, away while the chosen one works."""
        if (not path and (result is None or result.example is None)) or _is_of(result, chosen, looks):
            return UNCHANGED
        found = self.studio.attempt(lambda: self.studio.manifest(chosen or ""))[0]
        busy = markup.busy(model_text.BUSY.format(model=found.name if found else text.MODEL_LABEL))
        return *nothing(busy)[:-1], answers.Shown("", result.example if result else None, chosen, looks)

    def settle(
        self, chosen: str | None, looks: Looks, path: str | None, number: float, result: answers.Shown | None
    ) -> Values:
        """Offer an answer all the same where there is none; answer anew where model or look has changed meanwhile."""
        offered = gr.Button(visible=bool(result and result.refused))
        if result is None or (result.model, result.looks) == (chosen, looks) or not chosen:
            return offered, *UNCHANGED
        return offered, *self.segment_again(chosen, looks, path, number, result)

    def put_away(self) -> Values:
        """Show nothing any more."""
        return *nothing(markup.empty(text.SEGMENT_EMPTY_TITLE, text.SEGMENT_EMPTY)), gr.Slider(visible=False)


def _is_of(result: answers.Shown | None, chosen: str | None, looks: Looks) -> bool:
    """Return whether what is shown is an answer of this model, looking so."""
    return result is not None and bool(result.key) and (result.model, result.looks) == (chosen, looks)


def _named(path: Path, number: int, count: int) -> tuple[str, str]:
    """Return the title of a file's picture and the stem of its masks' names; a volume's tell the slice, from 1."""
    from engine.data.readers import file_stem, is_supported

    stem = file_stem(path) if is_supported(path) else path.name
    if count == 1:
        return path.name, stem
    return text.SLICE_OF.format(name=path.name, number=number, count=count), f"{stem}_slice{number:03d}"


def nothing(message: str) -> Values:
    """Return the values of what is shown without an answered image."""
    hidden, same = gr.update(visible=False), gr.skip()
    return hidden, hidden, same, same, same, same, "", hidden, hidden, "", message, None


@dataclass(frozen=True)
class Given:
    """An image to answer: its title, the stem of the files to save, how it is read, and what its file says of it."""

    title: str
    stem: str
    read: Callable[[], np.ndarray]
    origin: Callable[[], Origin] = Origin
    place: references.Place = answers.NOWHERE
    example: int | None = None


def answer(studio: Studio, chosen: str | None, image: Given, *, looks: Looks, anyway: bool) -> Values:
    """Return the values of what is shown for one image.

    An image that is unlike those of the model's training gets no answer but the reasons, unless ``anyway``.
    """

    def work() -> answers.Segmented | UserError:
        if not chosen:
            raise UserError(
                "app.no_model",
                what="No model is chosen.",
                why="An image is segmented by a trained model.",
                fix="Choose one under step 1, or launch a run on the Train tab first.",
            )
        way, variant = variant_choice.read(studio.manifest(chosen), looks)
        session = studio.session(chosen, looks=way, variant=variant)
        try:
            return answers.segment(
                session,
                image.read,
                title=image.title,
                stem=image.stem,
                origin=image.origin,
                place=image.place,
                anyway=anyway,
                opened=prompting.opener(studio, chosen),
            )
        except UserError as error:
            if error.code != FOREIGN:
                raise
            return error

    done, box = studio.attempt(work)
    if done is None:
        return nothing(box)
    if isinstance(done, UserError):
        refused = answers.Shown("", image.example, chosen, looks, refused=True)
        return *nothing(markup.foreign(done))[:-1], refused
    return _shown(studio, done, answers.Shown("", image.example, chosen, looks))


def _reduced(found: answers.Segmented) -> str:
    """Return what is said of an image of which the model saw a small picture; "" where it saw enough."""
    percent = f"{100 * found.reduced_to:.0f}"
    if found.num_wanted > found.num_looks:
        return markup.notice(looks_text.TOO_MANY.format(wanted=found.num_wanted, side=found.part_px, percent=percent))
    return markup.quiet(looks_text.REDUCED.format(percent=percent)) if found.reduced_to < answers.REDUCED_BELOW else ""


def _shown(studio: Studio, found: answers.Segmented, about: answers.Shown) -> Values:
    """Return the values of what is shown for an answered image; ``about`` is what is remembered, without its key."""
    key, classes, size_hw = studio.answers.put(found.answer), found.answer.classes, found.answer.kept.size_hw
    unlike = model_text.FOREIGN_MARK.format(why=" ".join(found.unlike)) if found.unlike else ""
    blank = "" if any(one.foreground_px for one in found.result.figures) else text.RESULT_NOTHING
    reduced = _reduced(found)
    picture = overlay_view.html(
        key,
        shown_hw=found.answer.shown_hw,
        size_hw=size_hw,
        classes=classes,
        image=FILE_ROUTE + studio.save("picture.png", overlay_view.png(found.screen.image_hw3)),
        levels=FILE_ROUTE + studio.save("levels.gz", packed(found.screen.levels_Khw)),
        is_asked=found.answer.prompting is not None,
    )
    choices = [(name, index) for index, name in enumerate(classes)]
    return (
        gr.HTML(picture, visible=True),
        gr.Column(visible=True),
        MODEL_PERCENT / STEPS,
        gr.Dropdown(choices=choices, value=0, visible=len(classes) > 1),
        LOOK,
        gr.Slider(maximum=strokes.widest(size_hw), value=strokes.usual_size(size_hw)),
        *taken_away(studio, key, found.answer, found.result),
        markup.notices([said for said in (unlike, blank) if said]) + reduced,
        replace(about, key=key),
    )


def taken_away(studio: Studio, key: str, answer: answers.Answer, result: Result) -> Values:
    """Return the values of legend, download, csv and changes for an answer as it is now."""
    path, csv = studio.save(*result.file), studio.save(*result.csv)
    studio.answers.saved(key, (path, csv))
    label = text.DOWNLOAD_SEVERAL if path.endswith(".zip") else text.DOWNLOAD_LABEL
    return (
        overlay_view.figures_table(result.figures, remark=result.remark, told=answer.told),
        gr.DownloadButton(label, value=path, visible=True),
        gr.DownloadButton(value=csv, visible=True),
        overlay_view.changes(key, result.changes_Khw, stem=result.stem, prompts=result.prompts),
    )
