"""What the page says of runs side by side."""

from __future__ import annotations

TAB_COMPARE = "Compare"
COMPARE_LEAD = (
    "Two to six runs side by side: which settings differ, how good the models are at each site, and what they took in "
    "time and traffic. The page's address names the runs: send it, and others see the same."
)
RUNS_LABEL = "Runs to compare"
RUNS_INFO = "Two to six; the others are compared with the first"
READ_AGAIN = "Read the runs again"
DOWNLOADS = {"csv": "CSV", "tex": "LaTeX"}
"""By the end of the file's name."""
EMPTY_TITLE = "Nothing is compared yet"
EMPTY_STEP = "Choose two to six runs above."
NO_RUNS_STEP = "This home has fewer than two runs. Start them in the Train tab."
UNKNOWN_WHAT = "The address names runs that are not here: {names}."
UNKNOWN_WHY = "Only runs of this home can be compared."
UNKNOWN_FIX = "Choose others from the list, or open the link on the page that it is from."

LETTERS = "ABCDEF"
RUNS_HEADING = "The runs"
RUN_COLUMNS = ("Letter", "Run", "Id", "State", "Method", "Final model", "Time", "Worst site (its Dice)")
WORST = "{site} ({dice}, {split})"
ONE_SITE = "one site"
SPLITS = {"test": "unseen", "validation": "validation"}

SETTINGS_HEADING = "Settings that differ"
SETTINGS_NOTE = "Only settings that the runs read. A dash: this run does not read it."
SETTINGS_SAME = "No setting that two of these runs read differs."
SETTINGS_UNREADABLE = "The settings of {names} cannot be read by this version."
SETTING_COLUMNS = ("Setting", "Section")
EMPTY_VALUE, YES, NO = "empty", "on", "off"

MEASURE_LABEL = "Measure"
MEASURE_INFO = "What the tables of the sites show"
MEASURE_HEADING = "{measure} of the final models"
_OF_IMAGES = (
    "Unseen images trained nothing; validation images are kept from training, but rounds may be chosen by them."
)
MEASURE_NOTES = {
    "dice": "Mean over images and classes, with the 95 % interval over patients that the run has stored. " + _OF_IMAGES,
    "iou": "Mean over images and classes, with the 95 % interval over patients, from the figures of images. "
    + _OF_IMAGES,
    "hd95_px": "95 % Hausdorff distance in pixels of the scored grid; lower is better. Mean over the images in which "
    "both masks have foreground: their number, and how many masks were missed or false, belong to it, for a model that "
    "finds nothing in hard images has a smaller one. " + _OF_IMAGES,
}
MEASURE_COLUMNS = ("Site", "Images of", "Images")
NO_INTERVAL = "no figures of images: no interval"
COUNTS = "of {images} images; {missed} missed, {spurious} false"
NOT_COUNTED = "images and misses not on record"
BOTH = "{images} images of both"
NOT_MEASURED_YET = "None of these runs has measured its models yet."

DIFFERENCES_HEADING = "Differences on the same images"
DIFFERENCES_NOTE = (
    "{measure} minus that of {name} (A), image by image; 95 % interval over patients and p of Wilcoxon's signed-rank "
    "test, not corrected for the number of comparisons. Better or worse is said where the interval leaves out 0."
)
DIFFERENCE_COLUMN = "{letter} minus A"
MINUS_HEADING = "{measure}: differences to A on the same images"
LATEX_TITLE, LATEX_DASH = "Runs side by side", "-"
WHY_NOT_HEADING = "Why some have no difference"

EXTREMES_HEADING = "{letter}: best and worst images of {name}"
EXTREMES_NOTE = (
    "By Dice of the final model. Images have the numbers that their sites give them: only a site knows which it is."
)
BEST, WORST_IMAGES = "The {count} best of {images} images of {site}", "The {count} worst of {images} images of {site}"
IMAGE_COLUMNS = ("Image", "Site", "Patient", "Dice", "IoU", "HD95 (px)")

TRAFFIC_HEADING = "Bytes over each site's border"
TRAFFIC_NOTE = "To the server / from the server, with what was sent only to measure models."
TRAFFIC_COLUMN = "Site"
ALL_SITES = "all sites"

CURVES_PLOT = "Validation Dice over rounds, mean of the sites"
CURVES_EMPTY = "None of these runs has a curve of validation Dice."
