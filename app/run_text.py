"""What the page says of deleting runs, of what to look into, and of what a list or a plot leaves out."""

from __future__ import annotations

DELETE_HEADING, DELETE_BUTTON = "Delete", "Delete this run"
DELETE_NOTE = "Its models, images, results and log go for good. Runs that were forked from it stay."
ASK_DELETE = "Delete this run with all its files? This cannot be undone."
ASK_DELETE_YES, ASK_DELETE_NO = "Delete it", "Keep it"
GONE_WHY = "It has been deleted, or belongs to another home folder; what was shown of it is put away."
GONE_FIX = "Choose another run from the list above."
DELETED = "The run {run_id} has been deleted."

RUNS_CUT = "The newest {shown} runs are listed. An older one is shown by its address (/?run=ID)."
LOG_CUT = "The latest {shown} lines; earlier ones are not shown."
LOG_SEARCH, LOG_FOUND = "Search the log", "{found} of {all} lines"
LOG_ONLY = "Only warnings and errors"
MANY_CURVES = "{count} curves"

ALERTS = "To be looked into:"
ALERTS_SHOWN = 5
ALERTS_CUT = "and {count} more"
TELL_END = "Tell me when it ends"
COMMAND = "The same run as a command"
COMMAND_NOTE = "In a terminal, where the program is; a click chooses all of it. Folders are those of this server."
PLACE, START = "Place {position} of {count} in the queue", "starts in about {time}"
START_UNKNOWN = "when it starts is not known yet"
