"""What the page says of deleting runs, and of what a list or a plot leaves out."""

from __future__ import annotations

DELETE_HEADING, DELETE_BUTTON = "Delete", "Delete this run"
DELETE_NOTE = "Its models, images, results and log go for good. Runs that were forked from it stay."
ASK_DELETE = "Delete this run with all its files? This cannot be undone."
ASK_DELETE_YES, ASK_DELETE_NO = "Delete it", "Keep it"
DELETED = "The run {run_id} has been deleted."

RUNS_CUT = "The newest {shown} runs are listed. An older one is shown by its address (/?run=ID)."
LOG_CUT = "The latest {shown} lines; earlier ones are not shown."
MANY_CURVES = "{count} curves"
