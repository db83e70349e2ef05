"""A segmented volume as what the viewer in the browser draws: numbers and probabilities on the patient's axes.

The browser has all of it, so that slices, window, opacity and threshold answer without the server. Torch-free. Shape
legend: K classes; S, H, W slices, rows and columns as they were read; Z, Y, X the patient's axes
(``engine.data.orientation``).
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from app import overlays, strokes
from app import volume_text as words
from app.probability import colour_of
from engine.data.orientation import PLANES, Turn, plane_letters, to_patient
from engine.data.volumes import SourceVolume
from export.levels import STEPS
from export.results import class_colour

MAX_BYTES = 24_000_000
"""What a browser is sent at most, before it is packed (ours): of one class 30 slices of 512 x 512."""
NUMBER_BYTES = 2
"""Of one voxel's number; each class takes one byte more."""
LEVELS = 65535
MODEL_COLOURS = (overlays.TEACHER_ONLY, overlays.STUDENT_ONLY)
"""Of what is the first model's alone, and the second's."""
OF_BOTH: overlays.Colour = (213, 94, 0)
"""Where both are, on pictures from black to white."""
AS_READ = Turn((0, 1, 2), (False, False, False))


@dataclass(frozen=True, eq=False)
class View:
    """What the viewer needs: a description, and the packed numbers (uint16, then uint8 levels, little-endian)."""

    about: dict[str, Any]
    packed: bytes


