"""The method's arithmetic once more, from its formulas and nothing else: what the step tests hold the engine to.

Nothing here calls the engine's losses, torch's losses or torch's optimisers; logits (B, K, h, w), masks in {0, 1}.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def cross_entropy(logits: Tensor, mask: Tensor, *, pos_weight: float) -> Tensor:
    """Return -(a y log p + (1 - y) log(1 - p)) of each pixel, a the weight of the foreground."""
    p = 1 / (1 + torch.exp(-logits.double()))
    return -(pos_weight * mask * torch.log(p) + (1 - mask) * torch.log(1 - p))


def soft_dice_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Return 1 - 2 sum(p y) / (sum p + sum y), sums over the batch and its pixels, mean over classes."""
    p, y = torch.sigmoid(logits.double()), mask.double()
    shared, total = (p * y).sum(dim=(0, 2, 3)), (p + y).sum(dim=(0, 2, 3))
    return (1 - (2 * shared + 1e-5) / (total + 1e-5)).mean()


def bernoulli_kl(target: Tensor, predicted: Tensor, *, temperature: float) -> Tensor:
    """Return T^2 KL(p || q) of each pixel for p, q the sigmoids of logits / T."""
    p, q = (torch.sigmoid(logits.double() / temperature) for logits in (target, predicted))
    return temperature**2 * (p * torch.log(p / q) + (1 - p) * torch.log((1 - p) / (1 - q)))


def linear_quantile(values: Tensor, share: float) -> float:
    """Return the value at ``share`` of the sorted values, linear between neighbours."""
    ordered = sorted(values.tolist())
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


class Adam:
    """Kingma and Ba's Algorithm 1 on a module's parameters, optionally with decoupled weight decay (AdamW)."""

    def __init__(
        self,
        module: torch.nn.Module,
        *,
        learning_rate: float,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.learning_rate, self.weight_decay, self.betas, self.t = learning_rate, weight_decay, betas, 0
        self.first = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in self.parameters.items()}
        self.second = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in self.parameters.items()}
        self.smallest: dict[str, Tensor] = {}
        """The smallest |gradient| that each weight has had: below 1e-6 rounding alone decides a weight's direction."""

    def step(self, gradients: Mapping[str, Tensor | None]) -> None:
        self.t += 1
        for name, gradient in gradients.items():
            if gradient is None:
                continue
            g = gradient.double()
            a, b = self.betas
            self.first[name] = a * self.first[name] + (1 - a) * g
            self.second[name] = b * self.second[name] + (1 - b) * g * g
            m, v = self.first[name] / (1 - a**self.t), self.second[name] / (1 - b**self.t)
            old = self.parameters[name].detach().double()
            new = old - self.learning_rate * (m / (v.sqrt() + 1e-8) + self.weight_decay * old)
            with torch.no_grad():
                self.parameters[name].copy_(new)
            self.smallest[name] = torch.minimum(g.abs(), self.smallest.get(name, g.abs()))


def gradients(loss: Tensor, module: torch.nn.Module) -> dict[str, Tensor | None]:
    """Return d loss / d parameter of every trainable parameter; None where the loss does not depend on it."""
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not named:
        return {}
    found = torch.autograd.grad(loss, list(named.values()), retain_graph=True, allow_unused=True)
    return dict(zip(named, found, strict=True))


def assert_same_weights(
    got: torch.nn.Module, expected: torch.nn.Module, adam: Adam, *, share: float = 0.02, clear_from: float = 1e-6
) -> int:
    """Hold ``got`` to ``expected`` within ``share`` of a step; return how many weights had a gradient to speak of.

    Weights that did not learn have to be equal, and BatchNorm's statistics nearly.
    """
    parameters = dict(got.named_parameters())
    counted = 0
    for name, value in got.state_dict().items():
        wanted = expected.state_dict()[name]
        if name not in adam.smallest:
            tolerance = 0.0 if name in parameters else 2e-4
            assert torch.allclose(value.double(), wanted.double(), rtol=tolerance, atol=tolerance), name
            continue
        clear = adam.smallest[name] > clear_from
        counted += int(clear.sum())
        distance = (value.double() - wanted.double()).abs()[clear]
        assert distance.numel() == 0 or float(distance.max()) < share * adam.learning_rate, (
            name,
            float(distance.max()),
        )
    return counted
