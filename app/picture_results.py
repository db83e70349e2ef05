"""What a person takes away from one answered picture: masks, figures and CSV, at a threshold and corrected by hand.

Shape legend: K classes, H and W the image's side in pixels, h and w that of the picture on the screen.
"""

from __future__ import annotations

import base64
import gzip
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np

from app import overlay_text as words
from app.corrections import Corrected, Correction, corrected
from app.overlays import resize_nearest
from app.probability import Greys, Kept
from app.prompting import Prompting
from app.references import Reference
from app.strokes import Stroke
from export.clicks import Box, Click, Prompt
from export.levels import MODEL_PERCENT, STEPS
from export.results import mask_file, plain_name

ADDED, REMOVED, TOUCHING = 1, 2, 4
"""What a correction did to a pixel, and whether two things that are counted apart touch there, as the browser is told.
The last is added to the others."""


@dataclass(frozen=True)
class Figures:
    """One class of one picture: a row of the CSV.

    ``threshold`` is what probability is above in the mask; ``model_threshold`` the model's own. ``corrections_by_hand``
    counts the clicks and strokes on this class. Sizes are of its pieces, or instances where things are counted apart
    (``export.outputs.instances``), axes and
    ``vertical_extent`` in ``length_unit``; the latter and ``cup_to_disc`` as in ``export.outputs.fundus.Vertical``;
    ``mean_grey`` is of the picture as the model is given it, 0 black and 1 white;
    agreement with a reference as in ``export.outputs.agreement.Agreement``, None without one.
    None where a figure does not exist: no spacing, an empty mask.
    """

    image: str
    class_name: str
    threshold: float
    model_threshold: float
    corrections_by_hand: int
    foreground_px: int
    share: float
    area_mm2: float | None
    components: int
    instances: int | None
    largest_px: int | None
    largest_long_axis: float | None
    largest_short_axis: float | None
    median_long_axis: float | None
    length_unit: str
    mean_grey: float | None = None
    vertical_extent: float | None = None
    cup_to_disc: float | None = None
    dice: float | None = None
    iou: float | None = None
    hd95: float | None = None
    surface_dice: float | None = None
    surface_tolerance: float | None = None


@dataclass(frozen=True, eq=False)
class Result:
    """Masks and figures of one picture.

    ``file`` and ``csv`` are (name, content). ``levels_Khw`` are for the screen; ``changes_Khw`` says what corrections
    added and removed there, and all that strokes went over: at another threshold it stays as it is. ``mask_ms`` is how
    long the masks took. ``remark`` says what makes them other than the model's, "" where nothing does. ``last_px``
    counts the pixels that the last correction changed, 0 without any.
    """

    file: tuple[str, bytes]
    csv: tuple[str, bytes]
    figures: tuple[Figures, ...]
    levels_Khw: np.ndarray
    changes_Khw: np.ndarray
    mask_ms: float
    remark: str
    last_px: int
    stem: str
    """Of the files' names: it says what makes the masks other than the model's."""
    prompts: tuple[Prompt, ...] = ()
    """Clicks and boxes among the corrections."""


def result(
    kept: Kept,
    *,
    classes: Sequence[str],
    stem: str,
    name: str,
    spacing_mm: tuple[float, float] | None,
    shown_hw: tuple[int, int],
    percent: int = MODEL_PERCENT,
    corrections: tuple[Correction, ...] = (),
    reference: Reference | None = None,
    greys: Greys | None = None,
    prompting: Prompting | None = None,
) -> Result:
    """Return masks and figures at a threshold of 1 to 99 percent, after corrections; the model's own without both."""
    from export.outputs.fundus import verticals  # scipy: the first paint needs none
    from export.outputs.instances import borders, is_counted, label_instances
    from export.outputs.measurements import rows_csv

    num = len(classes)
    masks_KHW = np.empty((num, *kept.size_hw), np.uint8)
    levels_Khw, changes_Khw = (np.empty((num, *shown_hw), np.uint8) for _ in range(2))
    mask_ms, last_px = 0.0, 0
    things: list[np.ndarray | None] = []
    for index in range(num):
        started = time.perf_counter()
        ask = None if prompting is None else prompting.ask(index)
        found = corrected(kept, corrections, percent=percent, class_index=index, ask=ask)
        masks_KHW[index] = found.mask_HW
        mask_ms += 1000 * (time.perf_counter() - started)
        levels_Khw[index] = resize_nearest(found.levels_HW, *shown_hw)
        changes_Khw[index] = _changes(found, by_model_hw=levels_Khw[index] >= percent)
        things.append(label_instances(found.mask_HW[None]) if is_counted(classes[index]) else None)
        if (numbered := things[-1]) is not None:
            changes_Khw[index] += TOUCHING * borders(resize_nearest(numbered[0], *shown_hw)).astype(np.uint8)
        if corrections and corrections[-1].class_index == index:
            last_px = found.last_px
        del found
    told = remark(percent, corrections)
    stem = marked(stem, percent=percent, is_corrected=bool(corrections))
    upright = verticals(masks_KHW, classes, row_step=spacing_mm[0] if spacing_mm else 1.0)
    figures = tuple(
        _figures(mask_HW, name=name, class_name=class_name, spacing_mm=spacing_mm, percent=percent,
                 num_corrections=sum(one.class_index == index for one in corrections), things_SHW=things[index],
                 more={"mean_grey": greys.mean(mask_HW) if greys else None}
                 | asdict(upright[index]) | _agreement(mask_HW, reference, index, spacing_mm=spacing_mm))
        for index, (mask_HW, class_name) in enumerate(zip(masks_KHW, classes, strict=True))
    )  # fmt: skip
    table = rows_csv([asdict(one) for one in figures], columns=[field.name for field in fields(Figures)])
    file = mask_file(masks_KHW, classes=classes, stem=stem, note=told)
    prompts = tuple(one for one in corrections if not isinstance(one, Stroke))
    csv = (f"{plain_name(stem)}_figures.csv", table.encode())
    return Result(file, csv, figures, levels_Khw, changes_Khw, mask_ms, told, last_px, plain_name(stem), prompts)


