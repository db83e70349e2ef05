"""Answered images: read within the page's budget of memory, segmented, and kept for a while as the model's logits.

What a browser's session remembers of an answer is its key. The logits are here, few enough for one machine.
"""

from __future__ import annotations

import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from cachetools import TTLCache

from app import looks_text, model_text, overlays, picture_results, references, text, variant_choice
from app.corrections import Correction, corrected
from app.probability import Greys, Kept
from app.prompting import Opened, Prompting
from app.references import Place, Reference
from app.settings import Settings
from app.visitor_words import for_visitor
from engine.data.budget import at_most
from engine.data.modalities import Origin
from engine.errors import UserError

if TYPE_CHECKING:
    from app.studio import Studio
    from engine.data.tiling import Looks
    from export.runtime import BundleSession

MIB = 2**20
KEPT_BYTES = 96 * MIB
"""All answers together; the one that was looked at longest ago goes first (ours)."""
BYTES_PER_PIXEL = {"8 bits": 16, "more": 38}
"""What answering takes for each pixel of an image: resizing it (in float32 where it has more than 8 bits), and the
float32 logits of one class at a time (measured)."""
BYTES_PER_CLASS = 2
MOST_LOOKED_PX = 2**25
"""Pixels of a model's inputs for one image (ours): 512 parts of 256 x 256, about ten seconds of a mini model."""
REDUCED_BELOW = 2 / 3
"""An image of which a model saw less than this share of each side is told of (ours)."""
NOWHERE = Place()
_ONE_AT_A_TIME = threading.Lock()
"""Reading and segmenting: the budget is for one image."""


@dataclass(frozen=True, eq=False)
class Screen:
    """One answered image at the size of a screen, for the browser to draw: a new opacity or threshold asks nobody."""

    image_hw3: np.ndarray
    """uint8."""
    levels_Khw: np.ndarray
    """uint8, the hundredth of each probability (``export.levels``)."""


@dataclass(frozen=True, eq=False)
class Answer:
    """What is kept of an answered image: enough for its mask at another threshold, or corrected by hand."""

    kept: Kept
    name: str
    stem: str
    """Of the files to save."""
    classes: tuple[str, ...]
    spacing_mm: tuple[float, float] | None
    """Between rows and between columns, None where the file does not say."""
    told: str
    """The line below the figures: image, model and time."""
    place: Place = NOWHERE
    reference: Reference | None = None
    """A visitor's mask to compare with."""
    read: Callable[[], np.ndarray] | None = None
    """Reads the image once more; raises where its file has been deleted since."""
    greys: Greys | None = None
    prompting: Prompting | None = None
    """None where the model was not taught prompts."""

    @property
    def num_bytes(self) -> int:
        """Return what it takes."""
        greys = self.greys.values_HW.nbytes if self.greys else 0
        return self.kept.num_bytes + greys + (self.reference.num_bytes if self.reference else 0)

    @property
    def shown_hw(self) -> tuple[int, int]:
        """Return the height and width of the picture that is shown of it."""
        return overlays.shown_size(self.kept.size_hw)


@dataclass(frozen=True)
class Shown:
    """What a browser's session remembers of an answer."""

    key: str
    example: int | None
    """The number of the example that was answered; None for an upload."""
    model: str | None = None
    """The model's key."""
    looks: Looks = "whole"
    refused: bool = False
    """Whether there is no answer, for the image is unlike those of training."""
    corrections: tuple[Correction, ...] = ()
    """By which its masks were corrected, in their order."""
    undone: tuple[Correction, ...] = ()
    """That were taken back and can be done again, the next one last."""


