"""What the form of a new run says of sizes that follow from the images."""

from __future__ import annotations

FIT = "Fit the sizes to these images"
NOTE = (
    "Side, rounds, shared masks and prompt follow from training images then, for a run of 20 minutes on two cores; "
    "what you have changed yourself stays until you press."
)
FITTING = "Reading training images …"
HEADING = "Fitted to {name}"
NONE = "Nothing to fit: these images lie at hospitals, and no site is asked for its own."
