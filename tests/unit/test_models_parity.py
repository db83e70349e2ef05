"""SAM and TinySAM against their official implementations."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import ImageEncoderViT

from bench.tinysam_parity import GOLDEN, TOLERANCE, differences_from_golden, golden_shapes
from engine.models.key_layouts import to_own_keys
from engine.models.registry import build_model
from engine.models.sam import SAM_PRESETS
from engine.seeding import torch_generator


def test_tinysam_equals_the_official_one_at_1024_px() -> None:
    """Features, prompt-free masks and masks with points, recorded from the official code (bench.tinysam_parity)."""
    differences = differences_from_golden()
    assert {"features", "prompt_free", "points"} <= set(differences)
    assert max(differences.values()) <= TOLERANCE, differences


def test_the_recorded_tensors_are_worth_comparing() -> None:
    with np.load(GOLDEN) as golden:
        for name in ("features", "prompt_free", "points"):
            assert golden[name].std() > 1e4 * TOLERANCE
            assert golden[f"{name}_std"].min() > 1e4 * TOLERANCE
        assert np.abs(golden["prompt_free"] - golden["points"]).max() > 1e4 * TOLERANCE


def test_official_tinysam_keys_are_all_used() -> None:
    shapes = golden_shapes()
    assert len(shapes) == 439  # methods.md 5
    own, _, dropped = to_own_keys({key: torch.empty(shape, device="meta") for key, shape in shapes.items()})
    with torch.device("meta"):
        model = build_model("tinysam", size="5m", seed=0)
    assert {key: tuple(tensor.shape) for key, tensor in own.items()} == {
        key: tuple(tensor.shape) for key, tensor in model.state_dict().items()
    }
    assert sum(np.prod(shapes[key]) for key in dropped) == 321_640


@pytest.mark.parametrize("size", ["vit_b", "vit_l"])
def test_sam_has_the_official_tensors(size: str) -> None:
    with torch.device("meta"):
        ours, official = build_model("sam", size=size, seed=0), sam_model_registry[size]()
    assert {key: tensor.shape for key, tensor in ours.state_dict().items()} == {
        key: tensor.shape for key, tensor in official.state_dict().items()
    }


def test_sam_encoder_equals_the_official_class_at_the_native_size() -> None:
    model = build_model("sam", size="mini", seed=0)
    preset = SAM_PRESETS["mini"]
    official = ImageEncoderViT(
        img_size=preset.image_px,
        patch_size=preset.patch_px,
        embed_dim=preset.embed_dim,
        depth=preset.depth,
        num_heads=preset.num_heads,
        out_chans=preset.decoder.dim,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=preset.window_size,
        global_attn_indexes=preset.global_attn_indexes,
    )
    official.load_state_dict(model.image_encoder.state_dict())
    image = torch.rand(2, 3, 128, 128, generator=torch_generator(0, "image"))
    with torch.no_grad():
        assert torch.equal(model.encode(image), official(image))
