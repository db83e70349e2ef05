"""The process that answers for a site: ``python -m engine.deployment.site_process FOLDER --data D --server H:P``.

Exit status 2: somebody has to mend something first; what, is left in the site's folder. SIGTERM ends it after the
answer that it is at, and whoever supervises it does not wait long for that.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from pathlib import Path

from engine.deployment import site as sites
from engine.deployment.processes import MENDED_BY_A_PERSON, stop_on_signals
from engine.errors import UserError
from engine.federation.backends.fleet import FleetConnection
from engine.federation.backends.notes import read_number, write_note
from engine.site.node import serve

PROGRAM_ENTRY = "engine.site.deployed:program"
"""``module:function`` that returns a site's program from its name, folder of images, own folder, and who is told."""
ACCEPTED = "accepted_at.txt"


def main(arguments: list[str] | None = None) -> int:
    """Answer the server until SIGTERM; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m engine.deployment.site_process")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--server", required=True)
    parser.add_argument("--program", default=os.environ.get("DSFEDMED_SITE_PROGRAM", PROGRAM_ENTRY))
    chosen = parser.parse_args(arguments)
    os.umask(0o077)
    stop = stop_on_signals()
    try:
        site = sites.load(chosen.folder, data=chosen.data, server=chosen.server)
        module, _, name = chosen.program.partition(":")
        program = getattr(importlib.import_module(module), name)(site.name, chosen.data, chosen.folder, _say)
        serve(lambda: _connect(site), program, site=site.name, stop=stop, say=_say)
    except UserError as error:
        error = _since_accepted(error, chosen.folder)
        _say(f"Error ({error.code}): {error}")
        (chosen.folder / sites.LAST_ERROR).write_text(json.dumps(error.as_dict()), encoding="utf-8")
        return MENDED_BY_A_PERSON
    return 0


def _connect(site: sites.SiteFolder) -> FleetConnection:
    connection = FleetConnection(site.server, ca=site.folder / "ca.crt", key=site.key, notes=site.folder)
    connection.on_accepted = lambda: write_note(site.folder / ACCEPTED, f"{time.time():.0f}".encode())
    return connection


def _since_accepted(error: UserError, folder: Path) -> UserError:
    """Say that a refused key was revoked where it had been accepted before: the server does not tell."""
    accepted_at = read_number(folder / ACCEPTED) if error.code == "federation.key_refused" else None
    if accepted_at is None or accepted_at < (folder / "site.key").stat().st_mtime:  # another key's
        return error
    day = time.strftime("%Y-%m-%d %H:%M", time.localtime(accepted_at))
    return UserError(
        "federation.key_revoked",
        what=f"The server does not accept this site's key any more; it was accepted last at {day}.",
        why="The coordinator has revoked it, the server was set up anew, or a program with a copy of this folder is "
        "connected from another machine.",
        fix="Ask the coordinator; a revoked site makes new keys with `site keys --new`.",
    )


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
