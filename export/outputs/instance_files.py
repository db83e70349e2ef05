"""Things counted apart as a file: numbers from 1 on the source's grid, as NIfTI or TIFF stack. Torch-free.

Shape legend: K classes; S, H and W slices, rows and columns of the volume as it was read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile

from engine.data.volumes import SourceVolume
from export.outputs.instances import is_counted, label_instances
from export.outputs.nifti import write_nifti

MOST = 65535


def instance_labels(
    masks_KSHW: np.ndarray, classes: Sequence[str], *, depth_px: float = 1.0
) -> tuple[np.ndarray, dict[str, tuple[int, int]]] | None:
    """Return things numbered from 1, (S, H, W) uint16, and first and last number by class.

    Classes that are counted follow each other, the later one where they overlap. None where none is counted, or there
    are more things than numbers. ``depth_px`` as in :func:`export.outputs.instances.label_instances`.
    """
    found_SHW = np.zeros(masks_KSHW.shape[1:], np.uint16)
    numbers: dict[str, tuple[int, int]] = {}
    last = 0
    for name, mask_SHW in zip(classes, masks_KSHW, strict=True):
        if not is_counted(name):
            continue
        things_SHW = label_instances(mask_SHW, depth_px=depth_px)
        count = MOST + 1 if things_SHW is None else int(things_SHW.max())
        if last + count > MOST:
            return None
        assert things_SHW is not None
        inside = things_SHW > 0
        found_SHW[inside] = things_SHW[inside] + last
        numbers[name] = (last + 1, last + count)
        last += count
    return (found_SHW, numbers) if numbers else None


def write_instances(
    out: Path, stem: str, volume: SourceVolume, masks_KSHW: np.ndarray, classes: Sequence[str], *, note: str = ""
) -> Path | None:
    """Write the things of a volume's masks below ``out`` and return the file; None where nothing is counted."""
    spacing, voxel = volume.geometry.spacing_mm or (1.0, 1.0), volume.voxel_mm
    found = instance_labels(masks_KSHW, classes, depth_px=(1.0 if voxel is None else voxel[2]) / max(spacing))
    if found is None:
        return None
    if volume.geometry.affine_lps is not None and len(volume) > 1:
        path = out / f"{stem}_instances.nii.gz"
        write_nifti(path, volume, found[0], note=note)
        return path
    path = out / f"{stem}_instances.tif"
    tifffile.imwrite(path, found[0], photometric="minisblack", compression="zlib", description=note or None)
    return path
