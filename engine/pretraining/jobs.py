"""The five pre-trainings as jobs: train, write float16 weights, a model card and the registry's row."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from torch import nn

from engine.errors import UserError
from engine.generation.backbone import WEIGHTS_FOLDER, Backbone, build_backbone, freeze, load_backbone, save_backbone
from engine.generation.controlnet import save_controlnet
from engine.models.assets import register_local
from engine.models.weights import save_weights
from engine.pretraining import segmenters
from engine.pretraining.card import CardFacts, write_card
from engine.pretraining.diffusion import ControlnetPretraining, UnetPretraining, latent_scale
from engine.pretraining.loop import Budget, History, pretrain
from engine.pretraining.segmenters import SegmenterPretraining
from engine.pretraining.settings import Settings, work_folder
from engine.pretraining.vae import VaePretraining

LDM, CONTROLNET = "ldm-mini", "controlnet-mini"
LICENCE = "Apache-2.0"
DEFAULT_MINUTES = {"vae": 15.0, "unet": 25.0, "controlnet": 13.0, "sam": 20.0, "tinysam": 14.0}
"""What each job takes on two CPU cores when no budget is given."""

_DIFFUSION_FILE = "diffusion_pytorch_model.safetensors"
_LOSS = "v-prediction with zero terminal SNR, min-SNR weights (gamma 5), stratified timesteps, AdamW, cosine schedule."
_FACTS = {
    "vae": (
        "Mini autoencoder (ldm-mini/vae)",
        "Turns RGB images into latents of 12 channels at an eighth of the side, and back.",
        "diffusers' AutoencoderKL without attention, on random 64 px crops with flips, turns and colour gains. Loss: "
        "L1 of values, differences and 8 px blocks, L1 of the fine detail's spread, KL weight 3e-6. For 400 steps the "
        "latents are drawn to the blocks' principal components. AdamW, cosine schedule.",
        "32 crops",
    ),
    "unet": (
        "Mini latent diffusion model (ldm-mini)",
        "diffusers' conditional U-Net with a tiny CLIP text encoder; the prompt is the modality's plain text, spelt in "
        "bytes. Stands where Stable Diffusion 1.5 stands at paper size.",
        f"U-Net, text encoder and a ControlNet beside them; one prompt in ten empty, one row in four unmasked. {_LOSS}",
        "40 latents",
    ),
    "controlnet": (
        "Mini mask-conditioned ControlNet (controlnet-mini)",
        "The ControlNet that sites start from: draws an image of any of the six tasks that follows a mask.",
        "Begun beside the U-Net (its copy and zero convolutions; see the U-Net's card), then, in the steps told here, "
        f"alone on the frozen backbone, on all six tasks at once. {_LOSS}",
        "40 latents",
    ),
}


def run_job(
    name: str,
    *,
    budget: Budget,
    settings: Settings,
    resume: bool,
    output: Path = WEIGHTS_FOLDER,
    log: Callable[[str], None] = print,
) -> History:
    """Run the pre-training ``name`` and write its weights, card and registry row below ``output``.

    ``vae``, ``unet`` and ``controlnet`` build on each other in this order, ``sam`` on ``tinysam``. The registry's row
    is written only when ``output`` is the project's own ``assets/weights``.

    Raises
    ------
    UserError
        ``pretrain.unknown``; ``generator.backbone_absent`` when an earlier job has not been run.
    """
    if name not in DEFAULT_MINUTES:
        raise UserError(
            "pretrain.unknown",
            what=f"There is no pre-training called {name!r}.",
            why=f"The known ones are {', '.join(DEFAULT_MINUTES)}.",
            fix="Choose one of these.",
        )
    run = _JOBS.get(name, _run_segmenter)
    return run(name, budget, settings, resume, output, log)


def _run_vae(
    name: str, budget: Budget, settings: Settings, resume: bool, output: Path, log: Callable[[str], None]
) -> History:
    recipe = VaePretraining(settings)
    history = pretrain(
        recipe, budget=budget, folder=work_folder(name), resume=resume, identity=_identity(settings), log=log
    )
    # A backbone is loaded whole: the parts that the next job trains start at random.
    fresh = build_backbone("mini", seed=settings.seed)
    backbone = freeze(
        Backbone(recipe.model, fresh.unet, fresh.text_encoder, fresh.tokenizer, fresh.scheduler), device=fresh.device
    )
    scale = latent_scale(backbone, settings.held_out_corpora(), settings=settings)
    backbone.vae.register_to_config(scaling_factor=scale)
    save_backbone(backbone, output / LDM)
    _tell(name, output / LDM / "vae", budget=budget, history=history, settings=settings, model=recipe.model)
    _register("ldm-mini-vae", output / LDM / "vae" / _DIFFUSION_FILE, job=name, output=output)
    return history


def _run_unet(
    name: str, budget: Budget, settings: Settings, resume: bool, output: Path, log: Callable[[str], None]
) -> History:
    shipped, fresh = load_backbone(output / LDM), build_backbone("mini", seed=settings.seed)
    backbone = Backbone(shipped.vae, fresh.unet, fresh.text_encoder, shipped.tokenizer, shipped.scheduler)
    recipe = UnetPretraining(settings, backbone=backbone)
    identity = _identity(settings, backbone.vae)
    history = pretrain(recipe, budget=budget, folder=work_folder(name), resume=resume, identity=identity, log=log)
    save_backbone(backbone, output / LDM)
    save_controlnet(recipe.controlnet, output / CONTROLNET)
    _tell(name, output / LDM, budget=budget, history=history, settings=settings, model=recipe.model)
    _register(LDM, output / LDM / "unet" / _DIFFUSION_FILE, job=name, output=output)
    _register("ldm-mini-text", output / LDM / "text_encoder" / "model.safetensors", job=name, output=output)
    return history


def _run_controlnet(
    name: str, budget: Budget, settings: Settings, resume: bool, output: Path, log: Callable[[str], None]
) -> History:
    backbone = load_backbone(output / LDM)
    recipe = ControlnetPretraining(settings, backbone=backbone, source=output / CONTROLNET)
    identity = _identity(settings, backbone.vae, backbone.unet)
    history = pretrain(recipe, budget=budget, folder=work_folder(name), resume=resume, identity=identity, log=log)
    save_controlnet(recipe.model, output / CONTROLNET)
    _tell(name, output / CONTROLNET, budget=budget, history=history, settings=settings, model=recipe.model)
    _register(CONTROLNET, output / CONTROLNET / _DIFFUSION_FILE, job=name, output=output)
    return history


def _run_segmenter(
    name: str, budget: Budget, settings: Settings, resume: bool, output: Path, log: Callable[[str], None]
) -> History:
    recipe = SegmenterPretraining(settings, name=name)
    history = pretrain(
        recipe, budget=budget, folder=work_folder(name), resume=resume, identity=_identity(settings), log=log
    )
    path = save_weights(recipe.model, output / f"{name}-mini.safetensors", half=True)
    facts = CardFacts(
        title=f"{name}-mini",
        purpose=f"The mini {'SAM' if name == 'sam' else 'TinySAM'} that phantom and CPU runs start from.",
        recipe=(segmenters.__doc__ or "").partition("Shape legend")[0].strip(),
        command=_command(name, budget),
        parameters=_count(recipe.model),
        batch_size="24 images at 128 px or 6 at 256 px",
    )
    write_card(path.with_suffix(".md"), facts=facts, history=history, settings=settings)
    _register(f"{name}-mini", path, job=name, output=output, model=name, size="mini")
    return history


_JOBS: dict[str, Callable[..., History]] = {"vae": _run_vae, "unet": _run_unet, "controlnet": _run_controlnet}


def _tell(name: str, folder: Path, *, budget: Budget, history: History, settings: Settings, model: nn.Module) -> None:
    title, purpose, recipe, batch_size = _FACTS[name]
    facts = CardFacts(title, purpose, recipe, _command(name, budget), _count(model), batch_size)
    write_card(folder / "model_card.md", facts=facts, history=history, settings=settings)


def _command(name: str, budget: Budget) -> str:
    """Return the command that trains as long again: what a job takes by default may not be what this one was given."""
    steps = "" if budget.steps is None else f" --steps {budget.steps}"
    minutes = "" if budget.minutes is None else f" --minutes {budget.minutes:g}"
    return f"python -m engine pretrain {name}{steps}{minutes}"


def _register(
    name: str, path: Path, *, job: str, output: Path, model: str | None = None, size: str | None = None
) -> None:
    if output.resolve() == WEIGHTS_FOLDER.resolve():
        command = f"python -m engine pretrain {job}"
        register_local(name, path=path, licence=LICENCE, made_by=command, model=model, size=size)


def _identity(settings: Settings, *frozen: nn.Module) -> str:
    """Return what a checkpoint depends on: the settings and the weights that the training takes as given."""
    digest = hashlib.sha256(repr(settings).encode())
    for module in frozen:
        for name, value in module.state_dict().items():
            digest.update(name.encode() + value.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
