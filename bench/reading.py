"""The record of one file that was read twice: by our reader and by an independent one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["equal", "refused", "wrong"]


@dataclass(frozen=True)
class Outcome:
    """What came of one file: ``equal`` values, ``refused`` with the right name, or ``wrong``; ``detail`` says how."""

    file: str
    verdict: Verdict
    detail: str
