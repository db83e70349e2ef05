"""FedTinySAM: the student by FedAvg alone, the baseline whose gain the paper reports."""

from __future__ import annotations

from engine.stages.context import Stage
from engine.stages.evaluation import Evaluation
from engine.stages.export import Export
from engine.stages.federated_training import FederatedTraining

FEDTINYSAM_STAGES: tuple[Stage, ...] = (FederatedTraining(), Evaluation(), Export())
