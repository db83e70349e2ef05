"""The site's own image generator, of whichever kind, trained on the site's images and masks (Eq. 1)."""

from __future__ import annotations

from time import monotonic

import numpy as np

from engine.federation.tasks import SiteReply, SiteRequest
from engine.generation.generators import kind_of
from engine.runs.pace import Pace
from engine.site.context import SiteContext

REPORT_EVERY = 10
"""Optimiser steps in one point of the loss curve."""


def train(site: SiteContext, _request: SiteRequest) -> SiteReply:
    """Train, going on from the site's own checkpoint, and reply with what the kind sends and n_k."""
    started = monotonic()
    training = kind_of(site.config).start(site.generators, images=site.data.train, site=site.site)
    name, losses = site.state.name_of("generator"), []
    state = site.state.checkpoints.load(name)
    if state is not None:
        training.restore(state["training"])
        losses = state["recent_losses"]
    pace = Pace(
        site.listener,
        checkpoints=site.state.checkpoints,
        name=name,
        total=training.total,
        state=lambda: {"training": training.state(), "recent_losses": losses[-REPORT_EVERY:]},
    )
    while training.done < training.total:
        losses.append(training.step())
        pace.step(training.done, message=f"step {training.done}")
        if training.done % REPORT_EVERY == 0:
            site.listener.metric("loss", float(np.mean(losses[-REPORT_EVERY:])), step=training.done)
    metrics = {"wall_s": monotonic() - started}
    return SiteReply(training.arrays(), metrics, len(site.data.train))
