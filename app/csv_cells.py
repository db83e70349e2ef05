"""Cells of CSV files that a table calculation opens. Pure."""

from __future__ import annotations

from typing import Any

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a table calculation would take for a formula at the beginning of a text."""


def plain(value: Any) -> Any:
    """Return a cell that no table calculation takes for a formula; numbers are none."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
