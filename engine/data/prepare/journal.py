"""What of a dataset is written already, so that a killed preparation goes on.

One JSON line a case, appended when all of its files are in place.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Record:
    """A case that is done: written as ``files`` (path in the dataset: bytes), or left out for a reason."""

    key: str
    mark: str
    site: str
    name: str
    patient: str | None
    files: dict[str, int]
    left_out: str | None = None

    def is_whole(self, root: Path) -> bool:
        """Return whether all files are there in their sizes."""
        sizes = ((root / name, size) for name, size in self.files.items())
        return all(path.is_file() and path.stat().st_size == size for path, size in sizes)


class Journal:
    """The records of ``path``; a last line that was cut off when the process was killed counts as not written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[str, Record] = {}
        content = path.read_bytes() if path.is_file() else b""
        whole, _, torn = content.rpartition(b"\n")
        if torn:
            path.write_bytes(whole + b"\n" if whole else b"")
        for line in whole.splitlines():
            told: dict[str, Any] = json.loads(line)
            self.records[told["key"]] = Record(**told)

    def has(self, key: str, *, mark: str) -> bool:
        """Return whether the case is done from the same files."""
        return key in self.records and self.records[key].mark == mark

    def add(self, record: Record) -> None:
        """Append a record."""
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")
        self.records[record.key] = record
