"""Faults of a dataset: collected first, shown together, so that a person mends them in one go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from engine.errors import UserError

SHOWN = 10
"""Faults written out in an error; the rest is counted."""

Weight = Literal["fault", "warning"]
"""A fault keeps a run from starting; a warning is something that a person should know before he trusts its figures."""


@dataclass(frozen=True)
class Problem:
    """One fault or warning: what is wrong, where, and what to do. ``file`` is relative to the dataset's folder."""

    code: str
    what: str
    fix: str
    site: str | None = None
    file: str | None = None
    weight: Weight = "fault"

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON object that ``engine data check --json`` prints."""
        return {"code": self.code, "site": self.site, "file": self.file, "what": self.what, "fix": self.fix}


def faults_of(problems: Sequence[Problem]) -> list[Problem]:
    """Return those that keep a run from starting."""
    return [problem for problem in problems if problem.weight == "fault"]


def warnings_of(problems: Sequence[Problem]) -> list[Problem]:
    """Return those that a run starts in spite of."""
    return [problem for problem in problems if problem.weight == "warning"]


def raise_problems(problems: Sequence[Problem], *, dataset: str) -> None:
    """Raise one ``UserError`` for all faults among ``problems``; do nothing where there are none.

    Its code is the faults' own where they share one, else ``data.several_faults``.
    """
    faults = faults_of(problems)
    if not faults:
        return
    codes = {fault.code for fault in faults}
    fixes = list(dict.fromkeys(fault.fix for fault in faults[:SHOWN]))
    told = " ".join(fault.what for fault in faults[:SHOWN])
    rest = f" And {len(faults) - SHOWN} more." if len(faults) > SHOWN else ""
    raise UserError(
        codes.pop() if len(codes) == 1 else "data.several_faults",
        what=told + rest,
        why=f"The dataset {dataset} has {len(faults)} fault(s), and training on it would fail or mislead.",
        fix=" ".join(fixes),
    )
