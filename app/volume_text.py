"""What the page says of whole volumes, series and zips of images; all else is in ``app.text``."""

from __future__ import annotations

HEADING = "Volumes, series and many images"
LEAD = (
    "A DICOM series (zipped), a multi-frame DICOM file, a NIfTI volume or a TIFF stack as a whole; or a zip of images. "
    "The model is the one that is chosen above."
)
UPLOAD_LABEL = "DICOM, NIfTI, TIFF stack, or a zip (up to {megabytes} MB)"
SECOND, SECOND_NONE = "Compare with", "No second model"
SECOND_INFO = (
    "A second model that finds the same classes, such as the foundation model of the same run: both segment, and are "
    "shown against each other. Both look at slices in the way that is chosen above."
)
SECOND_MISSING = "No other model here finds the same classes as the chosen one, so there is none to compare it with."
SAME_WHAT, SAME_WHY, SAME_FIX = (
    "The second model is the first one.",
    "A model agrees with itself everywhere.",
    "Choose another second model, or none.",
)
START, STOP = "Segment all of it", "Stop"
EMPTY_TITLE, EMPTY = "No volume yet", "Choose a file, then press the button. Planes, masks and figures appear here."
NO_FILE_WHAT, NO_FILE_WHY, NO_FILE_FIX = (
    "No file is chosen.",
    "A volume or a zip of images is segmented as a whole.",
    "Choose one in the field above the button.",
)
HANDED_OVER = f"A zip is segmented as a whole. It stands under '{HEADING}' below: press '{START}' there."
STOPPED = "Stopped. Nothing of it is kept; press the button to begin again."
READING = "Reading the file"
PROGRESS = "{name}: slice {done} of {total}"
PROGRESS_MANY = "Image {at} of {of}, {name}: slice {done} of {total}"
PROGRESS_BY = "{told}, by model {model} of 2"
DONE = "{slices} slices of {width} x {height} pixels in {seconds:.1f} s"
DONE_MANY = "{count} of {of} images and volumes segmented in {seconds:.1f} s"
DOWNLOAD = {
    ".dcm": "Save the masks (DICOM Segmentation)",
    ".nii.gz": "Save the masks (NIfTI)",
    ".tif": "Save the masks (TIFF stack)",
    ".png": "Save the mask (PNG)",
    ".zip": "Save all masks and figures (zip)",
}
DOWNLOAD_NIFTI, DOWNLOAD_CSV = "Save as NIfTI", "Save the figures (CSV)"
DOWNLOAD_BY = "{label}, by {name}"
COMPARED_TITLE = "Two models side by side"
COMPARED_COLUMNS = ("Image", "Class", "A", "B", "Dice of A and B", "Only A", "Only B", "Disagreement")
COMPARED_NOTE = (
    "A: {first}. B: {second}. Volumes of masks at threshold {threshold:.2f}, pixels where there is no volume. "
    "The disagreement is what is in one mask and not in the other; Dice is 1 where masks are the same. "
    "That two models agree does not mean that they are right."
)
EACH_TITLE, MODEL_COLUMN = "Each mask by itself", "Model"
COLUMNS = (
    "Image", "Class", "Pixels", "Area in the fullest slice", "Volume", "Pieces", "Largest piece",
    "Median length", "Mean value",
)  # fmt: skip
ROWS_SHOWN = "The first {shown} of {total} rows; the CSV has all."
IDENTIFIERS = (
    "This file tells who the patient is: {tags}. None of it is shown or logged here. A DICOM Segmentation "
    "carries the patient's name and number on, as every object of a study does; NIfTI, PNG and CSV do not."
)
FAULTS = "{count} could not be segmented:"
REDUCED = (
    "Shown at a smaller size (every {columns}. column, {rows}. row and {slices}. slice); masks and figures are of all."
)
NO_PLACE = "Nothing says how it lies in the patient: planes have no letters."

