"""pFedSAM, and what it is compared with: SAM by low-rank updates that sites average, and experts that each site keeps.

No full text of pFedSAM and no code could be found: what its abstract does not say is our specification.
"""

from __future__ import annotations

from dataclasses import replace

from engine.methods.catalogue import MethodSpec, ModelSpec, register
from engine.methods.model_choice import SAM
from engine.methods.shared_stages import EVALUATION, EXPORT, FEDERATED_TRAINING

OURS = "our specification"
LORA_GLOBAL = ModelSpec("lora_student", "SAM with LoRA, FedAvg", role="student", architecture="student")
LORA_PERSONAL = ModelSpec(
    "lora_personal",
    "SAM with LoRA, each site's own",
    role="student",
    architecture="student",
    compared_with=("lora_student",),
    scope="site",
)
PFEDSAM_GLOBAL = ModelSpec("pfedsam_global", f"pFedSAM, global ({OURS})", role="student", architecture="student")
PFEDSAM_PERSONAL = ModelSpec(
    "pfedsam_personal",
    f"pFedSAM, each site's own ({OURS})",
    role="student",
    architecture="student",
    compared_with=("pfedsam_global",),
    scope="site",
)
LORA_TRAINING = replace(
    FEDERATED_TRAINING,
    name="lora_training",
    title="Federated training by LoRA",
    sentence="Low-rank updates of SAM and its mask decoder learn at every site; only they travel.",
    entry="engine.stages.tuned_training:LoraTraining",
    reads=(*FEDERATED_TRAINING.reads, "lora"),
    makes=(LORA_GLOBAL, LORA_PERSONAL),
)
PERSONAL_TRAINING = replace(
    FEDERATED_TRAINING,
    name="personal_training",
    title="Global and personal training",
    sentence=f"Low-rank updates of SAM travel; each site's experts stay and learn from them ({OURS}).",
    entry="engine.stages.tuned_training:PersonalTraining",
    cost="engine.planning.tuning_costs:personal_training",
    reads=(*FEDERATED_TRAINING.reads, "lora", "experts"),
    makes=(PFEDSAM_GLOBAL, PFEDSAM_PERSONAL),
)
LORA = {"federation.shared": "trainable", "lora.use": True}
DECODER_TOO = "Low-rank updates of SAM's attention and its mask decoder"

register(
    MethodSpec(
        "fedavg_lora",
        "FedAvg-LoRA: SAM's low-rank updates by FedAvg",
        "arXiv 2106.09685 (LoRA)",
        (LORA_TRAINING, EVALUATION, EXPORT),
        overlay=LORA,
        student=SAM,
        sentence="SAM stays as it is; low-rank updates of its attention and its decoder are trained and averaged.",
        trains=f"{DECODER_TOO}, at the sites.",
        crosses="Both, in every round; the rest of SAM is never sent.",
    )
)
register(
    MethodSpec(
        "pfedsam",
        f"pFedSAM: a personal SAM for each site ({OURS})",
        f"arXiv 2509.15638, {OURS}",
        (PERSONAL_TRAINING, EVALUATION, EXPORT),
        overlay={**LORA, "federation.local_parameters": ("*.mlp.experts.*",), "experts.use": True},
        student=SAM,
        sentence="FedAvg-LoRA with experts that each site keeps: it has a model of its own, a new site the global one.",
        trains=f"{DECODER_TOO}; then each site's gates and experts, taught by the global model ({OURS}).",
        crosses="Updates and mask decoder, in every round; no gate and no expert ever.",
    )
)
register(
    MethodSpec(
        "local_lora",
        "SAM by low-rank updates, each site alone",
        "the lower bound of FedAvg-LoRA",
        (LORA_TRAINING, EVALUATION, EXPORT),
        overlay={**LORA, "federation.shared": "none"},
        student=SAM,
        sentence="Each site tunes SAM on its own images and shares nothing; a new site has the first weights.",
        trains=f"{DECODER_TOO}, at each site for itself.",
        crosses="No weight: figures of training alone, and the first weights to be measured.",
        titles={"lora_student": "SAM, first weights", "lora_personal": "SAM with LoRA, each site alone"},
    )
)