class Shown:
    """Takes a volume's probabilities slice by slice, and keeps what the browser is sent of them.

    ``levels_KSHW`` are hundredths (``export.levels``), uint8, of every n-th slice, row and column as ``every`` says.
    Where the browser is sent those of ``num_models``, each is one of as many that keep the same share.
    """

    def __init__(self, *, most_bytes: int = MAX_BYTES, num_models: int = 1) -> None:
        self._most_bytes, self._num_models = most_bytes, num_models
        self.every = [1, 1, 1]
        self.levels_KSHW = np.zeros((0, 0, 0, 0), np.uint8)

    def take(self, volume: SourceVolume, number: int, levels_KHW: np.ndarray) -> None:
        """Keep of slice ``number`` what is shown."""
        if not self.levels_KSHW.size:
            shape = (len(volume), *levels_KHW.shape[1:])
            most = self._most_bytes // (NUMBER_BYTES + self._num_models * len(levels_KHW))
            self.every = strides(shape, _steps(volume), most=most)
            kept = [-(-size // step) for size, step in zip(shape, self.every, strict=True)]
            self.levels_KSHW = np.zeros((len(levels_KHW), *kept), np.uint8)
        slices, rows, columns = self.every
        if number % slices == 0:
            self.levels_KSHW[:, number // slices] = levels_KHW[:, ::rows, ::columns]


def strides(shape: tuple[int, ...], steps: tuple[float, float, float], *, most: int) -> list[int]:
    """Return which share of slices, rows and columns is shown: every n-th, the finest axes first."""
    every = [1, 1, 1]
    while np.prod([-(-size // step) for size, step in zip(shape, every, strict=True)]) > most:
        spaced = [step * one if size > step else np.inf for step, one, size in zip(every, steps, shape, strict=True)]
        every[int(np.argmin(spaced))] += 1
    return every


def view(
    volume: SourceVolume,
    shown: Sequence[Shown],
    *,
    classes: tuple[str, ...],
    percent: int,
    models: tuple[str, ...] = ("",),
    orders: Sequence[Sequence[int]] | None = None,
) -> View:
    """Return what the viewer draws of a volume and its probabilities; masks are first those above ``percent``.

    ``shown`` has one of each of ``models``; ``orders`` says which of its classes each of ``classes`` is, their own
    order when None.
    """
    steps, every = _steps(volume), shown[0].every
    values = np.stack([volume.values(n)[:: every[1], :: every[2]] for n in range(0, len(volume), every[0])])
    matrix = volume.geometry.matrix
    turn = turn_of(volume)
    low, high = float(values.min()), float(values.max())
    is_whole = high - low <= LEVELS and bool((values == np.rint(values)).all())
    scale = 1.0 if is_whole else (high - low) / LEVELS or 1.0
    numbers = np.rint((turn.apply(values) - low) / scale).astype("<u2")
    order = range(len(classes))
    levels = [
        np.ascontiguousarray(turn.apply(one.levels_KSHW[at]))
        for one, own in zip(shown, orders or [order] * len(shown), strict=True)
        for at in own
    ]
    about = {
        "shape": list(numbers.shape),
        "steps": [steps[axis] * every[axis] for axis in turn.axes],
        "low": low,
        "scale": scale,
        "unit": volume.geometry.unit or "",
        "inverted": volume.is_inverted,
        "letters": {} if matrix is None else {plane: plane_letters(matrix, plane) for plane in PLANES},
        "upright": matrix is not None,
        "classes": list(classes),
        "models": list(models),
        "modelColours": [*MODEL_COLOURS, OF_BOTH],
        "colours": [class_colour(index) for index in range(len(classes))],
        "shades": [colour_of(level) for level in range(STEPS)],
        "percent": percent,
        "presets": presets(volume, values),
        "brush": {"widest": _widest(numbers.shape), "places": strokes.MAX_PLACES},
        "at": _fullest(np.max(levels, axis=0) >= percent),
    }
    packed = gzip.compress(b"".join([numbers.tobytes(), *(level.tobytes() for level in levels)]), compresslevel=1)
    return View({**about, "every": every}, packed)


def turn_of(volume: SourceVolume) -> Turn:
    """Return how slices, rows and columns become the axes that the viewer shows."""
    matrix = volume.geometry.matrix
    return AS_READ if matrix is None else to_patient(matrix)


def _widest(shape: tuple[int, ...]) -> int:
    """Return the width of the widest brush, in voxels that are shown: odd, a quarter of the longest side (ours)."""
    return min(max(1, max(shape) // 4) | 1, strokes.MAX_SIZE_PX)


def _steps(volume: SourceVolume) -> tuple[float, float, float]:
    columns_mm, rows_mm, slices_mm = volume.voxel_mm or (1.0, 1.0, 1.0)
    return slices_mm, rows_mm, columns_mm


def presets(volume: SourceVolume, values: np.ndarray) -> list[tuple[str, float, float]]:
    """Return the (name, centre, width) of windows that fit: the file's own, those of Hounsfield units, percentiles."""
    found = []
    if volume.window is not None:
        found.append((words.PRESET_FILE, *volume.window))
    low, high = (float(one) for one in np.percentile(values, (0.5, 99.5)))
    if high <= low:
        low, high = float(values.min()), float(values.max())
    found.append((words.PRESET_PERCENTILES, (low + high) / 2, max(high - low, 1e-6)))
    return found + (list(words.PRESETS) if volume.geometry.unit == "HU" else [])


def html(shown: View, *, address: str, classes: tuple[str, ...]) -> str:
    """Return the viewer's elements; ``app/viewer.js`` fetches the numbers from ``address`` and draws."""
    about = shown.about
    names = words.PLANES if about["upright"] else words.PLANES_UNPLACED
    planes = "".join(_plane(plane, names[plane], about, axis) for axis, plane in enumerate(PLANES))
    options = "".join(f"<option value='{n}'>{escape(name)}</option>" for n, (name, _, _) in enumerate(about["presets"]))
    ramp = ", ".join(overlays.hex_colour(colour_of(level)) for level in range(0, STEPS, 9))
    zooms = "".join(
        f"<button type='button' class='zoom' data-factor='{factor:.6g}' aria-label='{name}' title='{name}'>{sign}"
        "</button>"
        for sign, name, factor in words.ZOOMS
    )
    most = ""
    if len(about["models"]) > 1:
        told = escape(words.NO_DIFFERENCE, quote=True)
        most = f"<button type='button' class='zoom most' data-none='{told}'>{words.MOST_APART}</button>"
    notes = [] if about["upright"] else [words.NO_PLACE]
    if max(about["every"]) > 1:
        slices, rows, columns = about["every"]
        notes.append(words.REDUCED.format(columns=columns, rows=rows, slices=slices))
    return (
        f"<section class='viewer' aria-label='{words.VIEWER}' data-address='{escape(address, quote=True)}' "
        f"data-about='{escape(json.dumps(about), quote=True)}'><div class='viewer-bar'>"
        f"<label>{words.PRESET} <select class='preset'>{options}<option value='own'>{words.PRESET_OWN}</option>"
        f"</select></label><label>{words.CENTRE} <input class='centre' type='number' step='any'></label>"
        f"<label>{words.WIDTH} <input class='width' type='number' step='any' min='0'></label>"
        f"<label>{words.OPACITY} <input class='opacity' type='range' min='0' max='1' step='0.05' value='0.4'></label>"
        f"<label>{words.SHOW} <select class='shown'>{_options(classes, about['models'])}</select></label>"
        f"<label><input class='cross-lines' type='checkbox' checked> {words.CROSS_LINES}</label>"
        f"{most}{zooms}</div>{_tools(classes) if len(about['models']) == 1 else ''}"
        f"<div class='viewer-planes'>{planes}</div><p class='viewer-value' data-empty='{escape(words.VALUE_EMPTY)}'>"
        f"{escape(words.VALUE_EMPTY)}</p>{_keys(classes, about['models'])}"
        f"<div class='scale' data-of='map apart' hidden><p class='scale-of'></p>"
        f"<div class='ramp' style='background:linear-gradient(to right, {ramp})'></div>"
        "<p class='ends'><span>0 %</span><span>50 %</span><span>100 %</span></p></div>"
        f"<p class='viewer-threshold' role='status' data-words='{escape(words.OTHER_THRESHOLD, quote=True)}'></p>"
        + "".join(f"<p class='quiet'>{escape(note)}</p>" for note in notes)
        + "</section>"
    )


def _tools(classes: tuple[str, ...]) -> str:
    """Return what corrects the mask of one model."""
    tools = "".join(f"<option value='{value}'>{name}</option>" for name, value in words.TOOLS)
    named = "".join(f"<option value='{n}'>{escape(name)}</option>" for n, name in enumerate(classes))
    whose = f"<label>{words.PAINTED} <select class='painted-class'>{named}</select></label>"
    return (
        f"<div class='viewer-bar' role='group' aria-label='{words.TOOLS_NAME}'>"
        f"<label>{words.TOOL} <select class='tool'>{tools}</select></label>{whose if len(classes) > 1 else ''}"
        f"<label>{words.BRUSH_SIZE} <input class='brush-size' type='number' min='1' step='2' value='5'></label>"
        f"<button type='button' class='zoom undo' disabled>{words.UNDO}</button>"
        f"<button type='button' class='zoom redo' disabled>{words.REDO}</button></div>"
        f"<p class='quiet brush-note' role='status' data-keys='{escape(words.BRUSH_KEYS, quote=True)}'></p>"
    )


def _options(classes: tuple[str, ...], models: Sequence[str]) -> str:
    """Return what can be drawn over the slices, as kind, model and class: ``mask:0``, ``map:1:0``."""
    if len(models) == 1:
        found = [("mask:0", words.SHOW_MASK), ("edge:0", words.SHOW_EDGE)]
        found += [(f"map:0:{n}", words.PROBABILITY.format(name=name)) for n, name in enumerate(classes)]
    else:
        found = [("outlines", words.OUTLINES), ("differ", words.DIFFER)]
        found += [(f"mask:{n}", words.MASK_OF.format(letter=letter)) for n, letter in enumerate(words.LETTERS)]
        found += [(f"apart:{n}", words.APART.format(name=name)) for n, name in enumerate(classes)]
        found += [
            (f"map:{n}:{at}", words.PROBABILITY_BY.format(name=name, letter=letter))
            for n, letter in enumerate(words.LETTERS)
            for at, name in enumerate(classes)
        ]
    return "".join(
        f"<option value='{value}'>{escape(told)}</option>" for value, told in [*found, ("nothing", words.SHOW_NOTHING)]
    )


def _keys(classes: tuple[str, ...], models: Sequence[str]) -> str:
    """Return what colours mean; ``data-of`` names the kinds of picture that a line is for."""
    of_classes = [(class_colour(n), name) for n, name in enumerate(classes)]
    if len(models) == 1:
        return _key("mask edge", of_classes)
    named = [
        (colour, words.MODEL_KEY.format(letter=letter, name=name))
        for colour, letter, name in zip(MODEL_COLOURS, words.LETTERS, models, strict=True)
    ]
    alone = [(colour, words.ALONE_KEY.format(name=name)) for colour, name in named]
    crossed = [(OF_BOTH, words.CROSSED_KEY)] if len(classes) > 1 else []
    return (
        _key("outlines", [*named, (OF_BOTH, words.BOTH_KEY)])
        + _key("differ", [*alone, *crossed], hidden=True)
        + _key("mask", of_classes, hidden=True)
        + f"<p class='quiet' data-of='mask map apart' hidden>{escape(', '.join(told for _, told in named))}</p>"
    )


def _key(kind: str, swatches: Sequence[tuple[overlays.Colour, str]], *, hidden: bool = False) -> str:
    inside = "".join(
        f"<span class='swatch'><i style='background:{overlays.hex_colour(colour)}'></i>{escape(name)}</span>"
        for colour, name in swatches
    )
    return f"<p class='viewer-key' data-of='{kind}'{' hidden' if hidden else ''}>{inside}</p>"


def _plane(plane: str, name: str, about: dict[str, Any], axis: int) -> str:
    letters = about["letters"].get(plane, {})
    edges = "".join(f"<b class='edge {side}' aria-hidden='true'>{letter}</b>" for side, letter in letters.items())
    told = "" if not letters else " ({left} on the left, {right} on the right, {top} at the top)".format(**letters)
    size = about["shape"][axis]
    return (
        f"<figure data-plane='{plane}'><div class='frame'><canvas tabindex='0' role='img' "
        f"aria-label='{escape(name + told)}'></canvas>{edges}</div><figcaption><label>{escape(name)}, {words.SLICE} "
        f"<output>{about['at'][axis] + 1}</output> / {size}<input type='range' min='1' max='{size}' step='1' "
        f"value='{about['at'][axis] + 1}' aria-label='{escape(name)}, {words.SLICE}'></label></figcaption></figure>"
    )


def _fullest(mask_ZYX: np.ndarray) -> list[int]:
    """Return the slice of each plane with most of the masks, the middle one where there is nothing."""
    found = []
    for axis in range(3):
        counts = np.count_nonzero(mask_ZYX, axis=tuple(other for other in range(3) if other != axis))
        found.append(int(counts.argmax()) if counts.any() else mask_ZYX.shape[axis] // 2)
    return found


def progress_bar(sentence: str, done: int, total: int) -> str:
    """Return a bar that a screen reader says, too."""
    return (
        f"<div role='status' class='volume-progress'><label>{escape(sentence)}"
        f"<progress value='{done}' max='{total}'></progress></label></div>"
    )
