"""What the Segment tab answers: files and examples, by the model that is chosen when the answer is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from app import answers, markup, model_text, overlays, text, viewmodels
from app.studio import Studio
from engine.data.modalities import Origin
from engine.errors import UserError
from export.foreign import CODE as FOREIGN

Values = tuple[Any, ...]
"""Of overlay, opacity, legend, download, message and result, in this order."""
UNCHANGED: Values = (gr.skip(),) * 6


@dataclass(frozen=True)
class Handlers:
    """The tab's events. ``chosen`` is the key of a model, ``number`` counts slices from 1, ``result`` is what the
    browser's session remembers of what it shows.
    """

    studio: Studio

    def look(self, chosen: str | None, path: str | None) -> Any:
        """Offer the slices of a volume; a picture has none."""
        studio = self.studio
        count = studio.attempt(lambda: answers.num_slices(studio, chosen, Path(path)))[0] if path else None
        many = bool(count and count > 1)
        return gr.Slider(maximum=max(2, count or 1), value=(count or 1) // 2 + 1 if many else 1, visible=many)

    def segment_file(
        self, chosen: str | None, path: str | None, number: float, opacity: float, *, anyway: bool = False
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
        )
        return answer(studio, chosen, opacity, image, anyway=anyway)

    def answer_example(self, chosen: str | None, number: int, opacity: float, *, anyway: bool = False) -> Values:
        """Answer an example of the chosen model."""
        title, stem = text.SAMPLE_BUTTON.format(number=number + 1), f"example_{number + 1}"
        image = Given(title, stem, lambda: answers.example_image(self.studio, chosen or "", number), example=number)
        return answer(self.studio, chosen, opacity, image, anyway=anyway)

    def segment_example(self, chosen: str | None, opacity: float, event: gr.SelectData) -> Values:
        """Answer an example; a file that was uploaded before is put away, for the result is no longer its own."""
        number = min(viewmodels.selected_index(event.index), answers.NUM_EXAMPLES - 1)
        return *self.answer_example(chosen, number, opacity), None, gr.Slider(visible=False)

    def segment_again(
        self,
        chosen: str | None,
        path: str | None,
        number: float,
        opacity: float,
        result: answers.Shown | None,
        *,
        anyway: bool = False,
    ) -> Values:
        """Answer what is shown by the model that is chosen now."""
        if path:  # another model may read the file's values otherwise
            return self.segment_file(chosen, path, number, opacity, anyway=anyway)
        if result is None or result.example is None:
            return UNCHANGED
        return self.answer_example(chosen, result.example, opacity, anyway=anyway)

    def segment_anyway(
        self, chosen: str | None, path: str | None, number: float, opacity: float, result: answers.Shown | None
    ) -> Values:
        """Answer what is shown although it is unlike the images of training."""
        return self.segment_again(chosen, path, number, opacity, result, anyway=True)

    def clear_stale(self, chosen: str | None, path: str | None, result: answers.Shown | None) -> Values:
        """Take the answer of another model away while the chosen one works."""
        if not path and (result is None or result.example is None):
            return UNCHANGED
        found = self.studio.attempt(lambda: self.studio.manifest(chosen or ""))[0]
        busy = markup.busy(model_text.BUSY.format(model=found.name if found else text.MODEL_LABEL))
        return *nothing(busy)[:-1], answers.Shown("", result.example if result else None, model=chosen)

    def settle(
        self, chosen: str | None, path: str | None, number: float, opacity: float, result: answers.Shown | None
    ) -> Values:
        """Offer an answer all the same where there is none; answer anew where the model has changed meanwhile."""
        offered = gr.Button(visible=bool(result and result.refused))
        if result is None or result.model == chosen or not chosen:
            return offered, *UNCHANGED
        return offered, *self.segment_again(chosen, path, number, opacity, result)

    def put_away(self) -> Values:
        """Show nothing any more."""
        return *nothing(markup.empty(text.SEGMENT_EMPTY_TITLE, text.SEGMENT_EMPTY)), gr.Slider(visible=False)


def _named(path: Path, number: int, count: int) -> tuple[str, str]:
    """Return the title of a file's picture and the stem of its masks' names; a volume's tell the slice, from 1."""
    from engine.data.readers import file_stem, is_supported

    stem = file_stem(path) if is_supported(path) else path.name
    if count == 1:
        return path.name, stem
    return text.SLICE_OF.format(name=path.name, number=number, count=count), f"{stem}_slice{number:03d}"


