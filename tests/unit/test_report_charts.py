"""Charts of a report: places on the axes that were worked out by hand, gaps, and texts that are no markup."""

from __future__ import annotations

import math
from xml.etree.ElementTree import Element, fromstring

import pytest

from engine.report import charts
from engine.report.charts import Estimate, Line, interval_chart, line_chart

SVG = "{http://www.w3.org/2000/svg}"


def drawn(lines: list[Line], **how: object) -> Element:
    options = {"title": "t", "x_title": "round", "y_range": (0.0, 1.0), **how}
    return fromstring(line_chart(lines, **options))  # type: ignore[arg-type]


def points(svg: Element) -> list[list[tuple[float, float]]]:
    return [
        [tuple(float(n) for n in pair.split(",")) for pair in line.get("points", "").split()]  # type: ignore[misc]
        for line in svg.iter(f"{SVG}polyline")
    ]


def test_a_value_lies_where_its_axis_says() -> None:
    (line,) = points(drawn([Line("a", (0, 1, 2), (0.0, 0.5, 1.0))]))
    # From 56 to 640 - 12 across; from 10 + 230 - 40 = 200 up to 10.
    assert line == [(56.0, 200.0), (342.0, 105.0), (628.0, 10.0)]


def test_what_is_missing_is_a_gap_and_a_single_point_a_dot() -> None:
    svg = drawn([Line("a", (0, 1, 2, 3, 4), (0.1, 0.2, math.nan, 0.4, math.inf))])
    assert [len(part) for part in points(svg)] == [2]
    assert len(list(svg.iter(f"{SVG}circle"))) == 1
    assert (
        line_chart([Line("a", (1,), (math.nan,))], title="t", x_title="x")
        == ""
        == line_chart([], title="t", x_title="")
    )


def test_a_long_curve_keeps_its_ends() -> None:
    steps = list(range(10_001))
    (line,) = points(drawn([Line("a", steps, [step / 10_000 for step in steps])]))
    assert len(line) <= charts.MOST_POINTS and line[0] == (56.0, 200.0) and line[-1] == (628.0, 10.0)


@pytest.mark.parametrize(("low", "high", "expected"), [
    (0.0, 1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (0.0, 7.0, [0, 2, 4, 6]), (1, 30, [10, 20, 30]),
    (3.0, 3.0, [2, 2.5, 3, 3.5, 4]), (-0.5, 0.5, [-0.4, -0.2, 0, 0.2, 0.4]),
])  # fmt: skip
def test_ticks_are_round_values_within_the_range(low: float, high: float, expected: list[float]) -> None:
    assert charts._Axis(low, high, 0, 1).ticks() == pytest.approx(expected)


def test_an_interval_is_drawn_at_its_ends_and_one_without_has_none() -> None:
    found = [Estimate("a", 0.5, 0.0, 1.0), Estimate("b", 0.25, None, None), Estimate("c", math.nan, None, None)]
    svg = fromstring(interval_chart(found, title="t", x_title="Dice", x_range=(0.0, 1.0)))
    # From 320 to 800 - 12 across, 28 a line.
    bars = [line for line in svg.iter(f"{SVG}line") if line.get("stroke-width") == "3"]
    assert [(bar.get("x1"), bar.get("x2"), bar.get("y1")) for bar in bars] == [("320.0", "788.0", "24.0")]
    dots = [(dot.get("cx"), dot.get("cy")) for dot in svg.iter(f"{SVG}circle")]
    assert dots == [("554.0", "24.0"), ("437.0", "52.0")]
    assert interval_chart(found[2:], title="t", x_title="x", x_range=(0, 1)) == ""


def test_names_are_text_short_and_printable() -> None:
    name = "<b>\x00\x1b" + "n" * 50
    svg = drawn([Line(name, (0, 1), (0.1, 0.2))], title="<i>\"'")
    words = [element.text for element in svg.iter(f"{SVG}text")]
    assert f"<b>\ufffd\ufffd{'n' * 30}…" in words and svg.get("aria-label") == "<i>\"'"
    assert not list(svg.iter(f"{SVG}b"))


def test_lines_of_one_colour_differ_by_their_dash() -> None:
    svg = drawn([Line(str(number), (0, 1), (0.1, 0.2)) for number in range(20)])
    looks = {(line.get("stroke"), line.get("stroke-dasharray")) for line in svg.iter(f"{SVG}polyline")}
    assert len(looks) == 20
