"""Rows as CSV, for table calculations. Torch-free, and quick to import."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a table calculation would take for a formula at the beginning of a text."""


def rows_csv(rows: Sequence[Mapping[str, Any]], *, columns: Sequence[str]) -> str:
    """Return ``rows`` as CSV with these columns; ``None`` is an empty cell, and no cell a formula (:func:`plain`)."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: plain(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def plain(value: Any) -> Any:
    """Return a cell that no table calculation takes for a formula; names of runs and sites are other people's words."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
