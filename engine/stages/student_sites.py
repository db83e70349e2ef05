"""The source sites as programs that answer the student's tasks."""

from __future__ import annotations

from dataclasses import replace

from engine.federation.client_app import build_client_app
from engine.federation.grid import InProcessGrid
from engine.federation.student_task import OnSiteStep, make_student_tasks
from engine.stages.context import RunContext
from engine.types import Traffic

QUERIES_FROM = 1_000_000
"""Traffic is keyed by round: a query about the model of round r is kept apart from the round's own messages."""


def student_grid(context: RunContext, *, on_step: OnSiteStep | None = None) -> InProcessGrid:
    """Return a Grid on which every source site trains, validates and measures the student."""
    sites = context.federation.sites
    tasks = make_student_tasks(
        lambda: context.architecture("student"),
        train={name: site.train for name, site in sites.items()},
        validation={name: site.validation for name, site in sites.items()},
        config=context.config.federation,
        objective=context.objective,
        seed=context.config.seed,
        state_root=context.run_dir / "sites",
        placement=context.placement,
        check_cancelled=context.reporter.check_cancelled,
        on_step=on_step,
    )
    return InProcessGrid(build_client_app(tasks), sites=tuple(sites))


def record_query(context: RunContext, record: Traffic) -> None:
    """Report the bytes of a query about the model of a round; see ``QUERIES_FROM``."""
    context.reporter.traffic(replace(record, round=QUERIES_FROM + record.round))
