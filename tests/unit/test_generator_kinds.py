"""Every kind of generator: what learns, what is sent, one step beside its recipe spelt out, resuming, refusing."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from engine.config import RunConfig, parse_config
from engine.config_generators import GENERATORS, SECTION_OF, GeneratorKindName
from engine.errors import UserError
from engine.generation.backbone import Backbone, build_backbone, freeze
from engine.generation.generators import GeneratorSetup, check_upload, keep_upload, kind_of, upload_bytes
from engine.generation.kinds import controlnet_lora
from engine.seeding import numpy_generator, torch_generator
from tests.unit import independent_arithmetic as by_hand

PX, SEED, SITE = 32, 9, "north"
KINDS = get_args(GeneratorKindName)
BIT_KINDS = ("controlnet_lora", "pix2pix", "ddpm")


class Squares:
    """Six noisy bright squares and their masks, one class."""

    def __init__(self) -> None:
        self.mask = np.zeros((6, 1, PX, PX), np.uint8)
        for i in range(6):
            self.mask[i, 0, 4 + i : 20 + i, 4:20] = 1
        noise = numpy_generator(2, "squares").random((6, 3, PX, PX), dtype=np.float32)
        self.image = (0.6 * self.mask + 0.4 * noise).astype(np.float32)

    def __len__(self) -> int:
        return len(self.mask)

    def batch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.image[indices], self.mask[indices]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return freeze(build_backbone("mini", seed=3), device=torch.device("cpu"))


def setup_of(kind: str, backbone: Backbone, **sections: Any) -> GeneratorSetup:
    generator = {"kind": kind, "image_px": PX, "batch_size": 2, "steps": 4, "controlnet": None, "learning_rate": 1e-3}
    config = parse_config(
        {"seed": SEED, "precision": "fp32", "generator": generator,
         "generation": {"sampler_steps": 2, "guidance_scale": 1.0, "batch_size": 2}} | sections
    )  # fmt: skip
    return GeneratorSetup(
        config=config, prompt="squares", device=torch.device("cpu"), backbone=lambda: backbone, outline=lambda: backbone
    )


def start(setup: GeneratorSetup) -> Any:
    return kind_of(setup.config).start(setup, images=Squares(), site=SITE)


def batch(number: int) -> tuple[Tensor, Tensor]:
    """Images and one-class mask pictures in [-1, 1] of a batch of two."""
    order = [int(i) for e in range(4) for i in numpy_generator(SEED, "generator", SITE, "order", e).permutation(6)]
    rows = order[2 * number : 2 * number + 2]
    images = Squares()
    condition = torch.from_numpy(images.mask[rows].astype(np.float32)).repeat(1, 3, 1, 1)
    return torch.from_numpy(images.image[rows]) * 2 - 1, condition * 2 - 1


def test_every_kind_has_a_file_a_description_and_a_section() -> None:
    assert set(KINDS) == set(GENERATORS) and RunConfig().generator.kind == "controlnet"
    for kind in KINDS:
        module = kind_of(parse_config({"generator": {"kind": kind}}))
        assert all(callable(getattr(module, name)) for name in ("start", "shapes", "rebuild", "save", "load"))
    assert set(SECTION_OF) <= set(RunConfig.model_fields) and set(SECTION_OF.values()) == set(BIT_KINDS)
    for spec in GENERATORS.values():
        assert set(spec.unread) <= set(RunConfig.model_fields["generator"].annotation.model_fields)


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_training_equals_uninterrupted(kind: str, backbone: Backbone) -> None:
    setup = setup_of(kind, backbone)
    whole = start(setup)
    losses = [whole.step() for _ in range(2)]
    state = copy.deepcopy(whole.state())
    losses += [whole.step() for _ in range(2)]
    resumed = start(setup)
    resumed.restore(state)
    assert (resumed.done, resumed.total) == (2, 4)
    assert [resumed.step() for _ in range(2)] == losses[2:]
    assert all(np.array_equal(array, resumed.arrays()[name]) for name, array in whole.arrays().items())


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_sent_is_what_the_server_expects_and_draws_with(kind: str, backbone: Backbone, tmp_path: Path) -> None:
    setup = setup_of(kind, backbone)
    module, training = kind_of(setup.config), start(setup)
    training.step()
    arrays, shapes = training.arrays(), kind_of(setup.config).shapes(setup)
    check_upload(arrays, shapes=shapes, site=SITE)
    data = sum(array.nbytes for array in arrays.values())
    assert data == 2 * sum(int(np.prod(shape)) for shape in shapes.values()) < upload_bytes(shapes)
    keep_upload(arrays, tmp_path / SITE, setup, site=SITE)
    assert [path.name for path in tmp_path.iterdir()] == [SITE]
    mask = Squares().mask[:3]
    drawn = module.load(tmp_path / SITE, setup).sample(mask, seeds=[5, 6, 7])
    assert drawn.shape == (3, PX, PX, 3) and drawn.dtype == np.uint8
    assert np.array_equal(drawn, module.rebuild(arrays, setup).sample(mask, seeds=[5, 6, 7]))
    alone = module.rebuild(arrays, setup).sample(mask[1:2], seeds=[6])
    assert np.abs(alone[0].astype(int) - drawn[1].astype(int)).max() <= 1  # other batch sizes, other kernels
    other = module.rebuild(arrays, setup).sample(mask[1:2], seeds=[8])
    assert np.abs(other[0].astype(int) - drawn[1].astype(int)).max() > 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", ["absent", "unknown", "shape", "dtype", "nan"])
def test_a_generator_that_cannot_be_rebuilt_is_refused_by_site(
    kind: str, fault: str, backbone: Backbone, tmp_path: Path
) -> None:
    setup = setup_of(kind, backbone)
    shapes = kind_of(setup.config).shapes(setup)
    arrays = {name: np.zeros(shape, np.float16) for name, shape in shapes.items()}
    name = sorted(arrays)[0]
    if fault == "absent":
        del arrays[name]
    elif fault == "unknown":
        arrays[name := "a"] = np.zeros(1, np.float16)
    elif fault == "shape":
        arrays[name] = arrays[name][..., None]
    elif fault == "dtype":
        arrays[name] = arrays[name].astype(np.float32)
    else:
        arrays[name] = np.full_like(arrays[name], np.nan)
    with pytest.raises(UserError, match=f"1 arrays of the generator from {SITE} do not fit, first '{name}'") as caught:
        keep_upload(arrays, tmp_path / SITE, setup, site=SITE)
    assert caught.value.code == "generator.upload_misfit" and not list(tmp_path.iterdir())


def test_lora_moves_its_updates_and_the_new_parts_alone(backbone: Backbone) -> None:
    setup = setup_of("controlnet_lora", backbone)
    training = start(setup)
    before = copy.deepcopy(training.controlnet.state_dict())
    sent = set(training.arrays())
    for _ in range(2):
        training.step()
    after = training.controlnet.state_dict()
    moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert moved <= sent
    for part in (
        ".lora_A.",
        ".lora_B.",
        "controlnet_cond_embedding.",
        "controlnet_down_blocks.",
        "controlnet_mid_block.",
    ):
        assert any(part in name for name in moved), part
    full = start(setup_of("controlnet", backbone))
    ratio = sum(a.nbytes for a in training.arrays().values()) / sum(a.nbytes for a in full.arrays().values())
    assert ratio < 0.15


def test_a_lora_layer_adds_alpha_over_rank_times_b_a(backbone: Backbone) -> None:
    """W x + alpha / r * B (A x) of one attention projection, by the arrays that were sent."""
    setup = setup_of("controlnet_lora", backbone, generator_lora={"rank": 4, "alpha": 2.0})
    shapes = controlnet_lora.shapes(setup)
    rng = numpy_generator(1, "lora")
    arrays = {name: rng.normal(size=shape).astype(np.float16) for name, shape in shapes.items()}
    model = controlnet_lora.rebuild(arrays, setup).controlnet
    down = next(name for name in shapes if name.endswith("to_q.lora_A.default.weight"))
    stem = down.removesuffix(".lora_A.default.weight")
    layer = model.get_submodule(stem)
    a, b = (torch.from_numpy(arrays[f"{stem}.lora_{part}.default.weight"]).float() for part in "AB")
    assert a.shape[0] == b.shape[1] == 4
    x = torch.randn(3, a.shape[1], generator=torch_generator(1, "x"))
    weight = backbone.unet.get_submodule(stem).weight
    torch.testing.assert_close(layer(x), x @ weight.T + 2.0 / 4 * (x @ a.T) @ b.T)


def test_a_step_of_lora_is_adamw_on_what_learns(backbone: Backbone) -> None:
    """The first loss is that of a ControlNet without updates, which begin at zero; AdamW's first step is the rate."""
    setup = setup_of("controlnet_lora", backbone)
    training, full = start(setup), start(setup_of("controlnet", backbone))
    closing = {
        n: t.detach().clone() for n, t in training.controlnet.named_parameters() if n.startswith("controlnet_down")
    }
    assert training.step() == pytest.approx(full.step(), rel=1e-5)
    rate = setup.config.generator.learning_rate
    for name, before in closing.items():
        moved = training.controlnet.get_parameter(name).detach()
        full_moved = full.controlnet.get_parameter(name).detach()
        torch.testing.assert_close(moved, full_moved, rtol=1e-3, atol=rate * 1e-2)
        assert float((moved - before).detach().abs().max()) == pytest.approx(rate, rel=0.02)


