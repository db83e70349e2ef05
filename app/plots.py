"""Plotly figures of a run's records. Pure: records in, figure out; colours are told apart without colour vision too."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from app import run_text, text
from app.overlays import hex_colour
from engine.methods import catalogue
from engine.runs.records import MetricSeries, TrafficTotal
from engine.types import MEAN_CLASS, EvaluationRow
from export.results import class_colour

if TYPE_CHECKING:
    import plotly.graph_objects as go

PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#f0e442", "#8c6bb1", "#8c510a")
"""Okabe and Ito's colours, which people with any colour vision tell apart, and two of ours for kinds of message."""
PATTERNS = ("", "/", "x", ".", "+")
"""Of what has no colour of its own left: the kinds of messages are more than colours that can be told apart."""
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x")
INK = "#64748b"
HATCHING = "#0f172a"
LEAST_SHOWN = 0.005
"""Of the longest bar, a part that can be seen at all (ours): what is less only a pointer finds, and no legend names."""
GRID = "rgba(100, 116, 139, 0.25)"
MEGABYTE = 1e6
DASHES, MEAN_DASHES = ("solid", "dash", "dashdot", "longdash"), ("dot", "longdashdot", "dashdot", "longdash")
"""Of the measures of one chart, for a site and for the mean over sites."""
TITLE_PX, CURVES_PX, AXIS_PX = 44, 190, 58
"""How high a chart's title is, the curves themselves, and the axis below them."""
MOST_TICKS = 10
"""So many steps at most have a tick each; of more, the ticks that are chosen are whole by themselves."""
LINE_PX, MOST_LINES = 19, 12
"""Of a legend on a narrow page: the height of a line, and how many of them there may be before it scrolls."""
LEGEND_PX, LETTER_PX, SAMPLE_PX = 340, 6.6, 45
"""How wide a legend is on a narrow page, a letter of it, and what comes before each name."""


def curves(series: Sequence[MetricSeries], *, title: str, empty: str, unit_range: bool = False) -> go.Figure:
    """Return one line for each curve. ``unit_range`` fixes the vertical axis to [0, 1] (a Dice)."""
    figure = blank(title)
    sites = sorted({curve.site for curve in series if curve.site})
    measures = sorted({curve.name for curve in series}, key=lambda name: (len(name), name))
    for position, curve in enumerate(series):
        # A site keeps its colour in every chart; the mean over sites is no site.
        index = sites.index(curve.site) if curve.site else position
        of_all = bool(sites) and not curve.site
        colour = INK if of_all else PALETTE[index % len(PALETTE)]
        dashes = MEAN_DASHES if of_all else DASHES
        dash = dashes[measures.index(curve.name) % len(dashes)] if sites else "solid"
        figure.add_scatter(
            x=list(curve.steps),
            y=[_finite(value) for value in curve.values],
            name=escape(curve_name(curve, series)),
            mode="lines+markers",
            line={"color": colour, "width": 3 if of_all else 2, "dash": dash},
            marker={"symbol": "star" if of_all else SYMBOLS[index % len(SYMBOLS)], "size": 6},
        )
    if not series:
        return say(figure, empty)
    axis = _step_axis(series[0].stage)
    figure.update_xaxes(title_text=axis, rangemode="tozero", **_whole_ticks(curve.steps for curve in series))
    figure.update_yaxes(range=[0, 1]) if unit_range else figure.update_yaxes(rangemode="tozero")
    return with_room(figure)


def _whole_ticks(steps: Iterable[Sequence[int]]) -> dict[str, int]:
    """Return the distance of ticks where few rounds or epochs would get some between them; none is a half."""
    last = max((max(some) for some in steps if some), default=0)
    return {"dtick": 1} if last <= MOST_TICKS else {}


