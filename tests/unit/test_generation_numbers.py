"""Numbers and switches of the generator: sizes, first weights, the sampler's settings, what is frozen, 8-bit AdamW."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from transformers.utils import logging as transformers_logging

from engine.errors import UserError
from engine.generation import backbone as backbone_module
from engine.generation import sampling
from engine.generation.backbone import Backbone, build_backbone, freeze, load_backbone
from engine.generation.controlnet import load_controlnet, new_controlnet
from engine.generation.optimiser import make_adamw

MADE_ELSEWHERE = {"scaling_factor", "dtype", "transformers_version", "architectures"}
"""What pre-training measures, and what the libraries write beside the numbers of a model."""


@pytest.fixture(scope="module")
def mini() -> Backbone:
    return freeze(build_backbone("mini", seed=3), device=torch.device("cpu"))


def numbers(config: Any) -> dict[str, Any]:
    """Return a configuration as JSON has it, without names of files and versions."""
    values = json.loads(json.dumps(dict(config), default=str))
    return {key: value for key, value in values.items() if key not in MADE_ELSEWHERE and not key.startswith("_")}


def test_the_mini_size_is_that_of_the_shipped_weights(mini: Backbone) -> None:
    shipped = load_backbone("ldm-mini")
    for part in ("vae", "unet", "scheduler"):
        assert numbers(getattr(mini, part).config) == numbers(getattr(shipped, part).config), part
    assert numbers(mini.text_encoder.config.to_dict()) == numbers(shipped.text_encoder.config.to_dict())
    for prompt in ("", "colour fundus photograph", "内視鏡", "x" * 500):
        options = {"padding": "max_length", "truncation": True}
        assert mini.tokenizer(prompt, **options).input_ids == shipped.tokenizer(prompt, **options).input_ids
    assert numbers(new_controlnet(mini, source=None, seed=1).config) == numbers(
        load_controlnet("controlnet-mini").config
    )


def test_sd15_has_stable_diffusions_sizes() -> None:
    """The figures of its published configuration: 512 px in latents of 64, 77 tokens of 768 numbers, eight heads."""
    with torch.device("meta"):
        backbone = build_backbone("sd15", seed=0)
    assert (backbone.vae.config.sample_size, backbone.unet.config.sample_size, backbone.factor) == (512, 64, 8)
    assert (backbone.vae.config.norm_num_groups, backbone.vae.config.layers_per_block) == (32, 2)
    assert (backbone.unet.config.attention_head_dim, backbone.unet.config.cross_attention_dim) == (8, 768)
    text = backbone.text_encoder.config
    assert (text.hidden_size, text.num_hidden_layers, text.num_attention_heads, text.intermediate_size) == (
        768,
        12,
        12,
        3072,
    )
    assert text.max_position_embeddings == backbone.tokenizer.model_max_length == 77
    assert (backbone.scheduler.config.prediction_type, backbone.scheduler.config.steps_offset) == ("epsilon", 1)


def test_a_shipped_backbone_that_is_another_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no file's bytes were those that the registry vouches for; a folder by its path is the caller's own."""
    others = tuple(replace(asset, sha256="0" * 64) for asset in backbone_module.list_assets())
    monkeypatch.setattr(backbone_module, "list_assets", lambda: others)
    for load, name in ((load_backbone, "ldm-mini"), (load_controlnet, "controlnet-mini")):
        with pytest.raises(UserError) as caught:
            load(name)
        assert caught.value.code == "weights.checksum"
        assert load(backbone_module.WEIGHTS_FOLDER / name) is not None


def test_loading_a_backbone_draws_no_bars(mini: Backbone) -> None:
    """They would stand between the lines of a command that answers in JSON."""
    transformers_logging.enable_progress_bar()
    load_backbone("ldm-mini")
    assert not transformers_logging.is_progress_bar_enabled()


