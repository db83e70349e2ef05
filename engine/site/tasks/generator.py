"""The site's own image generator, of whichever kind, trained on the site's images and masks (Eq. 1)."""

from __future__ import annotations

from time import monotonic

import numpy as np

from engine.federation.release import WITHHELD, limits_of
from engine.federation.tasks import SiteReply, SiteRequest
from engine.generation.generators import SpendsPrivacy, kind_of
from engine.runs.pace import Pace
from engine.site.context import SiteContext
from engine.site.release import check_generator

REPORT_EVERY = 10
"""Optimiser steps in one point of the loss curve."""


def train(site: SiteContext, request: SiteRequest) -> SiteReply:
    """Train, going on from the site's own checkpoint, and reply with what the kind sends and n_k.

    Where the run or the site's rules ask for it, the generator is measured first; the figures go with the reply, and
    one above the limits stays here. What was sent down is then the student that judges how faithful it is.
    """
    started = monotonic()
    config = site.config
    training = kind_of(config).start(site.generators, images=site.data.train, site=site.site)
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
    arrays, metrics = training.arrays(), {**_spent(training), "wall_s": monotonic() - started}
    limits = limits_of(config.release, request.settings)
    if limits is not None:
        pace.save()  # a stop while it measures does not cost the training
        metrics |= check_generator(site, arrays, student=request.arrays, limits=limits)
    withheld = bool(metrics.get(WITHHELD))
    return SiteReply({} if withheld else arrays, metrics, len(site.data.train))


def _spent(training: object) -> dict[str, float]:
    """Return what a kind that can be trained by DP-SGD tells of privacy."""
    return training.privacy_spent() if isinstance(training, SpendsPrivacy) else {}
