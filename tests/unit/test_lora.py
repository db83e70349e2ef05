"""LoRA on SAM's q and v: by hand, in its names and numbers, and which models are refused."""

from __future__ import annotations

import pytest
import torch

from engine.config import parse_config
from engine.errors import UserError
from engine.models.lora import FACTORS, LoraQkv, add_lora
from engine.models.registry import build_model
from engine.models.roles import build_role, first_model


def test_q_and_v_are_moved_and_k_is_not() -> None:
    base = torch.nn.Linear(2, 6)
    layer = LoraQkv(base, rank=1, alpha=3.0)
    x = torch.tensor([[1.0, 2.0]])
    assert torch.equal(layer(x), base(x))
    with torch.no_grad():
        layer.lora_q_a.copy_(torch.tensor([[1.0, 1.0]]))  # A x = 3
        layer.lora_q_b.copy_(torch.tensor([[1.0], [0.0]]))
        layer.lora_v_a.copy_(torch.tensor([[0.0, 1.0]]))  # A x = 2
        layer.lora_v_b.copy_(torch.tensor([[0.0], [0.5]]))
    expected = base(x) + torch.tensor([[9.0, 0.0, 0.0, 0.0, 0.0, 3.0]])  # alpha / r = 3
    assert torch.allclose(layer(x), expected)


def test_the_papers_numbers_of_parameters() -> None:
    with torch.device("meta"):
        model = build_model("sam", size="vit_b", seed=1)
    for rank in (4, 8):
        added = sum(4 * 768 * rank for _ in range(12))
        assert added == 36_864 * rank
    blocks = [block.attn for block in model.image_encoder.blocks]
    layer = LoraQkv(blocks[0].qkv, rank=4, alpha=4.0)
    assert len(blocks) * sum(getattr(layer, name).numel() for name in FACTORS) == 147_456


def config_of(name: str, **more: object):
    return parse_config({"teacher": {"name": name, "size": "mini", "weights": None, "lora_rank": 2, **more}})


def test_what_learns_is_lora_and_decoder_and_nothing_else_changes_its_name() -> None:
    config = config_of("sam", weights="sam-mini")
    model, _ = first_model(config, "teacher", num_classes=1)
    plain, _ = first_model(parse_config({}), "teacher", num_classes=1)
    learns = {name for name, value in model.named_parameters() if value.requires_grad}
    factors = {f"image_encoder.blocks.{k}.attn.qkv.{factor}" for k in range(6) for factor in FACTORS}
    assert learns == factors | {name for name, _ in plain.named_parameters() if name.startswith("mask_decoder.")}
    assert model.state_dict().keys() - plain.state_dict().keys() == factors
    assert all(torch.equal(model.state_dict()[name], value) for name, value in plain.state_dict().items())
    image = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    assert torch.equal(model.eval()(image), plain.eval()(image))


def test_equal_seeds_give_equal_factors_and_others_others() -> None:
    factor = "image_encoder.blocks.3.attn.qkv.lora_v_a"
    drawn = [build_role(config_of("sam"), "teacher", num_classes=1).state_dict()[factor] for _ in range(2)]
    other = parse_config({**config_of("sam").model_dump(mode="json"), "seed": 5})
    assert torch.equal(*drawn) and drawn[0].std() > 0.1
    assert not torch.equal(drawn[0], build_role(other, "teacher", num_classes=1).state_dict()[factor])


@pytest.mark.parametrize("name", ["tinysam", "unet"])
def test_a_model_without_these_layers_is_refused_by_name(name: str) -> None:
    with pytest.raises(UserError, match=f"{name}/mini, which has no attention layer 'attn.qkv'") as caught:
        add_lora(build_model(name, size="mini", seed=1), rank=2, alpha=2, seed=1, name=f"{name}/mini")
    assert caught.value.code == "lora.no_layers"
