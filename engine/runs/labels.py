"""What people call a run, beside the name in its configuration: a title, tags and notes, bounded and plain. Torch-free.

They change no number, so they are in no hash; they lie in the run's own row and go along into its archive.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.errors import UserError

MAX_TITLE_LETTERS, MAX_TAG_LETTERS, MAX_TAGS, MAX_NOTES_LETTERS = 80, 24, 8, 4000
"""Ours: a line, a word, a handful of words, two pages."""


@dataclass(frozen=True)
class Labels:
    """A title that is shown in place of the configuration's name, tags to find the run by, and notes.

    Empty ones are none. Raises ``UserError`` ``run.labels`` for what is longer than the limits or no plain text.
    """

    title: str = ""
    tags: tuple[str, ...] = ()
    notes: str = ""

    def __post_init__(self) -> None:
        problem = _problem(self)
        if problem is not None:
            raise UserError(
                "run.labels",
                what=problem,
                why=f"A name has at most {MAX_TITLE_LETTERS} characters in one line, notes {MAX_NOTES_LETTERS}; there "
                f"are at most {MAX_TAGS} tags of {MAX_TAG_LETTERS}.",
                fix="Shorten it, and leave control characters out; nothing was changed.",
            )

    @classmethod
    def written(cls, title: str, tags: str, notes: str) -> Labels:
        """Return what a person has typed: tags with commas between, each once, blanks around words left out."""
        lines = notes.replace("\r\n", "\n").replace("\r", "\n").strip()
        named = dict.fromkeys(" ".join(tag.split()) for tag in tags.split(",") if tag.strip())
        return cls(" ".join(title.split()), tuple(named), lines)

    def columns(self) -> dict[str, str | None]:
        """Return the values of the run's row."""
        tags = json.dumps(self.tags, ensure_ascii=False) if self.tags else None
        return {"title": self.title or None, "tags": tags, "notes": self.notes or None}


def of_row(row: Mapping[str, Any]) -> Labels:
    """Return what a row of the store holds; raises ``UserError`` ``run.labels`` or ``ValueError``."""
    tags = json.loads(row.get("tags") or "[]")
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise ValueError("tags are no list of words")
    return Labels(row.get("title") or "", tuple(tags), row.get("notes") or "")


def readable(row: Mapping[str, Any]) -> Labels:
    """Return what a row holds; nothing where it is damaged, which must not take the list of runs with it."""
    try:
        return of_row(row)
    except (UserError, ValueError, RecursionError):
        return Labels()


def _problem(labels: Labels) -> str | None:
    for name, value, most in (
        ("The name", labels.title, MAX_TITLE_LETTERS),
        *(("A tag", tag, MAX_TAG_LETTERS) for tag in labels.tags),
    ):
        if len(value) > most:
            return f"{name} has {len(value)} characters; at most {most} are kept."
        if _odd(value):
            return f"{name} holds characters that are no text of one line."
    if len(labels.tags) > MAX_TAGS:
        return f"There are {len(labels.tags)} tags; at most {MAX_TAGS} are kept."
    if any(not tag or "," in tag for tag in labels.tags):
        return "A tag is empty, or holds a comma."
    if len(labels.notes) > MAX_NOTES_LETTERS:
        return f"The notes have {len(labels.notes)} characters; at most {MAX_NOTES_LETTERS} are kept."
    if _odd(labels.notes.replace("\n", "").replace("\t", "")):
        return "The notes hold control characters."
    return None


def _odd(text: str) -> bool:
    return any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in text)


NO_LABELS = Labels()
