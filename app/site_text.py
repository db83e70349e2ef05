"""What the page says of a run's sites."""

from __future__ import annotations

SITES_HEADING = "Sites"
SITES_ALL = "Those in need come first, then those with the lowest score."
SITES_SHOWN = "{shown} of {total} sites: those in need, then those with the lowest score."
SITE_COLUMNS = ("Site", "Does", "Failures", "Validation Dice", "Images", "Sent", "Received", "Last heard")
SITE_STATE = {
    "idle": "not asked yet",
    "asked": "asked",
    "working": "working",
    "answered": "answered",
    "failed": "no answer",
    "undecided": "waits for approval",
    "refused": "refused",
    "stopped": "stopped",
}
SITE_ROUND, SITE_STEP = "round {round}", "step {step} of {total}"
SITE_IMAGES = ("{count} training", "{count} validation", "{count} test")
SITE_OUTCOME = {"asked_again": "asked again", "left_out": "left out", "stopped": "the run stopped"}
SITE_FAILURE = "Round {round}: {what} ({outcome})"
SITE_FAILURES = "{count}, last: {last}"
SITE_FAILURES_OLDER = "The latest {count} of {total}."
