"""What the Samples tab says of samples that are chosen in its plot, by a lasso, a box or in numbers."""

from __future__ import annotations

HEADING = "Choose samples in the plot"
MODE_LABEL = "Dragging over the plot"
MODES = (("zooms", "zoom"), ("draws a box", "select"), ("draws a lasso", "lasso"))
NOTE = (
    "The gallery and the list (CSV) then have these samples alone. Hold Shift to add another area, Alt to take one "
    "away; a double click ends it."
)
PLACES = {
    "lasso": "within the lasso",
    "box": "within the box",
    "areas": "within the drawn areas",
    "ranges": "within the ranges",
}
SAID = "{count:,} of {total:,} samples are {place}."
SAID_ONE = "1 of {total:,} samples is {place}."
OF_SITE = "Counted are the samples of {site}, which the plot shows."
UNDRAWN = "The plot draws {shown:,} of {total:,}; those that it does not draw are counted, too."
CLEAR = "Clear the choice"

RANGES, RANGES_BUTTON = "Choose by numbers", "Choose these"
RANGES_NOTE = "The ends belong to it; an empty field leaves that side open."
X_NAME, Y_NAME = "L_GT", "L_KL"
FROM, TO = "{name} from", "{name} to"

LEAVE = "Leave these {count:,} out of a fork"
KEEP = "Keep only these {count:,} in a fork"
BACK = "Take these {count:,} back in"
DONE = "The fork leaves out {count:,} of {total:,} images now. Press its button when they are all chosen."
LISTED = "{name}, {rows:,} of {total:,} samples: those {place}."

BAD_WHAT = "These samples cannot be chosen."
BAD_WHY, BAD_FIX = "What the browser sent is no area of the plot.", "Clear the choice and draw it again."
NUMBER_WHY = "A corner or an end of it is no number that the plot can have."
MANY_WHY, MANY_FIX = "More than {most} areas are drawn.", "Clear the choice and draw fewer or simpler areas."
LONG_WHY = "The drawn areas have more than {most} corners."
NO_RANGE_WHY, NO_RANGE_FIX = "All four fields are empty.", "Give at least one end of a range."
ORDER_WHY = "{name} from {low:g} to {high:g} holds nothing: the first is the greater."
ORDER_FIX = "Give the lower number first."
NOTHING_WHY = "None of this run's samples lies there, or nothing is chosen any more."
NOTHING_FIX = "Draw round some points, or give wider ranges."
TOO_MANY_WHAT = "A fork cannot leave out {count:,} samples."
TOO_MANY_WHY, TOO_MANY_FIX = "Its configuration names {most:,} at most.", "Choose fewer of them, or keep more."
