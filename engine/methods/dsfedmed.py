"""DSFedMed: federated student, site generators, synthetic set, SAM, mutual distillation; and DSFedMed without parts."""

from __future__ import annotations

from engine.methods.catalogue import PREDICTIONS, KindSpec, MethodSpec, ModelSpec, StageSpec, register
from engine.methods.shared_stages import EVALUATION, EXPORT, FEDERATED_TRAINING, STUDENT

GENERATOR = KindSpec(
    "generator",
    "generator weights",
    "The weights of the image generator that the site trained on its images and masks; sent up once.",
)
MASKS = KindSpec("masks", "masks", "Binary masks that the site shares for generation, one bit a pixel; no image.")
DISTILLED = KindSpec(
    "distilled",
    "distilled student",
    "All weights of the distilled student, sent down to each site when distillation is over.",
)
STATISTICS = KindSpec(
    "statistics",
    "statistics",
    "Means and variances of the student's BatchNorm layers over a site's training images; no image.",
    only_if=("distillation.batch_norm_statistics", ("sites",)),
)

CANDIDATE = KindSpec(
    "candidate",
    "students to be judged",
    "All weights of the student before distillation and after each epoch of it, or of means of the first and the last, "
    "sent down to each site, which validates it: one of them is kept, or the last all the same.",
    only_if=("distillation.gate", ("best", "mix", "watch")),
)
CHECKED_TEACHER = KindSpec(
    "checked_teacher",
    "foundation model to be judged",
    "All weights of the foundation model before distillation, sent down once to each site, which validates it.",
    only_if=("distillation.teacher_check", ("sites",)),
)

FINETUNED_TEACHER = ModelSpec(
    "finetuned_teacher", "{teacher}, fine-tuned on synthetic", role="teacher", architecture="teacher"
)
DISTILLED_TEACHER = ModelSpec(
    "distilled_teacher",
    "{teacher}, mutually distilled",
    role="teacher",
    architecture="teacher",
    compared_with=("finetuned_teacher", "distilled_student"),
)
DISTILLED_STUDENT = ModelSpec(
    "distilled_student",
    "{student}, mutually distilled",
    role="student",
    architecture="student",
    compared_with=("fedavg_student",),
)

GENERATOR_TRAINING = StageSpec(
    "generator_training",
    "Generator training",
    "Each site trains its own image generator.",
    entry="engine.stages.generator_training:GeneratorTraining",
    cost="engine.planning.stage_costs:generator_training",
    reads=("generator",),
    options=("generator_lora", "pix2pix", "ddpm", "release"),
    keeps=("generators", "generator_checks"),
    reads_labels=True,
    sends=(GENERATOR, STUDENT),
    early="generator.asynchronous",
    step="optimiser step",
    trains_at_sites=True,
)
GENERATION = StageSpec(
    "generation",
    "Generation",
    "The server draws synthetic images from masks.",
    entry="engine.stages.generation:Generation",
    cost="engine.planning.stage_costs:generation",
    reads=("generation",),
    keeps=("samples",),
    records=("samples",),
    reads_labels=True,
    sends=(MASKS,),
)
FOUNDATION_FINETUNING = StageSpec(
    "foundation_finetuning",
    "Foundation fine-tuning",
    "SAM learns from the synthetic images.",
    entry="engine.stages.foundation_finetuning:FoundationFinetuning",
    cost="engine.planning.stage_costs:foundation_finetuning",
    reads=("teacher", "foundation"),
    makes=(FINETUNED_TEACHER,),
)
MUTUAL_DISTILLATION = StageSpec(
    "mutual_distillation",
    "Mutual distillation",
    "SAM and TinySAM teach each other.",
    entry="engine.stages.mutual_distillation:MutualDistillationStage",
    cost="engine.planning.stage_costs:mutual_distillation",
    reads=("distillation",),
    makes=(DISTILLED_TEACHER, DISTILLED_STUDENT),
    keeps=("distillation",),
    records=("scores", PREDICTIONS),
    sends=(DISTILLED, STATISTICS, CANDIDATE, CHECKED_TEACHER),
)
STAGES = (
    FEDERATED_TRAINING,
    GENERATOR_TRAINING,
    GENERATION,
    FOUNDATION_FINETUNING,
    MUTUAL_DISTILLATION,
    EVALUATION,
    EXPORT,
)
PAPER = "arXiv 2601.16073"
ONE_WAY = {"distillation.mutual": False}
NO_SELECTION = {"distillation.mode": "paper", "distillation.selector": "top_k", "distillation.selection_rate": 1.0}
REFERENCE = {"distillation.mode": "reference", "distillation.selector": "in_batch_quantile"}

TRAINS = "The student and a generator at each site; foundation model and student together at the server."
CROSSES = "All of the student, both ways in every round; each site's generator and its masks, once."
JOINED = "dsfedmed_joined"
"""The row that adds a site to a finished run of any of these (``engine.methods.joining``)."""
register(
    MethodSpec(
        "dsfedmed",
        "DSFedMed: federated dual distillation",
        PAPER,
        STAGES,
        sentence="A small student learns at the sites, then with SAM from synthetic images at the server.",
        trains=TRAINS,
        crosses=CROSSES,
        joined_by=JOINED,
    )
)
# The rows of the paper's ablation (its whole is DSFedMed itself), and what the authors' code does.
for _name, _title, _where, _overlay, _sentence in (
    (
        "dsfedmed_no_selection",
        "DSFedMed on all samples",
        "ablation, mutual distillation alone",
        NO_SELECTION,
        "DSFedMed whose distillation learns from every synthetic image, not from the most learnable.",
    ),
    (
        "dsfedmed_one_way",
        "DSFedMed, SAM teaches only",
        "ablation, selection alone",
        ONE_WAY,
        "DSFedMed whose foundation model teaches the student and learns nothing from it.",
    ),
    (
        "dsfedmed_plain",
        "DSFedMed, SAM teaches only, on all samples",
        "ablation, neither",
        ONE_WAY | NO_SELECTION,
        "DSFedMed with neither selection nor mutual distillation.",
    ),
    (
        "dsfedmed_reference",
        "DSFedMed as its authors' code runs it",
        "github.com/LMIAPC/DSFedMed",
        REFERENCE,
        "DSFedMed with the in-batch rule, eval mode and frozen SAM encoder of its authors' code.",
    ),
):
    register(
        MethodSpec(
            _name,
            _title,
            f"{PAPER}, {_where}",
            STAGES,
            overlay=_overlay,
            sentence=_sentence,
            trains=TRAINS,
            crosses=CROSSES,
            joined_by=JOINED,
        )
    )
