"""Names of files and folders as people, Macs and Windows leave them: what is no data, and which two names are one."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path

LITTER = frozenset(
    {
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx"),
        *("$recycle.bin", "system volume information", "lost+found", "@eadir", "#recycle"),
    }
)
"""What Windows, macOS and network disks put beside a person's files, in lower case."""


def is_litter(path: Path) -> bool:
    """Return whether an entry of a folder is none of the person's own: hidden (``._a.png``, ``.DS_Store``) or litter.

    Only its own name counts, not the folders above it: a dataset may lie below a hidden folder.
    """
    return path.name.startswith(".") or path.name.lower() in LITTER


def visible(folder: Path) -> list[Path]:
    """Return the entries of ``folder`` that are not litter, sorted."""
    return sorted(path for path in folder.iterdir() if not is_litter(path))


def visible_files(folder: Path) -> Iterator[Path]:
    """Yield the regular files below ``folder`` in order: none in hidden folders, no folder through a link."""
    for path in visible(folder):
        if path.is_dir():
            if not path.is_symlink():
                yield from visible_files(path)
        elif path.is_file():
            yield path


def folded(name: str) -> str:
    """Return what two spellings of one name share: they may differ in case, Unicode form and blanks.

    macOS decomposes accents (NFD) where others compose them (NFC); Windows and macOS disks do not tell cases apart.
    """
    # Folding can undo the composition, and compatibility signs fold to several: normalised before and after.
    composed = unicodedata.normalize("NFC", " ".join(name.split())).casefold()
    return unicodedata.normalize("NFC", composed)


def child(folder: Path, name: str) -> Path | None:
    """Return the entry of ``folder`` called ``name``, exactly so or in another spelling; None where there is none."""
    if (folder / name).exists():
        return folder / name
    if not folder.is_dir():
        return None
    return next((path for path in visible(folder) if folded(path.name) == folded(name)), None)
