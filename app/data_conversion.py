"""A folder in the layout of nnU-Net or the Decathlon becomes a dataset, asked for on the page. Torch-free.

Who may look at the folder may have it made a dataset: operators, and where others reach the page below the folders
that its operator has named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app import data_look, data_text, markup
from app.access import Visitor
from app.watched import watched
from engine.data.survey import Survey

if TYPE_CHECKING:
    from app.studio import Studio
    from engine.data.prepare.preparation import Report

FOREIGN = "data.foreign_layout"
"""The code of the fault that a look finds at such a folder."""
SHOWN = 5
"""Images left out that are named (ours)."""


@dataclass(frozen=True)
class Converted:
    """The new dataset, and what there is to say of it; ``is_whole`` where nothing was left out."""

    folder: Path
    said: str
    is_whole: bool


def offered(found: Survey) -> tuple[Survey, bool]:
    """Return what a look has found in the words of the page, and whether the folder can be made a dataset."""
    problems = [replace(p, fix=data_text.CONVERT_FIX) if p.code == FOREIGN else p for p in found.problems]
    return replace(found, problems=tuple(problems)), any(problem.code == FOREIGN for problem in problems)


def steps(studio: Studio, values: dict[str, Any], *, by: Visitor) -> Iterator[str | Converted]:
    """Yield a sentence on how far the conversion of the form's folder is, then the dataset. Left, it is over.

    ``values`` are those of :func:`data_look.allowed`, whose errors it raises, and those of ``DatasetUploads.convert``.
    """
    source = data_look.allowed(studio, values, by=by).data.root
    assert source is not None

    def work(on_step: Callable[[tuple[int, int]], None]) -> Report:
        return studio.datasets.convert(Path(source), on_step=lambda done, total: on_step((done, total)))

    with closing(watched(work, first=(0, 0), name="convert-dataset")) as under_way:
        for (done, total), report in under_way:
            if report is not None:
                yield told(report)
            elif total:
                yield data_text.CONVERTED_SO_FAR.format(done=done, total=total)
            else:
                yield data_text.CONVERTING


def told(report: Report) -> Converted:
    """Return the dataset with what the page says of it, as HTML."""
    images = sum(site.num_images for site in report.sites)
    said = data_text.CONVERTED.format(
        images=_counted(data_text.CONVERTED_IMAGES, images), sites=_counted(data_text.SITES, len(report.sites))
    )
    lines = [
        *report.notes,
        *(data_text.CONVERTED_LEFT_OUT.format(name=one.name, why=one.why) for one in report.left_out),
    ]
    listed = "".join(f"<li>{escape(line)}</li>" for line in lines[:SHOWN])
    more = markup.quiet(data_text.CONVERTED_MORE.format(count=len(lines) - SHOWN)) if len(lines) > SHOWN else ""
    html = f"<p class='notice' role='status'>{escape(said)}</p>" + (f"<ul>{listed}</ul>{more}" if lines else "")
    return Converted(report.folder, html, not lines)


def _counted(words: tuple[str, str], count: int) -> str:
    return words[0] if count == 1 else words[1].format(count=count)
