"""Whether an image is of a kind that a model was not trained on, in words. Torch-free.

What is compared: the kind of image that its file names, its colour, the size of its pixels, and what it looks like. A
model answers whatever it is given; that the answer means something is only known for images like those of training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.data.modalities import SCANNERS, TITLES, Origin, modality_of
from engine.errors import UserError
from export.manifest import Manifest

if TYPE_CHECKING:
    from export.runtime import BundleSession

CODE = "image.foreign"
SPACING_FACTOR = 3.0
"""Pixels this much finer or coarser than all of training's are another kind of image (ours)."""
GREY_SHARE = COLOUR_SHARE = 0.02
"""Up to this share of grey, or of coloured, images in training counts as none (ours): some have a logo in colour."""
MARK = "unlike_training"
"""In the names of files with an answer that was asked for all the same."""


def reasons(session: BundleSession, image_HW3: np.ndarray, origin: Origin) -> tuple[str, ...]:
    """Return a sentence for each way in which an image is unlike those of training; none where nothing is.

    ``image_HW3`` is what ``read_image`` gives, ``origin`` what the file says. A bundle that does not say what its
    training images look like is held to its modality alone.
    """
    manifest = session.manifest
    found = [_other_modality(manifest, origin), *_other_pixels(manifest, image_HW3, origin)]
    return tuple(reason for reason in [*found, _other_look(session, image_HW3)] if reason)


def refuse(session: BundleSession, why: tuple[str, ...], *, fix: str) -> UserError:
    """Return the refusal of an image for these reasons; ``fix`` says how an answer is had all the same."""
    return UserError(
        CODE,
        what=" ".join(why),
        why=f"{session.manifest.name} was made for {made_for(session.manifest)}: of other images its answer is a "
        "guess that nobody has measured.",
        fix=fix,
    )


def made_for(manifest: Manifest) -> str:
    """Return what a model segments, for a sentence."""
    return f"{', '.join(manifest.classes)} in {manifest.modality}"


def marked(stem: str) -> str:
    """Return the stem of the names of files with an answer to an image that is unlike training's."""
    return f"{stem}_{MARK}"


def _other_modality(manifest: Manifest, origin: Origin) -> str:
    trained = modality_of(manifest.modality)
    if trained is None:
        return ""
    if origin.modality is not None and origin.modality != trained:
        code = f" (DICOM Modality {origin.code})" if origin.code else ""
        return f"The file says that it is {TITLES[origin.modality]}{code}; the model was trained on {TITLES[trained]}."
    if origin.file == "nifti" and trained not in SCANNERS:
        return f"A NIfTI file holds a scanner's images; the model was trained on {TITLES[trained]}."
    return ""


def _other_pixels(manifest: Manifest, image_HW3: np.ndarray, origin: Origin) -> list[str]:
    about = manifest.appearance
    if about is None:
        return []
    found = []
    red, green, blue = (image_HW3[..., channel] for channel in range(3))
    if np.array_equal(red, green) and np.array_equal(red, blue):
        if about.colour_share >= 1 - GREY_SHARE:
            found.append("The image is grey; the model was trained on images in colour.")
    elif about.colour_share <= COLOUR_SHARE:
        found.append("The image is in colour; the model was trained on grey images.")
    if about.spacing_mm is not None and origin.spacing_mm is not None:
        low, high = about.spacing_mm
        finest, coarsest = min(origin.spacing_mm), max(origin.spacing_mm)
        if finest < low / SPACING_FACTOR or coarsest > high * SPACING_FACTOR:
            found.append(
                f"Its pixels are {finest:.3g} to {coarsest:.3g} mm apart; those of training were "
                f"{low:.3g} to {high:.3g} mm apart."
            )
    return found


def _other_look(session: BundleSession, image_HW3: np.ndarray) -> str:
    about = session.manifest.appearance
    if about is None or about.threshold is None:
        return ""
    distance = about.distance(session.preprocess(image_HW3)[0])
    if distance <= about.threshold:
        return ""
    return (
        f"Its brightness, colour and texture are unlike those of the training images: {distance:.1f} away from the "
        f"nearest, where {about.threshold:.1f} is the limit."
    )
