"""Stages of a run in which a site joins a finished one (Figure 6): what was made before is taken over as it is.

Only the new site trains a generator and shares masks; distillation goes on from the last models of the finished run on
the samples of all sites. No federated round is run again. The paper gives no procedure: this one is ours.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from engine.federation.descriptions import digests_of
from engine.runs.earlier import (
    EARLIER,
    JUDGE,
    check_alike,
    check_unchanged_since,
    put_in_place,
    read_earlier,
)
from engine.stages.context import RunContext
from engine.stages.generation import Generation
from engine.stages.generator_training import GeneratorTraining
from engine.stages.mutual_distillation import MutualDistillationStage
from engine.stages.synthetic_set import read_samples
from engine.types import SyntheticSample


class Joining:
    """Compares what the sites tell with what the finished run has noted, and puts its last models in place."""

    name = "joining"

    def run(self, context: RunContext) -> None:
        """Raises ``UserError``: ``join.sites_differ``, ``run.data_changed``, and for images that cannot be used."""
        earlier, described = read_earlier(context.run_dir), context.description
        check_alike(earlier, classes=described.classes, modality=described.modality)
        check_unchanged_since(earlier, digests_of(described))
        report = partial(_tell_reading, context)
        for warning in context.sites.read_everything(on_image=report):
            context.reporter.log("warning", warning)
        put_in_place(context.run_dir, "models")
        for name in (*(model.name for model in context.models), JUDGE):
            path = context.model_path(name)
            if path.is_file():
                context.reporter.artefact("model", path.relative_to(context.run_dir))
        joined = ", ".join(context.config.join.sites)
        context.reporter.log("info", f"{joined} joins what the run {earlier.run_id} ({earlier.name}) has made.")
        context.reporter.progress(1, 1)


class JoinedGeneratorTraining(GeneratorTraining):
    """Eq. 1 at the sites that join; the generators of the others are those of the finished run."""

    name = "joined_generator_training"

    def run(self, context: RunContext) -> None:
        """Train at the sites that join and have not answered yet; see :meth:`GeneratorTraining.run`."""
        for folder in ("generators", "generator_checks"):
            put_in_place(context.run_dir, folder)
        super().run(context)

    def training_sites(self, context: RunContext) -> tuple[str, ...]:
        """Return the sites that join."""
        return context.config.join.sites


class JoinedGeneration(Generation):
    """Eq. 2 for the sites that join; the samples of the others are those of the finished run, as they are."""

    name = "joined_generation"

    def run(self, context: RunContext) -> None:
        """Draw what is missing; the list has the earlier samples first. See :meth:`Generation.run`."""
        put_in_place(context.run_dir, "samples")
        super().run(context)

    def drawn_sites(self, context: RunContext) -> tuple[str, ...]:
        """Return the sites that join."""
        return context.config.join.sites

    def earlier_samples(self, context: RunContext) -> list[SyntheticSample]:
        """Return the samples of the finished run, without what its models have predicted on them."""
        samples = read_samples(context.run_dir / EARLIER)
        return [replace(sample, teacher_path=None, student_path=None) for sample in samples]


class ContinuedDistillation(MutualDistillationStage):
    """Eq. 6-8 from the last models of the finished run, on the samples of all sites; each is scored anew."""

    name = "continued_distillation"
    begins_with = ("earlier_teacher", "earlier_student")
    models = ("joined_teacher", "joined_student")


def _tell_reading(context: RunContext, done: int, total: int) -> None:
    context.reporter.progress(done, total + 1, message=f"reading the images: {done} of {total}")
