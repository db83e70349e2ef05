"""Faults of a dataset: collected first, shown together, so that a person mends them in one go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import UserError

SHOWN = 10
"""Faults written out in an error; the rest is counted."""


@dataclass(frozen=True)
class Problem:
    """One fault: what is wrong, where, and what to do. ``file`` is relative to the dataset's folder."""

    code: str
    what: str
    fix: str
    site: str | None = None
    file: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON object that ``engine data check --json`` prints."""
        return {"code": self.code, "site": self.site, "file": self.file, "what": self.what, "fix": self.fix}


def raise_problems(problems: Sequence[Problem], *, dataset: str) -> None:
    """Raise one ``UserError`` for all ``problems``; do nothing where there are none.

    Its code is the faults' own where they share one, else ``data.several_faults``.
    """
    if not problems:
        return
    codes = {problem.code for problem in problems}
    fixes = list(dict.fromkeys(problem.fix for problem in problems[:SHOWN]))
    told = " ".join(problem.what for problem in problems[:SHOWN])
    rest = f" And {len(problems) - SHOWN} more." if len(problems) > SHOWN else ""
    raise UserError(
        codes.pop() if len(codes) == 1 else "data.several_faults",
        what=told + rest,
        why=f"The dataset {dataset} has {len(problems)} fault(s), and training on it would fail or mislead.",
        fix=" ".join(fixes),
    )
