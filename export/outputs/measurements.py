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
from scipy import ndimage
from scipy.spatial import ConvexHull

from engine.data.volumes import SourceVolume
from engine.evaluation.mask_dice import counts, dice

PERCENTILE = 95
TOUCHING = 3
"""Side of the neighbourhood in which pixels belong together: corners touch, too."""


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
    components : pieces that do not touch, not even by a corner.
    longest, perpendicular : diameters in that slice of all of it, outline to outline, in ``length_unit``.
    mean_intensity : of the source's values inside, in ``intensity_unit``.
    dice, iou : with the reference, in [0, 1], two empty masks are 1; ``hd95`` is the distance of the outlines that 95 %
        stay within, the larger of both ways, in ``length_unit``; None where one is empty.
    threshold : what probability is above in the mask; 0.5 is every model's own.
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
    longest: float | None
    perpendicular: float | None
    length_unit: str
    mean_intensity: float | None
    intensity_unit: str
    dice: float | None = None
    iou: float | None = None
    hd95: float | None = None
    threshold: float = 0.5


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
    found = []
    for index, class_name in enumerate(classes):
        mask_SHW = masks_KSHW[index] > 0
        count = int(np.count_nonzero(mask_SHW))
        most = int(np.argmax(np.count_nonzero(mask_SHW, axis=(1, 2)))) if count else None
        longest, perpendicular = (None, None) if most is None else diameters(mask_SHW[most], steps=steps)
        area = None if most is None or spacing is None else np.count_nonzero(mask_SHW[most]) * spacing[0] * spacing[1]
        agreed: dict[str, float | None] = {}
        if reference_KSHW is not None:
            depth = 1.0 if voxel is None or len(volume) == 1 else voxel[2]
            agreed = agreement(mask_SHW, reference_KSHW[index] > 0, steps=(depth, *steps))
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
                components=num_components(mask_SHW),
                longest=longest,
                perpendicular=perpendicular,
                length_unit="px" if spacing is None else "mm",
                mean_intensity=float(greys.sums[index] / count) if count else None,
                intensity_unit=volume.geometry.unit or "grey",
                threshold=threshold,
                **agreed,
            )
        )
    return found


def voxel_ml(volume: SourceVolume) -> float | None:
    """Return the volume of one voxel in mL, None where nothing says where slices lie, or there is only one."""
    matrix = volume.geometry.matrix
    return None if matrix is None or len(volume) == 1 else abs(float(np.linalg.det(matrix[:3, :3]))) / 1000


def num_components(mask_SHW: np.ndarray) -> int:
    """Return the number of pieces of a mask (S, H, W) that do not touch."""
    box = ndimage.find_objects(mask_SHW.astype(np.uint8))
    if not box:
        return 0
    return int(ndimage.label(mask_SHW[box[0]], np.ones((TOUCHING,) * mask_SHW.ndim))[1])


def diameters(mask_HW: np.ndarray, *, steps: tuple[float, float]) -> tuple[float | None, float | None]:
    """Return the longest diameter of a mask and its extent across that; ``steps`` are between rows and columns.

    From outline to outline: a single pixel of 1 mm has 1 mm. None of an empty mask.
    """
    inside = np.pad(mask_HW > 0, 1)
    border = np.argwhere(inside & ~ndimage.binary_erosion(inside)) - 1.0
    if not len(border):
        return None, None
    half = np.array([(0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5)])
    points = (border[:, None] + half).reshape(-1, 2) * steps
    points = points[ConvexHull(points).vertices]
    apart = points[:, None] - points[None]
    lengths = np.linalg.norm(apart, axis=2)
    first, second = np.unravel_index(int(lengths.argmax()), lengths.shape)
    along = apart[first, second] / lengths[first, second]
    across = points @ (-along[1], along[0])
    return float(lengths[first, second]), float(across.max() - across.min())


def agreement(
    mask_SHW: np.ndarray, reference_SHW: np.ndarray, *, steps: tuple[float, float, float]
) -> dict[str, float | None]:
    """Return Dice, IoU and HD95 of two boolean masks; ``steps`` are between slices, rows and columns."""
    shared, both = counts(mask_SHW, reference_SHW)
    return {
        "dice": dice(mask_SHW, reference_SHW),
        "iou": shared / (both - shared) if both else 1.0,
        "hd95": _hd95(mask_SHW, reference_SHW, steps=steps),
    }


def _hd95(one_SHW: np.ndarray, other_SHW: np.ndarray, *, steps: tuple[float, float, float]) -> float | None:
    if not one_SHW.any() or not other_SHW.any():
        return None
    box = ndimage.find_objects((one_SHW | other_SHW).astype(np.uint8))[0]
    axes = tuple(axis for axis in range(3) if one_SHW.shape[axis] > 1 or axis > 0)  # a single slice is flat
    flat = box if len(axes) == 3 else (0, *box[1:])
    outlines = [_outline(np.pad(mask[flat], 1)) for mask in (one_SHW, other_SHW)]
    spacing = [steps[axis] for axis in axes]
    ways = []
    for near, far in (outlines, outlines[::-1]):
        distance = ndimage.distance_transform_edt(~far, sampling=spacing)
        ways.append(float(np.percentile(distance[near], PERCENTILE)))
    return max(ways)


def _outline(mask: np.ndarray) -> np.ndarray:
    return mask & ~ndimage.binary_erosion(mask)


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
