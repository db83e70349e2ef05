"""What can be wrong with downloads, as sentences for whoever has downloaded them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from engine.data.prepare.records import Part, PublicDataset
from engine.errors import UserError

SHOWN = 6
"""Names of each kind written out in an error."""
AGAIN = "Download the archive again and compare its size with the one on its page."


def no_downloads(root: Path) -> UserError:
    """Return the error of a folder of downloads that is not there."""
    return UserError(
        "prepare.no_downloads",
        what=f"{root} does not exist.",
        why="The archives of the dataset are looked for there (--from).",
        fix="Give the folder with the downloaded archives, or with what they were extracted to.",
    )


def damaged(archive: Path, reason: str) -> UserError:
    """Return the error of an archive that cannot be read to its end."""
    reason = " ".join(reason.split()).rstrip(".")
    return UserError(
        "prepare.archive_damaged",
        what=f"The archive {archive} cannot be read: {reason}.",
        why="It is truncated, damaged, or none of its kind; parts of it would be missing without a sign.",
        fix=AGAIN,
    )


def unsafe(archive: Path, member: str, what: str) -> UserError:
    """Return the error of an archive that no dataset's publisher has made."""
    return UserError(
        "prepare.archive_unsafe",
        what=f"The archive {archive} holds {member!r}: {what}.",
        why="No official archive of a known dataset has one, so nothing of it is unpacked.",
        fix="Get the archive from the dataset's own page (data prepare --list).",
    )


def wrong_checksum(archive: Path, part: Part, found: str) -> UserError:
    """Return the error of an archive that is not the published one."""
    return UserError(
        "prepare.checksum",
        what=f"The archive {archive} has the MD5 {found}; {part.file} is published with {part.md5}.",
        why="It is damaged, or another version with possibly another layout.",
        fix=f"Download {part.file} again from {part.page}, or extract it yourself where you know that it is right.",
    )


def twice(first: str, second: str) -> UserError:
    """Return the error of two different files that stand for one image or mask of the dataset."""
    return UserError(
        "prepare.twice",
        what=f"{first} and {second} stand for the same file of the dataset, and differ.",
        why="Which of them is right cannot be known.",
        fix="Keep one version of the dataset in the folder of downloads.",
    )


def disk_full(folder: Path, *, needed: int, free: int) -> UserError:
    """Return the error of a file that the disk has no room for."""
    return UserError(
        "prepare.disk_full",
        what=f"The next file takes {needed / 2**20:,.0f} MiB; the disk of {folder} has {free / 2**20:,.0f} MiB free.",
        why="A disk that runs full leaves a file half written.",
        fix="Make room and give the command again: it goes on where it stopped.",
    )


def unknown(name: str, known: Iterable[str]) -> UserError:
    """Return the error of a dataset that cannot be prepared."""
    return UserError(
        "prepare.unknown",
        what=f"No dataset called '{name}' can be prepared.",
        why=f"Those that can: {', '.join(known)}.",
        fix="Take one of these names; one's own images need a dataset.toml, as the README says.",
    )


def nothing_found(
    dataset: PublicDataset, root: Path, *, archives: Iterable[str], unread: Mapping[str, str], left_out: Iterable[str]
) -> UserError:
    """Return the error of downloads that hold no whole image of the dataset."""
    expected = "; ".join(f"{part.file} ({part.title}, {part.page})" for part in dataset.parts)
    there = [*list(archives)[:SHOWN], *(f"{name}: {why}" for name, why in unread.items()), *list(left_out)[:SHOWN]]
    beside = f" There is: {'; '.join(there)}." if there else ""
    return UserError(
        "prepare.nothing_found",
        what=f"{root} holds no image with a mask of {dataset.title}.{beside}",
        why=f"It is made from: {expected}.",
        fix="Put these archives there as they are downloaded, or extracted with their own folders' names.",
    )


def folder_taken(folder: Path) -> UserError:
    """Return the error of a target that holds something else."""
    return UserError(
        "prepare.folder_taken",
        what=f"The folder {folder} is there already, and is not this dataset made from these downloads.",
        why="A prepared dataset is never mixed with other files.",
        fix="Give a new folder (--to), or take this one away first.",
    )


def in_progress(folder: Path) -> UserError:
    """Return the error of a second process for one target."""
    return UserError(
        "prepare.in_progress",
        what=f"Another process is preparing {folder}.",
        why="Two would write the same files.",
        fix="Wait for it, or give another folder (--to).",
    )
