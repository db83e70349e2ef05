"""The epochs of a gated distillation: their Dice beside that of before, the kept one marked, what came of it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from app import kept_text, markup
from app.plots import INK, PALETTE, with_room
from engine.runs.gates import GateRecord, best_epoch, judged_epochs
from engine.runs.records import MetricSeries

if TYPE_CHECKING:
    import plotly.graph_objects as go


def marked(figure: go.Figure, series: Sequence[MetricSeries], *, is_over: bool, is_watched: bool = False) -> go.Figure:
    """Add to the figure of ``series`` a line at the Dice of before distillation and a ring around the best epoch.

    Nothing where these are not the curves of a judged distillation. ``is_over`` says whether all epochs are judged,
    ``is_watched`` that the last one is kept whatever is said of it.
    """
    dice = judged_epochs(series)
    kept = best_epoch(dice)
    if kept is None or set(dice) == {0}:  # nothing to choose from yet, or means were judged and not epochs
        return figure
    if 0 in dice:
        figure.add_scatter(
            x=[0, max(dice)],
            y=[dice[0], dice[0]],
            name=kept_text.BEFORE.format(dice=dice[0]),
            mode="lines",
            line={"color": INK, "width": 1, "dash": "dash"},
            hoverinfo="skip",
        )
    words = kept_text.SO_FAR if not is_over else kept_text.BEST if is_watched else kept_text.KEPT
    figure.add_scatter(
        x=[kept],
        y=[dice[kept]],
        name=words.format(epoch=kept, dice=dice[kept]),
        mode="markers",
        marker={"color": PALETTE[4], "symbol": "circle-open", "size": 16, "line": {"width": 3}},
        hoverinfo="skip",
    )
    return with_room(figure)


def said(record: GateRecord | None) -> str:
    """Return what came of it as HTML; nothing without a gate."""
    if record is None:
        return ""
    return f"<h3>{kept_text.HEADING}</h3>" + "".join(markup.quiet(sentence) for sentence in record.sentences())
