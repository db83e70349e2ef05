"""A run's pool at two epochs: what came into the selection, what went out of it, and how alike the ranks are. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from app import markup, plots, sample_text
from app.scatter import IN_COLOUR, MAX_POINTS, OUT_COLOUR
from engine.distillation.choice import ranks_of
from engine.runs.scored_pool import ScoredPool

if TYPE_CHECKING:
    import plotly.graph_objects as go

MAX_SITES = 50


@dataclass(frozen=True, eq=False)
class EpochPair:
    """The M samples that both epochs have scored; every array has shape (M,)."""

    epochs: tuple[int, int]
    """From 0, as stored."""
    sample_ids: np.ndarray
    sites: np.ndarray
    ranks: tuple[np.ndarray, np.ndarray]
    """int64, as stored."""
    selected: tuple[np.ndarray, np.ndarray]
    """bool."""

    @property
    def came(self) -> np.ndarray:
        """Which samples the second epoch selects and the first does not."""
        return self.selected[1] & ~self.selected[0]

    @property
    def went(self) -> np.ndarray:
        """Which samples the first epoch selects and the second does not."""
        return self.selected[0] & ~self.selected[1]

    @property
    def stayed(self) -> np.ndarray:
        """Which samples both select."""
        return self.selected[0] & self.selected[1]

    @property
    def correlation(self) -> float | None:
        """Spearman's rank correlation, in [-1, 1]; ``None`` for fewer than two samples."""
        if len(self.sample_ids) < 2:
            return None
        # Ranks of what both have scored: of a larger pool some ranks may be missing here. They have no ties.
        first, second = (ranks_of(-ranks) for ranks in self.ranks)
        return float(np.corrcoef(first, second)[0, 1])

    def strongest(self, mask: np.ndarray, *, count: int) -> np.ndarray:
        """Return the indices of the ``count`` samples of ``mask`` whose rank has changed most, int64."""
        at = np.flatnonzero(mask)
        moved = np.abs(self.ranks[1][at] - self.ranks[0][at])
        return at[np.argsort(-moved, kind="stable")[:count]]


def pair_of(first: ScoredPool, second: ScoredPool, *, epochs: tuple[int, int]) -> EpochPair:
    """Return the samples that two pools of one run have scored, in the order of the first."""
    place = {name: at for at, name in enumerate(second.sample_ids)}
    at = [
        (one, place[name])
        for one, name in enumerate(first.sample_ids)
        if first.is_scored[one] and name in place and second.is_scored[place[name]]
    ]
    one, two = np.array(at, dtype=np.int64).reshape(-1, 2).T
    return EpochPair(
        epochs,
        first.sample_ids[one],
        first.sites[one],
        (first.rank[one], second.rank[two]),
        (first.selected[one], second.selected[two]),
    )


def said(pair: EpochPair) -> str:
    """Return what came and went, in a sentence and site by site, as HTML."""
    if not len(pair.sample_ids):
        return markup.quiet(sample_text.EPOCHS_NONE)
    counts = [int(mask.sum()) for mask in (pair.came, pair.went, pair.stayed)]
    places = dict(zip(("came", "went", "stayed"), counts, strict=True))
    epochs = {"first": pair.epochs[0] + 1, "second": pair.epochs[1] + 1}
    sentence = sample_text.EPOCHS_SAID.format(**places, **epochs)
    alike = "" if pair.correlation is None else sample_text.EPOCHS_ALIKE.format(value=pair.correlation)
    return f"<p role='status'><b>{escape(sentence)}</b> {escape(alike)}</p>{_sites(pair)}"


def _sites(pair: EpochPair) -> str:
    names = sorted(set(pair.sites.tolist()))
    number = {name: at for at, name in enumerate(names)}
    of_site = np.fromiter((number[name] for name in pair.sites), np.int64, len(pair.sites))
    masks = (np.ones(len(of_site), dtype=bool), pair.came, pair.went, pair.stayed)
    counts = np.stack([np.bincount(of_site[mask], minlength=len(names)) for mask in masks], axis=1)
    rows = [[name, *(f"{count:,}" for count in row)] for name, row in zip(names, counts.tolist(), strict=True)]
    if len(rows) > MAX_SITES:
        most = np.argsort(-(counts[:, 1] + counts[:, 2]), kind="stable")[:MAX_SITES]
        cut = markup.quiet(sample_text.SITES_CUT.format(shown=MAX_SITES, total=len(rows)))
        return cut + markup.table(
            sample_text.EPOCHS_COLUMNS, [rows[at] for at in most], label=sample_text.EPOCHS_HEADING
        )
    return markup.table(sample_text.EPOCHS_COLUMNS, rows, label=sample_text.EPOCHS_HEADING)


def figure(pair: EpochPair) -> go.Figure:
    """Return each sample's rank at the first epoch against that at the second; ``customdata`` holds its id."""
    titles = [sample_text.EPOCHS_AXIS.format(epoch=epoch + 1) for epoch in pair.epochs]
    by_rank = np.argsort(pair.ranks[0], kind="stable")
    shown = by_rank[:: max(1, -(-len(by_rank) // MAX_POINTS))]
    cut = f"<br>{sample_text.POINTS_CUT.format(shown=len(shown), total=len(by_rank))}"
    drawn = plots.blank(sample_text.EPOCHS_PLOT + (cut if len(shown) < len(by_rank) else ""))
    if not len(by_rank):
        return plots.say(drawn, sample_text.EPOCHS_NONE)
    neither = ~(pair.selected[0] | pair.selected[1])
    for name, mask, colour, symbol in (
        (sample_text.EPOCHS_NEITHER, neither, plots.INK, "circle-open"),
        (sample_text.EPOCHS_STAYED, pair.stayed, plots.PALETTE[0], "circle"),
        (sample_text.EPOCHS_CAME, pair.came, IN_COLOUR, "triangle-up"),
        (sample_text.EPOCHS_WENT, pair.went, OUT_COLOUR, "x"),
    ):
        at = shown[mask[shown]]
        drawn.add_scatter(
            x=pair.ranks[0][at].tolist(),
            y=pair.ranks[1][at].tolist(),
            customdata=pair.sample_ids[at].tolist(),
            text=[escape(sample_id) for sample_id in pair.sample_ids[at].tolist()],
            name=name,
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 7},
            hovertemplate="%{text}<br>%{x} → %{y}<extra></extra>",
        )
    drawn.update_layout(hovermode="closest", height=440, margin_t=64)
    drawn.update_xaxes(title_text=titles[0], rangemode="tozero")
    drawn.update_yaxes(title_text=titles[1], rangemode="tozero")
    return drawn


def captions(pair: EpochPair, at: Sequence[int]) -> list[str]:
    """Return what stands below the pictures of the samples at these indices."""
    ranks = [(int(pair.ranks[0][one]), int(pair.ranks[1][one])) for one in at]
    return [sample_text.EPOCHS_RANKS.format(before=before, after=after) for before, after in ranks]
