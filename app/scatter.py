"""The plot of the two terms of every sample, with the line between what is chosen and what is left. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from app import plots, regions, sample_text, text
from app.reranking import Reranked
from engine.distillation.choice import Boundary
from engine.methods import catalogue

if TYPE_CHECKING:
    import plotly.graph_objects as go

MAX_POINTS = 4000
"""Drawn at once (ours): every n-th rank of a larger pool."""
IN_COLOUR, OUT_COLOUR = "#009e73", "#d55e00"
"""Of what would come in and go out, in pictures and plots."""


def plotted(ranked: Reranked, *, site: str = "") -> np.ndarray:
    """Return which samples have a place in the plot, bool (N,): those with both terms (of ``site``, where given)."""
    pool = ranked.pool
    of_site = pool.is_scored & (pool.sites == site) if site else pool.is_scored
    return of_site & np.isfinite(pool.l_gt) & np.isfinite(pool.l_kl)


def learnability(
    ranked: Reranked,
    *,
    site: str = "",
    chosen: str | None = None,
    region: regions.Region | None = None,
    models: Mapping[str, str] | None = None,
) -> go.Figure:
    """Return L_GT against L_KL of every scored sample (of ``site``, where one is given).

    Those that the run selected are filled, the others hollow; what would change has a colour and a symbol of its own,
    and what lies outside a ``region`` is faint. ``customdata`` holds the sample's id. ``models`` is what the run calls
    its student and its teacher.
    """
    pool, names = ranked.pool, models or catalogue.family_titles()
    at = np.flatnonzero(plotted(ranked, site=site))
    shown = _thinned(at, pool.rank)
    cut = sample_text.POINTS_CUT.format(shown=len(shown), total=len(at)) if len(shown) < len(at) else ""
    figure = plots.blank(f"{text.SCATTER_PLOT}<br>{cut}" if cut else text.SCATTER_PLOT)
    if not len(at):
        return plots.say(figure, text.SCATTER_EMPTY)
    stays, comes, goes = ~(ranked.comes_in | ranked.goes_out), ranked.comes_in, ranked.goes_out
    for name, group, colour, symbol in (
        (text.REJECTED, stays & ~pool.selected, plots.INK, "circle-open"),
        (text.SELECTED, stays & pool.selected, plots.PALETTE[0], "circle"),
        (sample_text.COMES_IN, comes, IN_COLOUR, "triangle-up"),
        (sample_text.GOES_OUT, goes, OUT_COLOUR, "x"),
    ):
        points = shown[group[shown]]
        if len(points) or name in (text.REJECTED, text.SELECTED):
            _add_points(figure, ranked, points, name=name, marker={"color": colour, "symbol": symbol, "size": 8})
    ring = at[pool.sample_ids[at] == chosen]
    if len(ring):
        marker = {"color": plots.PALETTE[1], "symbol": "circle-open", "size": 18, "line": {"width": 3}}
        _add_points(figure, ranked, ring, name=chosen or "", marker=marker)
    _add_lines(figure, ranked, at)
    _add_region(figure, ranked, at, region)
    figure.update_layout(hovermode="closest", height=440, margin_t=64 if cut else 44)
    figure.update_xaxes(title_text=text.L_GT_AXIS.format(**names))
    figure.update_yaxes(title_text=text.L_KL_AXIS.format(**names))
    return figure


def _thinned(at: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """Return at most ``MAX_POINTS`` of the indices ``at``, evenly over their ranks: both sides of a boundary stay."""
    return at[np.argsort(rank[at], kind="stable")][:: _every(len(at))]


def num_drawn(total: int) -> int:
    """Return how many of so many samples the plot draws."""
    return -(-total // _every(total))


def _every(total: int) -> int:
    return max(1, -(-total // MAX_POINTS))


def _add_points(figure: go.Figure, ranked: Reranked, at: np.ndarray, *, name: str, marker: dict[str, object]) -> None:
    figure.add_scatter(
        x=ranked.pool.l_gt[at].tolist(),
        y=ranked.pool.l_kl[at].tolist(),
        customdata=ranked.pool.sample_ids[at].tolist(),  # for the browser, as they are
        text=[escape(sample_id) for sample_id in ranked.pool.sample_ids[at].tolist()],
        name=escape(name),
        mode="markers",
        marker=marker,
        hovertemplate="%{text}<br>L_GT %{x:.4f}<br>L_KL %{y:.4f}<extra></extra>",
    )


def _add_region(figure: go.Figure, ranked: Reranked, at: np.ndarray, region: regions.Region | None) -> None:
    """Draw the outline of what is chosen; ``selectionrevision`` lets a choice of before go from the browser."""
    x, y = ((float(term[at].min()), float(term[at].max())) for term in (ranked.pool.l_gt, ranked.pool.l_kl))
    drawn = [] if region is None else regions.outlines(region, x=x, y=y)
    line = {"color": plots.PALETTE[4], "width": 2, "dash": "solid"}
    figure.update_layout(
        selections=[{**one, "line": line, "opacity": 1} for one in drawn],
        selectionrevision=str(drawn),
        newselection={"line": line},
    )


def _add_lines(figure: go.Figure, ranked: Reranked, at: np.ndarray) -> None:
    """Draw the run's boundary, and that of other values, where they cross the box of the points."""
    box = [(float(term[at].min()), float(term[at].max())) for term in (ranked.pool.l_gt, ranked.pool.l_kl)]
    lines = [(sample_text.OWN_LINE, ranked.own_boundary, {"color": plots.INK, "dash": "dash"})]
    if not ranked.is_own:
        lines.append((sample_text.LINE, ranked.boundary, {"color": plots.PALETTE[4], "dash": "solid"}))
    for name, boundary, look in lines:
        ends = within(boundary, x=box[0], y=box[1]) if boundary is not None else []
        if ends:
            x, y = zip(*ends, strict=True)
            figure.add_scatter(x=x, y=y, name=name, mode="lines", line={"width": 2, **look}, hoverinfo="skip")


def within(boundary: Boundary, *, x: tuple[float, float], y: tuple[float, float]) -> list[tuple[float, float]]:
    """Return the two ends of the line inside a box, L_GT first; none where it does not cross the box."""
    found = []
    for edge in x:
        if boundary.l_kl:
            height = (boundary.level - boundary.l_gt * edge) / boundary.l_kl
            found += [(edge, height)] if y[0] <= height <= y[1] else []
    for edge in y:
        if boundary.l_gt:
            place = (boundary.level - boundary.l_kl * edge) / boundary.l_gt
            found += [(place, edge)] if x[0] <= place <= x[1] else []
    ends = sorted(set(found))
    return [ends[0], ends[-1]] if len(ends) > 1 else []
