"""What is measured of a mask: areas, volumes, diameters, counts and grey values, and its agreement with a reference.

In mm where the source tells how far its pixels lie apart, else in pixels. Torch-free.

Shape legend: K classes; S, H and W slices, rows and columns of the volume as it was read.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np

from engine.data.volumes import SourceVolume
from export.outputs.agreement import agreement
from export.outputs.fundus import Vertical, verticals
from export.outputs.instances import count_pieces


@dataclass(frozen=True)
class Measurement:
    """One class of one image or volume. None where a figure does not exist: no spacing, no volume, an empty mask.

    Attributes
    ----------
    image, class_name : whose.
    slices : of the volume, 1 of a picture.
    foreground_px : pixels, or voxels, of the mask; ``share`` of all, in [0, 1].
    area_mm2 : of the slice with most of it; ``area_slice`` is that slice, from 1.
    volume_ml : in millilitres, of volumes.
    components : pieces that do not touch, not even by a corner; ``instances`` are things counted apart by watershed,
        where the class is of things that people count (:mod:`export.outputs.instances`), and what sizes are of then.
    largest_px, largest_long_axis, largest_short_axis, median_long_axis : of its pieces, never across several of them
        (:class:`export.outputs.pieces.Sizes`); axes are in ``length_unit``.
    mean_intensity : of the source's values inside, in ``intensity_unit``.
    vertical_extent, cup_to_disc : of a picture with classes of cup and disc (:class:`export.outputs.fundus.Vertical`),
        the extent in ``length_unit``.
    dice, iou, hd95, surface_dice, surface_tolerance : with the reference
        (:class:`export.outputs.agreement.Agreement`), lengths in ``length_unit``.
    threshold : what probability is above in the mask; 0.5 is every model's own.
    corrected_px : pixels, or voxels, that a person has changed by hand.
    """

    image: str
    class_name: str
    slices: int
    foreground_px: int
    share: float
    area_mm2: float | None
    area_slice: int | None
    volume_ml: float | None
    components: int
    instances: int | None
    largest_px: int | None
    largest_long_axis: float | None
    largest_short_axis: float | None
    median_long_axis: float | None
    length_unit: str
    mean_intensity: float | None
    intensity_unit: str
    vertical_extent: float | None = None
    cup_to_disc: float | None = None
    dice: float | None = None
    iou: float | None = None
    hd95: float | None = None
    surface_dice: float | None = None
    surface_tolerance: float | None = None
    threshold: float = 0.5
    corrected_px: int = 0


class GreySums:
    """Sums of the source's values inside each class, added slice by slice."""

    def __init__(self, num_classes: int) -> None:
        self.sums = np.zeros(num_classes)

    def add(self, values_HW: np.ndarray, mask_KHW: np.ndarray) -> None:
        """Add one slice."""
        self.sums += [float(values_HW[mask > 0].sum(dtype=np.float64)) for mask in mask_KHW]


def measure(
    volume: SourceVolume,
    masks_KSHW: np.ndarray,
    *,
    name: str,
    classes: Sequence[str],
    greys: GreySums,
    reference_KSHW: np.ndarray | None = None,
    threshold: float = 0.5,
) -> list[Measurement]:
    """Return the figures of each class of one image or volume; masks (at ``threshold``) and reference are {0, 1}."""
    spacing, voxel = volume.geometry.spacing_mm, volume.voxel_mm
    steps = spacing or (1.0, 1.0)
    one_ml = voxel_ml(volume)
    upright = [Vertical()] * len(classes)
    if len(volume) == 1:
        upright = verticals(masks_KSHW[:, 0], classes, row_step=steps[0])
    found = []
    for index, class_name in enumerate(classes):
        mask_SHW = masks_KSHW[index] > 0
        count = int(np.count_nonzero(mask_SHW))
        most = int(np.argmax(np.count_nonzero(mask_SHW, axis=(1, 2)))) if count else None
        things = count_pieces(mask_SHW, class_name, steps=steps, depth=1.0 if voxel is None else voxel[2])
        area = None if most is None or spacing is None else np.count_nonzero(mask_SHW[most]) * spacing[0] * spacing[1]
        agreed: dict[str, float | None] = {}
        if reference_KSHW is not None:
            depth = 1.0 if voxel is None or len(volume) == 1 else voxel[2]
            agreed = asdict(agreement(mask_SHW, reference_KSHW[index] > 0, steps=(depth, *steps)))
        found.append(
            Measurement(
                image=name,
                class_name=class_name,
                slices=len(volume),
                foreground_px=count,
                share=count / mask_SHW.size,
                area_mm2=None if area is None else float(area),
                area_slice=None if most is None else most + 1,
                volume_ml=None if one_ml is None else count * one_ml,
                **asdict(things),
                length_unit="px" if spacing is None else "mm",
                mean_intensity=float(greys.sums[index] / count) if count else None,
                intensity_unit=volume.geometry.unit or "grey",
                threshold=threshold,
                **asdict(upright[index]),
                **agreed,
            )
        )
    return found


def voxel_ml(volume: SourceVolume) -> float | None:
    """Return the volume of one voxel in mL, None where nothing says where slices lie, or there is only one."""
    matrix = volume.geometry.matrix
    return None if matrix is None or len(volume) == 1 else abs(float(np.linalg.det(matrix[:3, :3]))) / 1000


def as_csv(measurements: Sequence[Measurement]) -> str:
    """Return a table of measurements, a row each, for spreadsheets: no field of it begins a formula."""
    return rows_csv([asdict(one) for one in measurements], columns=[field.name for field in fields(Measurement)])


def rows_csv(rows: Sequence[Mapping[str, object]], *, columns: Sequence[str]) -> str:
    """Return rows of values by column as CSV, as :func:`as_csv` writes them."""
    stream = io.StringIO()
    table = csv.DictWriter(stream, columns, lineterminator="\n")
    table.writeheader()
    for row in rows:
        table.writerow({key: _cell(value) for key, value in row.items()})
    return stream.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return value
