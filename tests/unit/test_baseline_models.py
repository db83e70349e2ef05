"""The models of the compared systems: SAM with adapters, and nnU-Net's plain U-Net with deep supervision."""

from __future__ import annotations

import copy
from fractions import Fraction

import numpy as np
import pytest
import torch
from segment_anything.modeling.image_encoder import Block
from torch import Tensor, nn
from torch.nn import functional

from engine.errors import UserError
from engine.models.adapters import AdaptedAttention, AdaptedMlp, Adapter, build_msa
from engine.models.levels import forward_levels, level_weights, levels_loss
from engine.models.objective import Objective
from engine.models.plain_unet import PLAIN_UNET_PRESETS, PlainUNet, num_levels
from engine.models.registry import build_model
from engine.models.state_keys import state_keys
from engine.models.weights import load_weights, save_weights
from engine.seeding import torch_generator
from engine.site.local_training import _loss
from tests.unit import tiny_models
from tests.unit.federation_world import CPU

DIM = 8


def shuffled(module: nn.Module, *, seed: int = 3) -> nn.Module:
    """Give every parameter random values: none is at zero or one, where an error would not show."""
    generator = torch_generator(seed, "parameters")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return module


def adapter_by_hand(x: Tensor, adapter: Adapter) -> Tensor:
    hidden = x @ adapter.down.weight.T + adapter.down.bias
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    return hidden @ adapter.up.weight.T + adapter.up.bias


@pytest.fixture
def blocks() -> tuple[Block, Block]:
    """A block of SAM with windows of 2, and the same one with adapters."""
    plain = Block(DIM, num_heads=2, use_rel_pos=True, window_size=2, input_size=(4, 4))
    shuffled(plain)
    adapted = copy.deepcopy(plain)
    adapted.attn, adapted.mlp = AdaptedAttention(adapted.attn), AdaptedMlp(adapted.mlp)
    shuffled(adapted.attn.adapter, seed=4)
    shuffled(adapted.mlp.adapter, seed=5)
    return plain, adapted


def block_by_hand(plain: Block, adapted: Block, x: Tensor, *, padding: Tensor) -> Tensor:
    """SAM's block with both adapters, for 3 x 3 tokens in four windows of 2 x 2; ``padding`` fills the fourth row."""
    normed = functional.layer_norm(x, (DIM,), plain.norm1.weight, plain.norm1.bias, 1e-5)
    whole = padding.expand(1, 4, 4, DIM).clone()
    whole[:, :3, :3] = normed
    for row in (0, 2):
        for column in (0, 2):
            window = (slice(None), slice(row, row + 2), slice(column, column + 2))
            attended = plain.attn(whole[window])
            whole[window] = attended + adapter_by_hand(attended, adapted.attn.adapter)
    x = x + whole[:, :3, :3]
    normed = functional.layer_norm(x, (DIM,), plain.norm2.weight, plain.norm2.bias, 1e-5)
    return x + plain.mlp(normed) + 0.5 * adapter_by_hand(normed, adapted.mlp.adapter)


@torch.no_grad()
def test_adapters_stand_after_attention_and_beside_the_mlp(blocks: tuple[Block, Block]) -> None:
    plain, adapted = blocks
    tokens = torch.randn(1, 3, 3, DIM, generator=torch_generator(1, "tokens"))
    expected = block_by_hand(plain, adapted, tokens, padding=torch.zeros(DIM))
    torch.testing.assert_close(adapted(tokens), expected)
    # Normalised after padding, as FedFMS does it, padded tokens would be LayerNorm's bias.
    other = block_by_hand(plain, adapted, tokens, padding=plain.norm1.bias)
    assert not torch.allclose(adapted(tokens), other, atol=1e-3)


def test_an_adapter_of_vit_b_has_295872_parameters_and_there_are_24() -> None:
    with torch.device("meta"):
        model = build_model("msa", size="vit_b", seed=0)
    adapters = [module for module in model.modules() if isinstance(module, Adapter)]
    assert {sum(p.numel() for p in one.parameters()) for one in adapters} == {768 * 192 + 192 + 192 * 768 + 768}
    assert len(adapters) == 24 and 768 * 192 + 192 + 192 * 768 + 768 == 295_872
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    decoder = sum(p.numel() for p in model.mask_decoder.parameters())
    assert (decoder, trained) == (4_058_340, 24 * 295_872 + 4_058_340)
    # What DSFedMed's table counts: 12 more, for volumes, and the prompt encoder; 56.14 MiB a message.
    prompts = sum(p.numel() for p in model.prompt_encoder.parameters())
    assert (trained + 12 * 295_872 + prompts) * 4 / 2**20 == pytest.approx(56.14, abs=0.005)


def test_adapters_and_decoder_learn_and_nothing_else() -> None:
    model = build_msa(tiny_models.SAM, num_classes=2, image_px=32)
    learning = {key.name for key in state_keys(model) if key.trains}
    expected = {name for name in model.state_dict() if name.startswith(("mask_decoder.", "seg1."))}
    expected |= {
        f"image_encoder.blocks.{block}.{place}.adapter.{layer}.{part}"
        for block in (0, 1)
        for place in ("attn", "mlp")
        for layer in ("down", "up")
        for part in ("weight", "bias")
    }
    assert learning == expected
    model(torch.rand(1, 3, 32, 32)).square().sum().backward()
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert reached <= learning and learning - reached <= {n for n in learning if "iou_prediction_head" in n}