def test_a_mask_keeps_its_strength_in_a_new_controlnet(mini: Backbone) -> None:
    """Kaiming's sqrt(2 / inputs) of each convolution, 1.2 times as large for SiLU; the last one is zero."""
    embedding = new_controlnet(mini, source=None, seed=1).controlnet_cond_embedding
    for convolution in (embedding.conv_in, *embedding.blocks):
        weight = convolution.weight.detach()
        expected = 1.2 * (2 / weight[0].numel()) ** 0.5
        # Three standard errors of a normal's standard deviation.
        assert float(weight.std()) == pytest.approx(expected, rel=3 / (2 * weight.numel()) ** 0.5)
    assert not embedding.conv_out.weight.any()


def test_a_generator_that_draws_does_not_learn() -> None:
    loaded = load_controlnet("controlnet-mini")
    assert not loaded.training and not any(parameter.requires_grad for parameter in loaded.parameters())


class _Recorded:
    """In the place of diffusers' pipeline: notes the settings and answers latents of 0.5."""

    def __init__(self) -> None:
        self.settings: list[dict[str, Any]] = []

    def __call__(self, **settings: Any) -> SimpleNamespace:
        self.settings.append(settings)
        return SimpleNamespace(images=torch.full_like(settings["latents"], 0.5))


def test_the_sampler_s_settings_are_those_of_the_recipe(mini: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """UniPC in 20 steps with guidance 7.5 where nothing else is asked for, in batches of eight (methods.md 7)."""
    pipeline = _Recorded()
    monkeypatch.setattr(sampling, "build_pipeline", lambda *_: pipeline)
    masks = np.zeros((9, 1, 32, 32), np.uint8)
    sampling.generate(mini, cast(Any, None), masks, seeds=range(9), prompt="a disc")
    assert [(one["num_inference_steps"], one["guidance_scale"]) for one in pipeline.settings] == [(20, 7.5)] * 2
    assert [len(one["latents"]) for one in pipeline.settings] == [8, 1]
    assert [len(one["prompt_embeds"]) for one in pipeline.settings] == [8, 1]


def test_pictures_beyond_black_and_white_are_black_and_white(mini: Backbone) -> None:
    """Of a decoder that answers what it gets: -1 is black, 1 is white, and nothing comes round again."""
    vae = SimpleNamespace(
        config=SimpleNamespace(scaling_factor=2.0), decode=lambda latents: SimpleNamespace(sample=latents)
    )
    values = torch.tensor([-3.0, -1.0, -0.6, 0.0, 0.2, 1.0, 3.0])
    latents = 2.0 * values.reshape(1, 1, 1, 7).repeat(1, 3, 1, 1)
    found = sampling._decode(replace(mini, vae=cast(Any, vae)), latents)
    # (v / 2 + 1 / 2) x 255: 0.2 x 255 = 51, 127.5 goes to the even 128, 0.6 x 255 = 153.
    assert found.shape == (1, 1, 7, 3) and found[0, 0, :, 0].tolist() == [0, 0, 51, 128, 153, 255, 255]


@pytest.mark.parametrize("has_gpu", [True, False])
def test_the_eight_bit_optimiser_needs_a_gpu(has_gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class AdamW8bit(torch.optim.AdamW):
        """In the place of bitsandbytes' own, which is not installed."""

    library, optim = ModuleType("bitsandbytes"), ModuleType("bitsandbytes.optim")
    cast(Any, optim).AdamW8bit = AdamW8bit
    monkeypatch.setitem(sys.modules, "bitsandbytes", library)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", optim)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    weights = [torch.nn.Parameter(torch.ones(2))]
    if not has_gpu:
        with pytest.raises(UserError, match="no CUDA GPU") as caught:
            make_adamw(weights, learning_rate=1e-4, eight_bit=True)
        assert caught.value.code == "generator.no_bitsandbytes"
    for eight_bit in (False, True) if has_gpu else (False,):
        made = make_adamw(weights, learning_rate=1e-4, eight_bit=eight_bit)
        assert isinstance(made, AdamW8bit) == eight_bit
        group = made.param_groups[0]
        assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (1e-4, (0.9, 0.999), 1e-8, 1e-2)
