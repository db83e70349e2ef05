"""Stage: every site trains a mask-conditioned ControlNet on its own images and uploads it once (Eq. 1)."""

from __future__ import annotations

from time import monotonic

import numpy as np

from engine.data.datasets import Site
from engine.federation.client_app import build_client_app
from engine.federation.grid import InProcessGrid
from engine.federation.rounds import call_once
from engine.federation.tasks import SiteReply, SiteRequest
from engine.generation.backbone import Backbone, load_backbone
from engine.generation.controlnet import (
    ControlNetTraining,
    controlnet_arrays,
    new_controlnet,
    save_controlnet_arrays,
)
from engine.stages.context import RunContext
from engine.stages.pace import Pace

REPORT_EVERY = 10
"""Optimiser steps in one point of the loss curve."""


class GeneratorTraining:
    """Eq. 1: the backbone stays frozen, only the ControlNet learns, and only the ControlNet leaves the site."""

    name = "generator_training"
    describe = "Every site trains an image generator on its own images and uploads it once."

    def run(self, context: RunContext) -> None:
        """Train at the sites that have not uploaded yet; generators lie in ``generators/SITE``."""
        sites = tuple(site for site in context.federation.sites if not context.generator_dir(site).is_dir())
        if not sites:
            return
        backbone = load_backbone(context.config.generator.backbone, device=context.device)

        def train(request: SiteRequest) -> SiteReply:
            return _train_at_site(context, context.federation.sites[request.site], backbone=backbone)

        def keep(round_number: int, site: str, reply: SiteReply) -> None:
            context.reporter.artefact("generator", context.generator_dir(site).relative_to(context.run_dir))
            context.reporter.flush()  # with the bytes of its upload
            save_controlnet_arrays(reply.arrays, context.generator_dir(site), backbone=backbone)

        call_once(
            InProcessGrid(build_client_app({"train.generator": train}), sites=sites),
            task="train.generator",
            kind="generator",
            sites=sites,
            on_reply=keep,
            on_traffic=context.reporter.traffic,
            check_cancelled=context.reporter.check_cancelled,
        )


def _train_at_site(context: RunContext, site: Site, *, backbone: Backbone) -> SiteReply:
    """Train at one site, going on from its checkpoint, and return the ControlNet that it uploads."""
    started = monotonic()
    config, sites = context.config, tuple(context.federation.sites)
    place = sites.index(site.name)
    name = f"generator_{place}"  # a site's own name may hold any sign that a folder's name can
    controlnet = new_controlnet(backbone, source=config.generator.controlnet, seed=config.seed, device=context.device)
    training = ControlNetTraining(
        backbone,
        controlnet,
        images=site.train,
        config=config.generator,
        prompt=config.generator.prompt or context.federation.modality,
        site=site.name,
        seed=config.seed,
        precision=config.precision,
    )
    state = context.checkpoints.load(name)
    losses: list[float] = []
    if state is not None:
        training.restore(state["training"])
        losses = state["recent_losses"]
    pace = Pace(
        context.reporter,
        checkpoints=context.checkpoints,
        name=name,
        total=len(sites) * training.total,
        state=lambda: {"training": training.state(), "recent_losses": losses[-REPORT_EVERY:]},
    )
    while training.done < training.total:
        losses.append(training.step())
        pace.step(place * training.total + training.done, message=f"{site.name}: step {training.done}")
        if training.done % REPORT_EVERY == 0:
            context.reporter.metric("loss", float(np.mean(losses[-REPORT_EVERY:])), step=training.done, site=site.name)
    metrics = {"wall_s": monotonic() - started}
    return SiteReply(controlnet_arrays(training.controlnet), metrics, len(site.train))