def test_two_steps_of_pix2pix_by_hand(backbone: Backbone) -> None:
    """The judge learns first, from -log D(real) and -log (1 - D(drawn)), halved; the U-Net from -log D and 100 L1."""
    training = start(setup_of("pix2pix", backbone))
    unet, judge = copy.deepcopy(training.unet), copy.deepcopy(training.judge)
    adams = [by_hand.Adam(network, learning_rate=2e-4, betas=(0.5, 0.999)) for network in (unet, judge)]
    for number in range(2):
        image, condition = batch(number)
        noise = torch.randn((2, 1, PX, PX), generator=torch_generator(SEED, "generator", SITE, "noise", number))
        drawn = torch.tanh(unet.unet(torch.cat([condition, noise], 1)))
        real, fake = (judge(torch.cat([condition, p], 1))[-1] for p in (image, drawn.detach()))
        judged = (functional.softplus(-real).mean() + functional.softplus(fake).mean()) / 2
        adams[1].step(by_hand.gradients(judged, judge))
        fooled = functional.softplus(-judge(torch.cat([condition, drawn], 1))[-1]).mean()
        loss = fooled + 100 * (drawn - image).abs().mean()
        adams[0].step(by_hand.gradients(loss, unet))
        assert training.step() == pytest.approx(loss.item(), rel=1e-4)
    # A bias before a normalisation has a gradient of rounding errors alone, which L1's weight makes larger.
    assert by_hand.assert_same_weights(training.unet, unet, adams[0], clear_from=1e-3) > 100_000
    assert by_hand.assert_same_weights(training.judge, judge, adams[1], clear_from=1e-4) > 10_000


