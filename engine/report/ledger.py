"""The privacy ledger of a run: every message that crossed a site's border, as the server has counted it. Torch-free.

What the server has on record of a message is its stage, site, direction, kind, number and bytes. The digest of what
left, and who approved it, are in the site's own record (``site log``); ``site_records`` adds them where a site has
handed that over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from engine.federation.task_titles import QUERIES_FROM
from engine.methods import catalogue
from engine.runs import schema
from engine.runs.store import RunStore
from engine.types import Direction


@dataclass(frozen=True)
class Message:
    """What crossed one site's border at once: content of one kind, in one direction."""

    stage: str
    site: str
    direction: Direction
    kind: str
    number: int
    """The round, where it was a round's; else the number of the question. It tells messages of one kind apart."""
    payload_bytes: int

    @property
    def is_round(self) -> bool:
        """Whether ``number`` is that of a federated round."""
        known = catalogue.stage(self.stage)
        return known is not None and known.averages and 0 < self.number < QUERIES_FROM


@dataclass(frozen=True)
class LedgerSum:
    """All messages of one kind, one site, one direction and one stage together."""

    site: str
    direction: Direction
    kind: str
    stage: str
    num_messages: int
    payload_bytes: int
    fewest_bytes: int
    most_bytes: int


def read_ledger(store: RunStore, run_id: str) -> tuple[Message, ...]:
    """Return every message of the run: stages in their order, then by number, site, direction (down first) and kind.

    A message that was sent again after a failure replaces the one before it: the store keeps one of each.
    """
    order = {stage.name: stage.position for stage in store.stages(run_id)}
    table = schema.traffic
    columns = (table.c.stage, table.c.site, table.c.direction, table.c.kind, table.c.round, table.c.payload_bytes)
    rows = store.rows(sa.select(*columns).where(table.c.run_id == run_id))
    found = [Message(*tuple(row)) for row in rows]
    return tuple(sorted(found, key=lambda m: (order.get(m.stage, len(order)), m.number, m.site, m.direction, m.kind)))


def sums(messages: Sequence[Message]) -> tuple[LedgerSum, ...]:
    """Return the messages of one kind together: by site, what went up first, then in order of appearance."""
    groups: dict[tuple[str, Direction, str, str], list[int]] = {}
    for message in messages:
        groups.setdefault((message.site, message.direction, message.kind, message.stage), []).append(
            message.payload_bytes
        )
    found = [LedgerSum(*key, len(sizes), sum(sizes), min(sizes), max(sizes)) for key, sizes in groups.items()]
    return tuple(sorted(found, key=lambda one: (one.site, one.direction != "up")))


def contents(kind: str) -> str:
    """Return the sentence that says what a kind of message holds; its name where no method here sends it."""
    known = catalogue.kinds().get(kind)
    return kind if known is None else known.contents
