"""The latent-diffusion backbone: sizes, prompts, folders, errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.errors import UserError
from engine.generation.backbone import SIZES, Backbone, build_backbone, freeze, load_backbone, save_backbone
from engine.generation.controlnet import new_controlnet
from engine.generation.training import predict
from engine.planning.compatibility import backbone_multiple_px


@pytest.fixture(scope="module")
def mini() -> Backbone:
    return freeze(build_backbone("mini", seed=3), device=torch.device("cpu"))


def test_sd15_has_stable_diffusions_parameter_counts() -> None:
    with torch.device("meta"):
        backbone = build_backbone("sd15", seed=0)
        controlnet = new_controlnet(backbone, source=None, seed=0, device="meta")
    count = {name: sum(p.numel() for p in getattr(backbone, name).parameters()) for name in ("vae", "unet")}
    # Stable Diffusion 1.5's published sizes; the ControlNet's is in methods.md 7.
    assert count == {"vae": 83_653_863, "unet": 859_520_964}
    assert sum(p.numel() for p in controlnet.parameters()) == 361_279_120


def test_equal_seeds_give_equal_weights_and_leave_the_global_stream_alone(mini: Backbone) -> None:
    torch.random.default_generator.manual_seed(5)
    before = torch.random.get_rng_state()
    twin, other = build_backbone("mini", seed=3), build_backbone("mini", seed=4)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(twin.unet.conv_in.weight, mini.unet.conv_in.weight)
    assert not torch.equal(other.unet.conv_in.weight, mini.unet.conv_in.weight)


@pytest.mark.parametrize("prompt", ["", "colour fundus photograph", "内視鏡 – é", "x" * 500])
def test_any_prompt_can_be_embedded(mini: Backbone, prompt: str) -> None:
    row = SIZES["mini"]
    embedding = mini.embed_prompts([prompt])
    assert embedding.shape == (1, row.text_length, row.text_width)
    assert torch.isfinite(embedding).all()


def test_prompts_are_told_apart(mini: Backbone) -> None:
    first, second = mini.embed_prompts(["colonoscopy video frame", "T2-weighted prostate MR"])
    assert not torch.allclose(first, second, atol=1e-3)


def test_the_backbone_is_frozen_and_the_controlnet_starts_at_zero(mini: Backbone) -> None:
    assert not any(p.requires_grad for model in (mini.vae, mini.unet, mini.text_encoder) for p in model.parameters())
    controlnet = new_controlnet(mini, source=None, seed=1)
    assert all(p.requires_grad for p in controlnet.parameters())
    noisy, prompt = torch.ones(2, mini.unet.config.in_channels, 4, 4), mini.embed_prompts(["a", "b"])
    steps, condition = torch.tensor([10, 700]), torch.ones(2, 3, 32, 32)
    with torch.no_grad():
        plain = mini.unet(noisy, steps, encoder_hidden_states=prompt).sample
        steered = predict(mini, controlnet, noisy, steps=steps, prompt_BTD=prompt, condition_B3HW=condition)
    assert torch.equal(plain, steered)  # Eq. 1: y_c = F(x; Phi) while Z = 0


def test_a_saved_backbone_loads_as_its_half_precision_self(mini: Backbone, tmp_path: Path) -> None:
    save_backbone(mini, tmp_path / "ldm")
    loaded = load_backbone(tmp_path / "ldm")
    assert not list((tmp_path / "ldm").rglob("*.bin"))
    for part in ("vae", "unet", "text_encoder"):
        expected = {key: tensor.half().float() for key, tensor in getattr(mini, part).state_dict().items()}
        actual = getattr(loaded, part).state_dict()
        assert expected.keys() == actual.keys()
        assert all(torch.equal(expected[key], actual[key]) for key in expected)
    assert loaded.scheduler.config.prediction_type == mini.scheduler.config.prediction_type
    assert loaded.tokenizer("fundus").input_ids == mini.tokenizer("fundus").input_ids
    assert (loaded.factor, backbone_multiple_px(str(tmp_path / "ldm"))) == (8, 32)
    save_backbone(loaded, tmp_path / "again")
    assert not [path for path in (tmp_path / "again").rglob("*.json") if str(tmp_path) in path.read_text("utf-8")]


def test_missing_backbones_are_named(tmp_path: Path) -> None:
    (tmp_path / "half" / "vae").mkdir(parents=True)
    for name, missing in ((tmp_path / "nowhere", "vae"), (tmp_path / "half", "unet")):
        with pytest.raises(UserError, match=missing) as error:
            load_backbone(name)
        assert error.value.code == "generator.backbone_absent"
    with pytest.raises(UserError) as error:
        build_backbone("huge", seed=0)
    assert error.value.code == "generator.unknown_size"