def test_sams_weights_load_and_adapters_keep_their_first_ones(tmp_path) -> None:
    sam, model = build_model("sam", size="mini", seed=1), build_model("msa", size="mini", seed=2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    path = save_weights(sam, tmp_path / "sam.safetensors")
    report = load_weights(model, path)
    assert len(report.missing) == 6 * 2 * 4 and all(".adapter." in key for key in report.missing)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name] if ".adapter." in name else sam.state_dict()[name])
    assert all(before[name].abs().sum() > 0 for name in report.missing)  # default start, not zero
    with pytest.raises(UserError, match="do not fit"):
        load_weights(model, path, strict=True)
    half = {name: tensor for name, tensor in model.state_dict().items() if "blocks.0.mlp.adapter" not in name}
    torch.save(half, tmp_path / "half.pth")
    with pytest.raises(UserError, match=r"4 tensors .*blocks.0.mlp.adapter"):
        load_weights(model, tmp_path / "half.pth")


def test_adapters_begin_alike_wherever_a_model_is_built() -> None:
    first, second, other = (build_msa_of(seed) for seed in (7, 7, 8))
    name = "image_encoder.blocks.5.mlp.adapter.up.weight"
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first[name], other[name])


def build_msa_of(seed: int) -> dict[str, Tensor]:
    return build_model("msa", size="mini", seed=seed).state_dict()


@pytest.mark.parametrize(("side_px", "levels"), [(7, 1), (8, 2), (64, 5), (128, 6), (1024, 9)])
def test_levels_halve_the_side_down_to_four(side_px: int, levels: int) -> None:
    assert num_levels(side_px) == levels


def test_widths_double_up_to_a_limit() -> None:
    assert PLAIN_UNET_PRESETS["planned"].channels == (32, 64, 128, 256, 512, 512, 512, 512, 512)
    assert PLAIN_UNET_PRESETS["mini"].channels == (8, 16, 32, 64, 128, 128)


def test_the_paper_size_sends_what_the_paper_reports() -> None:
    with torch.device("meta"):
        model = build_model("nnunet", size="paper", seed=0)
    sent = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    assert 100 * 2 * sent / 2**20 == pytest.approx(2690, rel=0.005)


def test_the_plain_unet_is_monais_dynunet() -> None:
    from monai.networks.nets import DynUNet

    model = shuffled(build_model("nnunet", size="mini", num_classes=2, seed=1))
    widths = PLAIN_UNET_PRESETS["mini"].channels
    arguments = {"kernel_size": [3] * 6, "strides": [1, 2, 2, 2, 2, 2], "upsample_kernel_size": [2] * 5}
    twin = DynUNet(2, 3, 2, **arguments, filters=widths, deep_supervision=True, deep_supr_num=3)
    names = {name: tensor for name, tensor in twin.named_parameters()}
    twin.load_state_dict({name: model.net.get_parameter(name) for name in names}, strict=False)
    image = torch.rand(2, 3, 64, 64, generator=torch_generator(0, "image"))
    with torch.no_grad():
        expected = twin.train()(image)  # (B, levels, K, H, W), coarse ones stretched by nearest neighbours
        levels = model.forward_levels(image)
        assert [tuple(level.shape) for level in levels] == [(2, 2, side, side) for side in (64, 32, 16, 8)]
        for index, level in enumerate(levels):
            torch.testing.assert_close(functional.interpolate(level, size=64), expected[:, index])
        torch.testing.assert_close(model.eval()(image), twin.eval()(image))
    # MONAI's state names each tensor twice; this one crosses once.
    assert sum(t.numel() for t in model.state_dict().values()) == sum(p.numel() for p in model.parameters())
    norms = [m for m in model.modules() if isinstance(m, nn.InstanceNorm2d)]
    assert len(norms) == 2 * 11 and all(norm.affine for norm in norms)


def test_weights_of_levels_are_halves() -> None:
    assert level_weights(1) == (1.0,)
    assert level_weights(4) == pytest.approx([float(Fraction(n, 15)) for n in (8, 4, 2, 1)])


def test_the_loss_of_levels_is_their_weighted_sum() -> None:
    logits = [torch.full((1, 1, side, side), value) for side, value in ((4, 0.5), (2, -1.0), (1, 2.0))]
    masks = {4: torch.ones(1, 1, 4, 4), 2: torch.zeros(1, 1, 2, 2), 1: torch.ones(1, 1, 1, 1)}
    softplus = [np.log1p(np.exp(value)) for value in (-0.5, -1.0, -2.0)]
    expected = (4 * 2 * softplus[0] + 2 * softplus[1] + 2 * softplus[2]) / 7
    loss = levels_loss(logits, masks.__getitem__, pos_weight=2.0, dice_weight=0.0)
    assert float(loss) == pytest.approx(expected, rel=1e-6)


def test_sites_train_on_all_levels_and_validate_the_finest() -> None:
    model = shuffled(build_model("nnunet", size="mini", seed=1))
    assert isinstance(model, PlainUNet)
    image = np.random.default_rng(0).random((2, 3, 64, 64), dtype=np.float32)
    mask = (np.random.default_rng(1).random((2, 1, 64, 64)) > 0.7).astype(np.uint8)
    arguments = {"mask_BKHW": mask, "objective": Objective(pos_weight=2.0), "placement": CPU}
    with torch.no_grad():
        loss, logits, _ = _loss(model.train(), image, **arguments)
        levels = forward_levels(model, torch.from_numpy(image))
        by_hand = 0.0
        for weight, level in zip((8 / 15, 4 / 15, 2 / 15, 1 / 15), levels, strict=True):
            step = 64 // level.shape[-1]
            target = torch.from_numpy(mask[:, :, step // 2 :: step, step // 2 :: step]).float()
            terms = 2 * target * functional.softplus(-level) + (1 - target) * functional.softplus(level)
            by_hand += weight * float(terms.mean())
        assert float(loss) == pytest.approx(by_hand, rel=1e-5) and torch.equal(logits, levels[0])
        assert len(forward_levels(model.eval(), torch.from_numpy(image))) == 1
