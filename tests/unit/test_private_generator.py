"""DP-SGD of a ControlNet: each step against gradients of single images, and what one patient can change."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from engine.accounting import sampled_epsilon
from engine.config import GeneratorConfig, parse_config
from engine.errors import UserError
from engine.generation.backbone import Backbone, build_backbone
from engine.generation.conditioning import mask_condition
from engine.generation.controlnet import ControlNetTraining, new_controlnet
from engine.generation.training import predict
from engine.seeding import numpy_generator, torch_generator
from engine.system_randomness import SystemNumbers
from tests.unit.test_generation_training import PX, freeze

CLIP, SEED = 0.05, 9


@dataclass(frozen=True)
class Patients:
    """Bright squares of named patients; ``of`` has the patient of each image, which is named by its own number."""

    of: tuple[str, ...]
    numbers: tuple[int, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"image{number}" for number in self.numbers)

    @property
    def groups(self) -> tuple[str, ...]:
        return self.of

    def __len__(self) -> int:
        return len(self.of)

    def batch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mask = np.zeros((len(indices), 1, PX, PX), np.uint8)
        for row, index in enumerate(indices):
            number = self.numbers[index]
            mask[row, 0, 2 + 3 * number : 16 + 3 * number, 4:20] = 1
        return np.repeat(mask, 3, axis=1) * np.float32(0.7) + np.float32(0.1), mask


FOUR = Patients(("ann", "bob", "ann", "cleo", "dan"), (0, 1, 2, 3, 4))


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return freeze(build_backbone("mini", seed=3), device=torch.device("cpu"))


@pytest.fixture
def make(backbone: Backbone) -> Callable[..., ControlNetTraining]:
    def build(images: Patients = FOUR, *, system: bool = False, **settings: Any) -> ControlNetTraining:
        chosen = {"batch_size": 2, "dp_noise_multiplier": 0.5, "dp_clip_norm": CLIP, "learning_rate": 1e-3} | settings
        controlnet = new_controlnet(backbone, source=None, seed=1)
        with torch.no_grad():  # past the zero convolutions, behind which nothing has a gradient
            for name, parameter in controlnet.named_parameters():
                if parameter.abs().sum() == 0:
                    parameter.copy_(0.05 * torch.randn(parameter.shape, generator=torch_generator(4, name)))
        return ControlNetTraining(
            backbone, controlnet, images=images, config=GeneratorConfig(image_px=PX, **chosen), prompt="squares",
            site="north", seed=SEED, system_noise=system,
        )  # fmt: skip

    return build


def alone(training: ControlNetTraining, backbone: Backbone, index: int) -> list[torch.Tensor]:
    """Return the gradient of one image's loss by itself, worked out without Opacus."""
    latents, noise, steps, prompt = training._drawn(index, FOUR.names[index])
    noisy = backbone.scheduler.add_noise(latents, noise, steps)
    predicted = predict(
        backbone, training.controlnet, noisy, steps=steps, prompt_BTD=prompt,
        condition_B3HW=mask_condition(training._masks[index : index + 1]),
    )  # fmt: skip
    target = noise
    if backbone.scheduler.config.prediction_type == "v_prediction":
        target = backbone.scheduler.get_velocity(latents, noise, steps)
    return list(torch.autograd.grad(((predicted - target) ** 2).mean(), training._parameters))


def test_a_step_is_the_noised_sum_of_clipped_gradients_of_drawn_patients(
    make: Callable[..., ControlNetTraining], backbone: Backbone
) -> None:
    """Of four patients two are expected: each is drawn with 1/2, and the sum is divided by 2 whoever was drawn."""
    counts = []
    for step in range(3):
        training, plain = make(), make(dp_noise_multiplier=None)
        training.done = plain.done = step
        stream = numpy_generator(SEED, "generator", "north", "private", step)
        drawn = [who for who, u in zip(("ann", "bob", "cleo", "dan"), stream.random(4), strict=True) if u < 0.5]
        counts.append(len(drawn))
        expected = [torch.zeros_like(parameter) for parameter in training._parameters]
        for who in drawn:
            own = [index for index, group in enumerate(FOUR.groups) if group == who]
            choice = numpy_generator(SEED, "generator", "north", "image", step, who).integers(len(own))
            grads = alone(plain, backbone, own[choice])
            norm = torch.sqrt(sum((grad.double() ** 2).sum() for grad in grads))
            assert norm > CLIP, "else nothing is clipped"
            expected = [total + grad * (CLIP / float(norm)) for total, grad in zip(expected, grads, strict=True)]
        private = training._private
        assert private is not None
        private.gradient(step, training._errors)
        for parameter, total in zip(training._parameters, expected, strict=True):
            noise = 0.5 * CLIP * stream.standard_normal(parameter.numel()).reshape(parameter.shape)
            wanted = (total.double().numpy() + noise) / 2
            np.testing.assert_allclose(parameter.grad.numpy(), wanted, atol=2e-6)
    assert len(set(counts)) > 1, "another number of patients in each step"


