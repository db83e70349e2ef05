"""What the page loads once it is served: the first paint needs none of it, and it would wait seconds for it."""

from __future__ import annotations

from importlib import import_module

PARTS = (
    "engine.planning",
    "plotly.graph_objects",
    "app.table_view",
    "app.bubble_view",
    "engine.report.html",
    "export.outputs.measurements",
    "app.volume_jobs",
    "app.data_look",
    "app.data_view",
    "engine.deployment.server",
)
"""In the order in which visitors ask for them: a plan, a figure, a table, runs beside the paper, a report, figures of
a mask, a volume, what a dataset holds, who of a federation is there."""


def load() -> None:
    """Import the parts, so that no visitor waits for them either."""
    for part in PARTS:
        import_module(part)
