"""Writes the cases of a dataset in the project's layout: into a folder beside the target, which then takes its name.

Every file is written under another name first. A case counts when the journal has its line; a preparation that was
killed goes on with the next one. The target is there only when it is whole.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from PIL import Image

from engine.data.description import DatasetDescription
from engine.data.meta import FILE_NAME as META_NAME
from engine.data.names import folded
from engine.data.prepare.downloads import Downloads, Entry, Progress
from engine.data.prepare.faults import in_progress, twice
from engine.data.prepare.journal import Journal, Record
from engine.data.prepare.records import Case, Findings, LeaveOut, PublicDataset, Volume
from engine.data.prepare.volumes import write_nifti
from engine.data.readers import file_suffix
from engine.errors import UserError


class Workbench:
    """Files of archives on the disk: those of one case until it is written, large ones until all is."""

    def __init__(self, tree: Downloads, folder: Path) -> None:
        self._tree, self._folder = tree, folder
        self._case = 0
        self._names: dict[str, str] = {}

    def local(self, entry: Entry) -> Path:
        """Return the path of a file; one of an archive is copied under its own name, in a folder for its folder."""
        if entry.member is None and entry.offset is None:
            return self._named(entry.source, entry)
        beside = hashlib.sha256(entry.path.rpartition("/")[0].encode()).hexdigest()[:12]
        target = self._folder / f"case-{self._case}" / beside / entry.name
        if not target.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            self._tree.copy(entry, target)
        return self._named(target, entry)

    def kept(self, entry: Entry) -> Path:
        """Return the path of a large file, copied once."""
        if entry.member is None and entry.offset is None:
            return self._named(entry.source, entry)
        name = hashlib.sha256(f"{entry.path}:{entry.mark}".encode()).hexdigest()[:16]
        target = self._folder / "kept" / f"{name}-{entry.name}"
        if not target.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            half = target.with_name("half-" + target.name)
            self._tree.copy(entry, half)
            half.replace(target)
        return self._named(target, entry)

    def told(self, text: str) -> str:
        """Return a sentence with the downloads' names in place of the paths that stood for them."""
        for path, name in self._names.items():
            text = text.replace(path, name)
        return text

    def _named(self, path: Path, entry: Entry) -> Path:
        self._names[str(path)] = entry.path
        return path

    @contextmanager
    def case(self) -> Iterator[Path]:
        """Give the next case a folder for what it writes; it goes, with the case's own copies, at the end."""
        self._case += 1
        self._names.clear()
        folder = self._folder / f"case-{self._case}"
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "new").mkdir(parents=True)
        try:
            yield folder / "new"
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def held(folder: Path, *, target: Path) -> Iterator[None]:
    """Hold the folder in which ``target`` is made; raises ``UserError`` ``prepare.in_progress`` where another does."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock", timeout=0)
    try:
        with lock:
            yield
    except Timeout as error:
        raise in_progress(target) from error


def key_of(case: Case) -> str:
    """Return what a case is called in the journal."""
    return f"{case.site or ''}/{case.name}"


def mark_of(case: Case) -> str:
    """Return what changes when a file does that the case is made from."""
    told = "\n".join(f"{entry.path}\t{entry.num_bytes}\t{entry.mark}" for entry in case.sources)
    return hashlib.sha256(told.encode()).hexdigest()


def write_cases(
    found: Findings, *, tree: Downloads, folder: Path, journal: Journal, title: str, progress: Progress
) -> list[Record]:
    """Write every case below ``folder/data`` and return their records; what the journal has is not made again."""
    root, bench = folder / "data", Workbench(tree, folder / "work")
    records = []
    for count, case in enumerate(found.cases, start=1):
        record = journal.records.get(key_of(case))
        if record is None or record.mark != mark_of(case) or not record.is_whole(root):
            record = _write_case(case, bench=bench, root=root, tree=tree)
            journal.add(record)
        records.append(record)
        progress(title, count, len(found.cases))
    return records


def _write_case(case: Case, *, bench: Workbench, root: Path, tree: Downloads) -> Record:
    with bench.case() as new:
        try:
            made = case.make(bench)
        except LeaveOut as error:
            return _left_out(case, bench.told(str(error)))
        except UserError as error:
            if not error.code.startswith("data."):  # of the archive, not of one file in it
                raise
            return _left_out(case, bench.told(error.what).rstrip("."))
        site = made.site or case.site
        assert site is not None
        files: dict[str, int] = {}
        for kind, content in (
            ("images", made.image),
            *((f"masks/{name}".rstrip("/"), m) for name, m in made.masks.items()),
        ):
            path = _write(content, new / kind / case.name, tree=tree, is_mask=kind != "images")
            name = f"{site}/{path.relative_to(new).as_posix()}"
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            path.replace(root / name)
            files[name] = (root / name).stat().st_size
    return Record(key_of(case), mark_of(case), site, case.name, case.patient, files)


def _left_out(case: Case, why: str) -> Record:
    return Record(key_of(case), mark_of(case), case.site or "", case.name, case.patient, {}, left_out=why)


def _write(content: Entry | np.ndarray | Volume, stem: Path, *, tree: Downloads, is_mask: bool) -> Path:
    stem.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, Entry):
        path = stem.with_name(stem.name + file_suffix(Path(content.name)))
        tree.copy(content, path)
    elif isinstance(content, Volume):
        path = write_nifti(content, stem.with_name(stem.name + ".nii.gz"))
    else:
        path = stem.with_name(stem.name + ".png")
        pixels = (content != 0).astype(np.uint8) * np.uint8(255) if is_mask else content
        Image.fromarray(pixels).save(path)
    return path


def finish(
    dataset: PublicDataset, found: Findings, records: list[Record], *, root: Path, told: Mapping[str, Any]
) -> None:
    """Write meta.csv of every site, dataset.toml and prepared.json, and remove what no record names."""
    _remove_strangers(root, records)
    for site in sorted({record.site for record in records if record.files}):
        here = [record for record in records if record.files and record.site == site]
        if any(record.patient for record in here):
            table = io.StringIO(newline="")
            writer = csv.writer(table, lineterminator="\n")
            writer.writerows([("file", "group"), *((_image_name(record), record.patient or "") for record in here)])
            (root / site / META_NAME).write_text(table.getvalue(), encoding="utf-8")
    (root / "dataset.toml").write_text(description(dataset, found), encoding="utf-8")
    (root / "prepared.json").write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _image_name(record: Record) -> str:
    (image,) = (name for name in record.files if name.split("/")[1] == "images")
    return image.rpartition("/")[2]


def _remove_strangers(root: Path, records: list[Record]) -> None:
    """Remove files of an earlier, unfinished preparation from other downloads."""
    known = {root / name for record in records for name in record.files}
    for path in sorted(root.rglob("*"), reverse=True):
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
        elif path not in known:
            path.unlink()


def description(dataset: PublicDataset, found: Findings) -> str:
    """Return dataset.toml of a prepared dataset, valid as ``DatasetDescription``."""
    keys: dict[str, Any] = {
        "name": dataset.name,
        "task": dataset.task or dataset.name,
        "modality": dataset.modality,
        "classes": list(dataset.classes),
        "licence": dataset.licence,
        "citation": dataset.citation,
        **dataset.keys,
        **found.keys,
    }
    text = "".join(f"{key} = {_toml(value)}\n" for key, value in keys.items())
    DatasetDescription.model_validate(tomllib.loads(text))
    return text


def _toml(value: Any) -> str:
    """Return text, numbers, lists and a table in one line; JSON's quoting is TOML's for what has no surrogates."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def require_different_names(cases: list[Case]) -> None:
    """Raise ``UserError`` ``prepare.twice`` where two cases would be written under one name, on any disk."""
    seen: dict[str, Case] = {}
    for case in cases:
        other = seen.setdefault(folded(key_of(case)), case)
        if other is not case:
            raise twice(other.sources[0].path, case.sources[0].path)
