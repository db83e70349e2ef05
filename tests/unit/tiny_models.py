"""SAM and TinySAM of the real classes with a few thousand weights: a training step takes milliseconds."""

from __future__ import annotations

import torch

from engine.models.decoder import DecoderPreset
from engine.models.sam import SamPreset, build_sam
from engine.models.segmenter import Segmenter
from engine.models.tinysam import TinySamPreset, build_tinysam

DECODER = DecoderPreset(dim=32, mlp_dim=32, num_heads=4, iou_hidden_dim=16)
SAM = SamPreset(
    embed_dim=32,
    depth=2,
    num_heads=2,
    global_attn_indexes=(1,),
    image_px=32,
    patch_px=8,
    window_size=2,
    decoder=DECODER,
)
TINYSAM = TinySamPreset(
    embed_dims=(8, 16, 16, 32),
    depths=(1, 1, 1, 1),
    num_heads=(1, 2, 2, 2),
    window_sizes=(4, 4, 4, 4),
    merge_strides=(2, 1, 1),
    image_px=32,
    decoder=DECODER,
)


def make_pair(*, num_classes: int = 1, image_px: int = 32, kept: bool = False) -> tuple[Segmenter, Segmenter]:
    """Return SAM and TinySAM, equal at every call.

    BatchNorm's statistics differ from those of any batch, so that a forward pass in train mode differs from one in eval
    mode, and no branch starts at zero, where its weights would have no gradient. ``kept`` is
    ``student.batch_norm``.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        teacher = build_sam(SAM, num_classes=num_classes, image_px=image_px)
        student = build_tinysam(TINYSAM, num_classes=num_classes, image_px=image_px)
    with torch.no_grad():
        for module in student.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.add_(0.05)
                module.running_var.mul_(1.3)
                module.weight.add_(0.3)
    student.keeps_statistics = kept
    return teacher, student
