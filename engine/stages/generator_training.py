"""Stage: every site trains an image generator on its own images and masks, and uploads it once (Eq. 1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from engine.accounting import epsilon_words
from engine.errors import UserError
from engine.federation.release import FIGURES, WITHHELD, limits_in, reason_to_withhold
from engine.federation.sites import Desk
from engine.federation.tasks import TRAIN_GENERATOR, SiteReply
from engine.generation.generators import keep_upload, kind_of, upload_bytes
from engine.models.arrays import model_arrays
from engine.runs import generator_checks
from engine.runs.generator_checks import CHECKS_FILE, read_checks
from engine.stages.context import RunContext
from engine.stages.files import write_json
from engine.stages.site_progress import SiteProgress

PATIENT_EPSILON = "patient_epsilon"
"""Curve of a site: what its generator has spent of the privacy of each of its patients."""
STUDENT = "fedavg_student"
"""The model that judges how faithful drawn images are to their masks, where a stage has made it."""


class GeneratorTraining:
    """Eq. 1 with whichever kind of generator: what of it learns and what leaves the site is the kind's to say."""

    name = "generator_training"

    def run(self, context: RunContext) -> None:
        """Train at the sites that have not answered yet; generators lie in ``generators/SITE``.

        A site that withholds its generator stops the run (``UserError`` ``generator.withheld``), or is gone on without
        where ``release.on_withheld`` says so. So is one that fails, where ``federation.on_failure`` does.
        """
        context.sites.finish()
        goes_on, checks = context.config.release.on_withheld == "skip", read_checks(context.run_dir)
        without = {site for site, check in checks.items() if goes_on and check["state"] == generator_checks.WITHHELD}
        training = self.training_sites(context)
        sites = tuple(site for site in training if site not in without and not context.generator_dir(site).is_dir())
        if sites:
            self._ask(context, sites)
        if not any(context.generator_dir(site).is_dir() for site in training):
            raise UserError(
                "generator.none",
                what="No site has sent a generator: each withholds it or has failed.",
                why="Without any, the server has nothing to draw synthetic images with.",
                fix="Mend the sites that failed and resume the run. For those that withhold: train less or on more "
                "images (generator.steps), or talk to them about their limits.",
            )

    def training_sites(self, context: RunContext) -> tuple[str, ...]:
        """Return the sites that train a generator: all sources."""
        return context.sites.names

    def begin(self, context: RunContext) -> None:
        """Ask the sites without waiting for them (the paper's asynchronous phase); ``run`` waits for what is missing.

        Who fails meanwhile, or withholds its generator, is asked once more there. Nothing is sent down: no student is
        there yet that could judge. Where sites cannot work so, all is as without.
        """
        withheld = {site for site, check in read_checks(context.run_dir).items() if check["state"] != "sent"}
        training = self.training_sites(context)
        there = {site for site in training if context.generator_dir(site).is_dir()}
        sites = [site for site in training if site not in withheld | there]
        if not sites:
            return

        def keep(site: str, reply: SiteReply) -> None:
            reason = _noted(context, site, reply.metrics)
            if reason is None:
                _keep(context, site, reply)
            else:
                context.reporter.log("warning", f"{site} withholds its generator: {reason}.")

        def failed(site: str, error: UserError) -> None:
            words = f"{site} has no generator yet and is asked again after the rounds. {error.what}"
            context.reporter.log("warning", words)

        begun = context.sites.begin(
            TRAIN_GENERATOR,
            kind="student",
            reply_kind="generator",
            to=sites,
            max_bytes=_most_bytes(context),
            on_reply=keep,
            on_failure=failed,
            desk=Desk(self.name, context.server(), _Progress(context, training), context.reporter.flush),
        )
        if not begun:
            context.reporter.log(
                "warning", "Here sites do one thing at a time: generators are trained after the rounds."
            )

    def _ask(self, context: RunContext, sites: tuple[str, ...]) -> None:
        def keep(round_number: int, site: str, reply: SiteReply) -> SiteReply:
            reason = _noted(context, site, reply.metrics)
            if reason is not None:
                _without(context, site, reason)
                return reply
            _keep(context, site, reply)
            return replace(reply, arrays={})  # it lies in its folder; others need not wait beside it

        def lack(site: str, error: UserError) -> None:
            words = f"{site} has no generator: the run goes on without it. {error.what}"
            context.reporter.log("warning", words)

        judged = context.config.release.check and context.model_path(STUDENT).is_file()
        context.sites.ask(
            TRAIN_GENERATOR,
            kind="student",
            reply_kind="generator",
            to=sites,
            arrays=model_arrays(context.load_model("student", STUDENT)) if judged else {},
            max_bytes=_most_bytes(context),
            on_reply=keep,
            on_lack=lack,
            listener=_Progress(context, self.training_sites(context)),
        )


