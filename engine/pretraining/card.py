"""The model card that lies beside each file of mini weights: what it is, from what, how long, how good."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.pretraining.loop import LOG_EVERY, History
from engine.pretraining.settings import Settings

_SHOWN_LOSSES = 12


@dataclass(frozen=True)
class CardFacts:
    """What a card says that the training itself does not know."""

    title: str
    purpose: str
    recipe: str
    command: str
    parameters: int
    batch_size: str


def write_card(path: Path, *, facts: CardFacts, history: History, settings: Settings) -> None:
    """Write the model card of one pre-training as Markdown to ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_card(facts, history=history, settings=settings), encoding="utf-8")


def render_card(facts: CardFacts, *, history: History, settings: Settings) -> str:
    """Return the card as Markdown; every figure comes from the training's own history."""
    rows = "\n".join(f"| {name} | {value:.4f} |" for name, value in history.measures.items())
    stride = max(1, len(history.losses) // _SHOWN_LOSSES)
    shown = [index for index in range(len(history.losses)) if index % stride == 0 or index == len(history.losses) - 1]
    curve = "\n".join(f"| {(index + 1) * LOG_EVERY} | {history.losses[index]:.4f} |" for index in shown)
    return f"""# {facts.title}

{facts.purpose}

Not for clinical use: these weights have seen drawn phantoms only, never a patient.

| | |
|---|---|
| Parameters | {facts.parameters:,} (stored as float16) |
| Data | procedural phantoms of the *generic* site of six tasks, {settings.images_per_task} images a task at \
{settings.image_px} px, corpus seed {settings.corpus_seed}; no site of a demo, test or benchmark |
| Steps | {history.step} of {facts.batch_size} |
| Training time | {history.wall_s / 60:.1f} min |
| Seed | {settings.seed} |
| Precision | {"bfloat16 autocast, float32 weights" if settings.bf16 else "float32"} |
| Machine | {platform.machine()}, {torch.get_num_threads()} CPU thread(s), PyTorch {torch.__version__} |
| Licence | Apache-2.0, as the project |
| Made by | `{facts.command}` |

## Recipe

{facts.recipe}

## Held-out measures (moving average of the weights)

| Measure | Value |
|---|---|
{rows}

## Loss (mean of {LOG_EVERY} steps)

| Step | Loss |
|---|---|
{curve}
"""