class Answers:
    """The latest answers of all visitors, by a key that nobody can guess."""

    def __init__(self, *, keep_s: float) -> None:
        self._kept: TTLCache[str, Answer] = TTLCache(
            KEPT_BYTES, keep_s, timer=time.monotonic, getsizeof=lambda answer: answer.num_bytes
        )
        self._counts: TTLCache[tuple[str, int], int | UserError] = TTLCache(1000, keep_s, timer=time.monotonic)
        self._files: TTLCache[str, tuple[str, ...]] = TTLCache(1000, keep_s, timer=time.monotonic)
        self._lock = threading.Lock()

    def counted(self, path: Path, slice_axis: int) -> int | UserError | None:
        """Return what :meth:`count` was told: uploads do not change."""
        with self._lock:
            return self._counts.get((str(path), slice_axis))

    def count(self, path: Path, slice_axis: int, found: int | UserError) -> None:
        """Keep how many slices an uploaded file has, or why that cannot be said."""
        with self._lock:
            self._counts[str(path), slice_axis] = found

    def put(self, answer: Answer) -> str:
        """Keep an answer and return its key."""
        key = secrets.token_urlsafe(12)
        if answer.num_bytes <= self._kept.maxsize:
            with self._lock:
                self._kept[key] = answer
        return key

    def get(self, key: str) -> Answer | None:
        """Return an answer, or None where it is gone."""
        with self._lock:
            return self._kept.get(key)

    def compare(self, key: str, reference: Reference | None) -> Answer | None:
        """Return an answer that is compared with a mask from now on, or no more; None where it is gone."""
        with self._lock:
            answer = self._kept.get(key)
            if answer is None:
                return None
            compared = replace(answer, reference=reference)
            if compared.num_bytes <= self._kept.maxsize:
                self._kept[key] = compared
            return compared

    def saved(self, key: str, paths: tuple[str, ...]) -> None:
        """Note the files to download of an answer, and delete those of before: a slider makes many."""
        with self._lock:
            before = self._files.get(key, ())
            self._files[key] = paths
        for path in before:
            shutil.rmtree(Path(path).parent, ignore_errors=True)


def num_slices(studio: Studio, key: str | None, path: Path) -> int:
    """Return how many slices the file holds as the model ``key`` cuts it; 1 for a picture.

    Raises ``UserError`` that calls the file by the name that it came with. A file is looked at once: some formats have
    to be inflated for it, up to the budget.
    """
    from engine.data.readers import image_info

    axis = studio.manifest(key).slice_axis if key else 2
    with _ONE_AT_A_TIME:
        found = studio.answers.counted(path, axis)
        if found is None:
            try:
                with _named(studio, path), at_most(studio.settings.max_read_mb * MIB):
                    found = image_info(path, slice_axis=axis).num_slices
            except UserError as error:
                found = error
            studio.answers.count(path, axis, found)
    if isinstance(found, UserError):
        raise found
    return found


def read_upload(studio: Studio, key: str | None, path: Path, slice_index: int) -> np.ndarray:
    """Return one picture of an uploaded file as the model ``key`` was trained on such, (H, W, 3).

    Raises ``UserError`` that calls the file by the name that it came with. What it would take is known from the
    header, before anything is inflated; one that was refused when it was looked at is not read once more.
    """
    from engine.data.readers import image_info, read_image

    manifest = studio.manifest(key) if key else None
    reading = manifest.reading if manifest else {}
    classes = len(manifest.classes) if manifest else 1
    looked = studio.answers.counted(path, reading.get("slice_axis", 2))
    if isinstance(looked, UserError):
        raise looked
    with _named(studio, path):
        with at_most(studio.settings.max_read_mb * MIB):
            geometry = image_info(path, slice_axis=reading.get("slice_axis", 2))
            check_size(studio.settings, width=geometry.width_px, height=geometry.height_px, classes=classes)
            image = read_image(path, slice_index=min(slice_index, geometry.num_slices - 1), **reading)[0]
        height, width = image.shape[:2]
        check_size(studio.settings, width=width, height=height, classes=classes, is_8_bit=image.dtype == np.uint8)
        return image


def place(studio: Studio, key: str | None, path: Path, number: int, count: int) -> Place:
    """Return where slice ``number``, from 0, of an uploaded file of ``count`` is."""
    from engine.data.readers import image_info

    axis = studio.manifest(key).slice_axis if key else 2
    return Place(lambda: image_info(path, slice_axis=axis), number, count, axis)


