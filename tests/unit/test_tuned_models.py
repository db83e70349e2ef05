"""Low-rank updates and experts beside SAM's layers: first numbers, keys, arithmetic by hand, parity with peft."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from peft import LoraConfig as PeftConfig
from peft import inject_adapter_in_model
from segment_anything.modeling.common import MLPBlock
from torch import Tensor, nn

from engine.config import RunConfig, parse_config
from engine.config_tuning import ExpertsConfig, LoraConfig
from engine.errors import UserError
from engine.models.experts import (
    ExpertMlp,
    Experts,
    add_experts,
    balance_loss,
    bypassed_experts,
    collected_gates,
    expert_parameters,
)
from engine.models.lora import LoraLinear, add_lora, merge_lora
from engine.models.registry import build_model
from engine.models.roles import build_role, first_model
from engine.models.state_keys import shared_parameters, state_keys
from engine.models.tuned_keys import tuned_keys
from engine.planning.model_keys import model_keys, sharing_of
from tests.unit.tiny_models import make_pair

EVERY_LAYER = ("q", "k", "v", "proj", "lin1", "lin2")


def draw(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def shake(parameters: Any) -> None:
    """Give parameters that begin at zero some values, each others."""
    with torch.no_grad():
        for number, parameter in enumerate(parameters):
            parameter.add_(0.1 * draw(*parameter.shape, seed=number))


def configure(method: str = "pfedsam", **sections: Any) -> RunConfig:
    data = {"image_px": 64, "task": "polyp"}
    return parse_config({"method": method, "data": data, "student": {"name": "sam", "weights": None}, **sections})


def tuned_tiny(lora: LoraConfig, experts: ExpertsConfig | None = None) -> nn.Module:
    model, _ = make_pair()
    if experts is not None:
        add_experts(model, experts, name="sam/tiny")
    add_lora(model, lora, name="sam/tiny")
    return model


def test_updates_have_the_rows_of_their_projection() -> None:
    """(alpha / r) B A in the rows of q and v; those of k stay: W0 x + b, with plain matrix products."""
    layer = nn.Linear(4, 12)
    rows = {"q": slice(0, 4), "v": slice(8, 12)}
    tuned = LoraLinear(layer, rows=rows, rank=2, alpha=6.0)
    tokens = draw(5, 4)
    assert torch.equal(tuned(tokens), layer(tokens)), "B is zero"
    shake(tuned.lora_B.values())
    expected = tokens @ layer.weight.T + layer.bias
    expected[:, 0:4] += 3.0 * tokens @ (tuned.lora_B["q"] @ tuned.lora_A["q"]).T
    expected[:, 8:12] += 3.0 * tokens @ (tuned.lora_B["v"] @ tuned.lora_A["v"]).T
    assert torch.allclose(tuned(tokens), expected, atol=1e-6)
    assert torch.equal(tuned(tokens)[:, 4:8], layer(tokens)[:, 4:8])
    assert torch.allclose(tuned.merged()(tokens), expected, atol=1e-6)


def test_a_wide_update_begins_as_pefts_gaussian_does() -> None:
    tuned = LoraLinear(nn.Linear(2000, 8), rows={"proj": slice(0, 8)}, rank=4, alpha=4.0)
    assert float(tuned.lora_A["proj"].detach().mean()) == pytest.approx(0, abs=0.01)
    assert float(tuned.lora_A["proj"].detach().std()) == pytest.approx(1 / 4, rel=0.05)
    assert not tuned.lora_B["proj"].any()


def test_whole_layers_compute_what_peft_computes() -> None:
    ours, theirs = tuned_tiny(LoraConfig(rank=3, alpha=5.0, layers=("proj", "lin1", "lin2"))), make_pair()[0]
    settings = PeftConfig(r=3, lora_alpha=5.0, target_modules=r".*blocks.*\.(proj|lin1|lin2)")
    inject_adapter_in_model(settings, theirs)
    updated = {name: module for name, module in ours.named_modules() if isinstance(module, LoraLinear)}
    assert len(updated) == 2 * 3
    for name, module in updated.items():
        (part,) = module.rows
        shake(module.lora_B.values())
        peft = theirs.get_submodule(name)
        with torch.no_grad():
            peft.lora_A["default"].weight.copy_(module.lora_A[part])
            peft.lora_B["default"].weight.copy_(module.lora_B[part])
    image = draw(2, 3, 32, 32).abs()
    assert torch.allclose(ours(image), theirs(image), atol=1e-5)
    assert not torch.allclose(ours(image), make_pair()[0](image), atol=1e-2)


def test_merged_updates_compute_the_same_and_leave_sams_keys() -> None:
    tuned = tuned_tiny(LoraConfig(layers=EVERY_LAYER, alpha=8.0), ExpertsConfig(width=4))
    shake(parameter for name, parameter in tuned.named_parameters() if "lora_B" in name or ".experts." in name)
    image = draw(2, 3, 32, 32).abs()
    expected = tuned(image)
    merged = merge_lora(copy.deepcopy(tuned))
    assert torch.allclose(merged(image), expected, atol=1e-5)
    assert not torch.allclose(expected, make_pair()[0](image), atol=1e-2)
    plain = set(make_pair()[0].state_dict())
    assert {name for name in merged.state_dict() if ".experts." not in name} == plain


def test_experts_by_hand() -> None:
    """sum_e g_e U_e GELU(D_e u), a token and an expert at a time."""
    experts = Experts(6, ExpertsConfig(number=3, width=2))
    shake([experts.up])
    tokens = draw(1, 2, 2, 6)
    expected = torch.zeros_like(tokens)
    for row in range(2):
        for column in range(2):
            u = tokens[0, row, column]
            scores = torch.exp(experts.gate.weight @ u)
            for expert in range(3):
                inside = experts.down[expert] @ u
                gelu = inside * 0.5 * (1 + torch.erf(inside / math.sqrt(2)))
                expected[0, row, column] += scores[expert] / scores.sum() * (experts.up[expert] @ gelu)
    assert torch.allclose(experts(tokens), expected, atol=1e-6)
    mlp = MLPBlock(6, 8)
    beside = ExpertMlp(mlp, ExpertsConfig(number=3, width=2, strength=0.25))
    beside.experts = experts
    assert torch.allclose(beside(tokens), mlp(tokens) + 0.25 * expected, atol=1e-6)


def test_a_token_can_use_its_likeliest_experts_alone() -> None:
    every, one = (Experts(6, ExpertsConfig(number=3, width=2, top_k=k)) for k in (0, 1))
    one.load_state_dict(every.state_dict())
    for experts in (every, one):
        shake([experts.up])
    u = draw(1, 1, 1, 6)
    gates = every.gate(u).softmax(-1).flatten()
    likeliest = int(gates.argmax())
    inside = every.down[likeliest] @ u.flatten()
    expected = gates[likeliest] * (every.up[likeliest] @ nn.functional.gelu(inside))
    assert torch.allclose(one(u).flatten(), expected, atol=1e-6)
    assert not torch.allclose(every(u).flatten(), expected, atol=1e-3)
    one(u).sum().backward()
    assert one.gate.weight.grad is not None and one.gate.weight.grad.abs().max() > 0, "the gate learns"


def test_the_balance_loss_by_hand() -> None:
    """Three tokens, two experts; a second block that shares alike."""
    uneven = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]).view(1, 1, 3, 2)
    # f = (2/3, 1/3), P = (1.7/3, 1.3/3): 2 (3.4/9 + 1.3/9)
    assert float(balance_loss([uneven])) == pytest.approx(2 * (3.4 + 1.3) / 9)
    even = torch.tensor([[0.7, 0.3], [0.3, 0.7]]).view(1, 1, 2, 2)
    assert float(balance_loss([uneven, even])) == pytest.approx((2 * 4.7 / 9 + 1) / 2)
    experts = tuned_tiny(LoraConfig(), ExpertsConfig(blocks="all"))
    with collected_gates(experts) as gates:
        experts(draw(2, 3, 32, 32).abs())
    assert [tuple(found.shape) for found in gates] == [(2, 4, 4, 4)] * 2
    assert all(torch.allclose(found.sum(-1), torch.ones(2, 4, 4)) for found in gates)
    experts(draw(2, 3, 32, 32).abs())
    assert len(gates) == 2, "nobody listens any more"


@pytest.mark.parametrize("num_classes", [1, 2])
def test_the_personal_model_begins_as_the_global_one_and_that_as_sam(num_classes: int) -> None:
    image, config = draw(1, 3, 64, 64).abs(), configure(student={"name": "sam", "weights": "sam-mini"})
    plain, _ = first_model(config.model_copy(update={"lora": LoraConfig()}), "student", num_classes=num_classes)
    tuned, said = first_model(config, "student", num_classes=num_classes)
    assert (said is None) == (num_classes == 1)
    with torch.no_grad():
        assert torch.equal(tuned(image), plain(image))
        shake(expert_parameters(tuned))
        personal = tuned(image)
        with bypassed_experts(tuned):
            assert torch.equal(tuned(image), plain(image))
        assert torch.equal(tuned(image), personal) and not torch.equal(personal, plain(image))


def test_what_learns_what_crosses_and_what_stays() -> None:
    config = configure()
    model = build_role(config, "student", num_classes=2)
    sharing = shared_parameters(model, config.federation, name="sam/mini")
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name in sharing.own if not name.startswith("prompt_encoder.")} == {
        f"image_encoder.blocks.{block}.mlp.experts.{part}" for block in (2, 5) for part in ("down", "up", "gate.weight")
    }
    assert set(sharing.shared) == learning - set(sharing.own)
    assert {name.split(".")[0] for name in sharing.shared} == {"image_encoder", "mask_decoder", "seg1"}
    assert all(".attn.qkv.lora_" in name for name in sharing.shared if name.startswith("image_encoder."))
    assert sum("lora_" in name for name in sharing.shared) == 6 * 4 and sharing.is_personal
    of_lora = build_role(configure("fedavg_lora"), "student", num_classes=2)
    alone = shared_parameters(of_lora, configure("fedavg_lora").federation, name="sam/mini")
    assert alone.shared == sharing.shared and not alone.is_personal
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in of_lora.state_dict().items())


def test_the_papers_size_sends_147456_updates_and_the_decoder() -> None:
    """Rank 4 on q and v of ViT-B's 12 blocks: 12 x 2 x (4 x 768 + 768 x 4); methods.md 3.2."""
    config = parse_config({"method": "pfedsam", "student": {"name": "sam", "size": "vit_b", "weights": None}})
    sharing, num_bytes = sharing_of(config, num_classes=1)
    updates = sum(num_bytes[name] for name in sharing.shared if ".lora_" in name)
    decoder = sum(num_bytes[name] for name in sharing.shared if name.startswith("mask_decoder."))
    assert (updates, decoder) == (4 * 147_456, 4 * 4_058_340)
    assert {name.split(".")[2] for name in sharing.own if ".experts." in name} == {"2", "5", "8", "11"}
    assert sum(num_bytes[name] for name in sharing.own if ".experts." in name) == 4 * 4 * (4 * 64 * 768 * 2 + 4 * 768)


