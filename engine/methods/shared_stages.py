"""Stages that several methods have: federated training of the student, evaluation and export."""

from __future__ import annotations

from engine.methods.catalogue import KindSpec, ModelSpec, StageSpec

FEDAVG_STUDENT = ModelSpec("fedavg_student", "{student}, FedAvg only", role="student", architecture="student")
PERSONAL_STUDENT = ModelSpec(
    "personal_student",
    "{student}, each site's own",
    role="student",
    architecture="student",
    compared_with=("fedavg_student",),
    scope="site",
)
STUDENT = KindSpec(
    "student",
    "student weights",
    "The weights and normalisation statistics of the student model that sites share, all unless said otherwise, or the "
    "update of them where federation.codec says so; no image and no mask.",
)
NORMALISATION = KindSpec(
    "normalisation",
    "normalisation layers",
    "Weights and statistics of the student's normalisation layers that a site keeps as its own, sent up once when "
    "training is over: a site without its own takes their mean. No image.",
    only_if=("federation.normalisation", ("local",)),
)
FEDERATED_TRAINING = StageSpec(
    "federated_training",
    "Federated training",
    "The student learns at every site; only weights travel.",
    entry="engine.stages.federated_training:FederatedTraining",
    cost="engine.planning.stage_costs:federated_training",
    reads=("data", "student", "federation"),
    options=("privacy",),
    makes=(FEDAVG_STUDENT, PERSONAL_STUDENT),
    keeps=("sites", "data"),
    sends=(STUDENT, NORMALISATION),
    step="round",
    averages=True,
    reads_labels=True,
    grows=True,
    trains_at_sites=True,
)
EVALUATED = KindSpec(
    "evaluated",
    "models to be measured",
    "All weights of a model, sent to a site that measures it for the results table.",
)
FIGURES = KindSpec(
    "figures",
    "figures of images",
    "Dice, distances and areas of each image that a site has measured, under numbers in place of names; of students "
    "their mean Dice seen as a whole and in parts.",
)
EVALUATION = StageSpec(
    "evaluation",
    "Evaluation",
    "All models on the site that no training saw.",
    entry="engine.stages.evaluation:Evaluation",
    cost="engine.planning.stage_costs:evaluation",
    reads=("evaluation",),
    keeps=("evaluation",),
    records=("evaluation", "differences"),
    sends=(EVALUATED, FIGURES),
    trains=False,
)
OWN = KindSpec(
    "own",
    "each site's own part",
    "What a site has kept of the student as its own, sent up once, so that its own model can be exported. No image.",
    only_if=("export.site_models", (True,)),
)
APPEARANCE = KindSpec(
    "appearance",
    "look of the images",
    "Means and covariances of brightness, colour and texture over a site's training images, and how far its validation "
    "images are from them: the exported model warns of images of another kind. No image.",
    is_optional=True,
)
EXPORT = StageSpec(
    "export",
    "Export",
    "The small model as an ONNX bundle.",
    entry="engine.stages.export:Export",
    cost="engine.planning.stage_costs:export",
    reads=("export",),
    keeps=("site_bundles",),
    sends=(OWN, APPEARANCE),
    trains=False,
)
