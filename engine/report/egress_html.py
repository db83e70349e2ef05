"""The egress report as one HTML file: a section for each site, which prints on pages of its own. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.methods import catalogue
from engine.report.document import RunDocument, read_document
from engine.report.egress import SiteEgress, State, egress
from engine.report.html import moment, page
from engine.report.site_records import NO_PROOFS, Proofs
from engine.runs.generator_checks import read_checks
from engine.runs.store import RunStore

STATE_WORDS: Mapping[State, str] = {"good": "in order", "open": "open", "bad": "look at this"}


def read_egress(store: RunStore, run_id: str, proofs: Proofs = NO_PROOFS) -> tuple[RunDocument, tuple[SiteEgress, ...]]:
    """Return a run's document and what left each site. ``UserError`` as of :func:`read_document`, for damaged files."""
    document = read_document(store, run_id)
    return document, egress(document, read_checks(store.run_dir(run_id)), proofs)


def egress_html(store: RunStore, run_id: str, proofs: Proofs = NO_PROOFS) -> str:
    """Return the report as one HTML page that needs nothing else; the same run gives the same text."""
    document, sites = read_egress(store, run_id, proofs)
    record = document.record
    facts = [
        ("Run", record.run_id),
        ("Method", catalogue.method_title(record.method)),
        ("Configuration", record.config_hash),
        ("Began", moment(record.started_at)),
        ("Ended", moment(record.finished_at)),
    ]
    method: Any = catalogue.methods().get(record.method)
    return page("egress.html", run=record, sites=sites, facts=facts, method=method, words=STATE_WORDS)
