"""A table as Markdown, LaTeX and CSV: figures beside the published ones. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from engine.experiments.measures import MEASURES, Measure
from engine.experiments.results import Entry
from engine.experiments.spreadsheet import rows_csv

NOTHING = "-"
_LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
          "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "λ": r"$\lambda$"}  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """A laid-out table: a heading, a header and rows of texts, the first of each row a name."""

    heading: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def make_grids(entries: Sequence[Entry], *, reference: str | None) -> list[Grid]:
    """Return a grid for each measure, and one of the differences to ``reference`` and the worst sites."""
    grids = []
    for name in dict.fromkeys(entry.measure for entry in entries):
        of_measure = [entry for entry in entries if entry.measure == name]
        grids.append(_values(MEASURES[name], of_measure))
        compared = [entry for entry in of_measure if entry.difference is not None]
        if compared:
            title = next((entry.title for entry in of_measure if entry.system == reference), reference)
            grids.append(_differences(MEASURES[name], compared, reference=str(title)))
        worst = [entry for entry in of_measure if entry.worst is not None]
        if worst:
            grids.append(_worst(MEASURES[name], worst))
    return grids


def _values(measure: Measure, entries: Sequence[Entry]) -> Grid:
    columns = list(dict.fromkeys(entry.column for entry in entries))
    published = {e.column: e.published_column for e in entries if e.published is not None}
    header = ["System"]
    for column in columns:
        header += [column, f"{published[column]}, published"] if column in published else [column]
    rows = []
    for system in dict.fromkeys(entry.system for entry in entries):
        of_system = {entry.column: entry for entry in entries if entry.system == system}
        row = [next(iter(of_system.values())).title]
        for column in columns:
            entry = of_system[column]
            row.append(value_cell(entry, measure))
            if column in published:
                row.append(NOTHING if entry.published is None else f"{entry.published:.{measure.decimals}f}")
        rows.append(tuple(row))
    return Grid(measure.title, tuple(header), tuple(rows))


def _differences(measure: Measure, entries: Sequence[Entry], *, reference: str) -> Grid:
    columns = list(dict.fromkeys(entry.column for entry in entries))
    rows = []
    for system in dict.fromkeys(entry.system for entry in entries):
        of_system = {entry.column: entry for entry in entries if entry.system == system}
        title = next(iter(of_system.values())).title
        found = (of_system.get(column) for column in columns)
        rows.append((title, *(NOTHING if e is None else difference_cell(e, measure) for e in found)))
    return Grid(f"{measure.title}: difference to {reference}", ("System", *columns), tuple(rows))


def _worst(measure: Measure, entries: Sequence[Entry]) -> Grid:
    columns = list(dict.fromkeys(entry.column for entry in entries))
    rows = []
    for system in dict.fromkeys(entry.system for entry in entries):
        of_system = {entry.column: entry for entry in entries if entry.system == system}
        title = next(iter(of_system.values())).title
        found = (of_system.get(column) for column in columns)
        cells = (NOTHING if e is None else f"{e.worst:.{measure.decimals}f} ({e.worst_site})" for e in found)
        rows.append((title, *cells))
    what = "worst site held out" if measure.at == "held_out" else "worst of them"
    return Grid(f"{measure.title}: {what}", ("System", *columns), tuple(rows))


def value_cell(entry: Entry, measure: Measure) -> str:
    """Return ``mean ± sd [low, high]``; without a result, why there is none."""
    if entry.mean is None:
        return NOTHING if entry.status == "finished" else entry.status
    text = f"{entry.mean:.{measure.decimals}f}"
    if entry.sd is not None:
        text += f" ± {entry.sd:.{measure.decimals}f}"
    if entry.low is not None and entry.high is not None:
        text += f" [{entry.low:.{measure.decimals}f}, {entry.high:.{measure.decimals}f}]"
    return text if entry.status == "finished" else f"{text} ({entry.status})"


def difference_cell(entry: Entry, measure: Measure) -> str:
    """Return ``+difference [low, high], p``."""
    text = f"{entry.difference:+.{measure.decimals}f}"
    if entry.difference_low is not None and entry.difference_high is not None:
        text += f" [{entry.difference_low:+.{measure.decimals}f}, {entry.difference_high:+.{measure.decimals}f}]"
    return f"{text}, p = {entry.p_value:.2g}"


def leaders(entries: Sequence[Entry], *, reference: str | None) -> list[str]:
    """Return a sentence for each measure and column in which ``reference`` does not lead."""
    said = []
    for measure, column in dict.fromkeys((entry.measure, entry.column) for entry in entries):
        found = [e for e in entries if (e.measure, e.column) == (measure, column) and e.mean is not None]
        ours = next((entry for entry in found if entry.system == reference), None)
        if ours is None or ours.mean is None:
            continue
        about = MEASURES[measure]
        sign = 1 if about.higher_is_better else -1
        best = max(found, key=lambda entry: sign * (entry.mean or 0.0))
        if sign * ((best.mean or 0.0) - ours.mean) <= 0:
            continue
        means = f"{best.mean:.{about.decimals}f} against {ours.mean:.{about.decimals}f}"
        test = "" if best.difference is None else f" (difference {difference_cell(best, about)})"
        said.append(f"{about.title}, {column}: {best.title} leads, not {ours.title}: {means}{test}.")
    return said


def to_markdown(title: str, grids: Sequence[Grid], notes: Sequence[str]) -> str:
    """Return the grids as Markdown tables below ``title``, and the notes as a list."""
    parts = [f"# {title}"]
    for grid in grids:
        widths = [max(len(row[i]) for row in (grid.header, *grid.rows)) for i in range(len(grid.header))]
        lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
                 for row in (grid.header, ["-" * width for width in widths], *grid.rows)]  # fmt: skip
        parts.append("\n".join([f"## {grid.heading}", "", *("| " + " | ".join(line) + " |" for line in lines)]))
    if notes:
        parts.append("\n".join(f"- {note}" for note in notes))
    return "\n\n".join(parts) + "\n"


def to_latex(title: str, grids: Sequence[Grid], notes: Sequence[str]) -> str:
    """Return the grids as LaTeX tables (package booktabs), the notes as comments."""
    parts = [f"% {note}" for note in notes]
    for grid in grids:
        lines = [" & ".join(escaped(cell) for cell in row) + r" \\" for row in (grid.header, *grid.rows)]
        parts += [
            r"\begin{table}",
            rf"\caption{{{escaped(title)}. {escaped(grid.heading)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(grid.header) - 1)}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    return "\n".join(parts) + "\n"


def escaped(text: str) -> str:
    """Return ``text`` with the letters that LaTeX reads as commands made harmless."""
    return "".join(_LATEX.get(letter, letter) for letter in text)


def entries_csv(entries: Sequence[Entry]) -> str:
    """Return the figures as CSV, one a line, the fields of :class:`Entry` as columns."""
    return rows_csv([asdict(entry) for entry in entries], columns=tuple(Entry.__dataclass_fields__))