@pytest.mark.parametrize("left_out", ["ann", "bob", "dan"])
def test_without_a_patient_the_sum_moves_by_the_norm_at_most(
    left_out: str, make: Callable[..., ControlNetTraining]
) -> None:
    """What epsilon is worked out from: also for a patient of two images, and whatever is said of the others."""
    kept = [index for index, group in enumerate(FOUR.of) if group != left_out]
    fewer = Patients(tuple(FOUR.of[index] for index in kept), tuple(FOUR.numbers[index] for index in kept))
    sums = []
    for images in (FOUR, fewer):
        training = make(images, dp_noise_multiplier=1e-9, batch_size=8)
        private = training._private
        assert private is not None and private.num_patients in (3, 4)
        private.gradient(0, training._errors)
        sums.append([parameter.grad.double() * private.num_patients for parameter in training._parameters])
    moved = torch.sqrt(sum(((one - other) ** 2).sum() for one, other in zip(*sums, strict=True)))
    assert float(moved) == pytest.approx(CLIP, rel=1e-3)


def test_a_gradient_below_the_norm_is_not_stretched(
    make: Callable[..., ControlNetTraining], backbone: Backbone
) -> None:
    training, plain = make(dp_clip_norm=1e4, dp_noise_multiplier=1e-12, batch_size=8), make(dp_noise_multiplier=None)
    ann = numpy_generator(SEED, "generator", "north", "image", 0, "ann").integers(2) * 2
    drawn = [alone(plain, backbone, index) for index in (ann, 1, 3, 4)]
    private = training._private
    assert private is not None
    private.gradient(0, training._errors)
    for number, parameter in enumerate(training._parameters):
        wanted = sum(gradients[number] for gradients in drawn) / 4
        torch.testing.assert_close(parameter.grad, wanted, atol=2e-5, rtol=1e-3)


def test_resumed_private_training_equals_uninterrupted(make: Callable[..., ControlNetTraining]) -> None:
    whole = make()
    losses = [whole.step() for _ in range(2)]
    state = copy.deepcopy(whole.state())
    losses += [whole.step() for _ in range(2)]
    resumed = make()
    resumed.restore(state)
    assert [resumed.step() for _ in range(2)] == losses[2:]
    for key, tensor in whole.controlnet.state_dict().items():
        assert torch.equal(tensor, resumed.controlnet.state_dict()[key])


def test_the_system_s_noise_is_never_the_same_and_as_large(make: Callable[..., ControlNetTraining]) -> None:
    found = []
    for _ in range(2):
        training = make(system=True, batch_size=8, dp_noise_multiplier=100.0)
        private = training._private
        assert private is not None and isinstance(private._numbers(0), SystemNumbers)
        private.gradient(0, training._errors)
        found.append(torch.cat([parameter.grad.flatten() for parameter in training._parameters]))
    assert not torch.equal(*found)
    assert float(found[0].std()) == pytest.approx(100 * CLIP / 4, rel=0.01), "z C over the four that are expected"


def test_epsilon_is_of_patients_and_of_all_steps(make: Callable[..., ControlNetTraining]) -> None:
    training = make(steps=50, dp_noise_multiplier=2.0, dp_delta=1e-4)
    spent = sampled_epsilon(noise_multiplier=2.0, sampling_rate=0.5, steps=50, delta=1e-4)
    assert training.privacy_spent() == {"patient_epsilon": spent}
    assert make(dp_noise_multiplier=None).privacy_spent() == {}
    assert GeneratorConfig(batch_size=3, accumulation=2).sampling_rate(4) == 1.0


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"kind": "pix2pix"}, "it would be trained without noise"),
        ({"kind": "ddpm"}, "it would be trained without noise"),
        ({"gradient_checkpointing": True}, "gradient_checkpointing off"),
        ({"dp_noise_multiplier": 0.0}, "generator.dp_noise_multiplier"),
    ],
)
def test_what_would_be_trained_without_noise_is_refused(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as refused:
        parse_config({"generator": {"dp_noise_multiplier": 1.0} | keys})
    assert words in refused.value.what
