"""One answered picture as what the browser draws: the image, and every class's probabilities in hundredths.

The browser has all of it, so that opacity, threshold and the map of probabilities answer without the server.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from html import escape

import numpy as np
from PIL import Image

from app import markup, overlays, reference_text, strokes, text
from app import overlay_text as words
from app.figure_cells import MORE, axes, figure, more_columns, pieces, ratio
from app.picture_results import Figures, in_text
from app.probability import colour_of
from export.clicks import Prompt
from export.levels import STEPS
from export.results import class_colour


def html(
    key: str,
    *,
    shown_hw: tuple[int, int],
    size_hw: tuple[int, int],
    classes: Sequence[str],
    image: str,
    levels: str,
    is_asked: bool = False,
) -> str:
    """Return the picture's elements; ``app/overlay.js`` fetches the levels and draws. ``key`` is the answer's.

    ``image`` and ``levels`` are addresses; ``shown_hw`` is the picture's size on the screen, ``size_hw`` the image's.
    ``is_asked`` says whether the model answers clicks and boxes itself.
    """
    height, width = shown_hw
    about = {
        "size": [height, width],
        "image": size_hw,
        "brush": {
            "size": strokes.usual_size(size_hw),
            "widest": strokes.widest(size_hw),
            "places": strokes.MAX_PLACES,
            "told": words.SIZE_TOLD,
        },
        "classes": list(classes),
        "colours": [class_colour(index) for index in range(len(classes))],
        "shades": [colour_of(level) for level in range(STEPS)],
        "scale": words.SCALE,
        "gone": text.SEGMENT_EXPIRED,
        "box": {"begun": words.BOX_BEGUN, "ended": words.BOX_GIVEN_UP},
        "outline": max(1, round(max(shown_hw) / 300)),
    }
    asked = words.BY_DECODER if is_asked else words.BY_PROBABILITIES
    ramp = ", ".join(overlays.hex_colour(colour_of(level)) for level in range(0, STEPS, 9))
    return (
        f"<section class='overlay' data-key='{escape(key, quote=True)}' data-levels='{escape(levels, quote=True)}' "
        f"data-about='{escape(json.dumps(about), quote=True)}'>"
        f"<div class='stage' tabindex='0' style='max-width:calc(80vh * {width / height:.4f})' "
        f"role='application' aria-label='{words.PICTURE}' "
        f"aria-describedby='overlay-help'><img src='{escape(image, quote=True)}' width='{width}' height='{height}' "
        f"alt='{words.PICTURE}' draggable='false'>"
        f"<canvas width='{width}' height='{height}' aria-hidden='true'></canvas>"
        "<span class='marks' aria-hidden='true'></span><i class='frame' hidden></i>"
        "<i class='cross' hidden></i><i class='ring' hidden></i></div>"
        f"<div class='scale' hidden><p></p><div class='ramp' style='background:linear-gradient(to right, {ramp})'>"
        "<i></i></div><p class='ends'><span>0 %</span><span>50 %</span><span>100 %</span></p></div>"
        f"<p class='overlay-value' aria-live='polite'></p>"
        f"<p class='quiet prompts'>{asked}</p><p class='quiet' id='overlay-help'>{words.HELP}</p></section>"
    )


def changes(key: str, changes_Khw: np.ndarray, *, stem: str = "", prompts: Sequence[Prompt] = ()) -> str:
    """Return an unseen element that tells the browser what corrections have changed in the picture of ``key``.

    ``stem`` is what a file of the picture as it is drawn is called before its ending; ``prompts`` are marked in it.
    """
    marks = json.dumps([asdict(one) for one in prompts])
    about = f"data-key='{escape(key, quote=True)}' data-stem='{escape(stem, quote=True)}'"
    return f"<i hidden {about} data-prompts='{escape(marks, quote=True)}' data-changes='{in_text(changes_Khw)}'></i>"


def figures_table(figures: Sequence[Figures], *, remark: str, told: str) -> str:
    """Return each class with its colour and figures, what is not the model's own, and the time taken."""
    rows = "".join(
        f"<tr><th scope='row'>{markup.swatch(overlays.hex_colour(class_colour(index)), one.class_name)}</th>"
        f"<td>{100 * one.share:.1f} %</td><td>{pieces(one)}</td>"
        f"<td>{_area(one)}</td>" + "".join(f"<td>{cell}</td>" for cell in (*axes(one), ratio(one.mean_grey))) + "</tr>"
        for index, one in enumerate(figures)
    )
    head = "".join(f"<th scope='col'>{name}</th>" for name in words.COLUMNS)
    table = f"<table class='legend'><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    said = "".join(markup.notice(line) for line in (remark, _cup_to_disc(figures)) if line)
    tables = f"<div class='table-scroll' tabindex='0'>{table}{_agreement(figures)}</div>"
    return f"{tables}{said}{_counted(figures)}{markup.quiet(told)}"


def _counted(figures: Sequence[Figures]) -> str:
    is_counted = any(one.instances is not None for one in figures)
    return markup.quiet(words.COUNTED_NOTE) if is_counted else ""


def _agreement(figures: Sequence[Figures]) -> str:
    """Return a table of how far each class agrees with a reference, "" without one."""
    more = [name for name in more_columns(figures) if name in reference_text.MEASURED]
    if not more:
        return ""
    head = "".join(f"<th scope='col'>{name}</th>" for name in (words.COLUMNS[0], *more))
    rows = "".join(
        f"<tr><th scope='row'>{escape(one.class_name)}</th>"
        + "".join(f"<td>{MORE[name](one)}</td>" for name in more) + "</tr>"
        for one in figures
    )  # fmt: skip
    return f"<table class='legend'><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _cup_to_disc(figures: Sequence[Figures]) -> str:
    """Return the sentence on cup and disc, "" for a model of something else."""
    from export.outputs.fundus import CUP, DISC, index_of

    cup, disc = (index_of([one.class_name for one in figures], names) for names in (CUP, DISC))
    if cup is None or disc is None:
        return ""
    ratio, unit = figures[disc].cup_to_disc, figures[disc].length_unit
    if ratio is None:
        return words.NO_DISC
    high = {"cup": figure(figures[cup].vertical_extent, unit), "disc": figure(figures[disc].vertical_extent, unit)}
    return (words.CUP_TO_DISC if ratio else words.NO_CUP).format(ratio=ratio, **high)


def png(image_hw3: np.ndarray) -> bytes:
    """Return the picture as a PNG, packed quickly: it is fetched once, by the visitor who gave it."""
    buffer = io.BytesIO()
    Image.fromarray(image_hw3).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _area(one: Figures) -> str:
    return f"{one.foreground_px:,} px" if one.area_mm2 is None else f"{one.area_mm2:,.2f} mm²"