def with_room(figure: go.Figure) -> go.Figure:
    """Return the figure of curves, so high that its legend takes nothing from them on a narrow page."""
    names = [trace.name for trace in figure.data]
    # Each name has the width of the longest.
    columns = max(1, int(LEGEND_PX // (SAMPLE_PX + LETTER_PX * max(map(len, names)))))
    lines = math.ceil(len(names) / columns)
    height = TITLE_PX + CURVES_PX + AXIS_PX + LINE_PX * min(lines, MOST_LINES)
    figure.update_layout(height=height, legend_y=-AXIS_PX / CURVES_PX)
    if lines > MOST_LINES:  # the legend scrolls: its title says how many lines there are
        figure.update_layout(legend_title_text=run_text.MANY_CURVES.format(count=len(names)))
    return figure


def overlaid(runs: Sequence[tuple[str, Sequence[MetricSeries]]], *, title: str, empty: str) -> go.Figure:
    """Return the Dice curves of several runs over each other; a run has a colour and a symbol, by its place."""
    figure = blank(title)
    for place, (name, series) in enumerate(runs):
        for curve in series:
            figure.add_scatter(
                x=list(curve.steps),
                y=[_finite(value) for value in curve.values],
                name=escape(name if len(series) == 1 else f"{name}, {catalogue.stage_title(curve.stage)}"),
                mode="lines+markers",
                line={"color": PALETTE[place % len(PALETTE)], "width": 2},
                marker={"symbol": SYMBOLS[place % len(SYMBOLS)], "size": 6},
            )
    if not figure.data:
        return say(figure, empty)
    axes = dict.fromkeys(_step_axis(curve.stage) for _, series in runs for curve in series)
    steps = (curve.steps for _, series in runs for curve in series)
    title_of_axis = " / ".join(axis for axis in axes if axis)
    figure.update_xaxes(title_text=title_of_axis, rangemode="tozero", **_whole_ticks(steps))
    figure.update_yaxes(range=[0, 1])
    return with_room(figure)


def curve_name(curve: MetricSeries, series: Sequence[MetricSeries]) -> str:
    """Return the shortest name that tells ``curve`` apart: its site, its measure, or both."""
    measure = curve.name.replace("_", " ")
    if len({other.site for other in series}) == 1:
        return measure
    site = curve.site or text.MEAN_OF_SITES
    return site if len({other.name for other in series}) == 1 else f"{site}: {measure}"


def traffic(totals: Sequence[TrafficTotal]) -> go.Figure:
    """Return two stacked bars a site, up and down: megabytes of every kind."""
    figure = blank(text.TRAFFIC_PLOT)
    if not totals:
        return say(figure, text.TRAFFIC_EMPTY)
    sites = sorted({total.site for total in totals})
    bars = [(site, direction) for site in reversed(sites) for direction in reversed(text.MOVES)]
    there, kinds = {total.kind for total in totals}, catalogue.kinds()
    lengths = Counter[tuple[str, str]]()
    for total in totals:
        lengths[total.site, total.direction] += total.payload_bytes
    longest = max(lengths.values())
    # All known kinds, so that a colour stays with its kind when the first message of another one arrives.
    for index, kind in enumerate([*kinds, *sorted(there - kinds.keys())]):
        if kind not in there:
            continue
        sums = Counter[tuple[str, str]]()
        for total in totals:
            if total.kind == kind:
                sums[total.site, total.direction] += total.payload_bytes
        figure.add_bar(
            y=[f"{escape(site)} {text.MOVES[direction]}" for site, direction in bars],
            x=[sums[bar] / MEGABYTE for bar in bars],
            orientation="h",
            name=escape(kinds[kind].title if kind in kinds else kind),
            marker={
                "color": PALETTE[index % len(PALETTE)],
                # Over the colour, not in place of it: a hatching alone is hardly seen in a legend.
                "pattern": {"shape": PATTERNS[index // len(PALETTE)], "fillmode": "overlay", "fgcolor": HATCHING},
            },
            showlegend=max(sums.values()) >= LEAST_SHOWN * longest,
            hovertemplate="%{x:.2f} MB<extra>%{fullData.name}</extra>",
        )
    figure.update_layout(barmode="stack", hovermode="closest", height=170 + 24 * len(bars))
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(type="category")
    return figure


def results(rows: Sequence[EvaluationRow]) -> go.Figure:
    """Return one horizontal bar for each model on the test images, with its 95 % interval; classes side by side."""
    figure = blank(text.RESULTS_PLOT)
    tested = [row for row in rows if row.split == "test"]
    if not tested:
        return say(figure, text.RESULTS_EMPTY)
    several_sites = len({row.site for row in tested}) > 1
    for index, name in enumerate(dict.fromkeys(row.class_name for row in tested)):
        of_class = [row for row in tested if row.class_name == name][::-1]
        figure.add_bar(
            y=[_bar_label(row, with_site=several_sites) for row in of_class],
            x=[_finite(row.dice) for row in of_class],
            name=escape(name),
            orientation="h",
            # In the colours of the outlines; the mean over classes is none.
            marker={"color": INK if name == MEAN_CLASS else hex_colour(class_colour(index))},
            error_x={
                "type": "data",
                # without an interval (one patient) there is no bar
                "array": [None if row.dice_high is None else _finite(row.dice_high - row.dice) for row in of_class],
                "arrayminus": [None if row.dice_low is None else _finite(row.dice - row.dice_low) for row in of_class],
                "color": INK,
                "thickness": 1.5,
            },
            hovertemplate="%{y}: Dice %{x:.3f}<extra>%{fullData.name}</extra>",
        )
    figure.update_layout(barmode="group", hovermode="closest", height=140 + 34 * len(tested))
    figure.update_xaxes(range=[0, 1])
    figure.update_yaxes(automargin=True, type="category")
    return figure


def _step_axis(stage: str) -> str:
    known = catalogue.stage(stage)
    return "" if known is None else known.step


def _bar_label(row: EvaluationRow, *, with_site: bool) -> str:
    label = escape(catalogue.model_title(row.model)).replace(", ", ",<br>")
    return f"{label} · {escape(row.site)}" if with_site else label


def blank(title: str) -> go.Figure:
    """Return an empty figure in the page's dress; ``uirevision`` keeps a reader's zoom while data arrive."""
    import plotly.graph_objects as go  # late: no figure is in the first paint

    axis = {"gridcolor": GRID, "linecolor": GRID, "zerolinecolor": GRID, "automargin": True}
    layout = go.Layout(
        template=go.layout.Template(),
        title={"text": title, "font": {"size": 15}, "x": 0.02, "xref": "container"},
        height=320,
        margin={"l": 8, "r": 12, "t": 44, "b": 8},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "color": INK, "size": 12},
        legend={"orientation": "h", "yanchor": "top", "y": -0.3, "x": 0},
        hovermode="x unified",
        showlegend=True,
        uirevision="kept",
        xaxis=axis,
        yaxis=axis,
    )
    return go.Figure(layout=layout)


def say(figure: go.Figure, sentence: str) -> go.Figure:
    """Return the figure with a sentence in place of axes."""
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    figure.update_layout(height=180, margin={"l": 16})
    place = {"x": 0.0, "y": 0.6, "xref": "paper", "yref": "paper", "xanchor": "left"}
    figure.add_annotation(text=sentence, showarrow=False, **place)
    return figure


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
