"""A decoder that answers clicks, beside the exported student: taught at the server, on synthetic pairs."""

from __future__ import annotations

import torch
from torch import nn

from engine.distillation.prompt_decoder import Teaching, teach_prompts
from engine.models.segmenter import Segmenter
from engine.stages.context import RunContext
from engine.stages.synthetic_set import LIST_FILE, load_pool


def prompted(context: RunContext, model: nn.Module) -> Segmenter | None:
    """Return a copy of ``model`` whose decoder answers prompts; None where none is wanted or none can be taught.

    The log says which of it was left out, and why.
    """
    steps = context.config.export.prompt_steps
    if not steps:
        return None
    if not isinstance(model, Segmenter):
        context.reporter.log("warning", "No decoder was taught prompts: a U-Net has no encoder of prompts.")
        return None
    pool = load_pool(context) if (context.run_dir / LIST_FILE).is_file() else None
    if pool is None or not len(pool):
        context.reporter.log("warning", "No decoder was taught prompts: the run has no synthetic pairs to teach it on.")
        return None

    def on_step(step: int) -> None:
        context.reporter.check_cancelled()
        context.reporter.progress(step, steps, message="teaching a decoder to answer clicks")

    config = context.config
    teaching = Teaching(
        steps=steps,
        seed=config.seed,
        pos_weight=config.pos_weight,
        dice_weight=config.dice_weight,
        device=torch.device(context.device),
        precision=config.precision,
        on_step=on_step,
    )
    taught = teach_prompts(model, pool, teaching)
    context.reporter.log("info", f"A second decoder was taught clicks in {steps} steps on {len(pool)} pairs.")
    return taught