def _most_bytes(context: RunContext) -> int:
    return upload_bytes(kind_of(context.config).shapes(context.generators))


def _keep(context: RunContext, site: str, reply: SiteReply) -> None:
    """Write a generator that has come; its folder says that it is there."""
    if PATIENT_EPSILON in reply.metrics:
        spent, delta = reply.metrics[PATIENT_EPSILON], context.config.generator.dp_delta
        context.reporter.metric(PATIENT_EPSILON, spent, step=context.config.generator.steps, site=site)
        said = (
            f"{site} has trained its generator by DP-SGD: epsilon is {epsilon_words(spent)} at delta {delta:g} for a "
        )
        context.reporter.log("info", f"{said}patient; figures that it tells are not covered.")
    context.reporter.artefact("generator", context.generator_dir(site).relative_to(context.run_dir))
    context.reporter.flush()  # with the bytes of its upload
    keep_upload(reply.arrays, context.generator_dir(site), context.generators, site=site)


def _noted(context: RunContext, site: str, metrics: Mapping[str, float]) -> str | None:
    """Keep the figures that a site tells of its generator; return why it withholds it, None where it does not."""
    figures = {name: metrics[name] for name in FIGURES if name in metrics}
    if WITHHELD not in figures:
        return None
    reason = None
    if figures[WITHHELD]:
        reason = reason_to_withhold(figures, limits_in(figures)) if len(figures) > 1 else None  # measured or not
        reason = reason or "its site's rules do not let it leave"
    state = generator_checks.SENT if reason is None else generator_checks.WITHHELD
    checks = read_checks(context.run_dir) | {site: {"state": state, "reason": reason or "", "figures": figures}}
    write_json(context.run_dir / CHECKS_FILE, checks)
    return reason


def _without(context: RunContext, site: str, reason: str) -> None:
    if context.config.release.on_withheld == "skip":
        context.reporter.log("warning", f"{site} withholds its generator: {reason}. The run goes on without it.")
        return
    raise UserError(
        "generator.withheld",
        what=f"{site} withholds its generator: {reason}.",
        why="A generator that has learnt its training images by heart would carry them out of the site.",
        fix="Fork the run from generator_training with fewer generator.steps or more images, or with "
        "release.on_withheld = 'skip' to go on without this site.",
    )


class _Progress:
    """All sites together, each with the same number of steps."""

    def __init__(self, context: RunContext, sites: tuple[str, ...]) -> None:
        self._reporter, self._sites = context.reporter, sites
        self._together = SiteProgress()
        for site in self._sites:
            if context.generator_dir(site).is_dir():
                self._together.answered(site, 0)

    def progress(self, site: str, round_number: int, step: int, total: int) -> None:
        """Tell the stage's progress."""
        done = self._together.done(site, round_number, step / total) * total
        self._reporter.progress(round(done), len(self._sites) * total, message=f"{site}: step {step}")

    def metric(self, site: str, name: str, value: float, step: int) -> None:
        """Tell the site's curve."""
        self._reporter.metric(name, value, step=step, site=site)
