"""Whether a site's program was given the folder that holds its own images: said when it starts, not by a run's end."""

from __future__ import annotations

import shlex
from pathlib import Path

from engine.data.description import FILE_NAME
from engine.data.layout import dataset_sites
from engine.data.names import child, folded
from engine.errors import UserError

IMAGES = ("images", "data_npy", "val_data_npy")
"""Folders of images below a site's: of this program's layout, and of the authors'."""
CHECK = "python -m engine data check {folder} --site {site}"
"""The command that reads everything in a site's folder and names its faults."""


def check_own_folder(data: Path, *, site: str) -> None:
    """Raise ``UserError`` ``site.folder`` where ``data`` is not the folder above the images of ``site``.

    A description that has faults is told as such (``data.description_invalid``).
    """
    try:
        there = dataset_sites(data)
    except UserError as error:
        if error.code not in ("data.description_missing", "data.root_missing"):
            raise
        raise _wrong(data, site, f"it has no {FILE_NAME}") from error
    if site not in there:
        alike = [name for name in there if folded(name) == folded(site)]
        has = f"'{alike[0]}', in another spelling" if alike else f"{', '.join(there) or 'no folder'}"
        raise _wrong(data, site, f"it has {has}, and no folder called '{site}'")
    if not any(child(data / site, name) is not None for name in IMAGES):
        raise _wrong(data, site, f"there is no folder {site}/{IMAGES[0]} in it")


def check_command(data: Path, *, site: str) -> str:
    """Return the shell's line that reads everything in a site's folder."""
    return CHECK.format(folder=shlex.quote(str(data)), site=shlex.quote(site))


def _wrong(data: Path, site: str, problem: str) -> UserError:
    above = data.resolve().parent
    meant = (above / FILE_NAME).is_file() and (above / site).is_dir()
    return UserError(
        "site.folder",
        what=f"{data} is not the folder above the images of the site '{site}': {problem}.",
        why=f"Expected is a folder that holds {FILE_NAME} and {site}/images, with the masks in {site}/masks.",
        fix=(f"Give the folder above it, {above}" if meant else "Give --data FOLDER, or set data in site.toml")
        + f"; look at all of it with: {check_command(above if meant else data, site=site)}",
    )
