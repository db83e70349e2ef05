"""What the server hears of a fault at a site: all of what names no image, file or patient; of others their kind."""

from __future__ import annotations

import errno

from engine.errors import UserError
from engine.site.own_folder import CHECK

TOLD = (
    "config", "deployment", "device", "distillation", "evaluation", "federation", "generator", "join", "lora", "method",
    "model", "plan", "prompt", "release", "run", "sharing", "site", "stage", "training", "weights",
)  # fmt: skip
"""Kinds of faults whose words are ours and of the run. Those of images name files and patients; what the system or a
library says may name anything."""


def for_server(error: Exception, *, site: str, task: str) -> UserError:
    """Return what is told to the server of ``error``; its code stays, so that the kind of fault is known there."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return UserError(
            "federation.site_disk_full",
            what=f"The disk of site {site} is full: it cannot go on with {task}.",
            why="A site writes down what it does and keeps its own state, and answers nothing else.",
            fix=f"Ask {site} to free some space, then resume the run.",
        )
    if not isinstance(error, UserError):
        return UserError(
            "federation.site_failed",
            what=f"Site {site} failed at {task} with a {type(error).__name__}.",
            why="What it said may name files of the site, and stays there.",
            fix=f"Ask {site} for the end of its logs/site.log.",
        )
    if error.code.partition(".")[0] in TOLD:
        return error
    return UserError(
        error.code,
        what=f"Site {site} cannot answer {task}: something is wrong with its images or files ({error.code}).",
        why="The fault's own words name files or patients, and stay at the site.",
        fix=f"Ask {site} to read the end of its logs/site.log, or to run: {CHECK.format(folder='FOLDER', site=site)}",
    )
