"""``<site>/meta.csv``: which patient (``group``) each image shows."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from engine.data.problems import Problem
from engine.data.readers import file_stem

FILE_NAME = "meta.csv"


def read_groups(root: Path, *, site: str, images: Sequence[Path], problems: list[Problem]) -> dict[str, str]:
    """Return the group of each image by the image's stem; blank or unlisted images are absent.

    The column ``file`` holds the image's file name (or stem); other columns than ``file`` and ``group`` are ignored.
    Faults are appended to ``problems``: ``data.meta_invalid`` and ``data.meta_unknown_file``.
    """
    path = root / site / FILE_NAME
    if not path.is_file():
        return {}

    def fault(code: str, what: str, fix: str) -> None:
        problems.append(Problem(code, f"At site '{site}' {FILE_NAME} {what}.", fix, site, f"{site}/{FILE_NAME}"))

    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            rows = list(reader)
            columns = reader.fieldnames or []
    except (UnicodeDecodeError, csv.Error) as error:
        fault("data.meta_invalid", f"is not a CSV file in UTF-8: {error}", "Save it again as CSV in UTF-8.")
        return {}
    absent = [name for name in ("file", "group") if name not in columns]
    if absent:
        found = ", ".join(f"'{name}'" for name in columns) or "none"
        fault(
            "data.meta_invalid",
            f"has no column '{absent[0]}' (its columns: {found})",
            "Give it the columns file and group (the patient), separated by commas, or take the file away.",
        )
        return {}
    stems = {image.name: file_stem(image) for image in images} | {
        file_stem(image): file_stem(image) for image in images
    }
    groups: dict[str, str] = {}
    seen: set[str] = set()
    for row in rows:
        name = (row["file"] or "").strip()
        if name not in stems:
            fault(
                "data.meta_unknown_file",
                f"names '{name}', which is no image of the site",
                "Correct the name, or remove the line.",
            )
            continue
        stem = stems[name]
        if stem in seen:
            fault("data.meta_invalid", f"names '{name}' twice", "Keep one line for each image.")
        seen.add(stem)
        group = (row.get("group") or "").strip()
        if group:
            groups[stem] = group
    return groups
