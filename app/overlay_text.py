"""What the page says of one answered picture: its probabilities, threshold and corrections."""

from __future__ import annotations

VIEW, VIEWS = "Show", (("Mask", "mask"), ("Probability", "probability"))
CLASS = "Class"
THRESHOLD = "Threshold"
THRESHOLD_INFO = "Probability above which a pixel belongs to the mask; 0.5 is the model's own"
SCALE = "Probability of {name}"
TOOL = "Tool on the picture"
TOOLS = (
    ("Look", "look"),
    ("Add region", "add"),
    ("Remove region", "remove"),
    ("Box", "box"),
    ("Brush", "brush"),
    ("Eraser", "erase"),
)
REACH = "Reach of a click (% of the longer side)"
REACH_INFO = "A click changes the connected region at that place, and nothing further away than this"
BY_DECODER = (
    "A click that adds asks this model again: a decoder of it was taught to answer clicks, on synthetic images. A "
    "click that removes, a box, and a click that the decoder does not follow go by the probabilities that are there."
)
BY_PROBABILITIES = (
    "This model was not taught what clicks and boxes mean. A click changes the connected region at its place, a box "
    "adds what stands out in it, both by the probabilities that are there; the model is not asked again."
)
BOX_BEGUN = "First corner set. Move to the opposite corner and choose again; Escape gives the box up."
BOX_GIVEN_UP = "The box is given up."
SIZE = "Width of brush and eraser (pixels of the image)"
SIZE_INFO = "Paints what is drawn into the shown class, or clears it; keys [ and ] on the picture change the width"
SIZE_TOLD = "Brush and eraser are {size} pixels wide."
UNDO, REDO, RESET = "Undo the last correction", "Redo it", "Back to the model's mask"
PICTURE_FILE = "Save the picture as it is drawn (PNG)"
CSV = "Save the figures (CSV)"
HELP = (
    "Point at the picture for the probability there. On the keyboard: choose the picture, then arrow keys move the "
    "cross (Shift: further), + adds a region, - removes one, Enter or Space uses the tool (a box takes two corners), "
    "[ and ] change the width of "
    "brush and eraser, Backspace or Ctrl+Z undoes the last correction, Ctrl+Shift+Z does it again."
)
PICTURE = "Picture with the outlined structures"
OTHER_THRESHOLD = "Threshold {threshold:.2f}, not the model's own {own:.2f}."
BY_HAND = "Corrected by hand: {counts}."
CLICKS, BOXES, STROKES = ("click", "clicks"), ("box", "boxes"), ("stroke", "strokes")
NOTHING_DONE = {
    "add": "Nothing was added: that place is {name} already.",
    "remove": "Nothing was removed: there is no {name} in the mask at that place.",
    "box": "Nothing was added: what stands out in the box is {name} already.",
    "brush": "Nothing was painted: all of that is {name} already.",
    "erase": "Nothing was cleared: there is no {name} in the mask there.",
}
TOO_MANY = "One picture takes {most} corrections. Undo one, or go back to the model's mask."
TOO_MUCH = (
    "This picture takes no further correction of that size: all of them are worked out anew each time. Undo some, use "
    "shorter strokes or a smaller reach, or cut the image."
)
COLUMNS = (
    "Class", "Share of the image", "Pieces", "Area", "Largest piece", "Median length",
    "Mean grey (0 to 1)",
)  # fmt: skip
COUNTED = "{instances:,} ({components:,} apart)"
COUNTED_NOTE = "Pieces that touch are counted by watershed; in brackets how many there are without that."
RATIO = "Vertical cup-to-disc ratio"
CUP_TO_DISC = (
    "Vertical cup-to-disc ratio {ratio:.2f}: the cup's largest piece is {cup} high, the disc's {disc}, by the picture "
    "as it stands."
)
NO_DISC = "No vertical cup-to-disc ratio: the mask has no disc."
NO_CUP = "Vertical cup-to-disc ratio 0: the mask has a disc ({disc} high) and no cup."
