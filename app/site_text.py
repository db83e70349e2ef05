"""What the page says of a run's sites."""

from __future__ import annotations

SITES_HEADING = "Sites"
SITES_ALL = "Sites that need attention come first, then those with the lowest Dice."
SITES_SHOWN = "{shown} of {total} sites: those that need attention, then those with the lowest Dice."
SITE_COLUMNS = ("Site", "Now", "Failures", "Validation Dice", "Images", "Sent", "Received", "Last heard from")
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
SITE_DONE = "done"
SITE_ROUND, SITE_STEP = "round {round}", "step {step} of {total}"
SITE_BESIDE = "Beside it:"
SITE_IMAGES = ("{count} training", "{count} validation", "{count} test")
SITE_OUTCOME = {"asked_again": "asked again", "left_out": "left out", "stopped": "the run stopped"}
SITE_FAILURE, SITE_FAILURE_IN_ROUND = "{what} ({outcome})", "Round {round}: {what} ({outcome})"
SITE_FAILURES = "{count}, last: {last}"
SITE_FAILURES_OLDER = "The latest {count} of {total}."
FEDERATION_HEADING = "Sites of the federation"
FEDERATION_COLUMNS = ("Site", "Key", "Connection", "Last seen")
FEDERATION_AGAIN = "Look again"
FEDERATION_ALL = "All sites are connected."
FEDERATION_NONE = "This federation has no sites yet: add them with `federation add-site`."
FEDERATION_AWAY = (
    "Not connected: {sites}. A plan waits a minute for them, a run ten minutes; ask them to start their program "
    "(site up), or name the others in data.sites."
)
FEDERATION_DOWN = "The federation's server is not up, so nobody can be asked: start it with `server up`."
ACCEPTANCE = {"invited": "signing request awaited", "accepted": "accepted", "revoked": "revoked"}
CONNECTION = {"online": "online", "offline": "offline", "never seen": "never seen"}
CONNECTION_UNKNOWN = "unknown"
SECONDS_AGO = "{seconds:.0f} s ago"
