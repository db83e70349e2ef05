"""Stage: every site trains a mask-conditioned ControlNet on its own images and uploads it once (Eq. 1)."""

from __future__ import annotations

from engine.federation.tasks import TRAIN_GENERATOR, SiteReply
from engine.generation.backbone import outline_backbone
from engine.generation.controlnet import save_controlnet_arrays
from engine.stages.context import RunContext


class GeneratorTraining:
    """Eq. 1: the backbone stays frozen, only the ControlNet learns, and only the ControlNet leaves the site."""

    name = "generator_training"

    def run(self, context: RunContext) -> None:
        """Train at the sites that have not uploaded yet; generators lie in ``generators/SITE``."""
        sites = tuple(site for site in context.sites.names if not context.generator_dir(site).is_dir())
        if not sites:
            return
        backbone = outline_backbone(context.config.generator.backbone)

        def keep(round_number: int, site: str, reply: SiteReply) -> None:
            context.reporter.artefact("generator", context.generator_dir(site).relative_to(context.run_dir))
            context.reporter.flush()  # with the bytes of its upload
            save_controlnet_arrays(reply.arrays, context.generator_dir(site), backbone=backbone, site=site)

        context.sites.ask(TRAIN_GENERATOR, kind="generator", to=sites, on_reply=keep, listener=_Progress(context))


class _Progress:
    """The sites in their order, each with the same number of steps."""

    def __init__(self, context: RunContext) -> None:
        self._reporter, self._sites = context.reporter, context.sites.names

    def progress(self, site: str, round_number: int, step: int, total: int) -> None:
        """Tell the stage's progress."""
        done = self._sites.index(site) * total + step
        self._reporter.progress(done, len(self._sites) * total, message=f"{site}: step {step}")

    def metric(self, site: str, name: str, value: float, step: int) -> None:
        """Tell the site's curve."""
        self._reporter.metric(name, value, step=step, site=site)
