"""FedTinySAM: the student by FedAvg alone, the baseline whose gain the paper reports."""

from __future__ import annotations

from engine.methods.catalogue import MethodSpec, register
from engine.methods.shared_stages import EVALUATION, EXPORT, FEDERATED_TRAINING

register(
    MethodSpec(
        "fedtinysam",
        "TinySAM by FedAvg alone",
        "arXiv 2601.16073, baseline",
        stages=(FEDERATED_TRAINING, EVALUATION, EXPORT),
    )
)
