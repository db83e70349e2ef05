"""What the page says of masks that visitors have, to compare an answer with."""

from __future__ import annotations

HEADING = "Compare with a mask that you have"
LABEL = "Reference mask: PNG, TIFF, NIfTI, DICOM Segmentation or npy (up to {megabytes} MB)"
FIX = (
    "In the field for the reference mask, choose the mask of this very image, on the image's own grid: 0 is the "
    "background, and with several classes each number is a class in the model's order."
)
MEASURES = (
    "Surface Dice is the share of both outlines that lies within two pixels of the other (our tolerance); HD95 is the "
    "distance that 95 % stay within."
)
COMPARED = "Compared with {name}. The figures follow the threshold and corrections. " + MEASURES
COMPARED_VOLUME = "Compared with {name}. " + MEASURES
DICE, IOU, HD95, SURFACE = "Dice", "IoU", "HD95", "Surface Dice"
MEASURED = (DICE, IOU, HD95, SURFACE)
SURFACE_TOLD = "{share} (within {tolerance})"
SEVERAL_WHAT = "A reference mask was given, and '{name}' holds {count} images and volumes."
SEVERAL_WHY = "A mask is of one image: compared with all, its figures would be wrong for the others."
SEVERAL_FIX = "Give one image or volume, or take the reference mask out of its field."
