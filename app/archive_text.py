"""What the page says of taking a run away as one zip."""

from __future__ import annotations

HEADING, BUTTON, DOWNLOAD = "Take away", "Make a zip of this run", "Download the zip"
NOTE = (
    "One file with its records, results, models and synthetic samples, which import-run takes in at another home. "
    "What sites keep for themselves stays here."
)
READY = "{name}, {size}"