def compared(studio: Studio, answer: Answer, path: Path) -> Reference:
    """Return an uploaded mask to compare an answer with; raises as :func:`app.references.read`."""
    with _ONE_AT_A_TIME:
        size_hw, num_classes = answer.kept.size_hw, len(answer.classes)
        return references.read(studio, path, answer.place, size_hw=size_hw, num_classes=num_classes)


def origin(studio: Studio, key: str | None, path: Path) -> Origin:
    """Return what an uploaded file says of its image: its kind, and the size of its pixels."""
    from engine.data.modalities import origin_of

    with _named(studio, path), at_most(studio.settings.max_read_mb * MIB):
        return origin_of(path, slice_axis=studio.manifest(key).slice_axis if key else 2)


@contextmanager
def _named(studio: Studio, path: Path) -> Iterator[None]:
    """Let an error call the file by the name that it came with, not by where it lies here."""
    try:
        yield
    except UserError as error:
        raise for_visitor(error, names={str(path): studio.uploads.name_of(path)}) from error


def check_size(settings: Settings, *, width: int, height: int, classes: int, is_8_bit: bool = True) -> None:
    """Raise ``UserError`` ``app.image_too_large`` for a picture that this page does not answer."""
    limit, budget_mb = settings.max_image_px, settings.max_read_mb
    if max(height, width) > limit:
        raise UserError(
            "app.image_too_large",
            what=f"The image has {width} x {height} pixels.",
            why=f"This page takes images of up to {limit} pixels a side.",
            fix=text.TOO_LARGE_FIX,
        )
    per_pixel = BYTES_PER_PIXEL["8 bits" if is_8_bit else "more"] + BYTES_PER_CLASS * classes
    needed = width * height * per_pixel
    if needed > budget_mb * MIB:
        raise UserError(
            "app.image_too_large",
            what=text.LARGE_TO_ANSWER.format(width=width, height=height, needed=needed // MIB),
            why=text.LARGE_TO_ANSWER_WHY.format(megabytes=budget_mb),
            fix=text.TOO_LARGE_FIX,
        )


def within_looks(session: BundleSession, size_hw: tuple[int, int]) -> tuple[BundleSession, int]:
    """Return a session that looks at an image no more often than this page waits for, and how often it was to look."""
    side, count = session.image_px, session.num_looks(size_hw)
    return (session.looking("whole") if count > max(1, MOST_LOOKED_PX // side**2) else session), count


@dataclass(frozen=True, eq=False)
class Segmented:
    """What one inference gave: what is kept of it, what the screen shows, and its masks and figures."""

    answer: Answer
    screen: Screen
    result: picture_results.Result
    wall_ms: float
    unlike: tuple[str, ...] = ()
    """In which ways the image is unlike those of training: it was answered on request."""
    reduced_to: float = 1.0
    """The share of its longer side that the model saw."""
    num_looks: int = 1
    """How many parts it had."""
    num_wanted: int = 1
    """How many it would have had; more than ``num_looks`` where those were too many for this page."""
    part_px: int = 0
    """The side of these, in pixels of the image."""


def segment(
    session: BundleSession,
    read: Callable[[], np.ndarray],
    *,
    title: str,
    stem: str,
    origin: Callable[[], Origin] = Origin,
    place: Place = NOWHERE,
    anyway: bool = False,
    opened: Opened = lambda: None,
) -> Segmented:
    """Read and segment one image; the full-size arrays are gone when this returns.

    ``place`` is where it is in its file, ``opened`` gives what answers clicks and boxes on it.

    Raises ``UserError`` ``image.foreign`` for an image that is unlike those of training, unless ``anyway``; the file's
    name then says so.
    """
    from engine.data.tiling import resize_logits
    from export import foreign
    from export.results import as_seen

    with _ONE_AT_A_TIME:
        image_HW3, about = read(), origin()
        unlike = foreign.reasons(session, image_HW3, about)
        if unlike and not anyway:
            raise foreign.refuse(session, unlike, fix=model_text.FOREIGN_FIX)
        size_hw = (image_HW3.shape[0], image_HW3.shape[1])
        part_px = session.part_px
        session, wanted = within_looks(session, size_hw)
        side, looks = session.image_px, session.num_looks(size_hw)
        started = time.perf_counter()
        prompting, logits_Khw = _looked(session, image_HW3, read=read, opened=opened)
        wall_ms = 1000 * (time.perf_counter() - started)
        greys = Greys.of(image_HW3)
        image_hw3 = overlays.reduced(as_seen(image_HW3, session.manifest.normalise))
        del image_HW3
        part = session.part_of(size_hw)
        kept = Kept(logits_Khw, size_hw, partial(resize_logits, size_hw=size_hw, part=part))
        stem = f"{foreign.marked(stem) if unlike else stem}{'_parts' if looks > 1 else ''}"
        classes = session.manifest.classes
        result = picture_results.result(
            kept, classes=classes, stem=stem, name=title, spacing_mm=about.spacing_mm,
            shown_hw=overlays.shown_size(size_hw), greys=greys,
        )  # fmt: skip
        wall_ms += result.mask_ms
        told = " · ".join([title, *_told(session, wall_ms=wall_ms, looks=looks)])
        answer = Answer(
            kept, title, stem, classes, about.spacing_mm, told, place, read=read, greys=greys, prompting=prompting
        )
        reduced_to = min(1.0, side / max(size_hw)) if looks == 1 else 1.0
        return Segmented(
            answer, Screen(image_hw3, result.levels_Khw), result, wall_ms, unlike, reduced_to, looks, wanted, part_px
        )


def _told(session: BundleSession, *, wall_ms: float, looks: int) -> Iterator[str]:
    """Give what is said of an answer below its title."""
    provider = text.PROVIDERS.get(session.provider, session.provider)
    yield model_text.ANSWERED_BY.format(model=variant_choice.named(session.manifest, session.variant))
    yield text.RESULT_TIME.format(wall_ms=wall_ms, provider=provider)
    if looks > 1:
        yield looks_text.TOLD.format(parts=looks, side=session.part_px)


def _looked(
    session: BundleSession, image_HW3: np.ndarray, *, read: Callable[[], np.ndarray], opened: Opened
) -> tuple[Prompting | None, np.ndarray]:
    """Return how the image is asked again, None where it cannot be, and the model's logits without prompts."""
    prompter = opened()
    if prompter is None:
        return None, session.logits(image_HW3)
    from export.prompting import key_of

    image_key = key_of(image_HW3)
    prompting = Prompting(opened, image_key, (image_HW3.shape[0], image_HW3.shape[1]), session.looks, read)
    is_itself = session.variant == prompter.session.variant and session.looks == "whole"
    return prompting, prompter.first(image_HW3, image_key) if is_itself else session.logits(image_HW3)


def settled(answer: Answer, *, percent: int, corrections: tuple[Correction, ...]) -> picture_results.Result:
    """Return masks and figures of a kept answer at another threshold, corrected by hand: the encoder does not run."""
    with _ONE_AT_A_TIME:
        return picture_results.result(
            answer.kept, classes=answer.classes, stem=answer.stem, name=answer.name, spacing_mm=answer.spacing_mm,
            shown_hw=answer.shown_hw, percent=percent, corrections=corrections, reference=answer.reference,
            greys=answer.greys, prompting=answer.prompting,
        )  # fmt: skip


def taught(
    answer: Answer, *, percent: int, corrections: tuple[Correction, ...]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return an answer's image and, by class, its corrected masks, (H, W) uint8 {0, 1}; reads the image once more."""
    with _ONE_AT_A_TIME:
        assert answer.read is not None
        planes = {}
        for index, name in enumerate(answer.classes):
            ask = None if answer.prompting is None else answer.prompting.ask(index)  # as it was shown
            found = corrected(answer.kept, corrections, percent=percent, class_index=index, ask=ask)
            planes[name] = found.mask_HW
        return answer.read(), planes
