"""The privacy ledger of a run: every message that crossed a site's border, as the server has counted it. Torch-free.

What the server has on record of a message is its stage, site, direction, kind, number and bytes. The digest of what
left, and who approved it, are in the site's own record (``site log``); ``site_records`` adds them where a site has
handed that over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import sqlalchemy as sa

from engine.federation.task_titles import QUERIES_FROM
from engine.methods import catalogue
from engine.runs import schema
from engine.runs.store import RunStore
from engine.types import Direction

EPSILON, PATIENT_EPSILON = "epsilon", "patient_epsilon"
"""Curves of a site: what its updates have spent of its privacy, and its generator of each patient's."""
GENERATOR, GENERATOR_SENT = "generator", -1
"""The kind of message that a generator is, and what stands for its round."""


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
    epsilon: float | None = field(default=None, compare=False)
    """Of what was noised: what has been spent up to it, of the site's privacy or of each patient's (``epsilon_of``)."""
    epsilon_of: str | None = field(default=None, compare=False)
    """``site``: by its updates in rounds; ``patient``: by its generator."""

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
    spent = _spent(store, run_id)
    found = [_with_epsilon(Message(*tuple(row)), spent) for row in rows]
    return tuple(sorted(found, key=lambda m: (order.get(m.stage, len(order)), m.number, m.site, m.direction, m.kind)))


def _spent(store: RunStore, run_id: str) -> dict[tuple[str, str, int], float]:
    """Return the curves of epsilon by stage, site and round; of generators, which go up once, by the round -1."""
    table = schema.metrics
    columns = (table.c.name, table.c.stage, table.c.site, table.c.step, table.c.value)
    mine = (table.c.run_id == run_id, table.c.name.in_((EPSILON, PATIENT_EPSILON)), table.c.value.is_not(None))
    rows = store.rows(sa.select(*columns).where(*mine))
    return {
        (stage, site, step if name == EPSILON else GENERATOR_SENT): value for name, stage, site, step, value in rows
    }


def _with_epsilon(message: Message, spent: Mapping[tuple[str, str, int], float]) -> Message:
    if message.direction == "down" or message.kind == catalogue.METRICS.name:
        return message
    if not message.is_round and message.kind != GENERATOR:
        return message
    number = message.number if message.is_round else GENERATOR_SENT
    epsilon = spent.get((message.stage, message.site, number))
    unit = None if epsilon is None else "site" if message.is_round else "patient"
    return replace(message, epsilon=epsilon, epsilon_of=unit)


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
