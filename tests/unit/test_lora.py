"""A teacher tuned by LoRA on SAM's q and v: what learns, its numbers, and which models are refused."""

from __future__ import annotations

import pytest
import torch

from engine.config import parse_config
from engine.config_tuning import LoraConfig
from engine.errors import UserError
from engine.models.lora import LoraLinear, add_lora
from engine.models.registry import build_model
from engine.models.roles import build_role, first_model

FACTORS = ("lora_A.q", "lora_A.v", "lora_B.q", "lora_B.v")


def test_q_and_v_are_moved_and_k_is_not() -> None:
    base = torch.nn.Linear(2, 6)
    layer = LoraLinear(base, rows={"q": slice(0, 2), "v": slice(4, 6)}, rank=1, alpha=3.0)
    x = torch.tensor([[1.0, 2.0]])
    assert torch.equal(layer(x), base(x))
    with torch.no_grad():
        layer.lora_A["q"].copy_(torch.tensor([[1.0, 1.0]]))  # A x = 3
        layer.lora_B["q"].copy_(torch.tensor([[1.0], [0.0]]))
        layer.lora_A["v"].copy_(torch.tensor([[0.0, 1.0]]))  # A x = 2
        layer.lora_B["v"].copy_(torch.tensor([[0.0], [0.5]]))
    expected = base(x) + torch.tensor([[9.0, 0.0, 0.0, 0.0, 0.0, 3.0]])  # alpha / r = 3
    assert torch.allclose(layer(x), expected)


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
    assert sum(model.state_dict()[name].numel() for name in factors) == 6 * 4 * 192 * 2
    image = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    assert torch.equal(model.eval()(image), plain.eval()(image))


def test_equal_seeds_give_equal_factors_and_others_others() -> None:
    factor = "image_encoder.blocks.3.attn.qkv.lora_A.v"
    drawn = [build_role(config_of("sam"), "teacher", num_classes=1).state_dict()[factor] for _ in range(2)]
    other = parse_config({**config_of("sam").model_dump(mode="json"), "seed": 5})
    assert torch.equal(*drawn) and drawn[0].std() > 0.1
    assert not torch.equal(drawn[0], build_role(other, "teacher", num_classes=1).state_dict()[factor])


@pytest.mark.parametrize("name", ["tinysam", "unet"])
def test_a_model_without_these_layers_is_refused_by_name(name: str) -> None:
    with pytest.raises(UserError, match=f"{name}/mini has no layers q, v") as caught:
        add_lora(build_model(name, size="mini", seed=1), LoraConfig(rank=2), name=f"{name}/mini")
    assert caught.value.code == "lora.layers"


def test_a_student_has_none_by_its_section() -> None:
    with pytest.raises(UserError, match=r"student\.lora_rank"):
        parse_config({"student": {"name": "sam", "weights": None, "lora_rank": 2}})