VIEWER = "Slices of the volume"
PLANES = {"axial": "Axial", "coronal": "Coronal", "sagittal": "Sagittal"}
PLANES_UNPLACED = {"axial": "Slices", "coronal": "Across rows", "sagittal": "Across columns"}
SLICE, OPACITY, PRESET, CENTRE, WIDTH = "slice", "Opacity", "Window", "Centre", "Width"
SHOW, SHOW_MASK, PROBABILITY, SHOW_NOTHING = "Show", "Mask", "Probability of {name}", "Nothing"
LETTERS = ("A", "B")
"""What the two models are called where their names are too long."""
OUTLINES, DIFFER, MASK_OF = "Both outlines", "Where the masks differ", "Mask of {letter}"
APART = "Disagreement |p(A) - p(B)| of {name}"
MOST_APART = "Largest difference"
NO_DIFFERENCE = "At this threshold no voxel is in one mask only."
PROBABILITY_BY = "Probability of {name} by {letter}"
MODEL_KEY, ALONE_KEY, BOTH_KEY = "{letter}: {name}", "Only {name}", "Both outlines in one place"
CROSSED_KEY = "Each has a class there that the other has not"
THRESHOLD = "Threshold"
THRESHOLD_INFO = "Probability above which a voxel belongs to the mask; 0.5 is the model's own"
OTHER_THRESHOLD = (
    "Drawn at threshold {drawn}. Files and figures are of {saved}: press the button again for those of {drawn}."
)
SAVED_AT = "Threshold {threshold:.2f}, not the model's own {own:.2f}."
VALUE_EMPTY = (
    "Point at a picture for its value. Wheel or arrow keys change the slice, a click moves all three. Ctrl and wheel, "
    "two fingers, or + and - zoom (0: the whole picture); a zoomed picture can be dragged."
)
ZOOMS = (("+", "Zoom in", 1.5), ("−", "Zoom out", 1 / 1.5), ("1:1", "Whole pictures", 0.0))
"""Letters, name and factor of the buttons for all three planes."""
PRESETS = (("Soft tissue", 40.0, 400.0), ("Lung", -600.0, 1500.0), ("Bone", 400.0, 1800.0))
"""Windows of Hounsfield units (centre, width) as radiologists use them."""
PRESET_FILE, PRESET_PERCENTILES, PRESET_OWN = "As the file says", "0.5-99.5 %", "Own"

SHOW_EDGE = "Mask as outline"
CROSS_LINES = "Cross lines"
TOOL, TOOLS_NAME = "Tool", "Correct the mask by hand"
TOOLS = (("Look", "look"), ("Brush", "brush"), ("Eraser", "erase"))
PAINTED, BRUSH_SIZE, UNDO, REDO = "Class", "Width (voxels)", "Undo", "Redo"
BRUSH_KEYS = (
    "Draw on a plane, slice by slice. On the keyboard: arrow keys move the cross lines in the plane (Shift: further), "
    "Space or Enter uses the tool there, [ and ] change its width, Ctrl+Z undoes, Ctrl+Shift+Z does it again, Page Up "
    "and Page Down change the slice."
)
CORRECTED = ("1 stroke by hand.", "{count} strokes by hand.")
NOT_YET = "Figures and files are still those of before: press the button below for those of the corrected mask."
SETTLE = "Figures and files of the corrected mask"
BY_HAND = "Corrected by hand: {counts}. Figures and files are of the corrected mask."
CHANGED_VOXELS = "{count:,} voxels of {name} changed"
TOO_MANY = "One volume takes {most} strokes. Undo one, or save the mask and go on in another program."
TOO_MUCH = "This volume takes no further stroke of that size. Undo some, or use a narrower brush."
GONE_WHAT = "The volume is not kept any more."
GONE_WHY = "Figures and files of a corrected mask are worked out from the file that was sent, which goes after a while."
GONE_FIX = "Send it again, and press the button for all of it."
NOTE_BY_HAND = "corrected by hand, {count} voxels"
DOWNLOAD_INSTANCES = "Save what was counted, numbered (16 bits)"
