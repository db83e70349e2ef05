"""The frozen latent-diffusion backbone: diffusers' and transformers' own classes at every size, one code path.

A backbone is a folder in the diffusers layout (``vae``, ``unet``, ``text_encoder``, ``tokenizer``, ``scheduler``):
the mini one of this project, or Stable Diffusion 1.5. The prompt is the modality's plain text.

Shape legend: B images, H W pixels, C latent channels, h = H / factor and w = W / factor, T tokens, D embedding width.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME as DIFFUSERS_FILE
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, PreTrainedModel
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.utils import SAFE_WEIGHTS_NAME as TRANSFORMERS_FILE
from transformers.utils import logging as transformers_logging

from engine.errors import UserError
from engine.models.assets import ASSETS_FOLDER, check_file, find_weights_folder, list_assets
from engine.seeding import derive_seed

WEIGHTS_FOLDER = ASSETS_FOLDER / "weights"
_PARTS = ("vae", "unet", "text_encoder", "tokenizer", "scheduler")
_CROSS_DOWN, _CROSS_UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"


@dataclass(frozen=True)
class BackboneSize:
    """The numbers that tell one latent-diffusion model from another.

    ``vae_channels`` has one entry a level, so pixels per latent are ``2 ** (levels - 1)``; ``attention`` says which
    levels of the U-Net attend to the prompt.
    """

    vae_channels: tuple[int, ...]
    vae_layers: int
    vae_groups: int
    vae_attention: bool
    latent_channels: int
    latent_px: int
    unet_channels: tuple[int, ...]
    unet_layers: int
    attention: tuple[bool, ...]
    heads: int
    text_width: int
    text_layers: int
    text_heads: int
    text_intermediate: int
    text_length: int
    scheduler: dict[str, Any] = field(default_factory=dict)


SIZES: dict[str, BackboneSize] = {
    "mini": BackboneSize(
        vae_channels=(16, 32, 64, 96),
        vae_layers=1,
        vae_groups=2,
        # Without attention the VAE is purely local: trained on crops, right at any image size.
        vae_attention=False,
        latent_channels=12,
        latent_px=16,
        unet_channels=(96, 128, 160),
        unet_layers=1,
        attention=(False, True, False),
        heads=4,
        text_width=64,
        text_layers=2,
        text_heads=2,
        text_intermediate=128,
        text_length=48,
        # v-prediction on a schedule that ends at pure noise (Lin et al., WACV 2024), so that brightness is learnt.
        scheduler={
            "prediction_type": "v_prediction",
            "rescale_betas_zero_snr": True,
            "timestep_spacing": "trailing",
            "clip_sample": False,
        },
    ),
    "sd15": BackboneSize(
        vae_channels=(128, 256, 512, 512),
        vae_layers=2,
        vae_groups=32,
        vae_attention=True,
        latent_channels=4,
        latent_px=64,
        unet_channels=(320, 640, 1280, 1280),
        unet_layers=2,
        attention=(True, True, True, False),
        heads=8,
        text_width=768,
        text_layers=12,
        text_heads=12,
        text_intermediate=3072,
        text_length=77,
        scheduler={"prediction_type": "epsilon", "clip_sample": False, "steps_offset": 1},
    ),
}


@dataclass(frozen=True)
class Backbone:
    """The parts of a latent diffusion model, all on one device; gradients are off after :func:`freeze`."""

    vae: AutoencoderKL
    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: DDPMScheduler

    @property
    def device(self) -> torch.device:
        """Return where the U-Net lies."""
        return self.unet.device

    @property
    def factor(self) -> int:
        """Return the pixels per latent, a power of two."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @torch.no_grad()
    def embed_prompts(self, prompts: list[str]) -> torch.Tensor:
        """Return the text embeddings (B, T, D) of ``prompts``, in the text encoder's dtype."""
        return embed_prompts(self.text_encoder, self.tokenizer, prompts)


def embed_prompts(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, prompts: list[str]) -> torch.Tensor:
    """Return text embeddings (B, T, D) with gradient history where it is on; longer prompts are cut at T tokens."""
    tokens = tokenizer(
        prompts,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    return text_encoder(tokens.input_ids.to(text_encoder.device))[0]


def build_backbone(size: str, *, seed: int) -> Backbone:
    """Return a randomly initialised backbone of ``size`` (a row of ``SIZES``), equal for equal ``seed``.

    The tokenizer knows bytes and no merges, so any prompt in any language can be tokenised.
    """
    if size not in SIZES:
        raise UserError(
            "generator.unknown_size",
            what=f"There is no latent diffusion model of size {size!r}.",
            why=f"The known sizes are {', '.join(SIZES)}.",
            fix="Choose one of these sizes.",
        )
    row = SIZES[size]
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(derive_seed(seed, "backbone", size))
        return Backbone(
            vae=_build_vae(row),
            unet=_build_unet(row),
            text_encoder=_build_text_encoder(row),
            tokenizer=_byte_tokenizer(row.text_length),
            scheduler=DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", **row.scheduler),
        )


def load_backbone(
    name_or_folder: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Backbone:
    """Return the frozen backbone in a folder of the diffusers layout, or in ``assets/weights/NAME``.

    Only safetensors are read. Weights stored in half precision come back in ``dtype``.

    Raises
    ------
    UserError
        ``generator.backbone_absent`` when there is no such folder or a part of it is missing.
    """
    folder = _whole_folder(name_or_folder)
    transformers_logging.disable_progress_bar()
    options = {"local_files_only": True, "use_safetensors": True}
    backbone = Backbone(
        vae=AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=dtype, **options),
        unet=UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=dtype, **options),
        text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=dtype, **options),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True),
        scheduler=DDPMScheduler.from_pretrained(folder / "scheduler", local_files_only=True),
    )
    return freeze(backbone, device=torch.device(device))


