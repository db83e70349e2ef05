"""``data prepare``: from a folder of downloads to a dataset folder, with a report of what it found and misses."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.data.prepare.downloads import Downloads, Progress
from engine.data.prepare.faults import folder_taken, nothing_found, wrong_checksum
from engine.data.prepare.journal import Journal, Record
from engine.data.prepare.records import Findings, LeftOut, Part, PublicDataset
from engine.data.prepare.writing import finish, held, key_of, mark_of, require_different_names, write_cases
from engine.errors import UserError

REPORT_NAME = "prepared.json"


@dataclass(frozen=True)
class SiteCount:
    """What was written for a site; volumes count as one image."""

    site: str
    num_images: int
    num_patients: int
    """Patients that the dataset names; 0 where it names none."""


@dataclass(frozen=True)
class Report:
    """What came of the downloads of a dataset."""

    dataset: PublicDataset
    folder: Path
    sites: tuple[SiteCount, ...]
    archives: tuple[str, ...]
    checked: tuple[str, ...]
    """Archives whose MD5 is the published one."""
    missing: tuple[Part, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    num_resumed: int
    """Images that an earlier, killed preparation had written."""

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON object that ``data prepare --json`` prints and ``prepared.json`` keeps."""
        about = self.dataset
        return {
            "dataset": about.name,
            "folder": str(self.folder),
            "licence": about.licence,
            "citation": about.citation,
            "page": about.page,
            **{name: [asdict(one) for one in getattr(self, name)] for name in ("sites", "missing", "left_out")},
            "archives": list(self.archives),
            "checked": list(self.checked),
            "notes": list(self.notes),
            "resumed": self.num_resumed,
        }


def prepare(dataset: PublicDataset, *, downloads: Path, folder: Path, progress: Progress) -> Report:
    """Make the dataset folder ``folder`` from what lies in ``downloads``, or go on with it.

    Where ``folder`` has been made from the same files before, nothing is done. Raises ``UserError``: those of
    ``Downloads``, ``prepare.checksum``, ``prepare.nothing_found``, ``prepare.folder_taken``, ``prepare.in_progress``.
    """
    folder = folder.absolute()
    work = folder.with_name(f".{folder.name}.preparing")
    if folder.exists() and not (folder / REPORT_NAME).is_file() and (folder.is_file() or any(folder.iterdir())):
        raise folder_taken(folder)
    with held(work, target=folder):
        try:
            tree = Downloads(downloads, scratch=work / "unpacked", progress=progress)
            try:
                report = _prepare(dataset, tree, folder=folder, work=work, progress=progress)
            finally:
                tree.close()
        except UserError:
            if not any(path.is_file() for path in work.rglob("*") if path.name != "lock"):  # nothing to go on with
                shutil.rmtree(work, ignore_errors=True)
            raise
        shutil.rmtree(work, ignore_errors=True)
    return report


def _prepare(dataset: PublicDataset, tree: Downloads, *, folder: Path, work: Path, progress: Progress) -> Report:
    checked = _checked(dataset, tree, kept=work / "checksums.json")
    found = Findings()
    dataset.find(tree, found)
    if not found.cases:
        told = [f"{one.name}: {one.why}" for one in found.left_out]
        raise _nothing(dataset, tree, told)
    require_different_names(found.cases)
    digest = hashlib.sha256("\n".join(f"{key_of(case)}\t{mark_of(case)}" for case in found.cases).encode()).hexdigest()
    if (folder / REPORT_NAME).is_file():
        before = json.loads((folder / REPORT_NAME).read_text(encoding="utf-8"))
        if (before.get("dataset"), before.get("digest")) != (dataset.name, digest):
            raise folder_taken(folder)
        records = [Record(**told) for told in before["records"]]
        return _report(dataset, found, records, tree, folder=folder, checked=checked, num_resumed=len(records))
    journal = Journal(work / "journal.jsonl")
    num_before = sum(journal.has(key_of(case), mark=mark_of(case)) for case in found.cases)
    records = write_cases(found, tree=tree, folder=work, journal=journal, title=dataset.title, progress=progress)
    if not any(record.files for record in records):
        told = [f"{record.name}: {record.left_out}" for record in records]
        raise _nothing(dataset, tree, told)
    report = _report(dataset, found, records, tree, folder=folder, checked=checked, num_resumed=num_before)
    told_all = report.as_dict() | {"digest": digest, "records": [asdict(record) for record in records]}
    finish(dataset, found, records, root=work / "data", told=told_all)
    if folder.is_dir():  # empty: anything else was refused
        folder.rmdir()
    (work / "data").rename(folder)
    return report


def _nothing(dataset: PublicDataset, tree: Downloads, left_out: list[str]) -> UserError:
    names = [path.name for path in tree.archives]
    return nothing_found(dataset, tree.root, archives=names, unread=tree.unread, left_out=left_out)


def _report(
    dataset: PublicDataset,
    found: Findings,
    records: list[Record],
    tree: Downloads,
    *,
    folder: Path,
    checked: tuple[str, ...],
    num_resumed: int,
) -> Report:
    written = [record for record in records if record.files]
    sites = sorted({record.site for record in written})
    counts = tuple(
        SiteCount(
            site,
            sum(record.site == site for record in written),
            len({record.patient for record in written if record.site == site and record.patient}),
        )
        for site in sites
    )
    left_out = [
        *(LeftOut(name, why) for name, why in tree.unread.items()),
        *found.left_out,
        *(LeftOut(record.name, record.left_out) for record in records if record.left_out),
    ]
    archives = tuple(path.name for path in tree.archives)
    return Report(
        *(dataset, folder, counts, archives, checked),
        *(tuple(found.missing), tuple(left_out), tuple(found.notes), num_resumed),
    )


def _checked(dataset: PublicDataset, tree: Downloads, *, kept: Path) -> tuple[str, ...]:
    """Return the archives whose MD5 is the published one, computed once for each; raises ``prepare.checksum``."""
    known: dict[str, str] = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    checked = []
    published: Mapping[str, Part] = {part.file.lower(): part for part in dataset.parts if part.md5}
    for path in tree.archives:
        part = published.get(path.name.lower())
        if part is None:
            continue
        about = path.stat()
        key = f"{path}:{about.st_size}:{about.st_mtime_ns}"
        if key not in known:
            known[key] = tree.md5(path)
            half = kept.with_suffix(".half")
            half.write_text(json.dumps(known), encoding="utf-8")
            half.replace(kept)
        if known[key] != part.md5:
            raise wrong_checksum(path, part, known[key])
        checked.append(path.name)
    return tuple(checked)
