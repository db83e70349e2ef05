"""Runs side by side as LaTeX: the page's own tables and figures."""

from __future__ import annotations

from collections.abc import Sequence

from app import compare_text, compare_view
from engine.experiments.compared_measures import COMPARED
from engine.experiments.comparison import Comparison


def latex(found: Comparison, *, paths: bool) -> str:
    """Return every table of the comparison in LaTeX (package booktabs): all three measures, with their differences."""
    from engine.experiments.formats import Grid, to_latex  # late: it brings in the experiments, which the page need not

    letters = compare_text.LETTERS[: len(found.runs)]
    further = tuple(compare_text.DIFFERENCE_COLUMN.format(letter=letter) for letter in letters[1:])
    grids = [Grid(compare_text.RUNS_HEADING, compare_text.RUN_COLUMNS, _cells(compare_view.run_rows(found.runs)))]
    settings = [
        [one.label, one.section, *(value or compare_text.LATEX_DASH for value in one.values)]
        for one in compare_view.settings(found.runs, paths=paths)
    ]
    if settings:
        header = (*compare_text.SETTING_COLUMNS, *letters)
        grids.append(Grid(compare_text.SETTINGS_HEADING, header, _cells(settings)))
    for measure in COMPARED.values() if found.places else ():
        heading = compare_text.MEASURE_HEADING.format(measure=measure.title)
        header = compare_text.MEASURE_COLUMNS
        grids.append(Grid(heading, (*header, *letters), _cells(compare_view.measure_rows(found, measure))))
        heading = compare_text.MINUS_HEADING.format(measure=measure.title)
        grids.append(Grid(heading, (*header, *further), _cells(compare_view.difference_rows(found, measure))))
    header = (compare_text.TRAFFIC_COLUMN, *letters)
    grids.append(Grid(compare_text.TRAFFIC_HEADING, header, _cells(compare_view.traffic_rows(found.runs))))
    notes = [*compare_text.MEASURE_NOTES.values(), compare_text.TRAFFIC_NOTE]
    return to_latex(compare_text.LATEX_TITLE, grids, notes)


def _cells(rows: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    """Return the rows with every cell on one line: a line break would end LaTeX's own."""
    return tuple(tuple(" ".join(cell.split()) for cell in row) for row in rows)
