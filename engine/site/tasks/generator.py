"""The site's own image generator: a ControlNet on a frozen backbone, trained on the site's images and masks (Eq. 1)."""

from __future__ import annotations

from time import monotonic

import numpy as np

from engine.federation.tasks import SiteReply, SiteRequest
from engine.generation.controlnet import controlnet_arrays, new_controlnet
from engine.generation.training import ControlNetTraining
from engine.runs.pace import Pace
from engine.site.context import SiteContext

REPORT_EVERY = 10
"""Optimiser steps in one point of the loss curve."""


def train(site: SiteContext, _request: SiteRequest) -> SiteReply:
    """Train, going on from the site's own checkpoint, and reply with the ControlNet in half precision and n_k."""
    started = monotonic()
    config, models = site.config, site.models
    controlnet = new_controlnet(
        models.backbone, source=config.generator.controlnet, seed=config.seed, device=models.device
    )
    training = ControlNetTraining(
        models.backbone,
        controlnet,
        images=site.data.train,
        config=config.generator,
        prompt=config.generator.prompt or site.data.modality,
        site=site.site,
        seed=config.seed,
        precision=config.precision,
    )
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
    return SiteReply(controlnet_arrays(training.controlnet), metrics, len(site.data.train))
