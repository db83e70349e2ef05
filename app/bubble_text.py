"""What the page says of the figure of traffic, Dice and inference time."""

from __future__ import annotations

HEADING = "Traffic, Dice and inference time"
NOTE = (
    "The paper's figure with these runs beside the published points. The exported models are timed when you ask for it."
)
BUTTON = "Draw the figure"
PLOT = "Dice, traffic and inference time"
X_AXIS = "MiB over a site's border (log scale)"
Y_AXIS = "Dice on unseen images"
PUBLISHED, UNTIMED = "published", "without a time"
SCALES = (
    "The larger a point, the longer its model takes for one image. Two scales stand in one figure. Published points "
    "are of the paper: SAM ViT-B and TinySAM at 1024 px, 100 rounds, prostate, its own hardware. Runs have the images, "
    "models and rounds that the table says. Compare runs with runs, and published points with each other: a mini run "
    "far to the left says nothing against the paper."
)
TIMES = (
    "Times of runs are of the exported model: ONNX Runtime on the CPU of this server, one image, median of 30 after a "
    "warm-up, measured once while the page is served. Whatever else runs here makes them longer."
)
NOT_TIMED = "Timing a model is work for this server, which viewers cannot ask for: runs are drawn without their times."
COLUMNS = ("Point", "Traffic of a site, MiB", "Dice", "Inference, ms", "Details")
LEFT_OUT_HEADING = "Not drawn"
PNG = "The camera above the figure saves it as PNG."