@pytest.mark.parametrize(
    ("size", "lora", "experts"),
    [
        ("mini", LoraConfig(), ExpertsConfig(use=True)),
        ("mini", LoraConfig(rank=3, layers=EVERY_LAYER), ExpertsConfig(use=True, number=2, width=5, blocks="all")),
        ("mini", LoraConfig(layers=("v", "proj")), ExpertsConfig()),
        ("vit_b", LoraConfig(layers=("lin2",)), ExpertsConfig(use=True)),
    ],
)
def test_a_plan_knows_the_keys_without_the_model(size: str, lora: LoraConfig, experts: ExpertsConfig) -> None:
    with torch.device("meta"):
        model = build_model("sam", size=size, num_classes=2, seed=0)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith(("mask_decoder.", "seg1.")))
        if experts.use:
            add_experts(model, experts, name="sam")
        add_lora(model, lora, name="sam")
    plain = model_keys(f"sam/{size}", num_classes=2)
    assert tuned_keys(plain, lora=lora, experts=experts, model="sam") == state_keys(model)
    assert len(state_keys(model)) > len(plain)


@pytest.mark.parametrize("name", ["tinysam", "unet"])
def test_a_model_without_the_layers_is_refused_before_a_run_and_in_it(name: str) -> None:
    config = configure()
    student = config.student.model_copy(update={"name": name})
    other = config.model_copy(update={"student": student})
    for refuse in (lambda: build_role(other, "student", num_classes=1), lambda: sharing_of(other, num_classes=1)):
        with pytest.raises(UserError, match=rf"{name}/mini has no layers q, v in image_encoder\.blocks") as caught:
            refuse()
        assert caught.value.code == "lora.layers" and "student.name" in caught.value.fix
    with torch.device("meta"), pytest.raises(UserError, match="no layers mlp"):
        add_experts(build_model(name, size="mini", seed=0), ExpertsConfig(), name=name)


def test_only_systems_that_read_the_sections_can_turn_them_on() -> None:
    for section in ("lora", "experts"):
        with pytest.raises(UserError, match=rf"{section}\.use needs a method that reads \[{section}\], which 'fedtiny"):
            parse_config({"method": "fedtinysam", section: {"use": True}})
    assert parse_config({"method": "fedavg_lora", "lora": {"use": False}}).lora.use, "it is that by definition"
    changed = configure(lora={"rank": 8}, experts={"number": 2})
    assert (changed.lora.rank, changed.experts.number, changed.student.name) == (8, 2, "sam")
    assert configure().content_hash() != changed.content_hash()
