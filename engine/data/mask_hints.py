"""What was probably meant where a dataset's masks are not where, or not called as, they should be. Torch-free.

Hints for people: nothing is paired or read by them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engine.data.budget import at_most, limit_bytes
from engine.data.description import FILE_NAME
from engine.data.readers import image_info, is_supported, read_mask
from engine.data.scan import Scan
from engine.errors import UserError

SHOWN_VALUES = 8
"""Numbers of a mask that are written out (ours)."""
VALUES_BYTES = 2**26
"""What looking at one file for its numbers may take (ours): a volume of 256 x 256 x 200 labels of 16 bits."""


def tell_missing_folders(scan: Scan, site: str, missing: Sequence[str], files: Sequence[Path]) -> None:
    """Note that ``masks/`` lacks the folders of the classes ``missing``; ``files`` lie beside the folders."""
    masks = [path for path in files if is_supported(path)]
    classes = scan.description.classes
    if not masks or len(missing) < len(classes):
        for name in missing:
            scan.fault(
                "data.class_folder_missing",
                site=site,
                what=f"Site '{site}' has no folder masks/{name} for the class '{name}'.",
                fix=f"Add the folder with a mask for each image, or take the class out of {FILE_NAME}.",
            )
        return
    listed = ", ".join(f"'{name}'" for name in classes)
    into_folders = "put one mask for each image and class into masks/<class>/"
    if isinstance(scan.description.mask_values, dict):
        what = f"has folders as well, and none for the classes {listed}, so mask_values is not used"
        fix = f"Take the folders out of masks, or {into_folders}."
    else:
        values = _values(scan, masks)
        found = f" ({values[0].name} holds {_listed(values[1])})" if values else ""
        what = f"has no folders for the classes {listed}, and {FILE_NAME} does not say which numbers mean them{found}"
        instead = " in the place of mask_threshold" if scan.description.mask_threshold is not None else ""
        fix = (
            f"If each file marks all classes by numbers, add {_mask_values(classes, values and values[1])} "
            f"to {FILE_NAME}{instead}, with the numbers that mean them; else {into_folders}."
        )
    scan.fault(
        "data.class_folder_missing",
        site=site,
        what=f"At site '{site}' {len(masks)} mask(s) lie in masks itself, which {what}.",
        fix=fix,
    )


def _values(scan: Scan, masks: Sequence[Path]) -> tuple[Path, list[int]] | None:
    """Return the numbers in the middle slice of the first mask, None where it cannot be read at little cost."""
    path = masks[0]
    if not path.is_file() or not path.resolve().is_relative_to(scan.home):
        return None
    axis = scan.description.slice_axis
    try:
        with at_most(min(limit_bytes(), VALUES_BYTES)):
            middle = image_info(path, slice_axis=axis).num_slices // 2
            labels = read_mask(path, slice_index=middle, slice_axis=axis)
    except UserError:  # told when it is read as a mask
        return None
    return (path, [int(value) for value in np.unique(labels)]) if labels.ndim == 2 else None


def _listed(values: list[int]) -> str:
    shown = ", ".join(map(str, values[:SHOWN_VALUES]))
    return f"{shown}, … ({len(values)} different)" if len(values) > SHOWN_VALUES else shown


def _mask_values(classes: Sequence[str], values: list[int] | None) -> str:
    """Return the line for the description: the numbers found, in the order of the classes, where they are as many."""
    marked = [value for value in values or () if value != 0]
    numbers = map(str, marked) if len(marked) == len(classes) else ["…"] * len(classes)
    keys = (name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False) for name in classes)
    return f"mask_values = {{{', '.join(f'{key} = [{value}]' for key, value in zip(keys, numbers, strict=True))}}}"
