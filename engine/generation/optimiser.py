"""The optimiser of generator training and of pre-training, and its state as plain rows that a checkpoint can hold."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from engine.errors import UserError


def make_adamw(
    parameters: Iterable[torch.nn.Parameter], *, learning_rate: float, eight_bit: bool
) -> torch.optim.Optimizer:
    """Return AdamW with ControlNet's settings: betas (0.9, 0.999), eps 1e-8, weight decay 1e-2 (methods.md 7).

    With ``eight_bit`` the moments are stored in 8 bits by bitsandbytes.

    Raises
    ------
    UserError
        ``generator.no_bitsandbytes`` when that library or a CUDA GPU is missing.
    """
    options: dict[str, Any] = {"lr": learning_rate, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 1e-2}
    if not eight_bit:
        return torch.optim.AdamW(parameters, **options)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise _no_eight_bit("bitsandbytes is not installed") from error
    if not torch.cuda.is_available():
        raise _no_eight_bit("PyTorch sees no CUDA GPU")
    return AdamW8bit(parameters, **options)


def optimiser_state(optimiser: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Return the state of each parameter in the optimiser's own order; empty dictionaries before the first step."""
    return [
        dict(optimiser.state.get(parameter, {})) for group in optimiser.param_groups for parameter in group["params"]
    ]


def restore_optimiser(optimiser: torch.optim.Optimizer, rows: list[dict[str, Any]]) -> None:
    """Put back, on each parameter's device, what :func:`optimiser_state` returned."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    for parameter, row in zip(parameters, rows, strict=True):
        optimiser.state[parameter] = {key: _place(value, parameter) for key, value in row.items()}


def _place(value: Any, parameter: torch.nn.Parameter) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    # The step counter stays on the CPU, as PyTorch makes it; moments lie where their parameter lies.
    return value.clone() if value.ndim == 0 else value.to(parameter.device, copy=True)


def _no_eight_bit(reason: str) -> UserError:
    return UserError(
        "generator.no_bitsandbytes",
        what=f"generator.optimiser_8bit is on, but {reason}.",
        why="The 8-bit optimiser is bitsandbytes' AdamW8bit, which runs on CUDA GPUs only.",
        fix="Set generator.optimiser_8bit to false, or install bitsandbytes on a machine with a CUDA GPU.",
    )
