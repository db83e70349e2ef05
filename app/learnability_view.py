"""How the samples' scores lie in each epoch of distillation, as a map of shares. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from app import learnability_text as words
from app import plots

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from engine.runs.score_spread import ScoreSpread

SCALE = "Cividis"
"""Even in brightness, also without colour vision."""
LINE = "#d55e00"
"""In none of the scale's colours."""


def figure(spread: ScoreSpread | None) -> go.Figure:
    """Return the share of samples (percent of those scored in the epoch) by epoch and score, and the boundary."""
    drawn = plots.blank(words.PLOT)
    if spread is None:
        return plots.say(drawn, words.EMPTY)
    shares_EB = percent(spread.counts_EB)
    middles = [(low + high) / 2 for low, high in zip(spread.edges, spread.edges[1:], strict=False)]
    drawn.add_heatmap(
        x=list(spread.epochs),
        y=middles,
        z=[[None if share == 0 else share for share in row] for row in shares_EB.T.tolist()],
        colorscale=SCALE,
        showscale=False,
        hovertemplate=words.HOVER,
        showlegend=False,
    )
    drawn.add_scatter(
        x=list(spread.epochs),
        y=list(spread.boundary),
        name=words.BOUNDARY,
        mode="lines+markers",
        line={"color": LINE, "width": 2},
        marker={"size": 5},
        hoverinfo="skip",
    )
    drawn.update_layout(hovermode="closest")
    ticks = {"dtick": 1} if len(spread.epochs) <= plots.MOST_TICKS else {}
    drawn.update_xaxes(title_text=words.EPOCH, **ticks)
    drawn.update_yaxes(title_text=words.SCORE)
    return drawn


def percent(counts_EB: np.ndarray) -> np.ndarray:
    """Return each row's counts as percent of their sum, float64; zeros for a row of none."""
    sums_E1 = counts_EB.sum(axis=1, keepdims=True)
    return 100.0 * counts_EB / np.maximum(sums_E1, 1)
