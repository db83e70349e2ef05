"""What was found in the images of a new run, as HTML: findings, sites with bars, pictures. Pure; words are escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from app import data_text as words
from app import markup, overlays
from engine.data.apart import FEWEST, ROUGH_BELOW
from engine.data.impressions import MOST_SHOWN_SITES, Thumbnail
from engine.data.problems import Problem, faults_of, warnings_of
from engine.data.survey import SiteSurvey, Step, Survey
from export.results import class_colour, overlay

MOST_FINDINGS = 20
"""Faults, and things to know, that are written out (ours)."""
MOST_SITES = 60
PART_NAMES = ("train", "validation", "test")
OUTLINE_PX = 2


def progress(step: Step, *, asks_sites: bool) -> str:
    """Return how far a look is, with a bar once it is known of how many images."""
    if step.total:
        said = words.IMAGES.format(done=step.done, total=step.total)
        bar = f"<progress value='{step.done}' max='{step.total}'></progress>"
    else:
        said = words.ASKING if asks_sites else words.HEADERS.format(done=step.done) if step.done else words.WAITING
        bar = "<progress></progress>"
    return f"<div class='survey-progress'><label>{escape(said)}{bar}</label></div>"


def shown(found: Survey) -> str:
    """Return the whole answer."""
    heading = words.HEADING[found.is_usable].format(name=found.name or words.NAMELESS)
    return (
        f"<section class='survey' aria-label='{escape(heading, quote=True)}'><h4>{escape(heading)}</h4>"
        f"{_known(found)}{findings(found.problems)}{_apart(found)}{_table(found)}{_pictures(found)}</section>"
    )


def findings(problems: Sequence[Problem]) -> str:
    """Return what keeps a run from starting, then what a person should know; each with where and how to mend it."""
    faults, warnings = faults_of(problems), warnings_of(problems)
    told = ""
    if faults:
        title = _counted(words.FAULTS, len(faults))
        told += f"<div class='error-box' role='alert'><p class='what'>{title}</p>{_listed(faults)}</div>"
    if warnings:
        title = _counted(words.WARNINGS, len(warnings))
        told += f"<div class='notice' role='note'><b>{title}</b>{_listed(warnings)}</div>"
    return told


def _listed(problems: Sequence[Problem]) -> str:
    items = "".join(_finding(problem) for problem in problems[:MOST_FINDINGS])
    more = len(problems) - MOST_FINDINGS
    rest = f"<p>{escape(words.MORE.format(count=more))}</p>" if more > 0 else ""
    return f"<ul class='findings'>{items}</ul>{rest}"


def _finding(problem: Problem) -> str:
    where = f"<code>{escape(problem.file)}</code> " if problem.file else ""
    mend = escape(words.MEND.format(fix=problem.fix))
    return f"<li>{where}{escape(problem.what)} <span class='mend'>{mend}</span></li>"


def _known(found: Survey) -> str:
    if not found.sites:
        return ""
    classes = _counted(words.CLASSES, len(found.classes)).format(names=", ".join(found.classes))
    sites = _counted(words.SITES, len(found.sites))
    said = words.KNOWN.format(images=f"{found.num_images:,}", sites=sites, classes=classes)
    if found.kind != "folder":
        note = words.PHANTOM if found.kind == "phantom" else words.DESCRIBED
    elif found.num_decoded < found.num_images:
        note = words.CUT_SHORT.format(decoded=f"{found.num_decoded:,}", images=f"{found.num_images:,}")
    else:
        note = words.CHECKED
    return f"<p>{escape(said)}</p>{markup.quiet(note)}"


def _apart(found: Survey) -> str:
    if found.apart is None:
        is_looked_at = found.sites and found.kind != "described"
        return markup.quiet(words.APART_NONE.format(fewest=FEWEST)) if is_looked_at else ""
    value = found.apart.overall
    said = [words.APART_MEANS.format(value=value)]
    trains = [site.site for site in found.sites if site.role == "source"]
    for site in found.sites:
        nearest = found.apart.nearest(site.site, among=trains) if site.role == "test" else None
        if nearest is not None:
            said.append(words.APART_TEST.format(site=site.site, nearest=nearest[0], value=nearest[1]))
    if any(site.num_images < ROUGH_BELOW for site in found.sites):
        said.append(words.APART_ROUGH.format(fewest=ROUGH_BELOW))
    title = escape(words.APART.format(value=value))
    return f"<p class='apart'><b>{title}</b></p>{markup.quiet(' '.join(said))}"


def _table(found: Survey) -> str:
    if not found.sites:
        return ""
    most = max(site.num_images for site in found.sites) or 1
    rows = "".join(_row(site, found, most=most) for site in found.sites[:MOST_SITES])
    head = "".join(f"<th scope='col'>{escape(column)}</th>" for column in words.COLUMNS)
    is_cut = all(site.parts is not None for site in found.sites)
    used = {part for site in found.sites for part in _segments(site)}
    legend = "".join(
        f"<span class='swatch'><i class='part {part}'></i>{escape(name)}</span>"
        for part, name in words.LEGEND
        if part in used
    )
    total = len(found.sites)
    cut = markup.quiet(words.SITES_SHOWN.format(shown=MOST_SITES, total=total)) if total > MOST_SITES else ""
    return (
        f"<div class='table-scroll' tabindex='0' role='region' aria-label='{words.TABLE}'>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
        f"<p class='key'>{legend}</p>{cut}{'' if is_cut else markup.quiet(words.UNCUT_NOTE)}"
    )


def _row(site: SiteSurvey, found: Survey, *, most: int) -> str:
    badge = f" <span class='badge model'>{words.ROLE_TEST}</span>" if site.role == "test" else ""
    parts = [words.UNCUT] * 3 if site.parts is None else [str(count) if count else words.UNCUT for count in site.parts]
    nearest = found.apart and found.apart.nearest(site.site, among=[one.site for one in found.sites])
    cells = (
        *parts,
        words.UNCUT if site.num_patients is None else str(site.num_patients),
        _sizes(site),
        _spacing(site),
        words.NEAREST.format(site=nearest[0], value=nearest[1]) if nearest else words.UNCUT,
    )
    others = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    return (
        f"<tr><th scope='row'>{escape(site.site)}{badge}</th>"
        f"<td class='images'>{site.num_images:,}{_bar(site, most=most)}</td>{others}</tr>"
    )


def _segments(site: SiteSurvey) -> dict[str, int]:
    """Return how many images each part of a site's bar stands for."""
    if site.parts is None:
        return {"uncut": site.num_images}
    return {name: count for name, count in zip(PART_NAMES, site.parts, strict=True) if count}


