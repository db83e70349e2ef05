"""How commands speak: one JSON object, or tables and sentences for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

JsonFlag = Annotated[bool, typer.Option("--json", help="One JSON object on standard output")]
HomeOption = Annotated[
    Path | None, typer.Option("--home", help="Folder of runs and weights; DSFEDMED_HOME or ./studio_home when left out")
]


def print_json(value: Mapping[str, Any]) -> None:
    """Print ``value`` as one JSON object; NaN and infinities become null, paths text."""
    from engine.runs.report import finite

    print(json.dumps(finite(value), default=str, ensure_ascii=False, allow_nan=False), flush=True)


def print_error(reason: Mapping[str, str], *, as_json: bool) -> None:
    """Print the four fields of an error, for people on standard error."""
    if as_json:
        print_json({"error": dict(reason)})
        return
    print(f"Error ({reason['code']}): {reason['what']}", file=sys.stderr)
    print(f"  Why: {reason['why']}\n  Fix: {reason['fix']}", file=sys.stderr)


def print_table(header: Sequence[str], rows: Sequence[Sequence[Any]], *, right: Sequence[int] = ()) -> None:
    """Print aligned columns; those in ``right`` (from 0) to the right."""
    texts = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[column]) for row in texts) for column in range(len(header))]
    texts.insert(1, ["-" * width for width in widths])
    for row in texts:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def duration(seconds: float | None) -> str:
    """Return ``1:02:03`` or ``2:03``; a dash while unknown."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def size(num_bytes: float) -> str:
    """Return a size with three digits and its unit, powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} TB"
