"""The systems that DSFedMed is compared with, beside FedTinySAM: other models by FedAvg, all images at one place, and
each site alone."""

from __future__ import annotations

from engine.methods.catalogue import MethodSpec, register
from engine.methods.model_choice import MSA, NN_U_NET, SAM, U_NET
from engine.methods.shared_stages import EVALUATION, EXPORT, FEDERATED_TRAINING

STAGES = (FEDERATED_TRAINING, EVALUATION, EXPORT)
BASELINE = "arXiv 2601.16073, baseline"
FEDFMS = "arXiv 2403.05408 (FedFMS)"

register(
    MethodSpec(
        "fedsam",
        "FedSAM: all of SAM by FedAvg",
        FEDFMS,
        STAGES,
        student=SAM,
        sentence="SAM itself is trained at the sites and averaged: the most accurate to expect, the dearest to send.",
        trains="Every parameter of SAM, at the sites.",
        crosses="All of SAM, both ways in every round.",
        titles={"fedavg_student": "FedSAM", "personal_student": "FedSAM, each site's own"},
    )
)
register(
    MethodSpec(
        "fedmsa",
        "FedMSA: SAM's adapters by FedAvg",
        FEDFMS,
        STAGES,
        # Where random adapters differ, FedFMS averages once before round 0; here one seed makes them alike everywhere.
        overlay={"federation.shared": "trainable"},
        student=MSA,
        sentence="SAM stays as it is; small adapters in its blocks and its mask decoder are trained at the sites.",
        trains="Two adapters in each block of the encoder, and the mask decoder, at the sites.",
        crosses="Adapters and mask decoder, both ways in every round; the rest of SAM is never sent.",
        titles={"fedavg_student": "FedMSA", "personal_student": "FedMSA, each site's own"},
    )
)
register(
    MethodSpec(
        "fedunet",
        "FedU-Net: a U-Net by FedAvg",
        BASELINE,
        STAGES,
        student=U_NET,
        sentence="A conventional U-Net from random weights is trained at the sites and averaged.",
        trains="Every parameter of MONAI's residual U-Net, at the sites.",
        crosses="All of the U-Net, both ways in every round.",
        titles={"fedavg_student": "FedU-Net", "personal_student": "FedU-Net, each site's own"},
    )
)
register(
    MethodSpec(
        "fednnunet",
        "FednnU-Net: nnU-Net's network by FedAvg",
        BASELINE,
        STAGES,
        overlay={"data.augment": "nnunet"},
        student=NN_U_NET,
        sentence="nnU-Net's plain U-Net with deep supervision and its augmentation, from random weights, averaged.",
        trains="Every parameter of nnU-Net's plain U-Net, at the sites.",
        crosses="All of the U-Net, both ways in every round.",
        titles={"fedavg_student": "FednnU-Net", "personal_student": "FednnU-Net, each site's own"},
    )
)
register(
    MethodSpec(
        "centralised_sam",
        "SAM on pooled images, no federation",
        BASELINE,
        STAGES,
        overlay={"data.pooled": True, "federation.shared": "all", "federation.normalisation": "average"},
        student=SAM,
        sentence="The ceiling: SAM is trained on all sites' images at one place, which a federation avoids.",
        trains="Every parameter of SAM, on the union of the sites' images.",
        crosses="The sites' images themselves would: it runs only where they all lie on this machine.",
        titles={"fedavg_student": "SAM, centralised", "personal_student": "SAM, the pool's own"},
        places=("local",),
    )
)
register(
    MethodSpec(
        "local_only",
        "Each site alone",
        "the lower bound of federated learning",
        STAGES,
        overlay={"federation.shared": "none"},
        sentence="Each site trains the student on its own images and shares nothing; a new site has the first weights.",
        trains="Every parameter of the student, at each site for itself.",
        crosses="No weight: figures of training alone, and the first weights to be measured.",
        titles={"fedavg_student": "{student}, first weights", "personal_student": "{student}, each site alone"},
    )
)
