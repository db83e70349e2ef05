"""Stage: every site trains an image generator on its own images and masks, and uploads it once (Eq. 1)."""

from __future__ import annotations

from engine.federation.tasks import TRAIN_GENERATOR, SiteReply
from engine.generation.generators import keep_upload, kind_of, upload_bytes
from engine.stages.context import RunContext


class GeneratorTraining:
    """Eq. 1 with whichever kind of generator: what of it learns and what leaves the site is the kind's to say."""

    name = "generator_training"

    def run(self, context: RunContext) -> None:
        """Train at the sites that have not uploaded yet; generators lie in ``generators/SITE``."""
        sites = tuple(site for site in context.sites.names if not context.generator_dir(site).is_dir())
        if not sites:
            return
        setup = context.generators
        expected = upload_bytes(kind_of(context.config).shapes(setup))

        def keep(round_number: int, site: str, reply: SiteReply) -> None:
            context.reporter.artefact("generator", context.generator_dir(site).relative_to(context.run_dir))
            context.reporter.flush()  # with the bytes of its upload
            keep_upload(reply.arrays, context.generator_dir(site), setup, site=site)

        context.sites.ask(
            TRAIN_GENERATOR,
            kind="generator",
            to=sites,
            max_bytes=expected,
            on_reply=keep,
            listener=_Progress(context),
        )


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
