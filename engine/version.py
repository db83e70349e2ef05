"""The version of this program. Server and sites of a federation must have the same."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from engine.errors import UserError

VERSION = "0.1.0"
"""Equal to that of pyproject.toml."""


@cache
def program_version(folder: Path = Path(__file__).parent) -> str:
    """Return the version with eight digits of what the engine's files in ``folder`` say.

    A number that somebody has to raise stays the same over many changes of what server and sites ask and answer. Ends
    of lines do not count: a checkout may have others.
    """
    sha = hashlib.sha256()
    for file in sorted(folder.rglob("*.py"), key=lambda path: path.relative_to(folder).as_posix()):
        text = b"\n".join(file.read_bytes().splitlines())
        sha.update(file.relative_to(folder).as_posix().encode() + b"\0" + text + b"\0")
    return f"{VERSION}+{sha.hexdigest()[:8]}"


def check_same(told: str, *, site: str, at_site: bool) -> None:
    """Raise ``UserError`` ``federation.other_version`` where the other side's :func:`program_version` is not ours.

    ``told`` is that; ``at_site`` says which side asks; a side of before this was told says nothing.
    """
    if told == program_version():
        return
    other = told[:40] or "an earlier one"
    ours, theirs = (program_version(), other) if at_site else (other, program_version())
    raise UserError(
        "federation.other_version",
        what=f"Site {site} runs version {ours} of this program, the server {theirs}.",
        why="Server and sites must have one version: a task may do something else in another.",
        fix=f"Install the server's version at {site}, and start its program again.",
    )
