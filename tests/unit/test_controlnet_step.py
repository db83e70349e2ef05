"""Steps of a site's ControlNet training beside the recipe of methods.md 7, spelt out: loss, clipping, AdamW."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from engine.config import GeneratorConfig
from engine.generation.backbone import Backbone, build_backbone, freeze
from engine.generation.controlnet import ControlNetTraining, new_controlnet
from engine.generation.sampling import generate
from engine.seeding import numpy_generator, torch_generator
from tests.unit import independent_arithmetic as by_hand

PX, SEED, LEARNING_RATE = 32, 9, 1e-3


class Discs:
    """Images of bright squares with their masks, one class; ``batch`` takes no generator, so nothing is augmented."""

    def __init__(self, count: int) -> None:
        self.mask = np.zeros((count, 1, PX, PX), np.uint8)
        for i in range(count):
            self.mask[i, 0, 4 + i : 20 + i, 4:20] = 1
        noise = numpy_generator(2, "discs").random((count, 3, PX, PX), dtype=np.float32)
        self.image = 0.6 * self.mask + 0.4 * noise.astype(np.float32)
        self.image = self.image.astype(np.float32)

    def __len__(self) -> int:
        return len(self.mask)

    def batch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.image[indices], self.mask[indices]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    made = build_backbone("mini", seed=3)
    with torch.no_grad():
        made.unet.conv_out.weight.mul_(8.0)  # large errors, so that the gradient's norm is beyond what is allowed
    return freeze(made, device=torch.device("cpu"))


def signal_shares(*, zero_snr: bool) -> Tensor:
    """Return sqrt(alpha bar) of the 1000 steps: squares of a line of sqrt(beta); optionally no signal at the end."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    share = torch.cumprod(1 - betas, dim=0).sqrt()
    return (share - share[-1]) * share[0] / (share[0] - share[-1]) if zero_snr else share


def prompt_embedding(backbone: Backbone, text: str) -> Tensor:
    ids = backbone.tokenizer(text, padding="max_length", max_length=48, truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        return backbone.text_encoder(ids)[0]


def expected_loss(
    backbone: Backbone, controlnet: torch.nn.Module, images: Discs, *, site: str, number: int, empty_share: float
) -> Tensor:
    """E || target - U-Net(z_t, t, prompt + ControlNet(mask)) ||^2 of batch ``number`` of two images."""
    count = len(images)
    order = [
        int(i)
        for epoch in range(4)
        for i in numpy_generator(SEED, "generator", site, "order", epoch).permutation(count)
    ]
    rows = order[2 * number : 2 * number + 2]
    with torch.no_grad():
        moments = backbone.vae.encode(torch.from_numpy(images.image[rows]) * 2 - 1).latent_dist.parameters
    mean, log_variance = moments[:, :12], moments[:, 12:]
    draw = torch_generator(SEED, "generator", site, "noise", number)
    z = mean + torch.exp(log_variance / 2) * torch.randn(mean.shape, generator=draw)
    z = z * backbone.vae.config.scaling_factor
    noise = torch.randn(z.shape, generator=draw)
    steps = torch.randint(1000, (2,), generator=draw)
    text = "" if float(torch.rand((), generator=draw)) < empty_share else "a disc"
    velocity = backbone.scheduler.config.prediction_type == "v_prediction"
    signal = signal_shares(zero_snr=velocity)[steps].reshape(2, 1, 1, 1)
    rest = (1 - signal**2).sqrt()
    noisy = (signal * z + rest * noise).float()
    target = signal * noise - rest * z if velocity else noise
    prompt = prompt_embedding(backbone, text).repeat(2, 1, 1)
    condition = torch.from_numpy(np.repeat(images.mask[rows], 3, axis=1)).float()
    down, middle = controlnet(noisy, steps, prompt, condition, return_dict=False)
    predicted = backbone.unet(
        noisy, steps, prompt, down_block_additional_residuals=down, mid_block_additional_residual=middle
    ).sample
    return ((predicted - target) ** 2).mean()


@pytest.mark.parametrize(
    ("prediction", "site", "empty_share", "accumulation"),
    [
        ("v_prediction", "north", 0.0, 1),
        ("v_prediction", "south", 1.0, 1),
        ("epsilon", "north", 0.5, 1),
        ("v_prediction", "north", 0.5, 2),
    ],
)
def test_steps_are_those_of_the_recipe(backbone, prediction, site, empty_share, accumulation):
    if prediction == "epsilon":
        plain = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
        backbone = replace(backbone, scheduler=plain)
    images = Discs(5)
    controlnet = new_controlnet(backbone, source=None, seed=1)
    with torch.no_grad():  # past the first step's zero convolutions, behind which nothing has a gradient
        for name, parameter in controlnet.named_parameters():
            if parameter.abs().sum() == 0:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=torch_generator(4, name)))
    expected = copy.deepcopy(controlnet)
    config = GeneratorConfig(
        image_px=PX,
        batch_size=2,
        accumulation=accumulation,
        learning_rate=LEARNING_RATE,
        empty_prompt_fraction=empty_share,
    )
    training = ControlNetTraining(
        backbone, controlnet, images=images, config=config, prompt="a disc", site=site, seed=SEED, precision="fp32"
    )
    adam = by_hand.Adam(expected.train(), learning_rate=LEARNING_RATE, weight_decay=0.01)
    for step in range(2):
        losses = [
            expected_loss(
                backbone, expected, images, site=site, number=step * accumulation + part, empty_share=empty_share
            )
            for part in range(accumulation)
        ]
        loss = torch.stack(losses).mean()
        grads = by_hand.gradients(loss, expected)
        norm = torch.stack([g.double().square().sum() for g in grads.values() if g is not None]).sum().sqrt()
        assert norm > 1.5, "else this test says nothing of clipping"
        adam.step({name: None if g is None else g / norm for name, g in grads.items()})
        assert training.step() == pytest.approx(float(loss.detach()), rel=1e-4)
    assert by_hand.assert_same_weights(controlnet, expected, adam) > 100_000


