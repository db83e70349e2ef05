"""The one schema of a run: form fields, CLI flags, TOML keys and stored records all come from :class:`RunConfig`.

Every constant that the DSFedMed paper (arXiv 2601.16073) or its authors' code does not give is marked "(ours)" in its
description. All models are frozen and refuse unknown keys.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from engine.config_distillation import DistillationConfig
from engine.config_faults import InvalidConfig, SeveralFaults, faults_of
from engine.config_federation import FederationConfig, JoinConfig
from engine.config_fields import (
    MAX_NAME_LETTERS,
    Address,
    Batch,
    Epochs,
    Factor,
    Folder,
    Fraction,
    Name,
    Plain,
    PositiveFactor,
    Section,
    Source,
    StepSize,
)
from engine.config_generators import (
    GENERATORS,
    DdpmConfig,
    GeneratorConfig,
    GeneratorLoraConfig,
    Pix2PixConfig,
    ReleaseConfig,
)
from engine.config_privacy import PrivacyConfig, privacy_fault
from engine.config_samfed import PublicConfig, SamFedConfig
from engine.config_tuning import ExpertsConfig, LoraConfig
from engine.errors import UserError
from engine.methods import catalogue

MAX_FILE_BYTES = 1_000_000
_LIMIT_FAULTS = ("less_than_equal", "string_too_long")
DEFAULT_METHOD = "dsfedmed"
WHERE_KEYS = ("backend", "workers", "ray_address", "server")
"""Keys that say where the sites are; they change no number."""
PRESETS_DIR = Path(__file__).parent / "presets"


def _refuse_unknown_method(name: str) -> str:
    if name not in catalogue.methods():
        raise ValueError(catalogue.unknown_method(name).removesuffix("."))
    return name


def _offer_methods(schema: dict[str, Any]) -> None:
    schema["enum"] = [name for name, method in catalogue.methods().items() if not method.continues]


class DataConfig(Section):
    """Where the sites' images come from and how they are cut into training, validation and test."""

    source: Literal["phantom", "folder"] = Field("phantom", description="Built-in phantoms, or a folder of real images")
    root: Folder | None = Field(None, description="Dataset folder (source = folder)")
    task: Name = Field("fundus", description="Phantom task: fundus, prostate, nuclei, skin, liver or polyp")
    images_per_site: int = Field(40, ge=1, le=100_000, description="Phantom images at each site")
    sites: tuple[Name, ...] | None = Field(
        None, max_length=1000, description="Sites that take part; all of them when left out"
    )
    classes: tuple[Name, ...] | None = Field(
        None, max_length=256, description="Classes to segment; all of them when left out"
    )
    protocol: Literal["leave-one-site-out", "fixed-test"] = Field("leave-one-site-out", description="What is held out")
    held_out: Name | None = Field(None, description="Site that no training sees; the last one when left out")
    test_root: Folder | None = Field(None, description="Dataset folder of the fixed test set (protocol = fixed-test)")
    public_root: Folder | None = Field(None, description="Dataset folder of the server's public labelled set")
    public_images: int = Field(40, ge=1, le=100_000, description="Phantom images of the public set (ours)")
    site_labels: Literal["read", "ignored"] = Field(
        "read", description="ignored: sites train without masks, which they need not have; any are measured on alone"
    )
    image_px: Annotated[int, Field(ge=32, le=2048)] = Field(128, description="Side of the square model input, pixels")
    fit: Literal["squash", "letterbox"] = Field(
        "squash", description="How other shapes become square: squashed as in the paper; whole, with black bars (ours)"
    )
    validation_fraction: Fraction = Field(0.15, description="Share of each site's patients kept for validation (ours)")
    normalise: Literal["none", "per_image"] = Field(
        "none",
        description="none: uint8/255 as in the paper; per_image: its 0.5-99.5 percentiles to [0, 1] (ours)",
    )
    augment: Literal["none", "flips", "flips_colour", "flips_styles", "nnunet"] = Field(
        "none", description="none as in the paper; nnunet: nnU-Net's; others ours: styles are strong changes of looks"
    )
    pooled: bool = Field(
        False, description="All sites' images at one place, trained on as one site: the ceiling, no federation"
    )


