"""What the page says of what can be taken away from a run."""

from __future__ import annotations

HEADING, BUTTON, DOWNLOAD = "Take away", "Make the file", "Download"
NOTE = "What is on the disk of this run, but for what sites keep for themselves."
WHAT_LABEL = "What to take away"
WHAT_INFO = "The file is made when you ask for it"
KINDS = {
    "html": "Report to read (HTML)",
    "json": "Report as JSON",
    "images": "Figures of images (CSV)",
    "ledger": "Privacy ledger (CSV)",
    "egress": "What left each site, for a release (HTML)",
    "settings": "Settings (TOML)",
    "bundle": "Exported model (zip)",
    "log": "Log (text)",
    "zip": "The whole run (zip)",
}
READ = ("html", "json", "images", "settings")
"""What everybody may take away who may look at the run: the page shows all of it."""
HOW = {
    "html": "One file without scripts. For a PDF, open it and print it to a file.",
    "zip": "Records, results, models and synthetic samples, which import-run takes in at another home.",
    "egress": "Digests and approvals are open there until a site hands over its own record (report --egress).",
    "ledger": "What the server knows of each message. Digests and approvals are in the sites' own records.",
}
READY = "{name}, {size}. {how}"
NO_SUCH_WHAT = "There is no such file to take away."
NO_SUCH_WHY = "The page makes those that it lists."
NO_SUCH_FIX = "Choose one from the list."
NOT_THERE_WHAT = "The run '{run_id}' has no {what} on the disk."
NOT_THERE_WHY = "It is written when the run comes so far."
NOT_THERE_FIX = "Let the run finish, or choose another file."
REPORT_FILE, BUNDLE_FILE = "report of its own", "exported model"
TOO_LARGE_WHAT = "The exported model has {size}."
TOO_LARGE_WHY = "It would fill what this page keeps for downloads."
TOO_LARGE_FIX = "In a terminal: python -m engine export {run_id} --out FOLDER"
