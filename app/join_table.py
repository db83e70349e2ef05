"""A join as HTML: Dice before and after at every site, time and bytes against retraining. Pure; words are escaped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from app import join_text, markup, text, viewmodels
from engine.methods import catalogue
from engine.runs.join_results import JoinResults, Retraining

if TYPE_CHECKING:
    from engine.planning import Plan


def results(found: JoinResults | None) -> str:
    """Return what a join has brought and taken; nothing for other runs, and before anything is measured."""
    if found is None or not found.dice:
        return ""
    rows = [
        (
            join_text.SITE_JOINED.format(site=one.site) if one.joined else one.site,
            join_text.SPLITS[one.split],
            str(one.num_images),
            viewmodels.number(one.before),
            viewmodels.number(one.after),
            f"{one.after - one.before:+.3f}",
        )
        for one in found.dice
    ]
    said = join_text.DICE_NOTE.format(sites=", ".join(found.sites), run_id=found.continued)
    took = join_text.TOOK.format(
        time=viewmodels.duration(60 * found.minutes), size=viewmodels.megabytes(found.payload_bytes)
    )
    return (
        f"<h3>{join_text.RESULTS_HEADING}</h3>{markup.quiet(said)}"
        f"{markup.table(join_text.DICE_COLUMNS, rows, label=join_text.RESULTS_HEADING)}"
        f"{markup.quiet(took)}{_retraining(found.retraining)}"
    )


def plan(planned: Plan, retraining: Sequence[Retraining]) -> str:
    """Return what a join would take, and what training all sites anew would."""
    return f"{markup.plan(planned)}<h4>{join_text.RETRAINING_HEADING}</h4>{_retraining(retraining)}"


def _retraining(retraining: Sequence[Retraining]) -> str:
    rows = [
        (
            catalogue.method_title(one.method),
            text.NOT_MEASURED if one.minutes is None else viewmodels.duration(60 * one.minutes),
            text.NOT_MEASURED if one.payload_bytes is None else viewmodels.megabytes(one.payload_bytes),
            _source(one),
        )
        for one in retraining
    ]
    return markup.table(join_text.RETRAINING_COLUMNS, rows, label=join_text.RETRAINING_HEADING)


def _source(one: Retraining) -> str:
    if one.run_id is not None:
        return join_text.MEASURED.format(run_id=one.run_id)
    return join_text.UNKNOWN.format(why=one.why) if one.why else join_text.PLANNED
