"""Readers speak to whoever keeps a dataset; who sends one file to the page has none. Pure."""

from __future__ import annotations

import re

from engine.errors import UserError

OTHER_FILE = ", or choose another file."
_REWRITTEN = (
    (re.compile(r",? or take it(?: \(and its mask\))? out of the (?:dataset|folder)\."), OTHER_FILE),
    (re.compile(r" before it enters the dataset"), ""),
    (re.compile(r"\bthe dataset is read by its windows"), "this model reads images by their windows"),
    (re.compile(r"Copy the file itself into the dataset, or take the link away\."), "Choose the file itself."),
)
"""What a reader says, and what that is where a single file was sent."""


def for_visitor(error: UserError, *, names: dict[str, str]) -> UserError:
    """Return a refusal of a file that was sent: without a dataset, and with ``names`` (path to name) as they came."""
    what, fix = error.what, error.fix
    for path, name in names.items():
        what = what.replace(path, name)
    for pattern, words in _REWRITTEN:
        what, fix = pattern.sub(words, what), pattern.sub(words, fix)
    return UserError(error.code, what=what, why=error.why, fix=fix)
