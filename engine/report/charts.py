"""Charts as inline SVG, without a script: lines over steps, and values with their intervals. Pure; torch-free.

Texts are the words' own colour (``currentColor``), so that a chart follows a light or a dark page, and paper. Lines
differ by dash as well as by colour. Every text goes through ElementTree, which escapes it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement, tostring

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#8c510a")
"""Okabe and Ito's colours, which people with any colour vision tell apart, without the yellow that paper swallows."""
DASHES = ("", "7 3", "2 3", "9 3 2 3")
WIDTH, PLOT_HEIGHT = 640, 230
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 10, 40
LEGEND_ROW, LEGEND_COLUMNS = 18, 2
MOST_POINTS = 300
"""Of one line; of a longer one every so-manieth and the last (ours)."""
MOST_LETTERS = 36


@dataclass(frozen=True)
class Line:
    """One curve: ``values[i]`` at ``steps[i]``; what is not finite is a gap."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]


@dataclass(frozen=True)
class Estimate:
    """One value with the ends of its interval, None where it has none."""

    name: str
    value: float
    low: float | None
    high: float | None


def line_chart(lines: Sequence[Line], *, title: str, x_title: str, y_range: tuple[float, float] | None = None) -> str:
    """Return an SVG of the lines, their names below; ``y_range`` fixes the vertical axis. Empty without a finite value.

    The horizontal axis goes from the first step to the last of all lines.
    """
    finite = [value for line in lines for value in line.values if math.isfinite(value)]
    if not finite:
        return ""
    steps = [step for line in lines for step in line.steps]
    x_axis = _Axis(min(steps), max(steps), LEFT, WIDTH - RIGHT)
    low, high = y_range or (min(0.0, *finite), max(finite))
    y_axis = _Axis(low, high, TOP + PLOT_HEIGHT - BOTTOM, TOP)
    num_rows = math.ceil(len(lines) / LEGEND_COLUMNS)
    svg = _svg(title, PLOT_HEIGHT + TOP + num_rows * LEGEND_ROW)
    _grid(svg, x_axis, y_axis, x_title=x_title)
    for place, line in enumerate(lines):
        style = {"stroke": COLOURS[place % len(COLOURS)], "stroke-width": "2", "fill": "none"}
        dash = DASHES[place // len(COLOURS) % len(DASHES)] if len(lines) > len(COLOURS) else DASHES[place % len(DASHES)]
        style |= {"stroke-dasharray": dash} if dash else {}
        for part in _parts(line):
            points = [(x_axis.at(step), y_axis.at(value)) for step, value in part]
            if len(points) == 1:
                _circle(svg, *points[0], colour=style["stroke"])
            else:
                words = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
                SubElement(svg, "polyline", {"points": words, **style})
        x = LEFT + (place % LEGEND_COLUMNS) * (WIDTH - LEFT) / LEGEND_COLUMNS
        y = PLOT_HEIGHT + TOP + (place // LEGEND_COLUMNS) * LEGEND_ROW + 4
        SubElement(svg, "line", {"x1": f"{x:.1f}", "x2": f"{x + 26:.1f}", "y1": str(y), "y2": str(y), **style})
        _text(svg, line.name, x + 32, y + 4)
    return tostring(svg, encoding="unicode")


def interval_chart(estimates: Sequence[Estimate], *, title: str, x_title: str, x_range: tuple[float, float]) -> str:
    """Return an SVG with a line for each estimate: a dot at its value, a bar over its interval. Empty for none."""
    shown = [one for one in estimates if math.isfinite(one.value)]
    if not shown:
        return ""
    row_height, left, width = 28, 320, 800
    height = TOP + len(shown) * row_height
    axis = _Axis(*x_range, left, width - RIGHT)
    svg = _svg(title, height + BOTTOM, width=width, look="chart wide")
    for tick in axis.ticks():
        x = axis.at(tick)
        _rule(svg, x, TOP, x, height)
        _text(svg, f"{tick:g}", x, height + 16, anchor="middle")
    _text(svg, x_title, (left + width - RIGHT) / 2, height + 34, anchor="middle")
    for place, one in enumerate(shown):
        y, colour = TOP + (place + 0.5) * row_height, COLOURS[0]
        _text(svg, one.name, left - 12, y + 4, anchor="end", most=50)
        if one.low is not None and one.high is not None:
            ends = {"x1": f"{axis.at(one.low):.1f}", "x2": f"{axis.at(one.high):.1f}"}
            SubElement(svg, "line", {**ends, "y1": f"{y:.1f}", "y2": f"{y:.1f}", "stroke": colour, "stroke-width": "3"})
        _circle(svg, axis.at(one.value), y, colour=colour)
    return tostring(svg, encoding="unicode")


@dataclass(frozen=True)
class _Axis:
    """From values to pixels; a range without width is widened by one on both sides."""

    low: float
    high: float
    first_px: float
    last_px: float

    def at(self, value: float) -> float:
        """Return the pixel of a value; what lies outside is drawn at the edge."""
        low, high = self._ends()
        share = min(1.0, max(0.0, (value - low) / (high - low)))
        return self.first_px + share * (self.last_px - self.first_px)

    def ticks(self) -> list[float]:
        """Return round values within the range, at most about six."""
        low, high = self._ends()
        rough = (high - low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
        first = math.ceil(low / step - 1e-9)
        count = math.floor(high / step + 1e-9) - first + 1
        return [round((first + number) * step, 12) for number in range(count)]

    def _ends(self) -> tuple[float, float]:
        return (self.low, self.high) if self.high > self.low else (self.low - 1, self.low + 1)


def _parts(line: Line) -> list[list[tuple[float, float]]]:
    """Return the line's points, thinned where they are many, cut where a value is missing."""
    points = list(zip(line.steps, line.values, strict=True))
    if len(points) > MOST_POINTS:
        every = math.ceil(len(points) / (MOST_POINTS - 1))
        points = [*points[:-1:every], points[-1]]
    parts: list[list[tuple[float, float]]] = [[]]
    for step, value in points:
        if math.isfinite(value):
            parts[-1].append((step, value))
        elif parts[-1]:
            parts.append([])
    return [part for part in parts if part]


