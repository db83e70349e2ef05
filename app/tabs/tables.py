"""The Tables tab: a table of the papers, how its runs stand, its figures beside the published ones, and its files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import gradio as gr

from app import markup, table_text, tables
from app.studio import Studio
from engine.errors import UserError
from engine.experiments.spec import Scale

if TYPE_CHECKING:
    from engine.experiments.tables import Table


@dataclass(frozen=True)
class Parts:
    """The tab's components that its handlers read or write."""

    which: gr.Dropdown
    scale: gr.Radio
    again: gr.Button
    message: gr.HTML
    standing: gr.HTML
    figures: gr.HTML
    downloads: dict[str, gr.DownloadButton]


def build(studio: Studio, tab: gr.Tab) -> Parts:
    """Place the tab's components and wire them; call it inside ``tab``, which is read when it is opened."""
    names = tables.titles()
    gr.HTML(f"{markup.spoken(table_text.TAB_TABLES)}<p class='lead'>{table_text.TABLES_LEAD}</p>")
    with gr.Row(elem_classes="filters"):
        which = gr.Dropdown(
            [(_label(name, title), name) for name, title in names.items()],
            value=next(iter(names)),
            label=table_text.TABLE_LABEL,
            info=table_text.TABLE_INFO,
            elem_id="table-which",
        )
        scale = gr.Radio(
            [(label, value) for value, label in table_text.SCALES.items()],
            value="mini",
            label=table_text.SCALE_LABEL,
            info=table_text.SCALE_INFO,
            elem_id="table-scale",
        )
        again = gr.Button(table_text.READ_AGAIN, size="sm", elem_id="table-again", scale=0, min_width=180)
    message = gr.HTML(elem_id="table-message")
    standing = gr.HTML(elem_id="table-standing")
    figures = gr.HTML(elem_id="table-figures")
    with gr.Row(elem_classes="actions"):
        downloads = {
            suffix: gr.DownloadButton(label, size="sm", visible=False, elem_id=f"table-{suffix[1:]}")
            for suffix, label in table_text.DOWNLOADS.items()
        }
    parts = Parts(which, scale, again, message, standing, figures, downloads)
    _wire(studio, tab, parts)
    return parts


def _label(name: str, title: str) -> str:
    return f"{name}: {title}"


def _wire(studio: Studio, tab: gr.Tab, parts: Parts) -> None:
    shown = [parts.message, parts.standing, parts.figures, *parts.downloads.values()]

    def show(which: str, scale: str) -> list[Any]:
        from app import table_view  # late, with the planning of runs that it brings in

        found, box = studio.attempt(lambda: _filled(studio, which, scale))
        if found is None:
            return [box, "", "", *[gr.DownloadButton(visible=False)] * len(parts.downloads)]
        standing = studio.told(table_view.standing(which, scale, found.runs))
        unmeasured = markup.quiet(table_text.NOT_MEASURED_HERE) if which == "3" else ""
        return [
            "",
            standing,
            studio.told(table_view.filled(found)) + unmeasured,
            *(
                gr.DownloadButton(value=_file(studio, found, suffix, f"{which}_{scale}"), visible=True)
                for suffix in parts.downloads
            ),
        ]

    chosen = [parts.which, parts.scale]
    how: dict[str, Any] = {"api_visibility": "private", "show_progress_on": parts.message}
    for event in (tab.select, parts.which.input, parts.scale.input, parts.again.click):
        event(show, chosen, shown, trigger_mode="always_last", **how)


def _filled(studio: Studio, which: str, scale: str) -> Table:
    if which not in tables.titles() or scale not in get_args(Scale):  # a path is nothing that a browser may name
        raise UserError(
            "app.table_unknown",
            what="There is no such table.",
            why="The page offers the tables of this program.",
            fix="Choose one from the list.",
        )
    return studio.tables.fill(which, scale)  # type: ignore[arg-type]  # checked above


def _file(studio: Studio, found: Table, suffix: str, stem: str) -> str:
    """Return the path of one of the table's files, for download."""
    return studio.save(f"{stem}{suffix}", studio.told(found.texts[suffix]).encode())
