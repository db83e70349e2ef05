"""A site joins a finished run of DSFedMed: its generator, its samples, distillation continued (Figure 6).

The paper says that new clients can join without full retraining and gives no procedure; this is ours. No setting is
fixed here: a run of this row has those of the run that it continues, an ablation's own included.
"""

from __future__ import annotations

from engine.methods.catalogue import PREDICTIONS, MethodSpec, ModelSpec, StageSpec, register
from engine.methods.dsfedmed import (
    CANDIDATE,
    CHECKED_TEACHER,
    DISTILLED,
    GENERATOR,
    JOINED,
    MASKS,
    PAPER,
    STATISTICS,
)
from engine.methods.shared_stages import EVALUATION, EXPORT, STUDENT

EARLIER_TEACHER = ModelSpec(
    "earlier_teacher", "{teacher}, before the site joined", role="teacher", architecture="teacher"
)
EARLIER_STUDENT = ModelSpec(
    "earlier_student", "{student}, before the site joined", role="student", architecture="student"
)
JOINED_TEACHER = ModelSpec(
    "joined_teacher",
    "{teacher}, after the site joined",
    role="teacher",
    architecture="teacher",
    compared_with=("earlier_teacher",),
)
JOINED_STUDENT = ModelSpec(
    "joined_student",
    "{student}, after the site joined",
    role="student",
    architecture="student",
    compared_with=("earlier_student",),
)

JOINING = StageSpec(
    "joining",
    "A site joins",
    "The new site's data are compared with the run's; models, generators and samples are taken over.",
    entry="engine.stages.joining:Joining",
    cost="engine.planning.joining_costs:joining",
    # All that has made what is taken over: none of it can be another in a fork.
    reads=("data", "student", "teacher", "federation", "generator", "generation", "foundation", "join"),
    options=("generator_lora", "pix2pix", "ddpm", "release"),
    makes=(EARLIER_TEACHER, EARLIER_STUDENT),
    keeps=("earlier", "sites", "data"),
    trains=False,
    takes_over=True,
)
JOINED_GENERATOR_TRAINING = StageSpec(
    "joined_generator_training",
    "Generator of the new site",
    "The new site trains its own image generator; the others' are as they were.",
    entry="engine.stages.joining:JoinedGeneratorTraining",
    cost="engine.planning.joining_costs:joined_generator_training",
    reads=(),
    keeps=("generators", "generator_checks"),
    reads_labels=True,
    sends=(GENERATOR, STUDENT),
    step="optimiser step",
    trains_at_sites=True,
)
JOINED_GENERATION = StageSpec(
    "joined_generation",
    "Samples of the new site",
    "The server draws images from the new site's masks and adds them to the synthetic set.",
    entry="engine.stages.joining:JoinedGeneration",
    cost="engine.planning.joining_costs:joined_generation",
    reads=(),
    keeps=("samples",),
    records=("samples",),
    reads_labels=True,
    sends=(MASKS,),
)
CONTINUED_DISTILLATION = StageSpec(
    "continued_distillation",
    "Continued distillation",
    "SAM and TinySAM go on teaching each other, on the samples of all sites.",
    entry="engine.stages.joining:ContinuedDistillation",
    cost="engine.planning.stage_costs:mutual_distillation",
    reads=("distillation",),
    makes=(JOINED_TEACHER, JOINED_STUDENT),
    keeps=("distillation",),
    records=("scores", PREDICTIONS),
    sends=(DISTILLED, STATISTICS, CANDIDATE, CHECKED_TEACHER),
)
register(
    MethodSpec(
        JOINED,
        "DSFedMed, a site joins",
        f"{PAPER}, Figure 6 (our procedure)",
        (JOINING, JOINED_GENERATOR_TRAINING, JOINED_GENERATION, CONTINUED_DISTILLATION, EVALUATION, EXPORT),
        sentence="A new site joins a finished run: its samples are added and distillation goes on, no round is rerun.",
        trains="A generator at the new site; foundation model and student, as they were, go on at the server.",
        crosses="The new site's generator and its masks, once; the distilled student, down to every site.",
        joined_by=JOINED,
    )
)
