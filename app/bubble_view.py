"""The figure of traffic, Dice and inference time, and its table. Pure; loaded late, with plotly."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import plotly.graph_objects as go

from app import bubble_text, compare_text, markup, plots, text
from engine.experiments.bubbles import Bubble

LARGEST_PX = 44
"""Diameter of the slowest model's bubble."""
SMALLEST_PX = 5


def figure(published: Sequence[Bubble], runs: Sequence[tuple[int, Bubble]]) -> go.Figure:
    """Return the figure; ``runs`` are points with their place in the comparison, which gives colour and letter."""
    made = plots.blank(bubble_text.PLOT)
    seconds = [point.inference_s for point in (*published, *(point for _, point in runs)) if point.inference_s]
    # As plotly asks for it: the largest size then has this diameter, and areas are proportional to sizes.
    sizing = {"sizemode": "area", "sizeref": 2 * max(seconds, default=1.0) / LARGEST_PX**2, "sizemin": SMALLEST_PX}
    names = [one.name for one in published]
    _add(made, bubble_text.PUBLISHED, published, colour=plots.INK, sizing=sizing, words=names, side="top center")
    for place, point in runs:
        letter = compare_text.LETTERS[place]
        colour = plots.PALETTE[place % len(plots.PALETTE)]
        _add(
            made, f"{letter}: {point.name}", [point], colour=colour, sizing=sizing, words=[letter], side="middle right"
        )
    made.update_layout(hovermode="closest", height=440, legend_itemsizing="constant")
    made.update_xaxes(title_text=bubble_text.X_AXIS, type="log", dtick=1, tickformat=",")
    made.update_yaxes(title_text=bubble_text.Y_AXIS)
    return made


def _add(
    made: go.Figure,
    name: str,
    points: Sequence[Bubble],
    *,
    colour: str,
    sizing: dict[str, object],
    words: list[str],
    side: str,
) -> None:
    is_timed = all(point.inference_s for point in points)
    marker: dict[str, object] = {"color": colour, "opacity": 0.75}
    if is_timed:
        marker |= {**sizing, "size": [point.inference_s for point in points]}
    else:
        marker |= {"symbol": "x", "size": 10}
    made.add_scatter(
        x=[point.traffic_mib for point in points],
        y=[point.dice for point in points],
        name=escape(name if is_timed else f"{name} ({bubble_text.UNTIMED})"),
        mode="markers+text",
        text=[escape(word) for word in words],
        textposition=side,
        cliponaxis=False,
        marker=marker,
        customdata=[[escape(point.name), milliseconds(point)] for point in points],
        hovertemplate="%{customdata[0]}<br>%{x:,.1f} MiB<br>Dice %{y:.3f}<br>%{customdata[1]} ms<extra></extra>",
    )


def html(
    published: Sequence[Bubble], runs: Sequence[tuple[int, Bubble]], left_out: Sequence[str], *, is_timed: bool
) -> str:
    """Return what the scales are, the points as a table, and which runs have none."""
    rows = [_row(f"{compare_text.LETTERS[place]}: {point.name}", point) for place, point in runs]
    rows += [_row(point.name, point) for point in published]
    said = "".join(f"<li>{escape(sentence)}</li>" for sentence in left_out)
    listed = f"<h4>{bubble_text.LEFT_OUT_HEADING}</h4><ul>{said}</ul>" if left_out else ""
    times = bubble_text.TIMES if is_timed else bubble_text.NOT_TIMED
    notes = markup.notice(bubble_text.SCALES) + markup.quiet(f"{times} {bubble_text.PNG}")
    return notes + markup.table(bubble_text.COLUMNS, rows, label=bubble_text.HEADING) + listed


def milliseconds(point: Bubble) -> str:
    """Return the time for one image."""
    return text.NOT_MEASURED if point.inference_s is None else f"{1000 * point.inference_s:.1f}"


def _row(name: str, point: Bubble) -> list[str]:
    return [name, f"{point.traffic_mib:,.1f}", f"{point.dice:.3f}", milliseconds(point), point.about]
