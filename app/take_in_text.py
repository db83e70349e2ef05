"""What the page says of taking in a run from a zip."""

from __future__ import annotations

HEADING = "Take in a run (zip)"
NOTE = (
    "A zip that 'The whole run' below another run, or export-run in a terminal, has written. Every file and record in "
    "it is checked before anything is kept. It may hold a model, which this server then runs: take in only runs of "
    "people you trust."
)
UPLOAD_LABEL = "Run as a zip (up to {megabytes} MB)"
WAITING = "Waiting for its turn …"
STEP = "Checked and unpacked: {done} of {all} …"
DONE = "The run {run_id} is there, and shown below."
LARGER = "A larger one is taken in with a command: python -m engine import-run FILE.zip"
WHO_WHAT = "Runs are taken in by operators of this page."
WHO_WHY = "A run can bring a model with it, which the server then runs."
WHO_FIX = "Look at the runs that are here, or start the program on a machine of your own and take it in there."
SAID = "Taken in from a zip on the page"
TOO_LARGE_FIX = "In a terminal on the server: python -m engine import-run FILE.zip"
