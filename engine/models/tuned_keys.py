"""Which layers of SAM low-rank updates and experts are laid beside, and the keys that they add. Torch-free: plans, too.

Keys of the model itself stay as they are, so that SAM's weights load into it before and its updates are laid on after.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from engine.config_tuning import ExpertsConfig, LoraConfig
from engine.errors import UserError
from engine.models.sharing import StateKey

BLOCKS = "image_encoder.blocks."
MODULES: Mapping[str, str] = {
    "q": "attn.qkv", "k": "attn.qkv", "v": "attn.qkv", "proj": "attn.proj", "lin1": "mlp.lin1", "lin2": "mlp.lin2",
}  # fmt: skip
"""Where in a block a layer of ``lora.layers`` is; attention computes q, k and v by one."""
LEARNING = ("mask_decoder.", "seg1.")
"""What learns beside the updates: the mask decoder and the class head."""
EXPERTS = ".mlp.experts."
"""In the keys of experts, and in no other."""
FLOAT_BYTES = 4


def refuse_model(model: str, layers: Sequence[str]) -> UserError:
    """Return the refusal of a model whose encoder has no such layers."""
    return UserError(
        "lora.layers",
        what=f"{model} has no layers {', '.join(layers)} in {BLOCKS}*, which [lora] and [experts] are laid beside.",
        why="They are layers of the transformer blocks of SAM's image encoder, and no other model has these blocks.",
        fix="Set student.name to sam, or choose a method that trains the whole student.",
    )


def tuned_keys(
    keys: Sequence[StateKey], *, lora: LoraConfig, experts: ExpertsConfig, model: str
) -> tuple[StateKey, ...]:
    """Return the keys of a model that is tuned, in the order of its state, from those that it has without.

    ``UserError`` ``lora.layers`` for a model without blocks like SAM's; ``model`` is what it calls the model.
    """
    sizes = {key.name: key.num_bytes // FLOAT_BYTES for key in keys}
    blocks = sorted({name.removeprefix(BLOCKS).split(".")[0] for name in sizes if name.startswith(BLOCKS)})
    if not blocks or any(f"{BLOCKS}{block}.attn.qkv.bias" not in sizes for block in blocks):
        raise refuse_model(model, lora.layers)
    longest = max(sizes[f"{BLOCKS}{block}.attn.rel_pos_h"] for block in blocks)  # of attention over the whole image
    found: list[StateKey] = []
    for key in keys:
        learns = key.name.startswith(LEARNING) and not key.is_buffer
        found.append(replace(key, trains=key.trains and learns))
        block, _, place = key.name.removeprefix(BLOCKS).partition(".")
        if not key.name.startswith(BLOCKS) or not place.endswith(".bias"):
            continue
        prefix = f"{BLOCKS}{block}."
        width, hidden = sizes[f"{prefix}attn.proj.bias"], sizes[f"{prefix}mlp.lin1.bias"]
        found += _updates(prefix, place.removesuffix(".bias"), lora=lora, width=width, hidden=hidden)
        has_experts = experts.blocks == "all" or sizes[f"{prefix}attn.rel_pos_h"] == longest
        if experts.use and has_experts and place == "mlp.lin2.bias":
            inside = experts.number * experts.width * width
            parts = {"down": inside, "up": inside, "gate.weight": experts.number * width}
            found += [
                StateKey(f"{prefix[:-1]}{EXPERTS}{part}", FLOAT_BYTES * size, num_channels=experts.number)
                for part, size in parts.items()
            ]
    return tuple(found)


def _updates(prefix: str, module: str, *, lora: LoraConfig, width: int, hidden: int) -> Iterator[StateKey]:
    layers = [layer for layer in MODULES if layer in lora.layers and MODULES[layer] == module]
    for matrix in ("lora_A", "lora_B"):
        for layer in layers:
            side = hidden if (layer, matrix) in (("lin1", "lora_B"), ("lin2", "lora_A")) else width
            channels = lora.rank if matrix == "lora_A" else side
            name = f"{prefix}{module}.{matrix}.{layer}"
            yield StateKey(name, FLOAT_BYTES * lora.rank * side, num_channels=channels)
