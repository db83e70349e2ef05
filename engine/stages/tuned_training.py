"""Stages: federated training of SAM by low-rank updates, and with experts that each site keeps (pFedSAM)."""

from __future__ import annotations

from engine.stages.federated_training import FederatedTraining


class LoraTraining(FederatedTraining):
    """FedAvg of updates and decoder; ``lora_personal`` only where a setting keeps a part of them at the sites."""

    name = "lora_training"
    models = ("lora_student", "lora_personal")


class PersonalTraining(FederatedTraining):
    """The same beside experts that stay: a model of its own for each site (our specification of pFedSAM)."""

    name = "personal_training"
    models = ("pfedsam_global", "pfedsam_personal")
