"""DSFedMed (arXiv 2601.16073): federated student, site generators, synthetic set, SAM, mutual distillation."""

from __future__ import annotations

from engine.stages.context import Stage
from engine.stages.evaluation import Evaluation
from engine.stages.export import Export
from engine.stages.federated_training import FederatedTraining
from engine.stages.foundation_finetuning import FoundationFinetuning
from engine.stages.generation import Generation
from engine.stages.generator_training import GeneratorTraining
from engine.stages.mutual_distillation import MutualDistillationStage

DSFEDMED_STAGES: tuple[Stage, ...] = (
    FederatedTraining(),
    GeneratorTraining(),
    Generation(),
    FoundationFinetuning(),
    MutualDistillationStage(),
    Evaluation(),
    Export(),
)
