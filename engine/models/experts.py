"""L-MoE, the local part of pFedSAM (our specification): a mixture of small experts beside the MLP of SAM's blocks.

Shape legend: B images, h and w tokens, D the encoder's width, E experts, b the width inside an expert.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from segment_anything.modeling.common import MLPBlock
from torch import Tensor, nn
from torch.nn import functional

from engine.config_tuning import ExpertsConfig
from engine.models.lora import sam_blocks


class Experts(nn.Module):
    """sum_e g_e U_e GELU(D_e u), with g = softmax(W_g u) over the experts.

    ``up`` (U) is zero at first, so that a model with new experts is the one without. With ``top_k`` a token uses its k
    likeliest experts; their g stay as softmax gives them, so that the gate learns with one, too (Fedus et al. 2022).
    """

    def __init__(self, dim: int, config: ExpertsConfig) -> None:
        super().__init__()
        self.top_k = min(config.top_k, config.number)
        self.down = nn.Parameter(torch.empty(config.number, config.width, dim))
        self.up = nn.Parameter(torch.zeros(config.number, dim, config.width))
        self.gate = nn.Linear(dim, config.number, bias=False)
        bound = 1 / math.sqrt(dim)  # as torch begins a linear layer
        nn.init.uniform_(self.down, -bound, bound)

    def forward(self, tokens_BhwD: Tensor) -> Tensor:
        """Return (B, h, w, D) of the tokens u (B, h, w, D)."""
        gates_BhwE = self.gate(tokens_BhwD).softmax(dim=-1)
        if self.top_k:
            chosen = gates_BhwE.topk(self.top_k, dim=-1).indices
            gates_BhwE = gates_BhwE * torch.zeros_like(gates_BhwE).scatter(-1, chosen, 1.0)
        number, width, _ = self.down.shape
        inside_BhwEb = functional.linear(tokens_BhwD, self.down.flatten(0, 1)).unflatten(-1, (number, width))
        weighted_BhwEb = functional.gelu(inside_BhwEb) * gates_BhwE.unsqueeze(-1)
        return functional.linear(weighted_BhwEb.flatten(-2), self.up.permute(1, 0, 2).flatten(1))


class ExpertMlp(MLPBlock):
    """segment_anything's MLP with experts beside it: mlp(u) + strength * experts(u), u what LayerNorm gives."""

    def __init__(self, mlp: MLPBlock, config: ExpertsConfig) -> None:
        """``mlp``'s own layers are taken."""
        nn.Module.__init__(self)
        self.lin1, self.lin2, self.act = mlp.lin1, mlp.lin2, mlp.act
        self.experts = Experts(mlp.lin1.in_features, config)
        self.strength = config.strength
        self.is_bypassed = False

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, h, w, D) of the tokens (B, h, w, D)."""
        shared_BhwD = super().forward(x)
        return shared_BhwD if self.is_bypassed else shared_BhwD + self.strength * self.experts(x)


def add_experts(model: nn.Module, config: ExpertsConfig, *, name: str) -> None:
    """Put experts beside the MLP of the chosen blocks, in place; draws from torch's global generator.

    ``UserError`` ``lora.layers`` for a model, called ``name``, without blocks like SAM's.
    """
    for block in sam_blocks(model, name=name, layers=["mlp"]):
        if config.blocks == "all" or block.window_size == 0:
            block.mlp = ExpertMlp(block.mlp, config)


def expert_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of all gates and experts; none of a model without experts."""
    return [parameter for layer in _layers(model) for parameter in layer.experts.parameters()]


@contextmanager
def bypassed_experts(model: nn.Module) -> Iterator[None]:
    """Let the model compute without its experts: the global model, whatever the site's own part is."""
    layers = _layers(model)
    before = [layer.is_bypassed for layer in layers]
    for layer in layers:
        layer.is_bypassed = True
    try:
        yield
    finally:
        for layer, was in zip(layers, before, strict=True):
            layer.is_bypassed = was


@contextmanager
def collected_gates(model: nn.Module) -> Iterator[list[Tensor]]:
    """Give a list that takes, in every forward pass, each block's gates (B, h, w, E) before any is left out."""
    gates: list[Tensor] = []

    def note(_module: nn.Module, _inputs: object, logits_BhwE: Tensor) -> None:
        gates.append(logits_BhwE.float().softmax(dim=-1))

    hooks = [layer.experts.gate.register_forward_hook(note) for layer in _layers(model)]
    try:
        yield gates
    finally:
        for hook in hooks:
            hook.remove()


def balance_loss(gates: Sequence[Tensor]) -> Tensor:
    """Return the mean over blocks of E sum_e f_e P_e (Fedus et al. 2022, Eq. 4), a scalar: 1 where experts share alike.

    f_e is the share of tokens whose likeliest expert is e, P_e the mean of their gates g_e, each of (B, h, w, E).
    """
    found = []
    for gates_BhwE in gates:
        gates_TE = gates_BhwE.flatten(0, -2)
        number = gates_TE.shape[-1]
        share_E = functional.one_hot(gates_TE.argmax(dim=-1), number).to(gates_TE.dtype).mean(dim=0)
        found.append(number * (share_E * gates_TE.mean(dim=0)).sum())
    return torch.stack(found).mean()


def _layers(model: nn.Module) -> list[ExpertMlp]:
    return [module for module in model.modules() if isinstance(module, ExpertMlp)]
