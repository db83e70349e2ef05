"""The figures of each image as arrays: what a site sends of its images in place of them. Torch-free.

Shape legend: N images, C classes in the table (their mean included where there are several).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engine.errors import UserError
from engine.types import MEAN_CLASS

MEASURES = ("dice", "iou", "dice_five_thresholds", "iou_five_thresholds", "hd95_px", "hd95_penalised_px",
            "missed", "spurious", "predicted_px", "true_px")  # fmt: skip
COUNTS = ("missed", "spurious")
UNDEFINED = -1.0
"""Stands for a distance that is not defined, where one of the two masks is empty."""
GROUP = "group"
"""Number of the image's patient among the site's, by the order of their names from 1; 0 where none is named."""


def pack_figures(records: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Return the records of ``segmentation.measure_images`` as arrays float64 (N, C), and ``group`` int64 (N,).

    Names of images and patients stay behind: images are known by their order, patients by the order of their names.
    """
    num_classes = len({record["class_name"] for record in records})
    arrays = {
        key: np.array([UNDEFINED if (value := record[key]) is None else float(value) for record in records])
        for key in MEASURES
    }
    groups = [str(record["group"]) for record in records[::num_classes]]
    ranks = {name: rank for rank, name in enumerate(sorted({name for name in groups if name}), start=1)}
    packed = {key: array.reshape(-1, num_classes) for key, array in arrays.items()}
    return packed | {GROUP: np.array([ranks.get(name, 0) for name in groups], dtype=np.int64)}


def unpack_figures(
    arrays: Mapping[str, np.ndarray], *, model: str, site: str, classes: Sequence[str], num_images: int
) -> list[dict[str, Any]]:
    """Return one record an image and class, as ``measure_images`` gives them, with numbers for names.

    Raises ``UserError`` ``federation.bad_reply``, naming the site, unless every figure can be what it says.
    """
    names = (*classes, MEAN_CLASS) if len(classes) > 1 else tuple(classes)
    problem = _problem(arrays, shape=(num_images, len(names)))
    if problem is not None:
        raise UserError(
            "federation.bad_reply",
            what=f"The figures of '{model}' from {site} cannot be used: {problem}.",
            why="One wrong figure would make the results table wrong.",
            fix=f"Run the same version of the program at the server and at {site}, then resume the run.",
        )
    records = []
    for image in range(num_images):
        group = int(arrays[GROUP][image])
        whose = {"name": f"{image:05d}", "group": "" if group == 0 else f"{group:05d}", "site": site, "model": model}
        for place, class_name in enumerate(names):
            values = {key: _value(key, float(arrays[key][image, place])) for key in MEASURES}
            records.append({**whose, "class_name": class_name, **values})
    return records


def _value(key: str, value: float) -> float | int | None:
    if key in COUNTS:
        return int(value)
    return None if key == "hd95_px" and value == UNDEFINED else value


def _problem(arrays: Mapping[str, np.ndarray], *, shape: tuple[int, int]) -> str | None:
    if arrays.keys() != {*MEASURES, GROUP}:
        return f"it has {', '.join(sorted(arrays)) or 'nothing'}"
    for key in MEASURES:
        array = arrays[key]
        if array.shape != shape or array.dtype != np.float64:
            return f"'{key}' is {array.dtype}{array.shape}, not float64{shape}"
        top = 1.0 if key.startswith(("dice", "iou")) else np.inf
        defined = array[array != UNDEFINED] if key == "hd95_px" else array
        if defined.size and not bool(((defined >= 0) & (defined <= top)).all()):
            return f"'{key}' has values outside 0 to {top:g}"
        if key in COUNTS and not bool((array == np.round(array)).all()):
            return f"'{key}' has values that are no counts"
    group = arrays[GROUP]
    if group.shape != shape[:1] or group.dtype != np.int64 or (group.size and int(group.min()) < 0):
        return f"'{GROUP}' is {group.dtype}{group.shape}"
    return None
