"""Errors that a person can act on.

A :class:`UserError` is raised wherever input, configuration or the machine makes it impossible to go on.
The CLI, the JSON output and the page all show the same four fields.
"""

from __future__ import annotations

import unicodedata

TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Letters that turn the direction of those after them: a name that has one reads as another."""


class UserError(Exception):
    """Something that the person in front of the screen can mend.

    Parameters
    ----------
    code : str
        Stable machine-readable name, ``area.problem`` (``data.mask_missing``); tests and callers match on it.
    what : str
        One sentence: what is wrong and where (file, site, key).
    why : str
        One sentence: why that stops the work.
    fix : str
        One sentence: what to do about it.
    """

    def __init__(self, code: str, *, what: str, why: str, fix: str) -> None:
        super().__init__(f"{what} {why} {fix}")
        self.code = code
        self.what = what
        self.why = why
        self.fix = fix

    def as_dict(self) -> dict[str, str]:
        """Return the error as the JSON object that ``--json`` prints under the key ``error``."""
        return {"code": self.code, "what": self.what, "why": self.why, "fix": self.fix}


def one_line(words: str) -> str:
    """Return somebody else's words as they can stand in a log or a terminal.

    They are on one line, so that nobody writes lines of others, and what is obeyed in place of being shown is U+FFFD.
    """
    return "".join("\ufffd" if _is_obeyed(letter) else letter for letter in " ".join(words.split()))


def is_plain(words: str) -> bool:
    """Return whether all of somebody else's words would be shown, on one line."""
    return not any(_is_obeyed(letter) for letter in words)


def _is_obeyed(letter: str) -> bool:
    return letter in TURNING or unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp")