def nothing(message: str) -> tuple[Any, ...]:
    """Return the values of overlay, opacity, legend, download, message and result without an answered image."""
    hidden = gr.update(visible=False)
    return hidden, hidden, "", hidden, message, None


@dataclass(frozen=True)
class Given:
    """An image to answer: its title, the stem of the files to save, how it is read, and what its file says of it."""

    title: str
    stem: str
    read: Callable[[], np.ndarray]
    origin: Callable[[], Origin] = Origin
    example: int | None = None


def answer(studio: Studio, chosen: str | None, opacity: float, image: Given, *, anyway: bool) -> tuple[Any, ...]:
    """Return the values of overlay, opacity, legend, download, message and result for one image.

    An image that is unlike those of the model's training gets no answer but the reasons, unless ``anyway``.
    """

    def work() -> tuple[answers.Segmented, str, str] | UserError:
        if not chosen:
            raise UserError(
                "app.no_model",
                what="No model is chosen.",
                why="An image is segmented by a trained model.",
                fix="Choose one under step 1, or launch a run on the Train tab first.",
            )
        session = studio.session(chosen)
        try:
            found = answers.segment(session, image.read, stem=image.stem, origin=image.origin, anyway=anyway)
        except UserError as error:
            if error.code != FOREIGN:
                raise
            return error
        provider = text.PROVIDERS.get(found.provider, found.provider)
        model = model_text.ANSWERED_BY.format(model=session.manifest.name)
        time = text.RESULT_TIME.format(wall_ms=found.wall_ms, provider=provider)
        words = f"{escape(image.title)} · {escape(model)} · {time}"
        return found, legend(session.manifest.classes, found.area_shares, time=words), studio.save(*found.file)

    done, box = studio.attempt(work)
    if done is None:
        return nothing(box)
    if isinstance(done, UserError):
        refused = answers.Shown("", image.example, model=chosen, refused=True)
        return *nothing(markup.foreign(done))[:-1], refused
    found, words, path = done
    label = text.DOWNLOAD_SEVERAL if path.endswith(".zip") else text.DOWNLOAD_LABEL
    unlike = model_text.FOREIGN_MARK.format(why=" ".join(found.unlike)) if found.unlike else ""
    blank = "" if any(found.area_shares) else text.RESULT_NOTHING
    return (
        gr.Image(value=answers.picture(found.answer, opacity), visible=True),
        gr.Slider(visible=True),
        words,
        gr.DownloadButton(label, value=path, visible=True),
        markup.notices([said for said in (unlike, blank) if said]),
        answers.Shown(studio.answers.put(found.answer), image.example, model=chosen),
    )


def legend(classes: tuple[str, ...], area_shares: Sequence[float], *, time: str) -> str:
    """Return each class with its colour and its share of the image, and the time taken."""
    from export.results import class_colour

    rows = "".join(
        f"<tr><th scope='row'>{markup.swatch(overlays.hex_colour(class_colour(index)), name)}</th>"
        f"<td>{100 * share:.1f} %</td></tr>"
        for index, (name, share) in enumerate(zip(classes, area_shares, strict=True))
    )
    head = f"<tr><th scope='col'>{text.RESULT_CLASS}</th><th scope='col'>{text.RESULT_AREA}</th></tr>"
    return f"<table class='legend'><thead>{head}</thead><tbody>{rows}</tbody></table><p class='quiet'>{time}</p>"
