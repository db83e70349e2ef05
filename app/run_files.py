"""The files of a run that the page gives away, each made when it is asked for. Torch-free."""

from __future__ import annotations

import hmac
import os
import secrets
import time
import zipfile
from pathlib import Path

from app import take_away_text as words
from app import viewmodels
from app.access import Visitor
from app.studio import Studio
from app.uploads import MIB
from engine.config_text import to_toml
from engine.errors import UserError
from engine.runs.archive_export import export_run
from engine.runs.archive_places import without_folders
from engine.runs.outputs import REPORT_NAME

SHARE = 0.5
"""Of all that the page keeps for download, at most so much for one file (ours): a larger one is taken in a terminal."""
LOG_LINES = 100_000
_SECRET = secrets.token_bytes(32)
"""Of this process: without it, nobody can say where a file lies whose content they know."""


def make(studio: Studio, run_id: str, kind: str, *, by: Visitor) -> Path:
    """Write one of ``take_away_text.KINDS`` where nobody can guess it, and return its path; it goes when uploads do.

    Kinds of ``READ`` are for whoever sees the run, the others for who may change it. ``UserError`` for whoever may not
    have it, for a kind that is none, and for what is not there.
    """
    if kind not in words.READ:
        studio.permissions.check_run(by, run_id)
    studio.store.get(run_id)
    if kind not in words.KINDS:
        raise UserError("app.no_such_file", what=words.NO_SUCH_WHAT, why=words.NO_SUCH_WHY, fix=words.NO_SUCH_FIX)
    if kind in ("zip", "bundle"):
        folder = studio.scratch.path / secrets.token_urlsafe(16)
        folder.mkdir(mode=0o700)
        path = folder / (f"{run_id}.zip" if kind == "zip" else f"{run_id}_model.zip")
        most_bytes = int(SHARE * studio.settings.all_mb * MIB)
        if kind == "zip":
            export_run(studio.store, run_id, path, most_bytes=most_bytes, with_places=studio.mode == "local")
        else:
            _zip_bundle(studio, run_id, path, most_bytes=most_bytes)
        return path
    name, text = _text(studio, run_id, kind)
    content = studio.told(text, of=studio.store.get(run_id).config).encode()
    return _kept_once(studio, f"{run_id}_{name}", content)


def offered(studio: Studio, run_id: str | None, *, by: Visitor) -> list[tuple[str, str]]:
    """Return label and kind of what this visitor may take away from the run."""
    may_all = bool(run_id) and studio.permissions.may_change(by, run_id or "")
    return [(label, kind) for kind, label in words.KINDS.items() if may_all or kind in words.READ]


def _kept_once(studio: Studio, name: str, content: bytes) -> Path:
    """Write a file where nobody can guess it; the same content lies there once, however often it is asked for."""
    digest = hmac.new(_SECRET, name.encode() + b"\0" + content, "sha256").hexdigest()
    folder = studio.scratch.path / digest
    folder.mkdir(mode=0o700, exist_ok=True)
    half = folder / f".{secrets.token_hex(8)}.part"
    half.write_bytes(content)
    half.replace(folder / name)
    os.utime(folder)  # as if it was made now: what is old is deleted
    return folder / name


def _text(studio: Studio, run_id: str, kind: str) -> tuple[str, str]:
    """Return the end of the file's name and what it says."""
    from engine.report.egress_html import egress_html  # late: the first paint needs no report
    from engine.report.html import html_report
    from engine.report.images import images_csv
    from engine.report.ledger import read_ledger
    from engine.report.ledger_csv import ledger_csv

    store = studio.store
    if kind == "html":
        return "report.html", html_report(store, run_id)
    if kind == "egress":
        return "egress.html", egress_html(store, run_id)
    if kind == "ledger":
        return "ledger.csv", ledger_csv(run_id, read_ledger(store, run_id))
    if kind == "images":
        return "images.csv", images_csv(store, run_id)
    if kind == "settings":
        config = store.get(run_id).config
        return "settings.toml", to_toml(config if studio.mode == "local" else without_folders(config))
    if kind == "log":
        stamp = "%Y-%m-%d %H:%M:%S"
        lines = (
            f"{time.strftime(stamp, time.gmtime(line.at))} {line.level:7} {line.stage or '-'} {line.text}\n"
            for line in store.events(run_id, limit=LOG_LINES)
        )
        return "log.txt", "".join(lines)
    path = store.run_dir(run_id) / REPORT_NAME
    if not path.is_file():
        raise _not_there(run_id, words.REPORT_FILE)
    return "report.json", path.read_text(encoding="utf-8", errors="replace")


def _zip_bundle(studio: Studio, run_id: str, path: Path, *, most_bytes: int) -> None:
    bundles = studio.store.artefacts(run_id, kind="bundle")
    folder = studio.store.run_dir(run_id) / bundles[-1].path if bundles else None
    files = [] if folder is None else sorted(p for p in folder.iterdir() if p.is_file() and not p.is_symlink())
    if not files:
        raise _not_there(run_id, words.BUNDLE_FILE)
    total = sum(file.stat().st_size for file in files)
    if total > most_bytes:
        what = words.TOO_LARGE_WHAT.format(size=viewmodels.megabytes(total))
        fix = words.TOO_LARGE_FIX.format(run_id=run_id)
        raise UserError("app.file_too_large", what=what, why=words.TOO_LARGE_WHY, fix=fix)
    with zipfile.ZipFile(path, "w") as zipped:
        for file in files:  # by the time of no clock: the same model is the same file
            about = zipfile.ZipInfo(file.name)
            about.compress_type, about.external_attr = zipfile.ZIP_DEFLATED, 0o100600 << 16
            zipped.writestr(about, file.read_bytes())


def _not_there(run_id: str, what: str) -> UserError:
    return UserError(
        "app.file_not_there",
        what=words.NOT_THERE_WHAT.format(run_id=run_id, what=what),
        why=words.NOT_THERE_WHY,
        fix=words.NOT_THERE_FIX,
    )
