"""What the controls of the Samples tab ask for, and the run's samples as they answer it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from app import regions, sample_list, scatter
from app.reranking import Reranked, Values, as_it_was, asked_values, can_rerank, own_values, rerank
from app.studio import Studio
from engine.config import RunConfig
from engine.errors import UserError


@dataclass(frozen=True)
class Asked:
    """The values of the tab's controls, in their order; ``shown`` is the epoch as people count, from 1."""

    run_id: str | None
    shown: float | None
    site: str | None
    show: str | None
    order: str | None
    search: str | None
    weight: float | None
    rate: float | None
    region: str | None = None
    """What is chosen in the plot, as the browser has written it (:func:`app.regions.parse`)."""

    @property
    def epoch(self) -> int:
        """The epoch as it is stored, from 0."""
        return int(self.shown or 0) - 1


def config_of(studio: Studio, run_id: str) -> RunConfig | None:
    """Return the run's configuration; ``None`` where it cannot be read: its pictures are there all the same."""
    try:
        return studio.store.get(run_id).config
    except UserError:
        return None


def read(studio: Studio, asked: Asked) -> Reranked:
    """Return the samples of the run at the epoch and the values that are asked for.

    At the run's own values where its choice does not follow from what is stored.
    """
    run_id = asked.run_id or ""
    config = config_of(studio, run_id) if run_id else None
    pool = studio.pools.at(run_id, asked.epoch, joined=() if config is None else config.join.sites)
    own = Values(0.5, 0.5) if config is None else own_values(config)
    if config is None or not can_rerank(config):
        return as_it_was(pool, own=own)
    return rerank(pool, config, asked_values(asked.weight, asked.rate, own=own), epoch=asked.epoch)


def listed(ranked: Reranked, asked: Asked) -> np.ndarray:
    """Return the indices into the pool of what the gallery lists, in order."""
    narrowed = {"site": asked.site or "", "show": asked.show or "", "search": asked.search or ""}
    found = chosen(ranked, asked)
    return sample_list.listed(ranked, order=asked.order or "", **narrowed, within=None if found is None else found.mask)


@dataclass(frozen=True, eq=False)
class Chosen:
    """The samples that lie within a region of the plot."""

    region: regions.Region
    mask: np.ndarray
    """bool (N,), in the order of the pool."""
    total: int
    """How many samples the plot has: those of its site that the epoch has scored."""

    @property
    def count(self) -> int:
        """How many samples lie within."""
        return int(self.mask.sum())


def chosen(ranked: Reranked, asked: Asked) -> Chosen | None:
    """Return what is chosen in the plot, ``None`` where nothing is; ``UserError`` for what is no region."""
    region = regions.parse(asked.region)
    if region is None:
        return None
    shown = scatter.plotted(ranked, site=asked.site or "")
    inside = region.holds(ranked.pool.l_gt, ranked.pool.l_kl)
    return Chosen(region, shown & inside, int(shown.sum()))