class ModelConfig(Section):
    """One segmentation model: architecture, size and where its first weights come from."""

    name: Literal["tinysam", "sam", "msa", "unet", "nnunet", "timm"] = Field(
        description="TinySAM, SAM, SAM with adapters, MONAI's U-Net, nnU-Net's plain U-Net, U-Net on timm's encoder"
    )
    size: Name = Field(
        "mini", description="mini, 5m (TinySAM), vit_b, vit_l (SAM, msa), paper (U-Nets), planned (nnunet), timm's own"
    )
    weights: Source | None = Field(None, description="Registry name or file of the first weights; random when left out")
    class_head: Literal["copied", "random"] = Field(
        "copied", description="Classes that the first weights lack start as copies of their mask (ours), or random [C]"
    )
    batch_norm: Literal["batch", "kept"] = Field(
        "batch", description="BatchNorm in training: each batch's statistics [C], or those of the first weights (ours)"
    )
    lora_rank: Annotated[int, Field(ge=1, le=256)] | None = Field(
        None, description="Rank of a LoRA on SAM's q and v, which learns with the decoder alone; none when left out"
    )
    lora_alpha: PositiveFactor = Field(4.0, description="LoRA moves q and v by alpha / rank times B A (ours)")


class GenerationConfig(Section):
    """The synthetic set (Eq. 2)."""

    mask_sharing: Literal["real", "deformed"] = Field(
        "real", description="What the server draws masks from: the sites' real masks (paper) or deformed copies (ours)"
    )
    images_per_mask: int = Field(1, ge=1, le=1000, description="Synthetic images for each shared mask (ours)")
    max_masks_per_site: int | None = Field(
        None, ge=1, le=1_000_000, description="Upper limit of masks that a site shares"
    )
    released_share: float = Field(
        0.0, ge=0.0, le=1.0, description="Share drawn by the ControlNet that the sites began with: new styles (ours)"
    )
    sampler_steps: int = Field(20, ge=1, le=1000, description="UniPC steps [D: 20]")
    guidance_scale: float = Field(7.5, ge=1.0, le=100.0, description="Classifier-free guidance; 1 turns it off (ours)")
    batch_size: Batch = Field(8, description="Images generated at once")


class FoundationConfig(Section):
    """Fine-tuning of SAM on the synthetic set at the server (Eq. 5)."""

    epochs: Epochs = Field(20, description="Passes over the synthetic set (ours)")
    batch_size: Batch = Field(4, description="Images in a batch [C: 4]")
    learning_rate: StepSize = Field(1e-4, description="Adam step size [C: 1e-4]")
    freeze_encoder: bool = Field(
        False, description="Train the decoder only, on kept features where nothing is augmented (ours)"
    )


class EvaluationConfig(Section):
    """Measures on the held-out images."""

    batch_size: Batch = Field(8, description="Images in a batch")
    mask_px: int | None = Field(
        None, ge=16, le=4096, description="Side of the scored grid; the decoder's when left out"
    )
    bootstrap_samples: int = Field(1000, ge=1, le=100_000, description="Resamples of the 95 % interval (ours)")


class ExportConfig(Section):
    """The model bundle that sites deploy."""

    student: Literal["distilled", "better_on_validation"] = Field(
        "distilled", description="The distilled one, or FedAvg's where the sites' validation images favour it (ours)"
    )
    site_models: bool = Field(
        False, description="Also each site's own model: what a site keeps of it goes up once, where its rules let it"
    )
    variants: tuple[Literal["half", "int8", "half_int8"], ...] = Field(
        ("half",),
        max_length=3,
        description="Faster ones beside it: at half the side, linear layers in 8 bits (from synthetic images), or both",
    )
    prompt_steps: Annotated[int, Field(ge=0, le=100_000)] = Field(
        0, description="Steps in which a second decoder learns to answer clicks, on synthetic pairs (ours)"
    )
    opset: Annotated[int, Field(ge=17, le=23)] = 18
    parity_tolerance: PositiveFactor = Field(
        1e-4, description="Largest |ONNX - torch| of the logits, as a share of the largest where that is above 1"
    )


