"""The version of this program. Server and sites of a federation must have the same."""

from __future__ import annotations

from engine.errors import UserError

VERSION = "0.1.0"
"""Equal to that of pyproject.toml; raised where what server and sites ask and answer changes."""


def check_same(told: str, *, site: str, at_site: bool) -> None:
    """Raise ``UserError`` ``federation.other_version`` where ``told``, the other side's version, is not ours.

    ``at_site`` says which side asks; a side of before this was told says nothing.
    """
    if told == VERSION:
        return
    other = told[:40] or "an earlier one"
    ours, theirs = (VERSION, other) if at_site else (other, VERSION)
    raise UserError(
        "federation.other_version",
        what=f"Site {site} runs version {ours} of this program, the server {theirs}.",
        why="Server and sites must have one version: a task may do something else in another.",
        fix=f"Install the server's version at {site}, and start its program again.",
    )
