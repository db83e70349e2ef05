"""What the page says of a run's name, tags and notes."""

from __future__ import annotations

HEADING = "Name, tags and notes"
NAME_LABEL, NAME_INFO = (
    "Name",
    "Shown in place of the configuration's, {name}, wherever runs are listed; empty: that one",
)
TAGS_LABEL = "Tags"
TAGS_INFO = "Up to {most} words with commas between; type one into the list of runs to find it"
NOTES_LABEL, NOTES_INFO = "Notes", "Plain text, shown to everybody who can see the run"
SAVE, SAVED = "Save", "Saved."
TAGS, NOTES = "Tags", "Notes"
LOG = "Name, tags or notes changed"