class RunConfig(Section):
    """Everything that decides a run's numbers; equal configuration, seed and machine give equal numbers.

    What the method is by definition (its overlay) holds whatever else is given.
    """

    name: Annotated[str, Plain] = Field(
        "run", min_length=1, max_length=MAX_NAME_LETTERS, description="A name for people"
    )
    # A browser's numbers are whole up to 2^53.
    seed: int = Field(1337, ge=0, le=2**53 - 1, description="Root of every random stream [C: 1337]")
    method: Annotated[str, AfterValidator(_refuse_unknown_method)] = Field(
        DEFAULT_METHOD, description="Compared system to run", json_schema_extra=_offer_methods
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where it is faster")
    threads: int | None = Field(None, ge=1, le=1024, description="CPU threads; all cores when left out")
    backend: Literal["local", "ray", "superlink"] = Field(
        "local", description="Where the sites are: in this process, in processes side by side, or at hospitals"
    )
    workers: int | None = Field(
        None, ge=1, le=1024, description="ray: sites that work at a time; one a core when left out (ours)"
    )
    ray_address: Address | None = Field(
        None, description="ray: HOST:PORT of a cluster that this machine is a part of; one is started when left out"
    )
    server: Folder | None = Field(None, description="The federation's folder at its server (backend = superlink)")
    pos_weight: PositiveFactor = Field(2.0, description="Weight of foreground pixels in BCE [C: 2]")
    dice_weight: Factor = Field(0.0, description="Weight of an added soft Dice loss (ours; the paper has none)")
    data: DataConfig = DataConfig()
    student: ModelConfig = ModelConfig(name="tinysam", weights="tinysam-mini")
    teacher: ModelConfig = ModelConfig(name="sam", weights="sam-mini")
    federation: FederationConfig = FederationConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    join: JoinConfig = JoinConfig()
    public: PublicConfig = PublicConfig()
    samfed: SamFedConfig = SamFedConfig()
    lora: LoraConfig = LoraConfig()
    experts: ExpertsConfig = ExpertsConfig()
    generator: GeneratorConfig = GeneratorConfig()
    generator_lora: GeneratorLoraConfig = GeneratorLoraConfig()
    pix2pix: Pix2PixConfig = Pix2PixConfig()
    ddpm: DdpmConfig = DdpmConfig()
    release: ReleaseConfig = ReleaseConfig()
    generation: GenerationConfig = GenerationConfig()
    foundation: FoundationConfig = FoundationConfig()
    distillation: DistillationConfig = DistillationConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    export: ExportConfig = ExportConfig()

    @model_validator(mode="before")
    @classmethod
    def _overlay(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        name = values.get("method", DEFAULT_METHOD)
        method = catalogue.methods().get(name) if isinstance(name, str) else None
        return method.applied_to(values) if method and method.fixed else values

    @model_validator(mode="after")
    def _check(self) -> RunConfig:
        misfits = tuple(_misfits(self))
        if misfits:
            raise SeveralFaults(misfits)
        return self

    def content_hash(self) -> str:
        """Return 16 hex digits that identify everything but the name and where sites are; a checkpoint carries them.

        Defaults are left out: a key that a later version adds leaves the runs of this one as they are.
        """
        text = json.dumps(
            self.model_dump(mode="json", exclude={"name", *WHERE_KEYS}, exclude_defaults=True), sort_keys=True
        )
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _misfits(config: RunConfig) -> Iterator[str]:
    """Yield a sentence for each key that does not fit the others; it begins with the key that it is about."""
    if config.backend == "superlink" and config.server is None:
        yield "server is needed when backend is 'superlink'"
    method = catalogue.methods().get(config.method)
    for section in ("lora", "experts"):
        if getattr(config, section).use and method is not None and section not in method.sections:
            yield f"{section}.use needs a method that reads [{section}], which '{config.method}' does not"
    yield from _privacy_misfits(config)
    if config.data.source == "folder" and config.data.root is None and config.backend != "superlink":
        yield "data.root is needed when data.source is 'folder'"
    if config.data.pooled and config.backend != "local":
        yield "data.pooled needs backend 'local': images of sites elsewhere cannot be brought together"
    if config.student.lora_rank is not None:
        yield "student.lora_rank: of the models of a section, a LoRA is laid beside the teacher alone"
    if config.data.site_labels == "ignored" and method is not None and method.reads_labels:
        yield f"data.site_labels is 'ignored', and the sites of '{config.method}' train on their masks"
    if config.data.protocol == "fixed-test" and config.data.test_root is None:
        yield "data.test_root is needed when data.protocol is 'fixed-test'"
    if config.distillation.mode == "reference" and config.distillation.selector != "in_batch_quantile":
        yield "distillation.selector must be 'in_batch_quantile' when distillation.mode is 'reference'"
    if config.generation.released_share > 0:
        if not GENERATORS[config.generator.kind].has_backbone:
            yield "generation.released_share is drawn by a released ControlNet: generator.kind has none"
        elif config.generator.controlnet is None:
            yield "generation.released_share needs generator.controlnet, which draws that share"
    for role in ("student", "teacher"):
        model: ModelConfig = getattr(config, role)
        if model.batch_norm == "kept" and model.weights is None:
            yield f"{role}.batch_norm 'kept' needs {role}.weights, whose statistics are kept"
    if config.distillation.batch_norm_statistics == "sites" and config.student.batch_norm == "kept":
        yield "distillation.batch_norm_statistics 'sites' replaces what student.batch_norm 'kept' keeps"


def _privacy_misfits(config: RunConfig) -> Iterator[str]:
    method = catalogue.methods().get(config.method)
    if config.privacy.is_on and method is not None and not method.continues and "privacy" not in method.sections:
        yield f"privacy.mechanism covers rounds of averaging, and '{config.method}' has none"
    experts, pooled = config.experts.use, config.data.pooled
    found = privacy_fault(config.privacy, config.federation, has_experts=experts, pooled=pooled)
    yield from (fault for fault in (found, config.generator.privacy_fault()) if fault is not None)


def parse_config(values: Any) -> RunConfig:
    """Return the configuration in ``values``; raise ``InvalidConfig``, a ``UserError`` that names the keys at fault."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise InvalidConfig(faults_of(error.errors())) from error


def parse_stored_config(values: Any) -> RunConfig:
    """Return the configuration of a run as it was stored, also where a new run could not have it.

    It may be beyond limits that came later, and its method may not be registered here any more.
    """
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        faults = error.errors()
        limits = [e["loc"] for e in faults if e["type"] in _LIMIT_FAULTS and 1 <= len(e["loc"]) <= 2]
        beyond = [*limits, *(e["loc"] for e in faults if e["loc"] == ("method",))]
        if len(beyond) < error.error_count():
            return parse_config(values)
    within = json.loads(json.dumps(values))
    for *parents, key in beyond:
        (within[parents[0]] if parents else within).pop(key)
    config = parse_config(within)
    for *parents, key in beyond:
        if parents:
            part = getattr(config, str(parents[0])).model_copy(update={str(key): values[parents[0]][key]})
            config = config.model_copy(update={str(parents[0]): part})
        else:
            config = config.model_copy(update={str(key): values[key]})
    return config


def preset_names() -> list[str]:
    """Return the names of the shipped presets, sorted."""
    return sorted(path.stem for path in PRESETS_DIR.glob("*.toml"))


def load_config(path_or_preset: str | Path, *, overrides: dict[str, Any] | None = None) -> RunConfig:
    """Return the configuration of a preset name or a TOML file, with dotted-key ``overrides`` applied on top."""
    path = PRESETS_DIR / f"{path_or_preset}.toml" if str(path_or_preset) in preset_names() else Path(path_or_preset)
    values = _read_toml(path)
    for key, value in (overrides or {}).items():
        section = values
        *parents, leaf = key.split(".")
        for parent in parents:
            section = section.setdefault(parent, {})
            if not isinstance(section, dict):
                break  # parse_config refuses it, with the key's name
        else:
            section[leaf] = value
    return parse_config(values)


def _read_toml(path: Path) -> dict[str, Any]:
    """Return the values of a TOML file; ``UserError`` ``config.not_found`` or ``config.not_toml``."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        said = f" ({error.strerror})" if isinstance(error, OSError) and not isinstance(error, FileNotFoundError) else ""
        raise UserError(
            "config.not_found",
            what=f"There is neither a preset nor a readable file called '{str(path)[:200]}'{said}.",
            why="A run needs a complete configuration.",
            fix=f"Use one of the presets ({', '.join(preset_names())}) or the path of a TOML file.",
        ) from error
    try:
        if len(content) > MAX_FILE_BYTES:
            raise ValueError(f"it has more than {MAX_FILE_BYTES} bytes")
        return tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # also UnicodeDecodeError, and numbers of thousands of digits
        said = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise UserError(
            "config.not_toml",
            what=f"{path} is not valid TOML: {said}.",
            why="Configurations are TOML files.",
            fix="Mend the named line, or start from a copy of a file in engine/presets.",
        ) from error