def _bar(site: SiteSurvey, *, most: int) -> str:
    """Return a bar as long as the site's share of the largest; the numbers beside it say the same."""
    pieces = "".join(
        f"<span class='part {name}' style='width:{100 * count / most:.2f}%'></span>"
        for name, count in _segments(site).items()
    )
    return f"<span class='parts' aria-hidden='true'>{pieces}</span>"


def _sizes(site: SiteSurvey) -> str:
    if site.sizes_px is None:
        return words.UNCUT
    smallest, largest = (f"{width} × {height}" for width, height in site.sizes_px)
    return smallest if smallest == largest else f"{smallest} to {largest}"


def _spacing(site: SiteSurvey) -> str:
    if site.spacing_mm is None:
        return words.UNCUT
    finest, coarsest = (f"{step:.3g}" for step in site.spacing_mm)
    return finest if finest == coarsest else f"{finest} to {coarsest}"


def _pictures(found: Survey) -> str:
    sites = [site for site in found.sites if site.thumbnails]
    if not sites:
        return ""
    all_shown = len(found.sites) <= MOST_SHOWN_SITES
    title = words.PICTURES if all_shown else words.PICTURES_FIRST.format(count=MOST_SHOWN_SITES)
    items = "".join(
        f"<figure><div class='row'>{''.join(_picture(one, site.site) for one in site.thumbnails)}</div>"
        f"<figcaption>{escape(site.site)}</figcaption></figure>"
        for site in sites
    )
    key = "".join(
        markup.swatch(overlays.hex_colour(class_colour(index)), name) for index, name in enumerate(found.classes)
    )
    return f"<h4>{escape(title)}</h4><p class='key'>{key}</p><div class='survey-pictures'>{items}</div>"


def _picture(one: Thumbnail, site: str) -> str:
    return (
        f"<img src='{markup.data_uri(outlined(one))}' alt='{escape(words.PICTURE_ALT.format(site=site), quote=True)}'>"
    )


def outlined(one: Thumbnail) -> np.ndarray:
    """Return a small picture with the outline of each class, (h, w, 3) uint8."""
    return overlay(one.image, one.mask, opacity=0.0, outline_px=OUTLINE_PX)


def _counted(both: tuple[str, str], count: int) -> str:
    return both[count != 1].replace("{count}", str(count))
