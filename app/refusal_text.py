"""What a form says where it refuses a setting, in its own words."""

from __future__ import annotations

PLACE = "'{label}' under '{section}'"
FRONT = "Choose the images"
"""Where the fields stand that are above the folded sections."""
ONE, SEVERAL = "One setting is not possible.", "{count} settings are not possible."
FIX = "Change what is named; each message stands at its field, too."
CHANGED = "You have changed what was named. Press Plan or Launch again."
CUT = "and {count} more"

BOUNDS = "must be {bounds}; it is {value}"
WHOLE, NUMBER = "must be a whole number; it is {value}", "must be a number; it is {value}"
SWITCH = "must be on or off; it is {value}"
CHOICE = "must be one of {choices}; it is {value}"
TOO_MANY = "has more than {most} names"
LETTERS = "has more letters than the {most} that are possible"
TOO_FEW, TOO_SHORT = "needs at least {least} name(s)", "needs at least {least} letter(s)"
EMPTY = "is empty, and a run needs a number there: the program's own is {default}"
LIST_CUT = (
    "shows a part of its list only, which cannot be changed here: choose the samples on the Samples tab, or empty it"
)
UNKNOWN = "is no setting of this program"
NOTHING = "empty"

AT_LEAST, ABOVE, AT_MOST, BELOW = "at least {0}", "above {0}", "at most {0}", "below {0}"
BOTH, ABOVE_BOTH = "{0} to {1}", "above {0}, at most {1}"
SET_TO = " set to "
SWITCHED = {"true": "on", "false": "off"}

OTHER_WEIGHTS = (
    "Choose others{empty}, or ask whoever runs this server to put them there: README says how they are made or fetched."
)
OR_EMPTY = ", leave the field empty to start from random weights"
VOUCHED = (
    "Compare the file's SHA-256 with a source that you trust, and write it behind the name: NAME@sha256:HEX. Or choose "
    "other weights."
)
MORE_SPACE = "Free some space, or have the page started with another home folder."
CONVERT = "Press 'Look at the data': it offers to make a dataset of it. Choose a folder that holds those of all sites."
