"""Errors that a person can act on.

A :class:`UserError` is raised wherever input, configuration or the machine makes it impossible to go on.
The CLI, the JSON output and the page all show the same four fields.
"""

from __future__ import annotations


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
