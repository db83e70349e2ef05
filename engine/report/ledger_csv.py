"""The privacy ledger as CSV: a line for each message, with digest and approval where a site's record has them."""

from __future__ import annotations

from collections.abc import Sequence

from engine.experiments.spreadsheet import rows_csv
from engine.methods import catalogue
from engine.report.ledger import Message, contents
from engine.report.site_records import NO_PROOFS, Proofs

COLUMNS = ("run_id", "stage", "site", "direction", "kind", "contents", "number", "bytes", "epsilon", "epsilon_of",
           "sha256", "approved_by", "left_at", "note")  # fmt: skip
"""``sha256``, ``approved_by`` and ``left_at`` are of the site's own record; ``number`` is a round's or a question's;
``epsilon`` is of all that was noised up to this message, of the site's privacy or each patient's (``epsilon_of``)."""
NOT_HERE = "digest and approval are not on record at the server; the site has them where it runs a program of its own"
NOT_MATCHED = "the site's record that was handed over has no such line"
NUMBERS = "figures and image counts; they go with a message and have no digest"
FROM_SERVER = "sent by the server; nobody at the site approves what comes"


def ledger_csv(run_id: str, messages: Sequence[Message], proofs: Proofs = NO_PROOFS) -> str:
    """Return a line for each message, in the order of ``COLUMNS``; ``note`` says what is not on record, and where."""
    rows = []
    for one in messages:
        proof = proofs.of.get(one)
        row = {
            "run_id": run_id,
            "stage": one.stage,
            "site": one.site,
            "direction": one.direction,
            "kind": one.kind,
            "contents": contents(one.kind),
            "number": one.number,
            "bytes": one.payload_bytes,
            "epsilon": one.epsilon,
            "epsilon_of": one.epsilon_of,
            "sha256": None if proof is None else proof.sha256,
            "approved_by": None if proof is None else proof.approved_by,
            "left_at": None if proof is None else proof.at,
            "note": _note(one, proofs),
        }
        rows.append(row)
    return rows_csv(rows, columns=COLUMNS)


def _note(one: Message, proofs: Proofs) -> str:
    if one.direction == "down":
        return FROM_SERVER
    if one.kind == catalogue.METRICS.name:
        return NUMBERS
    if one in proofs.of:
        return ""
    return NOT_MATCHED if one.site in proofs.sites else NOT_HERE
