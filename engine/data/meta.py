"""``<site>/meta.csv``: which patient (``group``) each image shows."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from engine.data.names import child, folded
from engine.data.plain_text import decode
from engine.data.readers import file_stem
from engine.data.scan import Scan

FILE_NAME = "meta.csv"
DELIMITERS = ",;\t|"
SHOWN = 3
"""Names written out in a warning; the rest is counted."""


class _Table(ValueError):
    """The file is no table of files and groups; the text says why, and ``fix`` what to do."""

    def __init__(self, why: str, fix: str) -> None:
        super().__init__(why)
        self.fix = fix


def read_patients(scan: Scan, *, site: str, images: Sequence[Path]) -> dict[Path, str]:
    """Return the patient of each image; images without one are absent. Faults are noted in ``scan``.

    The column ``file`` holds the image's file name, with or without its ending; other columns than ``file`` and
    ``group`` are ignored. Spellings that differ in case, blanks or Unicode form are one patient, under the first of
    them in sorted order. Faults: ``data.meta_invalid``, ``data.meta_unknown_file``; warnings: ``data.meta_incomplete``,
    ``data.patient_spelling``.
    """
    path = child(scan.root / site, FILE_NAME)
    if path is None or scan.refuses_link(path, site=site) or not path.is_file():
        return {}

    def fault(code: str, what: str, fix: str) -> None:
        scan.fault(code, site=site, path=path, what=f"At site '{site}' {path.name} {what}.", fix=fix)

    try:
        rows = _rows(path.read_bytes())
    except UnicodeDecodeError as error:
        fault("data.meta_invalid", f"is not a CSV file in UTF-8: {error}", "Save it again as CSV in UTF-8.")
        return {}
    except csv.Error as error:
        fault("data.meta_invalid", f"is not a CSV file: {error}", "Save it again as CSV in UTF-8.")
        return {}
    except _Table as error:
        fault("data.meta_invalid", str(error), error.fix)
        return {}
    known = {folded(file_stem(image)): image for image in images} | {folded(image.name): image for image in images}
    patients: dict[Path, str] = {}
    seen: set[Path] = set()
    for name, group in rows:
        image = known.get(folded(name.replace("\\", "/").rpartition("/")[2]))
        if image is None:
            fault(
                "data.meta_unknown_file",
                f"names '{name}', which is no image of the site",
                "Correct the name, or remove the line.",
            )
            continue
        if image in seen:
            fault("data.meta_invalid", f"names '{name}' twice", "Keep one line for each image.")
        seen.add(image)
        if group:
            patients[image] = group
    _tell_unlisted(scan, site, path, [image for image in images if image not in seen])
    return _joined(scan, site, path, patients)


def _rows(content: bytes) -> list[tuple[str, str]]:
    """Return (file, group) of each line that names a file, both stripped; raises ``_Table`` where there are none."""
    fix = "Give it the columns file and group (the patient), separated by commas, or take the file away."
    if content.startswith((b"PK", b"\xd0\xcf\x11\xe0")):
        raise _Table("is a spreadsheet of another kind (xlsx, ods or xls) under this name", "Save it again as CSV.")
    text = decode(content)
    if text.lower().startswith("sep="):  # spreadsheets write the separator into a line of its own
        text = text.partition("\n")[2]
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(DELIMITERS, key=first.count)
    lines = [
        line for line in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if any(map(str.strip, line))
    ]
    if not lines:
        raise _Table("is empty", fix)
    header = [folded(name) for name in lines[0]]
    shown = ", ".join(f"'{name.strip()}'" for name in lines[0])
    for name in ("file", "group"):
        if header.count(name) != 1:
            how = "no column" if name not in header else "two columns called"
            raise _Table(f"has {how} '{name}' (its columns: {shown})", fix)
    file_at, group_at = header.index("file"), header.index("group")
    rows = []
    for line in lines[1:]:
        if any(map(str.strip, line[len(header) :])):
            raise _Table(
                f"has a line of {len(line)} fields under {len(header)} columns ('{delimiter.join(line)[:80]}')",
                f"Put quotation marks around values that hold the separator {delimiter!r}.",
            )
        cells = [unicodedata.normalize("NFC", cell.strip()) for cell in line] + [""] * len(header)
        rows.append((cells[file_at], cells[group_at]))
    return rows


def _tell_unlisted(scan: Scan, site: str, path: Path, images: list[Path]) -> None:
    if not images:
        return
    names = ", ".join(image.name for image in images[:SHOWN]) + (", …" if len(images) > SHOWN else "")
    scan.warn(
        "data.meta_incomplete",
        site=site,
        path=path,
        what=f"At site '{site}' {path.name} has no line for {len(images)} image(s) ({names}): each counts as a patient "
        "of its own.",
        fix="Add a line for each, with an empty group where the patient is not known.",
    )


def _joined(scan: Scan, site: str, path: Path, patients: dict[Path, str]) -> dict[Path, str]:
    """Return ``patients`` with one spelling each."""
    spellings: dict[str, Counter[str]] = {}
    for name in patients.values():
        spellings.setdefault(folded(name), Counter())[name] += 1
    for found in spellings.values():
        if len(found) > 1:
            scan.warn(
                "data.patient_spelling",
                site=site,
                path=path,
                what=f"At site '{site}' {path.name} spells one patient in {len(found)} ways "
                f"({', '.join(map(repr, sorted(found)))}): they are taken for the same.",
                fix="Use one spelling, or names that differ in more than case and blanks for different patients.",
            )
    return {image: min(spellings[folded(name)]) for image, name in patients.items()}
