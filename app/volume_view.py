"""A segmented volume as what the viewer in the browser draws: numbers and labels on the patient's axes. Torch-free.

The browser has all of it, so that slices, window and opacity answer without the server. Shape legend: S, H, W slices,
rows and columns as they were read; Z, Y, X the patient's axes (``engine.data.orientation``).
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from app import overlays
from app import volume_text as words
from engine.data.orientation import PLANES, Turn, plane_letters, to_patient
from engine.data.volumes import SourceVolume
from export.results import class_colour

MAX_VOXELS = 8_000_000
"""What a browser is sent at most (ours): 30 slices of 512 x 512, 16 MB before it is packed."""
LEVELS = 65535
AS_READ = Turn((0, 1, 2), (False, False, False))


@dataclass(frozen=True, eq=False)
class View:
    """What the viewer needs: a description, and the packed numbers (uint16, then uint8 labels, little-endian)."""

    about: dict[str, Any]
    packed: bytes


def strides(shape: tuple[int, int, int], steps: tuple[float, float, float], *, most: int = MAX_VOXELS) -> list[int]:
    """Return which share of slices, rows and columns is shown: every n-th, the finest axes first."""
    every = [1, 1, 1]
    while np.prod([-(-size // step) for size, step in zip(shape, every, strict=True)]) > most:
        spaced = [step * one if size > step else np.inf for step, one, size in zip(every, steps, shape, strict=True)]
        every[int(np.argmin(spaced))] += 1
    return every


def view(volume: SourceVolume, labels_SHW: np.ndarray, *, classes: tuple[str, ...], most: int = MAX_VOXELS) -> View:
    """Return what the viewer draws of a volume and its labels (S, H, W) uint8."""
    columns_mm, rows_mm, slices_mm = volume.voxel_mm or (1.0, 1.0, 1.0)
    steps = (slices_mm, rows_mm, columns_mm)
    every = strides(labels_SHW.shape, steps, most=most)
    values = np.stack([volume.values(n)[:: every[1], :: every[2]] for n in range(0, len(volume), every[0])])
    labels = labels_SHW[:: every[0], :: every[1], :: every[2]]
    matrix = volume.geometry.matrix
    turn = AS_READ if matrix is None else to_patient(matrix)
    low, high = float(values.min()), float(values.max())
    is_whole = high - low <= LEVELS and bool((values == np.rint(values)).all())
    scale = 1.0 if is_whole else (high - low) / LEVELS or 1.0
    numbers = np.rint((turn.apply(values) - low) / scale).astype("<u2")
    shown_steps = [steps[axis] * every[axis] for axis in turn.axes]
    about = {
        "shape": list(numbers.shape),
        "steps": shown_steps,
        "low": low,
        "scale": scale,
        "unit": volume.geometry.unit or "",
        "inverted": volume.is_inverted,
        "letters": {} if matrix is None else {plane: plane_letters(matrix, plane) for plane in PLANES},
        "upright": matrix is not None,
        "colours": [class_colour(index) for index in range(len(classes))],
        "presets": presets(volume, values),
        "at": _fullest(turn.apply(labels)),
    }
    packed = gzip.compress(numbers.tobytes() + np.ascontiguousarray(turn.apply(labels)).tobytes(), compresslevel=1)
    return View({**about, "every": every}, packed)


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
    key = "".join(
        f"<span class='swatch'><i style='background:{overlays.hex_colour(class_colour(n))}'></i>{escape(name)}</span>"
        for n, name in enumerate(classes)
    )
    zooms = "".join(
        f"<button type='button' class='zoom' data-factor='{factor:.6g}' aria-label='{name}' title='{name}'>{sign}"
        "</button>"
        for sign, name, factor in words.ZOOMS
    )
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
        f"<label><input class='mask' type='checkbox' checked> {words.SHOW_MASK}</label>{zooms}</div>"
        f"<div class='viewer-planes'>{planes}</div><p class='viewer-value' data-empty='{escape(words.VALUE_EMPTY)}'>"
        f"{escape(words.VALUE_EMPTY)}</p><p class='viewer-key'>{key}</p>"
        + "".join(f"<p class='quiet'>{escape(note)}</p>" for note in notes)
        + "</section>"
    )


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


def _fullest(labels_ZYX: np.ndarray) -> list[int]:
    """Return the slice of each plane with most of the masks, the middle one where there is nothing."""
    found = []
    for axis in range(3):
        counts = np.count_nonzero(labels_ZYX, axis=tuple(other for other in range(3) if other != axis))
        found.append(int(counts.argmax()) if counts.any() else labels_ZYX.shape[axis] // 2)
    return found


def progress_bar(sentence: str, done: int, total: int) -> str:
    """Return a bar that a screen reader says, too."""
    return (
        f"<div role='status' class='volume-progress'><label>{escape(sentence)}"
        f"<progress value='{done}' max='{total}'></progress></label></div>"
    )
