"""Whether a whole volume is of a kind that a model was not trained on. Torch-free.

The ends of a volume are often air: slices of its middle half are looked at, and most of them must be unlike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.data.modalities import DICOM_CODES, Origin
from engine.data.volumes import SourceVolume
from export import foreign

if TYPE_CHECKING:
    from export.runtime import BundleSession

NUM_SLICES = 5
"""Slices that are looked at (ours)."""


def reasons(session: BundleSession, volume: SourceVolume) -> tuple[str, ...]:
    """Return a sentence for each way in which a volume is unlike the images of training; none where nothing is.

    The sentences are those of the first of its slices that is unlike, where more than half of those looked at are.
    """
    manifest, origin = session.manifest, origin_of(volume)
    count = len(volume)
    numbers = np.unique(np.linspace(count // 4, max(count // 4, (3 * count - 1) // 4), NUM_SLICES).round().astype(int))
    found = [
        foreign.reasons(
            session, volume.picture(int(at), value_range=manifest.value_range, window=manifest.window), origin
        )
        for at in numbers
    ]
    unlike = [why for why in found if why]
    return unlike[0] if 2 * len(unlike) > len(found) else ()


def origin_of(volume: SourceVolume) -> Origin:
    """Return what the volume's first file says of it."""
    spacing = volume.geometry.spacing_mm
    if volume.kind != "dicom":
        return Origin("nifti" if volume.kind == "nifti" else "picture", spacing_mm=spacing)
    from engine.data.dicom_frames import tag

    code = str(tag(volume.dicom_file().tags, "Modality") or "").strip().upper()[:16] or None
    return Origin("dicom", DICOM_CODES.get(code or ""), code, spacing)
