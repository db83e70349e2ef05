"""What is wrong with a configuration, as data: a program reads sentences with keys, a form puts each at its field."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.errors import UserError

MAX_FAULTS_SAID = 12
MAX_LETTERS = 200
"""Of a key or a value that is not known, as far as it is repeated (ours)."""


@dataclass(frozen=True)
class ConfigFault:
    """One fault: ``key`` is the dotted path (a section's name, or empty, where it is about several), ``said`` why.

    ``kind`` is pydantic's name of the fault, ``limits`` its bounds (``ge``, ``gt``, ``le``, ``lt``, ``expected``, ...),
    ``value`` what was given, shortened.
    """

    key: str
    kind: str
    said: str
    limits: Mapping[str, Any] = field(default_factory=dict)
    value: str = ""


class SeveralFaults(ValueError):
    """Raised by a check of keys that have to fit each other: all sentences that are true, not only the first."""

    def __init__(self, said: Sequence[str]) -> None:
        super().__init__("; ".join(said))
        self.said = tuple(said)


class InvalidConfig(UserError):
    """``config.invalid``, with the faults one by one."""

    def __init__(self, faults: Sequence[ConfigFault]) -> None:
        named = [f"{fault.key or 'configuration'}: {fault.said}" for fault in faults]
        listed = "; ".join([*named[:MAX_FAULTS_SAID], *(["..."] if len(named) > MAX_FAULTS_SAID else [])])
        super().__init__(
            "config.invalid",
            what=f"The configuration has {len(faults)} fault(s): {listed}.",
            why="A run is started only from a configuration in which every key is known and possible.",
            fix="Correct the named keys; `python -m engine plan --preset NAME --json` prints a complete valid example.",
        )
        self.faults = tuple(faults)


def faults_of(errors: Iterable[Mapping[str, Any]]) -> tuple[ConfigFault, ...]:
    """Return pydantic's errors as faults, in order; a check that says several things gives one for each."""
    found: list[ConfigFault] = []
    for error in errors:
        key = ".".join(map(str, error["loc"]))[:MAX_LETTERS]
        limits = dict(error.get("ctx", {}))
        cause = limits.pop("error", None)
        value = error.get("input")
        shown = str(value)[:MAX_LETTERS] if isinstance(value, str | int | float | bool) else ""
        if isinstance(cause, SeveralFaults):
            found += [ConfigFault(key, error["type"], f"Value error, {said}") for said in cause.said]
        else:
            found.append(ConfigFault(key, error["type"], error["msg"], limits, shown))
    return tuple(found)