def test_two_steps_of_ddpm_by_hand(backbone: Backbone) -> None:
    """|| e - U(sqrt(abar) x + sqrt(1 - abar) e, mask, t) ||^2 with 1000 steps of linear beta; Adam, norm at most 1."""
    training = start(setup_of("ddpm", backbone))
    unet = copy.deepcopy(training.unet)
    adam = by_hand.Adam(unet, learning_rate=2e-4)
    share = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    for number in range(2):
        image, condition = batch(number)
        draw = torch_generator(SEED, "generator", SITE, "noise", number)
        noise = torch.randn(image.shape, generator=draw)
        t = torch.randint(1000, (2,), generator=draw)
        signal = share[t].float().reshape(2, 1, 1, 1)
        noisy = signal.sqrt() * image + (1 - signal).sqrt() * noise
        loss = (unet(torch.cat([noisy, condition], 1), t).sample - noise).pow(2).mean()
        found = by_hand.gradients(loss, unet)
        norm = torch.stack([g.pow(2).sum() for g in found.values()]).sum().sqrt().item()
        adam.step({name: g * min(1.0, 1.0 / (norm + 1e-6)) for name, g in found.items()})
        assert norm > 1, "the clipping is seen"
        assert training.step() == pytest.approx(loss.item(), rel=1e-4)
    assert by_hand.assert_same_weights(training.unet, unet, adam, clear_from=1e-5) > 100_000


@pytest.mark.parametrize(("kind", "px"), [("pix2pix", 40), ("ddpm", 33)])
def test_a_side_that_cannot_be_halved_is_refused(kind: str, px: int, backbone: Backbone) -> None:
    setup = setup_of(kind, backbone, generator={"kind": kind, "image_px": px})
    with pytest.raises(UserError, match=r"generator\.image_px") as caught:
        start(setup)
    assert caught.value.code == "generator.image_size"


@pytest.mark.parametrize("kind", ["pix2pix", "ddpm"])
def test_a_released_share_needs_a_kind_with_a_released_generator(kind: str) -> None:
    with pytest.raises(UserError, match="released_share is drawn by a released ControlNet"):
        parse_config({"generator": {"kind": kind}, "generation": {"released_share": 0.5}})
