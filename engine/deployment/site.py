"""A site's folder and its program: one outgoing connection to the server, no port of its own."""

from __future__ import annotations

import json
import os
import shlex
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from engine.deployment import certificates
from engine.deployment.processes import MENDED_BY_A_PERSON, Say, Supervised, only_one
from engine.deployment.settings import SITE_NAME, bad_settings, read_toml, split_address
from engine.errors import UserError

SETTINGS = "site.toml"
LAST_ERROR = "logs/last_error.json"
"""Where the program leaves what a person has to mend, for whoever started it."""


@dataclass(frozen=True)
class SiteFolder:
    """A site's folder with its settings; ``data`` is the folder of images, where one is given."""

    folder: Path
    name: str
    server: str
    data: Path | None

    @property
    def key(self) -> Path:
        """The site's private key."""
        return self.folder / "site.key"

    @property
    def log(self) -> Path:
        """Everything that the site's program says, its last words included."""
        return self.folder / "logs" / "site.log"


def load(folder: Path, *, data: Path | None = None, server: str | None = None) -> SiteFolder:
    """Return a site's settings; what is given here comes before what ``site.toml`` says."""
    path = folder / SETTINGS
    if not path.is_file():
        raise UserError(
            "deployment.no_site_folder",
            what=f"{folder} is no site's folder: {SETTINGS} is missing.",
            why="It says which site this is and where the server is.",
            fix="Name the folder that the coordinator has sent.",
        )
    written = read_toml(path, texts=("site", "server"), optional=("data",))
    if SITE_NAME.fullmatch(str(written["site"])) is None:
        raise bad_settings(path, f"site is {written['site']!r:.60}, and has to be the name that the coordinator gave")
    address = server or str(written["server"])
    split_address(address, file=None if server else path)
    images = data if data is not None else (Path(str(written["data"])) if written.get("data") else None)
    return SiteFolder(folder, str(written["site"]), address, images)


def make_keys(site: SiteFolder, *, new: bool = False) -> str:
    """Make the site's keys and signing request; return the fingerprint. Existing ones stay unless ``new`` is given."""
    if site.key.exists() and not new:
        if (site.folder / "site.csr").is_file():
            return certificates.site_fingerprint(site.folder)
        raise UserError(
            "deployment.keys_exist",
            what=f"{site.key} is there already, but its signing request is not.",
            why="New keys would lock this site out until the coordinator has accepted them.",
            fix="Restore site.csr, or make new keys with `site keys --new`.",
        )
    return certificates.make_site_keys(site.folder, site=site.name)


def up(site: SiteFolder, *, stop: threading.Event, say: Say) -> int:
    """Run the site's program until ``stop`` is set, starting it again where it is killed.

    Raises ``UserError`` for what a person has to mend: settings, keys, a refused key, a server that is another.
    """
    _check(site)
    lock = only_one(site.folder / "running.lock", what=f"The program of the site {site.name}")
    (site.folder / LAST_ERROR).unlink(missing_ok=True)
    program = Supervised(
        [sys.executable, "-m", "engine.deployment.site_process", *_arguments(site)],
        name="The site's program",
        log=site.log,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        say=say,
        show=say,
    )
    program.start()
    try:
        status = program.supervise(stop)
    finally:
        program.end()
        del lock
    if status == MENDED_BY_A_PERSON:
        raise _left_error(site)
    return 0


def _arguments(site: SiteFolder) -> list[str]:
    return [str(site.folder.resolve()), "--data", str((site.data or Path()).resolve()), "--server", site.server]


def _check(site: SiteFolder) -> None:
    if not site.key.is_file():
        raise UserError(
            "deployment.no_keys",
            what=f"{site.folder} has no key of this site yet.",
            why="The server knows a site by its key.",
            fix=f"Run: python -m engine site keys {shlex.quote(str(site.folder))}",
        )
    if site.key.stat().st_mode & 0o077:
        raise UserError(
            "deployment.key_readable",
            what=f"{site.key} can be read by other users of this machine.",
            why="Who has the key can take part in this site's name.",
            fix=f"Run: chmod 600 {shlex.quote(str(site.key))}",
        )
    certificates.read_certificate(site.folder / "ca.crt")
    if site.data is None or not site.data.is_dir():
        raise UserError(
            "deployment.no_data",
            what=f"The folder of images, {site.data}, is not there." if site.data else "No folder of images is given.",
            why="The site's program answers with what it computes from them.",
            fix=f"Give --data FOLDER, or set data in {site.folder / SETTINGS}.",
        )


def _left_error(site: SiteFolder) -> UserError:
    try:
        left = json.loads((site.folder / LAST_ERROR).read_text(encoding="utf-8"))
        return UserError(left["code"], what=left["what"], why=left["why"], fix=left["fix"])
    except (OSError, ValueError, KeyError):
        return UserError(
            "deployment.site_stopped",
            what="The site's program has stopped.",
            why="It found something that it cannot go on with.",
            fix=f"Its last words are at the end of {site.log}.",
        )
