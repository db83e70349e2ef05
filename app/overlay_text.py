"""What the page says of one answered picture: its probabilities, threshold and corrections."""

from __future__ import annotations

VIEW, VIEWS = "Show", (("Mask", "mask"), ("Probability", "probability"))
CLASS = "Class"
THRESHOLD = "Threshold"
THRESHOLD_INFO = "Probability above which a pixel belongs to the mask; 0.5 is the model's own"
SCALE = "Probability of {name}"
TOOL, TOOLS = "A click on the picture", (("only looks", "look"), ("adds", "add"), ("removes", "remove"))
REACH = "Reach of a click (% of the longer side)"
REACH_INFO = "Changes the connected region at that place, by the model's probabilities, and nothing further away"
UNDO, RESET = "Undo the last click", "Back to the model's mask"
CSV = "Save the figures (CSV)"
HELP = (
    "Point at the picture for the probability there. On the keyboard: choose the picture, then arrow keys move the "
    "cross (Shift: further), + adds, - removes, Enter does what a click does, Backspace undoes the last click."
)
PICTURE = "Picture with the outlined structures"
OTHER_THRESHOLD = "Threshold {threshold:.2f}, not the model's own {own:.2f}."
BY_HAND_ONE = "Corrected by hand: 1 click."
BY_HAND = "Corrected by hand: {count} clicks."
NOTHING_TO_REMOVE = "Nothing was removed: there is no {name} in the mask at that place."
NOTHING_TO_ADD = "Nothing was added: that place is {name} already."
TOO_MANY = "One picture takes {most} corrections. Undo one, or go back to the model's mask."
COLUMNS = ("Class", "Share of the image", "Pieces", "Area")
