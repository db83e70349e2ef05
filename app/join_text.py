"""What the page says of sites that join a finished run."""

from __future__ import annotations

HEADING, BUTTON, PLAN_BUTTON = "Add a site", "Add a site", "What would it take?"
NOTE = (
    "A new run in which the site trains a generator of its own, its samples are added and distillation goes on. No "
    "federated round is run again. This run stays as it is."
)
LABEL, INFO = "Name of the site", "A folder beside those of the run's sites, or a further site of the federation"
LAUNCHED = "{sites} joins in a run of its own."
JOINED = "a site joins {run_id}"
RESULTS_HEADING = "What the site brought and took"
DICE_NOTE = "The student's Dice on images that trained nothing, before and after {sites} joined {run_id}."
DICE_COLUMNS = ("Site", "Images of", "Images", "Before", "After", "Change")
SITE_JOINED = "{site} (joined)"
SPLITS = {"validation": "validation", "test": "test"}
TOOK = "The join took {time} and {size} over the sites' borders. Training all sites anew:"
RETRAINING_COLUMNS = ("Method", "Time", "Bytes", "")
MEASURED, PLANNED, UNKNOWN = "measured in {run_id}", "planned", "not known: {why}"
RETRAINING_HEADING = "Training all sites anew instead"
