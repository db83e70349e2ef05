"""A run's samples as the Samples tab names, captions and marks them. Pure."""

from __future__ import annotations

import numpy as np
from PIL import ImageColor

from app import sample_text, text
from app.reranking import Reranked
from app.scatter import IN_COLOUR, OUT_COLOUR
from app.viewmodels import number
from engine.runs.records import ScoredSample
from engine.types import RELEASED, SyntheticSample

FRAME_PX = 8


def caption(sample: SyntheticSample, ranked: Reranked, at: int) -> str:
    """Return the line below a picture of the gallery, of the sample at the index ``at`` of the pool."""
    pool = ranked.pool
    if not pool.is_scored[at]:
        return f"{sample.site} #{sample.index}"
    state = text.SELECTED if pool.selected[at] else text.REJECTED
    if ranked.is_own:
        return sample_text.RANKED.format(rank=pool.rank[at], state=state)
    state = sample_text.COMES_IN if ranked.comes_in[at] else sample_text.GOES_OUT if ranked.goes_out[at] else state
    return sample_text.RANKED_ANEW.format(rank=ranked.rank[at], before=pool.rank[at], state=state)


def framed(picture: np.ndarray, ranked: Reranked, at: int) -> np.ndarray:
    """Return a picture (H, W, 3) uint8 with a frame where its sample would come in or go out; else as it is."""
    if not (ranked.comes_in[at] or ranked.goes_out[at]):
        return picture
    colour = IN_COLOUR if ranked.comes_in[at] else OUT_COLOUR
    shown = np.empty_like(picture)
    shown[:] = ImageColor.getrgb(colour)
    inner = np.s_[FRAME_PX:-FRAME_PX, FRAME_PX:-FRAME_PX]
    shown[inner] = picture[inner]
    return shown


def title(item: ScoredSample) -> str:
    """Return what a sample is called in its detail, and by a screen reader."""
    return text.DETAIL_OF.format(index=item.sample.index, site=item.sample.site)


def facts(item: ScoredSample) -> list[tuple[str, str]]:
    """Return (label, value) of a sample's numbers for its detail."""
    score, sample = item.score, item.sample
    known: dict[str, str] = {}
    if score is not None:
        state = text.SELECTED if score.selected else text.REJECTED
        known |= {"rank": str(score.rank), "score": number(score.score, digits=4)}
        known |= {"l_gt": number(score.l_gt, digits=4), "l_kl": number(score.l_kl, digits=4)}
        known["state"] = state if score.fresh else f"{state}, {text.CARRIED_OVER}"
    known |= {"faithfulness": number(sample.faithfulness_dice), "site": sample.site, "seed": str(sample.seed)}
    known |= {"source_mask": sample.source_mask, "mask_sharing": sample.mask_sharing}
    if sample.generator:
        known["generator"] = text.RELEASED_GENERATOR if sample.generator == RELEASED else sample.generator
    return [(label, known[key]) for key, label in text.DETAIL_FIELDS.items() if key in known]