def _agreement(
    mask_HW: np.ndarray, reference: Reference | None, index: int, *, spacing_mm: tuple[float, float] | None
) -> dict[str, float | None]:
    plane_HW = None if reference is None else reference.plane(index)
    if plane_HW is None:
        return {}
    from export.outputs.agreement import agreement

    return asdict(agreement(mask_HW[None] > 0, plane_HW[None], steps=(1.0, *(spacing_mm or (1.0, 1.0)))))


def _changes(found: Corrected, *, by_model_hw: np.ndarray) -> np.ndarray:
    """Return what the browser is told of one class: ``ADDED``, ``REMOVED`` or 0 for each pixel of the screen."""
    mask_hw = resize_nearest(found.mask_HW, *by_model_hw.shape) > 0
    told_hw = mask_hw != by_model_hw
    if found.painted_HW is not None:
        told_hw |= resize_nearest(found.painted_HW, *by_model_hw.shape)
    return np.where(told_hw, np.where(mask_hw, ADDED, REMOVED), 0).astype(np.uint8)


def remark(percent: int, corrections: Sequence[Correction]) -> str:
    """Return the sentences that say what makes a mask other than the model's; "" for the model's own."""
    said = []
    if percent != MODEL_PERCENT:
        said.append(words.OTHER_THRESHOLD.format(threshold=percent / STEPS, own=MODEL_PERCENT / STEPS))
    if corrections:
        kinds = ((Click, words.CLICKS), (Box, words.BOXES), (Stroke, words.STROKES))
        counts = [(sum(isinstance(one, kind) for one in corrections), name) for kind, name in kinds]
        told = ", ".join(f"{count} {name[count > 1]}" for count, name in counts if count)
        said.append(words.BY_HAND.format(counts=told))
    return " ".join(said)


def marked(stem: str, *, percent: int, is_corrected: bool) -> str:
    """Return the stem of files with a mask that says where it is not the model's own."""
    stem = stem if percent == MODEL_PERCENT else f"{stem}_threshold_{percent / STEPS:.2f}"
    return f"{stem}_corrected_by_hand" if is_corrected else stem


def packed(array: np.ndarray) -> bytes:
    """Return an array of bytes packed for the browser (gzip), row by row."""
    return gzip.compress(np.ascontiguousarray(array, np.uint8).tobytes(), compresslevel=1, mtime=0)


def in_text(array: np.ndarray) -> str:
    """Return :func:`packed` in letters that HTML takes; "" for an array of zeros."""
    return base64.b64encode(packed(array)).decode() if array.any() else ""


def _figures(
    mask_HW: np.ndarray,
    *,
    name: str,
    class_name: str,
    spacing_mm: tuple[float, float] | None,
    percent: int,
    num_corrections: int,
    things_SHW: np.ndarray | None,
    more: Mapping[str, float | None],
) -> Figures:
    from export.outputs.instances import count_labels

    count = int(np.count_nonzero(mask_HW))
    return Figures(
        image=name,
        class_name=class_name,
        threshold=percent / STEPS,
        model_threshold=MODEL_PERCENT / STEPS,
        corrections_by_hand=num_corrections,
        foreground_px=count,
        share=count / mask_HW.size,
        area_mm2=count * spacing_mm[0] * spacing_mm[1] if spacing_mm else None,
        **asdict(count_labels(mask_HW[None], things_SHW, steps=spacing_mm or (1.0, 1.0))),
        length_unit="mm" if spacing_mm else "px",
        **more,
    )
