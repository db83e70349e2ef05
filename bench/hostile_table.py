"""What ``bench.hostile`` prints of its cells, one or several seeds, and what it judges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

WITHOUT, HONEST = "(three sites, no hostile one)", "(its honest reply)"
TOLERANCE_POINTS = 1.0
Cells = Mapping[str, Mapping[str, Any]]
"""``dice`` in points (None where the run broke off) and in how many rounds the site was ``refused``, by
"attack | defence"."""


def reference(cells: Cells) -> float:
    """Return the Dice of the run without the site, in points."""
    return float(cells[f"{WITHOUT} | None"]["dice"])


def table(seeds: Sequence[Cells], *, rows: Sequence[str], defences: Sequence[str], rounds: int) -> str:
    """Return the cells as text: Dice, and its difference from that seed's run without the site; * where refused.

    Of several seeds these are the mean, and the least and the most of the differences.
    """
    whole = [reference(cells) for cells in seeds]
    spread = "" if len(seeds) == 1 else f" [{min(whole):.1f}, {max(whole):.1f}]"
    lines = [["One of four sends", "no defence", *defences], [WITHOUT, f"{mean(whole):.1f}{spread}"]]
    for row in rows:
        found = [[cells[f"{row} | {defence}"] for cells in seeds] for defence in (None, *defences)]
        lines.append([row, *(_cell(cells, whole, rounds=rounds) for cells in found)])
    widths = [max(len(line[column]) for line in lines if column < len(line)) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=False)).rstrip() for line in lines
    )


def _cell(cells: Sequence[Mapping[str, Any]], whole: Sequence[float], *, rounds: int) -> str:
    every, some = all(cell["refused"] == rounds for cell in cells), any(cell["refused"] for cell in cells)
    pairs = [
        (cell["dice"], cell["dice"] - alone)
        for cell, alone in zip(cells, whole, strict=True)
        if cell["dice"] is not None
    ]
    broken = len(cells) - len(pairs)
    if not pairs:
        return "breaks off"
    dice, differences = zip(*pairs, strict=True)
    spread = "" if len(cells) == 1 else f" [{min(differences):+.1f}, {max(differences):+.1f}]"
    off = f", {broken} break off" if broken else ""
    return f"{mean(dice):.1f} ({mean(differences):+.1f}{spread}){'*' if every else '+' if some else ''}{off}"


def failures(seeds: Mapping[int, Cells], *, attacks: Sequence[str], relied_on: Sequence[str]) -> list[str]:
    """Return the cells where a defence that is relied on is more than a point below that seed's run without the site.

    A defended run that broke off is one, too.
    """
    found = []
    for seed, cells in seeds.items():
        least = reference(cells) - TOLERANCE_POINTS
        broken = {key for key, cell in cells.items() if "error" in cell and not key.endswith("| None")}
        found += [f"seed {seed}, {key}: {cells[key]['error']}" for key in cells if key in broken]
        keys = [f"{attack} | {defence}" for attack in attacks for defence in relied_on]
        low = [key for key in keys if key not in broken and cells[key]["dice"] < least]
        found += [f"seed {seed}, {key}: {cells[key]['dice']:.1f} is below {least:.1f}" for key in low]
    return found
