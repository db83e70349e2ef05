"""SAM-Fed: a public labelled set at the server, sites without labels, SAM as their teacher; and its comparisons.

Our specification throughout (methods.md 2): neither a full text nor code of arXiv 2511.14302 could be found. What was
unknown and how it is chosen: the teacher goes to the sites, once and as what was trained of it, and labels their images
there (it is never deployed); nothing that it says of them comes back. The public set goes to the sites, once.
"""

from __future__ import annotations

from engine.methods.catalogue import KindSpec, MethodSpec, ModelSpec, StageSpec, register
from engine.methods.shared_stages import EVALUATION, EXPORT, NORMALISATION, STUDENT

PUBLIC = KindSpec(
    "public",
    "public set",
    "The public labelled set, images and masks, sent down once to each site that trains; with it, and to a site that "
    "is measured on alone, digests of its patients and files, so that a site can tell what it shares with it.",
)
TEACHER = KindSpec(
    "teacher",
    "SAM's trained part",
    "What was trained of SAM on the public set (its LoRA and mask decoder), sent down once; what it says of a site's "
    "images stays there.",
)
PREDICTIONS = KindSpec(
    "public_predictions",
    "predictions on the public set",
    "Logits of the public images by the server's model, down, and by each site's own, up, where sites have students of "
    "several kinds. No weights, and nothing of a site's image.",
)
PUBLIC_STUDENT = ModelSpec("public_student", "{student}, public set only", role="student", architecture="student")
ADAPTED_TEACHER = ModelSpec(
    "adapted_teacher", "{teacher}, tuned on the public set", role="teacher", architecture="teacher"
)
SAMFED_STUDENT = ModelSpec(
    "samfed_student",
    "{student}, learnt without labels",
    role="student",
    architecture="student",
    compared_with=("public_student",),
)
PERSONAL_STUDENT = ModelSpec(
    "samfed_personal_student",
    "{student}, each site's own, without labels",
    role="student",
    architecture="student",
    compared_with=("samfed_student", "public_student"),
    scope="site",
)
PUBLIC_TRAINING = StageSpec(
    "public_training",
    "Training on the public set",
    "The student learns from the public labelled set at the server.",
    entry="engine.stages.public_training:PublicTraining",
    cost="engine.planning.public_costs:public_training",
    reads=("data", "student", "public"),
    makes=(PUBLIC_STUDENT,),
    keeps=("data",),
)
TEACHER_ADAPTATION = StageSpec(
    "teacher_adaptation",
    "SAM on the public set",
    "SAM is tuned by LoRA on the public labelled set at the server.",
    entry="engine.stages.public_training:TeacherAdaptation",
    cost="engine.planning.public_costs:teacher_adaptation",
    reads=("teacher",),
    makes=(ADAPTED_TEACHER,),
)
SEMI_SUPERVISED_TRAINING = StageSpec(
    "semi_supervised_training",
    "Training without labels",
    "The sites learn from their unlabelled images; weights travel, or predictions where students differ.",
    entry="engine.stages.semi_supervised_training:SemiSupervisedTraining",
    cost="engine.planning.public_costs:semi_supervised_training",
    reads=("federation", "samfed"),
    options=("privacy",),
    makes=(SAMFED_STUDENT, PERSONAL_STUDENT),
    keeps=("sites",),
    sends=(PUBLIC, TEACHER, STUDENT, NORMALISATION, PREDICTIONS),
    step="round",
    trains_at_sites=True,
)
PAPER = "arXiv 2511.14302"
WITHOUT_SAM = (PUBLIC_TRAINING, SEMI_SUPERVISED_TRAINING, EVALUATION, EXPORT)
STAGES = (PUBLIC_TRAINING, TEACHER_ADAPTATION, SEMI_SUPERVISED_TRAINING, EVALUATION, EXPORT)
UNLABELLED = {"data.site_labels": "ignored"}
ALONE = {"samfed.teacher_weight": 0.0, "samfed.global_weight": 0.0}

TRAINED = "Every parameter of the student, at the server on the public set, then at the sites without labels"
ONCE = "The public set goes down once to each site"
ROUNDS = "all of the student goes both ways in every round"

register(
    MethodSpec(
        "samfed",
        "SAM-Fed: sites without labels (our specification)",
        PAPER,
        STAGES,
        overlay={**UNLABELLED, "teacher.name": "sam", "teacher.lora_rank": 4},
        sentence="A public labelled set teaches the student and SAM; sites without labels learn from both of them.",
        trains=f"{TRAINED}; of SAM a LoRA and the mask decoder, at the server.",
        crosses=f"{ONCE}, and what was trained of SAM; {ROUNDS}, or predictions on the public set where sites have "
        "students of several kinds.",
        titles={"samfed_student": "SAM-Fed", "samfed_personal_student": "SAM-Fed, each site's own"},
    )
)
register(
    MethodSpec(
        "samfed_pseudo",
        "FedAvg with plain pseudo-labels",
        f"{PAPER}, baseline",
        WITHOUT_SAM,
        overlay={**UNLABELLED, **ALONE, "samfed.pseudo_labels": "own"},
        sentence="The student of the public set labels the sites' images itself, every pixel of them.",
        trains=f"{TRAINED}.",
        crosses=f"{ONCE}; {ROUNDS}.",
        titles={
            "samfed_student": "{student}, pseudo-labels",
            "samfed_personal_student": "{student}, pseudo-labels, own",
        },
    )
)
register(
    MethodSpec(
        "samfed_fixmatch",
        "FedAvg with FixMatch-style labels",
        "after arXiv 2001.07685",
        WITHOUT_SAM,
        overlay={**UNLABELLED, **ALONE, "samfed.pseudo_labels": "confident", "samfed.threshold": 0.95},
        sentence="The student labels the sites' images itself, where it is 95 % sure in a weakly changed view.",
        trains=f"{TRAINED}.",
        crosses=f"{ONCE}; {ROUNDS}.",
        titles={"samfed_student": "{student}, FixMatch", "samfed_personal_student": "{student}, FixMatch, own"},
    )
)
register(
    MethodSpec(
        "samfed_labelled",
        "The sites' labels, as a ceiling",
        f"{PAPER}, ceiling",
        WITHOUT_SAM,
        overlay={**ALONE, "data.site_labels": "read", "samfed.pseudo_labels": "truth"},
        sentence="The ceiling: the same training with the sites' true masks in place of pseudo-labels.",
        trains="Every parameter of the student, at the server on the public set, then at the sites with labels.",
        crosses=f"{ONCE}; {ROUNDS}.",
        titles={"samfed_student": "{student}, all labels", "samfed_personal_student": "{student}, all labels, own"},
    )
)
register(
    MethodSpec(
        "public_only",
        "The student on the public set alone",
        f"{PAPER}, baseline",
        (PUBLIC_TRAINING, EVALUATION, EXPORT),
        overlay=UNLABELLED,
        sentence="The floor: the student learns from the public labelled set, and the sites teach nothing.",
        trains="Every parameter of the student, at the server.",
        crosses="No weight but to be measured.",
    )
)
