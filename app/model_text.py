"""What the page says of models, and of images that a model was not made for."""

from __future__ import annotations

ANYWAY_BUTTON = "Segment anyway"
FOREIGN_TITLE = "This model was not made for this image"
FOREIGN_FIX = "Choose another model or image. Where you know better, press 'Segment anyway': the answer is marked."
FOREIGN_MARK = "Answered although the image is unlike those of training: {why}"
BUSY = "Segmenting with {model} …"
ANSWERED_BY = "by {model}"

GONE = (
    "{model} is not there any more: it has been deleted. No other one has taken its place; what is shown below is "
    "still its answer. Choose a model from the list."
)
NOT_HERE = (
    "The address names {model}, which is not here: it may have been deleted, or be another store's. Choose a "
    "model from the list."
)
OF_RUN, OF_PROGRAM = "The model of run {name}", "The model {name}"

SITES = "{count} sites"
BROKEN = "{name} · cannot be read · {origin}"
TRYOUT = "Try-out: {name}"
DRAWN = " (drawn images, for trying the program out)"
UNSEEN, VALIDATION, NOT_MEASURED = "Dice {dice} unseen", "Dice {dice} at its own sites", "not measured"
WHERE_UNSEEN = "{images} images of {site}, which its training never saw"
WHERE_VALIDATION = "{images} validation images of {site}, where it was trained"
FROM_RUN, SHIPPED = "run {run_id}", "shipped"
FACT_IMAGES, FACT_CLASSES, FACT_DICE, FACT_FROM = "Made for", "Finds", "Dice (95 % interval)", "From"
CARD = "Model card"
NO_CARD = "This model has no card."

WELCOME = "Two ways to begin"
WELCOME_NOTE = (
    "Outline structures in an image of yours with a trained model, or train a model across sites whose images stay "
    "where they are."
)
WELCOME_MODELS = "A model came with the program, and a finished run of its settings, which the tabs below show:"
WAY_SEGMENT, WAY_TRAIN = "Segment an image", "Train across sites"
