"""FedTinySAM: the student by federated training alone, the baseline whose gain the paper reports; with what a reviewer
asks for besides, FedProx and FedBN."""

from __future__ import annotations

from engine.methods.catalogue import MethodSpec, register
from engine.methods.shared_stages import EVALUATION, EXPORT, FEDERATED_TRAINING

STAGES = (FEDERATED_TRAINING, EVALUATION, EXPORT)
FEDPROX = {"federation.proximal_mu": 0.01}
"""The middle of the values that its paper tries; set federation.proximal_mu of fedtinysam for another."""
FEDBN = {"federation.normalisation": "local"}

TRAINS = "Every parameter of the student, at the sites."
WHOLE = "All of the student, both ways in every round."
KEPT = "All of the student but its normalisation layers, in every round; these go up once, at the end."

register(
    MethodSpec(
        "fedtinysam",
        "TinySAM by FedAvg alone",
        "arXiv 2601.16073, baseline",
        STAGES,
        sentence="The student is trained at the sites and averaged: DSFedMed's first stage alone.",
        trains=TRAINS,
        crosses=WHOLE,
    )
)
register(
    MethodSpec(
        "fedtinysam_fedprox",
        "TinySAM by FedProx",
        "arXiv 1812.06127",
        STAGES,
        overlay=FEDPROX,
        sentence="FedTinySAM whose sites are held to the average that they were sent.",
        trains=TRAINS,
        crosses=WHOLE,
    )
)
register(
    MethodSpec(
        "fedtinysam_fedbn",
        "TinySAM by FedBN, each site's own layers",
        "arXiv 2102.07623",
        STAGES,
        FEDBN,
        sentence="FedTinySAM whose sites keep their normalisation layers: a model of its own for each.",
        trains=TRAINS,
        crosses=KEPT,
    )
)
