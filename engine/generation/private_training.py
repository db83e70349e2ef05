"""DP-SGD (Abadi et al. 2016, arXiv 1607.00133) for a site's generator, whose unit of privacy is a patient.

In each step every patient is drawn by itself with one probability (Poisson sampling), and one image stands for each;
its gradient is shortened to ``dp_clip_norm``, the sum is noised and divided by how many are expected. What a patient
adds depends on that patient alone: noise level, noise and prompt of an image are named by the step and its own name.
Gradients of single images are Opacus' (``GradSampleModule``).

Shape legend: N images of the site, P patients, B images of a part of a step.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn

from engine.config import GeneratorConfig
from engine.generation.images import ImageSource
from engine.seeding import numpy_generator
from engine.system_randomness import Numbers, SystemNumbers

OF_SITE = "generator"


class PatientSource(ImageSource, Protocol):
    """Images whose patients are known: :class:`engine.data.datasets.ImageSet` is one."""

    @property
    def names(self) -> Sequence[str]:
        """Return the name of each image, unique within the site."""

    @property
    def groups(self) -> Sequence[str]:
        """Return the patient of each image."""


class PrivateSteps:
    """The gradients of one site's steps, each of which is a sampled Gaussian mechanism.

    Parameters
    ----------
    model
        What learns; ``module`` stands for it in forward passes.
    images
        Their patients and names are read, no pixels.
    system
        Whether draws and noise are the operating system's; else of a stream of ``seed``, which gives them away to
        whoever knows it.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        config: GeneratorConfig,
        images: PatientSource,
        seed: int,
        site: str,
        system: bool,
    ) -> None:
        assert config.dp_noise_multiplier is not None
        self.module = GradSampleModule(model, loss_reduction="sum")
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._config, self._seed, self._site, self._system = config, seed, site, system
        self._names = tuple(images.names)
        groups = np.array(images.groups)
        self._patients = {str(group): np.flatnonzero(groups == group) for group in sorted(set(images.groups))}
        self._multiplier = config.dp_noise_multiplier

    @property
    def num_patients(self) -> int:
        """Return P."""
        return len(self._patients)

    def gradient(self, step: int, errors_of: Callable[[np.ndarray], Tensor]) -> float:
        """Set the parameters' gradients to the noised mean of step ``step``, from 0; return its mean loss.

        ``errors_of`` gives the loss (B,) of each image of some indices, by :attr:`module`. Nobody may be drawn: the
        gradient is noise then, and the mean loss 0.
        """
        numbers = self._numbers(step)
        drawn = self._draw(step, numbers)
        sums = [torch.zeros_like(parameter) for parameter in self._parameters]
        total = 0.0
        for indices in _parts(drawn, self._config.batch_size):
            errors_B = errors_of(indices)
            with warnings.catch_warnings():  # of the first layers: what they are given has no gradient, and needs none
                warnings.filterwarnings("ignore", message="Full backward hook is firing")
                errors_B.sum().backward()
            total += float(errors_B.detach().sum())
            self._add_clipped(sums)
        std = self._multiplier * self._config.dp_clip_norm
        expected = self._config.sampling_rate(self.num_patients) * self.num_patients
        for parameter, summed in zip(self._parameters, sums, strict=True):
            noise = std * numbers.standard_normal(parameter.numel())
            summed += torch.from_numpy(noise).to(summed).reshape(summed.shape)
            parameter.grad = summed / expected
        return total / max(1, len(drawn))

    def name_of(self, index: int) -> str:
        """Return the name of an image, which names its randomness."""
        return self._names[index]

    def _numbers(self, step: int) -> Numbers:
        return SystemNumbers() if self._system else numpy_generator(self._seed, OF_SITE, self._site, "private", step)

    def _draw(self, step: int, numbers: Numbers) -> np.ndarray:
        """Return an image of each patient that is drawn in a step."""
        rate = self._config.sampling_rate(self.num_patients)
        chosen = numbers.random(self.num_patients) < rate
        found = []
        for (patient, own), is_drawn in zip(self._patients.items(), chosen, strict=True):
            if is_drawn:
                stream = numpy_generator(self._seed, OF_SITE, self._site, "image", step, patient)
                found.append(own[stream.integers(len(own))])
        return np.array(found, dtype=int)

    def _add_clipped(self, sums: Sequence[Tensor]) -> None:
        """Add each image's gradient, shortened over all parameters together, and forget the gradients."""
        gradients = [parameter.grad_sample for parameter in self._parameters]  # type: ignore[attr-defined]
        squares_PB = torch.stack([gradient.flatten(1).square().sum(dim=1) for gradient in gradients])
        norms_B = squares_PB.sum(dim=0).sqrt()
        factors_B = (self._config.dp_clip_norm / norms_B.clamp(min=1e-12)).clamp(max=1.0)
        for parameter, gradient, summed in zip(self._parameters, gradients, sums, strict=True):
            summed += torch.einsum("b,b...->...", factors_B, gradient)
            parameter.grad_sample, parameter.grad = None, None  # type: ignore[attr-defined]


def _parts(indices: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(indices), size):
        yield indices[start : start + size]
