"""One sample's score and rank over the epochs, as two small pictures and a table. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from app import markup, plots, sample_text, text
from app.viewmodels import number
from engine.types import SampleScore

MAX_POINTS = 120
"""Drawn of one sample (ours): every n-th epoch of a longer run, and the last."""
WIDTH, HEIGHT, EDGE = 320, 96, 8


def html(scores: Sequence[SampleScore], *, num_samples: int) -> str:
    """Return how the sample has scored in each epoch, in the order of epochs; nothing for fewer than two.

    ``num_samples`` is how many were ranked: the lowest rank of the picture.
    """
    if len(scores) < 2:
        return ""
    ranks = [score.rank for score in scores]
    chosen = sum(score.selected for score in scores)
    said = sample_text.HISTORY_SAID.format(
        selected=chosen, epochs=len(scores), best=min(ranks), worst=max(ranks), total=num_samples
    )
    shown = thinned(scores)
    lowest, highest = -float(max(num_samples, *ranks)), -1.0
    pictures = "".join(
        (
            _picture(shown, lambda score: score.score, title=sample_text.HISTORY_SCORE, ends=None),
            _picture(shown, lambda score: -score.rank, title=sample_text.HISTORY_RANK, ends=(lowest, highest)),
        )
    )
    key = markup.swatch(plots.PALETTE[0], text.SELECTED)
    rows = [
        [
            str(score.epoch + 1),
            number(score.score, digits=4),
            str(score.rank),
            text.SELECTED if score.selected else text.REJECTED,
            number(score.l_gt, digits=4),
            number(score.l_kl, digits=4),
        ]
        for score in shown
    ]
    values = markup.table(sample_text.HISTORY_COLUMNS, rows, label=sample_text.HISTORY)
    return (
        f"<section class='history'><h4>{sample_text.HISTORY}</h4><p class='quiet'>{escape(said)} {key}</p>"
        f"<div class='history-pictures'>{pictures}</div>"
        f"<details><summary>{sample_text.HISTORY_VALUES}</summary>{values}</details></section>"
    )


def thinned(scores: Sequence[SampleScore]) -> list[SampleScore]:
    """Return every n-th of the scores, at most ``MAX_POINTS`` and the last."""
    step = -(-len(scores) // MAX_POINTS)
    kept = list(scores[::step])
    return kept if kept[-1] is scores[-1] else [*kept, scores[-1]]


def _picture(
    scores: Sequence[SampleScore],
    value_of: Callable[[SampleScore], float],
    *,
    title: str,
    ends: tuple[float, float] | None,
) -> str:
    """Return a line over the epochs with a dot an epoch, filled where the sample was selected."""
    known = [score for score in scores if math.isfinite(value_of(score))]
    if not known:
        return ""
    low, high = ends or (min(map(value_of, known)), max(map(value_of, known)))
    first, last = scores[0].epoch, scores[-1].epoch
    dots = []
    for score in known:
        x = EDGE + (WIDTH - 2 * EDGE) * (score.epoch - first) / max(1, last - first)
        share = (value_of(score) - low) / (high - low) if high > low else 0.5
        dots.append((x, HEIGHT - EDGE - (HEIGHT - 2 * EDGE) * share, score.selected))
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in dots)
    colour = plots.PALETTE[0]
    circles = "".join(
        f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3.5' stroke='{colour if on else plots.INK}'"
        f" fill='{colour if on else 'none'}'/>"
        for x, y, on in dots
    )
    places = {"first": first + 1, "last": last + 1, "low": _said(low), "high": _said(high)}
    words = sample_text.HISTORY_AXIS.format(title=title, **places)
    return (
        f"<figure><svg role='img' aria-label='{escape(words, quote=True)}' viewBox='0 0 {WIDTH} {HEIGHT}'>"
        f"<polyline points='{line}' fill='none' stroke='{plots.INK}' stroke-width='1.5'/>{circles}</svg>"
        f"<figcaption>{escape(words)}</figcaption></figure>"
    )


def _said(value: float) -> str:
    """Return an end of the axis: ranks, which are drawn upside down, are whole numbers."""
    return f"{-value:.0f}" if value == int(value) and value <= -1 else f"{value:.4f}"
