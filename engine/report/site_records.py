"""Digests and approvals for the ledger, from the records that sites hand over. Torch-free.

A site's record (``engine.site.audit``) has a line for everything that left it. A message of the ledger and such a line
belong together by site, kind, number and bytes; whatever one of the two has and the other has not is said.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.methods import catalogue
from engine.report.ledger import Message

MOST_LETTERS = 200
MOST_FAULTS = 20
"""Of one site, said one by one (ours)."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
Entries = Sequence[Mapping[str, Any]]
"""The lines of one site's record, its chain checked: ``AuditLog.entries``."""


@dataclass(frozen=True)
class Proof:
    """What a site's record says of a message that left it."""

    sha256: str
    approved_by: str
    at: str


@dataclass(frozen=True)
class Proofs:
    """What the records that were handed over say of the messages of one run."""

    sites: tuple[str, ...] = ()
    """Sites whose record was there."""
    of: Mapping[Message, Proof] = field(default_factory=dict)
    said: tuple[str, ...] = ()
    """Sentences: how much of each record fits, and what does not."""


NO_PROOFS = Proofs()
"""Where no site has handed over its record."""


@dataclass(frozen=True)
class _Left:
    kind: str
    number: int
    payload_bytes: int
    proof: Proof


def join_records(messages: Sequence[Message], records: Mapping[str, Entries], *, run_id: str) -> Proofs:
    """Return the proofs of a run's messages up, from the records by site's name.

    A site that was asked twice has answered twice: the last line of a message is its proof, and earlier ones are
    counted. Figures alone (no arrays) are in both records, but with a message, and have no line of their own here.
    """
    found: dict[Message, Proof] = {}
    said: list[str] = []
    for site, entries in records.items():
        sent = [m for m in messages if (m.site, m.direction) == (site, "up") and m.kind != catalogue.METRICS.name]
        lines, odd = _left(entries, run_id)
        proofs, faults = _matched(sent, lines)
        found |= proofs
        said.append(f"{site}: {len(proofs)} of {len(sent)} messages to the server are in its record with their bytes.")
        faults += [f"{odd} lines of its record on this run are none that the program writes."] if odd else []
        said += [f"{site}: {fault}" for fault in faults[:MOST_FAULTS]]
        if len(faults) > MOST_FAULTS:
            said.append(f"{site}: {len(faults) - MOST_FAULTS} more such faults.")
    return Proofs(tuple(records), found, tuple(said))


def _matched(sent: Sequence[Message], lines: Sequence[_Left]) -> tuple[dict[Message, Proof], list[str]]:
    waiting: dict[tuple[str, int, int], list[_Left]] = {}
    for line in lines:
        waiting.setdefault((line.kind, line.number, line.payload_bytes), []).append(line)
    alike = Counter((message.kind, message.number, message.payload_bytes) for message in sent)
    found: dict[Message, Proof] = {}
    faults, seen = [], Counter[tuple[str, int, int]]()
    for message in sent:
        key = (message.kind, message.number, message.payload_bytes)
        mine = waiting.get(key, [])[-alike[key] :]  # of stages that number alike: as many of the last as there are
        if len(mine) < alike[key]:
            faults.append(
                f"{_named(message.kind, message.number)} of {message.payload_bytes} bytes is not in its record."
            )
            continue
        found[message] = mine[seen[key]].proof
        seen[key] += 1
    known = {(message.kind, message.number) for message in sent}
    for (kind, number, num_bytes), same in waiting.items():
        if (kind, number, num_bytes) in alike:
            again = len(same) - alike[kind, number, num_bytes]
            if again > 0:
                faults.append(f"{_named(kind, number)} has left {again} more time(s), before its last answer.")
        elif (kind, number) in known:
            faults.append(f"{_named(kind, number)} has {num_bytes} bytes in its record, other than the server counted.")
        else:
            faults.append(f"{_named(kind, number)} of {num_bytes} bytes is in its record, and the server has none.")
    return found, faults


def _left(entries: Entries, run_id: str) -> tuple[list[_Left], int]:
    """Return what has left in the run with arrays, oldest first, and how many lines on it are not as they should be."""
    found, odd = [], 0
    for entry in entries:
        if entry.get("event") != "left" or entry.get("run") != run_id or entry.get("bytes") == 0:
            continue
        kind, number, num_bytes = (entry.get(key) for key in ("kind", "round", "bytes"))
        digest, by, at = (entry.get(key) for key in ("digest", "approved_by", "at"))
        is_line = isinstance(kind, str) and type(number) is int and type(num_bytes) is int
        is_line = is_line and isinstance(digest, str) and _SHA256.fullmatch(digest) is not None
        if not (is_line and isinstance(by, str) and isinstance(at, str)):
            odd += 1
            continue
        found.append(_Left(str(kind)[:MOST_LETTERS], number, num_bytes, Proof(str(digest), by[:MOST_LETTERS], at[:40])))
    return found, odd


def _named(kind: str, number: int) -> str:
    return f"'{kind}', number {number},"