def _svg(title: str, height: float, *, width: float = WIDTH, look: str = "chart") -> Element:
    about = {"viewBox": f"0 0 {width:g} {height:g}", "role": "img", "aria-label": title, "class": look}
    return Element("svg", {"xmlns": "http://www.w3.org/2000/svg", **about})


def _grid(svg: Element, x_axis: _Axis, y_axis: _Axis, *, x_title: str) -> None:
    bottom = y_axis.first_px
    for tick in y_axis.ticks():
        _rule(svg, LEFT, y_axis.at(tick), WIDTH - RIGHT, y_axis.at(tick))
        _text(svg, f"{tick:g}", LEFT - 8, y_axis.at(tick) + 4, anchor="end")
    for tick in x_axis.ticks():
        _text(svg, f"{tick:g}", x_axis.at(tick), bottom + 16, anchor="middle")
    _text(svg, x_title, (LEFT + WIDTH - RIGHT) / 2, bottom + 33, anchor="middle")


def _rule(svg: Element, x1: float, y1: float, x2: float, y2: float) -> None:
    ends = {"x1": f"{x1:.1f}", "y1": f"{y1:.1f}", "x2": f"{x2:.1f}", "y2": f"{y2:.1f}"}
    SubElement(svg, "line", {**ends, "stroke": "currentColor", "stroke-opacity": "0.2"})


def _circle(svg: Element, x: float, y: float, *, colour: str) -> None:
    SubElement(svg, "circle", {"cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": "4.5", "fill": colour})


def _text(svg: Element, words: str, x: float, y: float, *, anchor: str = "start", most: int = MOST_LETTERS) -> None:
    short = words if len(words) <= most else f"{words[: most - 1]}…"
    made = SubElement(svg, "text", {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor, "fill": "currentColor",
                                    "font-size": "12"})  # fmt: skip
    made.text = "".join(letter if letter.isprintable() else "\ufffd" for letter in short)