@dataclass(frozen=True)
class Outline:
    """The shapes of a backbone, without memory for its weights: enough to know what a ControlNet of it looks like."""

    vae: AutoencoderKL
    unet: UNet2DConditionModel


def outline_backbone(name_or_folder: str | Path) -> Outline:
    """Return the shapes of the backbone in a folder; ``UserError`` ``generator.backbone_absent`` as in loading it."""
    folder = _whole_folder(name_or_folder)
    with torch.device("meta"):
        return Outline(
            AutoencoderKL.from_config(AutoencoderKL.load_config(folder / "vae")),
            UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet")),
        )


def _whole_folder(name_or_folder: str | Path) -> Path:
    folder = find_folder(name_or_folder)
    missing = [part for part in _PARTS if not (folder / part).is_dir()] if folder else list(_PARTS)
    if folder is None or missing:
        raise UserError(
            "generator.backbone_absent",
            what=f"There is no latent diffusion model '{name_or_folder}' (missing: {', '.join(missing)}).",
            why="The generator is a ControlNet on top of a frozen latent diffusion model in the diffusers layout.",
            fix="Run `python -m engine pretrain vae` and `pretrain unet`, or set generator.backbone to the folder of "
            "Stable Diffusion 1.5.",
        )
    return folder


def save_backbone(backbone: Backbone, folder: Path, *, dtype: torch.dtype = torch.float16) -> None:
    """Write every part of ``backbone`` below ``folder``; weights as safetensors of ``dtype``."""
    for part in ("vae", "unet", "text_encoder"):
        save_half(getattr(backbone, part), folder / part, dtype=dtype)
    backbone.tokenizer.save_pretrained(folder / "tokenizer")
    backbone.scheduler.save_pretrained(folder / "scheduler")


def save_half(model: Any, folder: Path, *, dtype: torch.dtype = torch.float16) -> None:
    """Write the configuration and, as safetensors of ``dtype``, the weights of a diffusers or transformers model."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(model, PreTrainedModel):
        model.config.save_pretrained(folder)
        path = folder / TRANSFORMERS_FILE
    else:
        model.save_config(folder)
        _forget_origin(folder / model.config_name)
        path = folder / DIFFUSERS_FILE
    state = {
        key: (tensor.to(dtype) if tensor.is_floating_point() else tensor).detach().cpu().contiguous()
        for key, tensor in model.state_dict().items()
    }
    save_file(state, path, metadata={"format": "pt"})


def _forget_origin(config: Path) -> None:
    """Take out of a diffusers configuration the folder that the model was once read from: a path of this machine."""
    values = json.loads(config.read_text(encoding="utf-8"))
    values.pop("_name_or_path", None)
    config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def freeze(backbone: Backbone, *, device: torch.device) -> Backbone:
    """Switch ``backbone`` to inference, without gradients, on ``device``; returns it."""
    for model in (backbone.vae, backbone.unet, backbone.text_encoder):
        model.to(device).eval().requires_grad_(False)
    return backbone


def find_folder(name_or_folder: str | Path) -> Path | None:
    """Return the folder called ``name_or_folder``: a path, or a name below ``assets/weights``; None where absent.

    The registered files of a name are held to their checksums; UserError ``weights.checksum``.
    """
    folder = find_weights_folder(name_or_folder)
    if folder is None or folder == Path(name_or_folder):
        return folder
    for asset in list_assets():
        path = ASSETS_FOLDER / asset.file
        if path.is_relative_to(folder) and path.is_file():
            check_file(path, asset=asset, sha256=None)
    return folder


def _build_vae(row: BackboneSize) -> AutoencoderKL:
    levels = len(row.vae_channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=row.vae_channels,
        layers_per_block=row.vae_layers,
        latent_channels=row.latent_channels,
        norm_num_groups=row.vae_groups,
        sample_size=row.latent_px * 2 ** (levels - 1),
        mid_block_add_attention=row.vae_attention,
    )


def _build_unet(row: BackboneSize) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=row.latent_px,
        in_channels=row.latent_channels,
        out_channels=row.latent_channels,
        block_out_channels=row.unet_channels,
        layers_per_block=row.unet_layers,
        down_block_types=tuple(_CROSS_DOWN if attends else "DownBlock2D" for attends in row.attention),
        up_block_types=tuple(_CROSS_UP if attends else "UpBlock2D" for attends in reversed(row.attention)),
        cross_attention_dim=row.text_width,
        # diffusers' name is historical: the number is the count of heads (huggingface/diffusers issue 2011).
        attention_head_dim=row.heads,
    )


def _build_text_encoder(row: BackboneSize) -> CLIPTextModel:
    end = 2 * 256 + 1
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=end + 1,
            hidden_size=row.text_width,
            intermediate_size=row.text_intermediate,
            num_hidden_layers=row.text_layers,
            num_attention_heads=row.text_heads,
            max_position_embeddings=row.text_length,
            projection_dim=row.text_width,
            bos_token_id=end - 1,
            eos_token_id=end,
            pad_token_id=end,
        )
    )


def _byte_tokenizer(length: int) -> CLIPTokenizer:
    symbols = list(bytes_to_unicode().values())
    tokens = [*symbols, *(f"{symbol}</w>" for symbol in symbols), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=length)
