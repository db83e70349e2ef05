"""Figures of finished runs as small files, so that a table can be filled where the runs themselves are not. Torch-free.

A record has what a table shows of a run and nothing else: each image's figures, those of the whole run, its bytes, and
which version made it on which machine. Records lie in ``experiments/recorded``, one file for a run's configuration, or
in any other folder; a sweep takes a recorded cell for done. Runs are deterministic, so a run of the store and its
record say the same, but for times, which are those of the machine that is named.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

from pydantic import ValidationError

from engine.errors import UserError
from engine.experiments.cells import Cell
from engine.experiments.measures import MEASURES, crossed
from engine.experiments.record import RecordedRun
from engine.experiments.standing import anywhere
from engine.experiments.statistics import IMAGES_FILE
from engine.experiments.sweep import Outcome
from engine.runs.outputs import REPORT_NAME
from engine.runs.store import RunStore

FOLDER = Path(__file__).parents[2] / "experiments" / "recorded"
SUFFIX = ".json.gz"
MAX_BYTES = 64 * 2**20
"""Of one record when it is unpacked (ours)."""


def record_of(store: RunStore, run_id: str) -> RecordedRun:
    """Return the record of a finished run. Its inference is timed now, where a bundle was exported."""
    record, folder = store.get(run_id), store.run_dir(run_id)
    report = json.loads((folder / REPORT_NAME).read_text(encoding="utf-8"))
    machine = report["machine"]
    rows = store.evaluation(run_id)
    return RecordedRun(
        key=anywhere(record.config),
        name=record.name,
        run_id=run_id,
        version=report.get("program", "unknown"),
        machine=f"{machine['processor']}, {machine['cores']} cores",
        images=tuple(json.loads((folder / IMAGES_FILE).read_text(encoding="utf-8"))),
        training_sites=tuple(sorted({row.site for row in rows if row.split == "validation"})),
        figures={m.name: m.of_run(store, run_id) for m in MEASURES.values() if m.of_run is not None},
        traffic=tuple(asdict(total) for total in crossed(store, run_id)),
    )


def write(record: RecordedRun, folder: Path) -> Path:
    """Write a record as ``KEY.json.gz`` below ``folder``, whole or not at all; equal records are equal files."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record.key}{SUFFIX}"
    text = json.dumps(record.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    part = path.with_suffix(".part")
    part.write_bytes(gzip.compress(text.encode(), mtime=0))
    part.replace(path)
    return path


@lru_cache(maxsize=1024)
def _read(path: Path, changed_ns: int) -> RecordedRun:
    """Read a file as it was at ``changed_ns``. Raises ``UserError`` ``experiment.bad_record``."""
    try:
        unpacking = zlib.decompressobj(wbits=31)
        text = unpacking.decompress(path.read_bytes(), MAX_BYTES)
        if not unpacking.eof:
            raise ValueError("it is cut, or has more than 64 MiB")
        found = RecordedRun.model_validate_json(text)
        if found.key != path.name.removesuffix(SUFFIX):
            raise ValueError(f"it is of the configuration {found.key}")
    except (OSError, ValueError, zlib.error, ValidationError) as error:
        raise UserError(
            "experiment.bad_record",
            what=f"The record {path.name} cannot be read: {str(error).splitlines()[0]}.",
            why="A table takes recorded figures for those of runs.",
            fix=f"Restore it from version control, or remove {path} and run its cell.",
        ) from error
    return found


def read(folder: Path) -> dict[str, RecordedRun]:
    """Return the records below ``folder`` by their keys; none where there is no such folder."""
    paths = sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else []
    return {found.key: found for found in (_read(path, path.stat().st_mtime_ns) for path in paths)}


def outcomes(cells: Iterable[Cell], folder: Path) -> dict[str, Outcome]:
    """Return the recorded cells' outcomes by the cells' keys."""
    recorded = read(folder)
    keys = {cell.key: anywhere(cell.config) for cell in cells if cell.config is not None}
    found = {mine: recorded.get(key) for mine, key in keys.items()}
    return {mine: Outcome("finished", r.run_id, recorded=r) for mine, r in found.items() if r is not None}


def write_all(store: RunStore, done: Mapping[str, Outcome], folder: Path, *, renew: bool = False) -> list[Path]:
    """Write the records of finished runs, with ``renew`` over those that are there; return the new files."""
    runs = [o.run_id for o in done.values() if o.status == "finished" and o.recorded is None and o.run_id is not None]
    new = [run for run in runs if renew or not (folder / f"{anywhere(store.get(run).config)}{SUFFIX}").is_file()]
    return [write(record_of(store, run), folder) for run in new]


def said(used: Sequence[RecordedRun], num_cells: int) -> str:
    """Return the sentence below a table that has recorded figures; empty where it has none."""
    if not used:
        return ""
    by = sorted({f"version {run.version} on {run.machine}" for run in used})
    return f"{len(used)} of {num_cells} cells are figures that were recorded before, by {'; '.join(by)}."


def beside(found: Mapping[str, Outcome], cells: Iterable[Cell], folder: Path | None = None) -> dict[str, Outcome]:
    """Return how cells stand: as they were ``found`` in a store, and as recorded where no run there is finished."""
    missing = (cell for cell in cells if cell.key not in found or found[cell.key].status != "finished")
    return {**found, **outcomes(missing, folder or FOLDER)}