def test_a_small_gradient_is_not_stretched(backbone):
    calm = replace(backbone, unet=copy.deepcopy(backbone.unet))
    with torch.no_grad():
        calm.unet.conv_out.weight.mul_(0.01)
    controlnet = new_controlnet(calm, source=None, seed=1)
    expected = copy.deepcopy(controlnet)
    images, config = Discs(5), GeneratorConfig(image_px=PX, batch_size=2, learning_rate=1e-2, empty_prompt_fraction=0)
    training = ControlNetTraining(
        calm, controlnet, images=images, config=config, prompt="a disc", site="north", seed=SEED, precision="fp32"
    )
    adam = by_hand.Adam(expected.train(), learning_rate=1e-2, weight_decay=0.01)
    for number in range(2):
        loss = expected_loss(calm, expected, images, site="north", number=number, empty_share=0)
        grads = by_hand.gradients(loss, expected)
        assert torch.stack([g.square().sum() for g in grads.values() if g is not None]).sum() < 0.9
        adam.step(grads)
        training.step()
    assert by_hand.assert_same_weights(controlnet, expected, adam) > 1_000


def test_sites_with_one_and_the_same_image_draw_noise_of_their_own(backbone):
    """One image leaves no order to differ in: only the noise and the timestep can."""
    losses = []
    for site in ("north", "south"):
        config = GeneratorConfig(image_px=PX, batch_size=1, empty_prompt_fraction=0)
        controlnet = new_controlnet(backbone, source=None, seed=1)
        training = ControlNetTraining(
            backbone, controlnet, images=Discs(1), config=config, prompt="a disc", site=site, seed=SEED
        )
        losses.append([training.step() for _ in range(2)])
    assert len({loss for site in losses for loss in site}) == 4


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_first_denoising_steps_begin_at_the_seed_s_own_noise(backbone, guidance):
    """One UniPC step from pure noise is DDIM's: x0 from the guided prediction, decoded by the VAE."""
    controlnet = new_controlnet(backbone, source=None, seed=1).eval()
    mask = Discs(2).mask
    got = generate(
        backbone, controlnet, mask, seeds=[7, 8], prompt="a disc", steps=1, guidance=guidance, precision="fp32"
    )
    noise = torch.stack([torch.randn((12, 4, 4), generator=torch_generator(seed, "noise")) for seed in (7, 8)])
    condition = torch.from_numpy(np.repeat(mask, 3, axis=1)).float()
    steps = torch.tensor([999, 999])
    predictions = []
    with torch.no_grad():
        for text in ("a disc", ""):
            prompt = prompt_embedding(backbone, text).repeat(2, 1, 1)
            down, middle = controlnet(noise, steps, prompt, condition, return_dict=False)
            predictions.append(
                backbone.unet(
                    noise, steps, prompt, down_block_additional_residuals=down, mid_block_additional_residual=middle
                ).sample
            )
        velocity = predictions[1] + guidance * (predictions[0] - predictions[1])
        clean = -velocity  # at zero signal-to-noise the sample is noise alone: x0 = 0 * x - 1 * v
        picture = backbone.vae.decode(clean / backbone.vae.config.scaling_factor).sample
    expected = ((picture / 2 + 0.5).clamp(0, 1) * 255).round().numpy().transpose(0, 2, 3, 1)
    assert np.abs(got - expected).max() <= 1
    assert np.abs(expected[0] - expected[1]).max() > 10
