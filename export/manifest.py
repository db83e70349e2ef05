"""What a model bundle says about itself: ``manifest.json`` beside ``model.onnx``. Torch-free.

A bundle is a folder of plain files that a hospital can copy: the ONNX model, this manifest, and a model card.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from engine.data.tiling import Eye, Looks
from engine.errors import UserError
from export.appearance import TrainingAppearance

FORMAT = "dsfedmed-bundle"
FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
MODEL_FILE = "model.onnx"
CARD_FILE = "MODEL_CARD.md"
INPUT_NAME = "image"
OUTPUT_NAME = "logits"
EMBEDDING_NAME, POINTS_NAME, LABELS_NAME, MASK_NAME = "embedding", "points", "labels", "mask"
PROMPT_DECODER_FILE = "prompt_decoder.onnx"
LICENCE = "Apache-2.0"
NOTICE = (
    "For research use only. This model is not a medical device, has not been validated for clinical use, and must not "
    "be used for diagnosis or treatment."
)

MAX_MANIFEST_BYTES = 4_000_000
MAX_SIDE_PX = 4096
MAX_CLASSES = 256
LOOKS_GAIN, LOOKS_IMAGES = 0.005, 8
"""Dice that a slower way of looking has to add before it is what a model does by itself, and on how many validation
images at least (ours)."""
FULL = "full"
"""Name of the model itself among its variants."""
VARIANT_LOSS, VARIANT_IMAGES = 0.005, 8
"""Dice that a faster variant may lose to be what answers by itself, and the least validation images that say so (ours).
"""
VARIANT_RULE = (
    f"By itself the fastest answers that lost at most {100 * VARIANT_LOSS:g} points of Dice on at least "
    f"{VARIANT_IMAGES} validation images of the sites; the full one where none did, in parts of an image, and on a GPU."
)
Text = Annotated[str, Field(max_length=4096)]
Count = Annotated[int, Field(ge=0, lt=2**53)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[
    str, Field(max_length=100, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", description="A name, never a path")
]


class Record(BaseModel):
    """Base of every part of a manifest: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class BundledFile(Record):
    """One file of the bundle, by content."""

    sha256: Sha256
    size_bytes: Count


class BundledModel(Record):
    """Which model this is."""

    name: Text
    size: Text
    role: Text
    """Name of the model in its run, for instance distilled_student."""
    parameters: Count


class Parity(Record):
    """How far the ONNX model's logits are from the PyTorch model's on seeded images."""

    max_abs_difference: float
    mean_abs_difference: float
    mask_disagreement: float
    """Share of pixels whose side of probability 0.5 differs, in [0, 1]."""
    tolerance: float
    num_images: Count


class LooksMeasured(Record):
    """Mean Dice at the images' own resolution for each way of looking, of the sites' validation images."""

    whole: Annotated[float, Field(ge=0, le=1)]
    parts: Annotated[float, Field(ge=0, le=1)]
    fine: Annotated[float, Field(ge=0, le=1)]
    num_images: Annotated[int, Field(ge=1, lt=2**53)]


class Timing(Record):
    """How long one input takes on the machine that exported, all variants in turn; other work may have run beside."""

    seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """The median."""
    threads: Annotated[int, Field(ge=1, le=1024)]
    repeats: Annotated[int, Field(ge=1, le=2**31)]


class VariantDice(Record):
    """Mean Dice at the images' own resolution, seen as a whole, of the same validation images of the sites."""

    dice: Annotated[float, Field(ge=0, le=1)]
    full: Annotated[float, Field(ge=0, le=1)]
    """Of the model itself, in float32 at its full side."""
    num_images: Annotated[int, Field(ge=1, lt=2**53)]

    @property
    def loss(self) -> float:
        """Return by how much it is below the model itself; what both tell has six decimals."""
        return round(self.full - self.dice, 6)

    @property
    def points(self) -> float:
        """Return what it gains (below 0: loses) in points of Dice, to a tenth, as tables tell it."""
        return round(-100 * self.loss, 1) + 0.0  # no -0.0


class Variant(Record):
    """One way of running the bundle's model: another side of its input, other numbers in it. Size and SHA-256 of its
    file are in ``files``."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,30}$")]
    file: FileName
    image_px: Annotated[int, Field(ge=1, le=MAX_SIDE_PX)]
    precision: Literal["float32", "int8"]
    parity: Parity
    """Against PyTorch in float32, at this side."""
    timing: Timing | None = None
    measured: VariantDice | None = None
    """None where no site has measured it."""


class PromptDecoder(Record):
    """A graph that answers clicks on features that the model itself gives as a second output.

    Size and SHA-256 of its file are in ``files``.
    """

    file: FileName
    embedding: tuple[
        Annotated[int, Field(ge=1, le=4096)],
        Annotated[int, Field(ge=1, le=MAX_SIDE_PX)],
        Annotated[int, Field(ge=1, le=MAX_SIDE_PX)],
    ]
    """Channels, rows and columns of the features of one model input."""
    steps: Annotated[int, Field(ge=1, lt=2**31)]
    """In which it learnt to answer prompts, on synthetic images."""
    parity: Parity
    """Against PyTorch, both graphs one after the other."""


class Manifest(Record):
    """Everything that a site needs to run the model, and to know where it comes from."""

    format: Literal["dsfedmed-bundle"]
    format_version: Literal[1]
    name: Text
    task: Text
    modality: Text
    classes: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=255)], ...], Field(min_length=1)]
    image_px: Annotated[int, Field(ge=1, le=MAX_SIDE_PX)]
    """Side of the square model input in pixels."""
    mask_stride: Annotated[int, Field(ge=1, le=MAX_SIDE_PX)]
    """Input pixels per logit."""
    normalise: Literal["none", "per_image"]
    fit: Literal["squash", "letterbox"] = "squash"
    """How an image of another shape becomes the square input: squashed, or whole with black (0) beside it."""
    value_range: tuple[float, float] | None = None
    """Stored values of an image that become 0 and 1; None leaves it to the file's own depth or window."""
    slice_axis: Literal[0, 1, 2] = 2
    """Axis that NIfTI volumes are cut across (0 sagittal, 1 coronal, 2 axial)."""
    window: Literal["auto", "dicom", "stored"] = "auto"
    """How grey DICOM without ``value_range`` becomes [0, 1] (``engine.data.readers.read_image``)."""
    model: BundledModel
    appearance: TrainingAppearance | None = None
    """What its training images look like; None in bundles of before, and where no site has told."""
    looks: LooksMeasured | None = None
    """Which way of looking at images was better; None where nobody has measured it."""
    variants: Annotated[tuple[Variant, ...], Field(max_length=20)] = ()
    """The model itself first, then faster ones; none in bundles of before (``every_variant`` then has it all the same).
    """
    prompts: PromptDecoder | None = None
    """None where nobody has taught the model what clicks mean, and in bundles of before."""
    opset: int
    parity: Parity
    metrics: Annotated[tuple[dict[str, Any], ...], Field(max_length=10_000)]
    """Rows of the results table (fields of ``engine.types.EvaluationRow``)."""
    files: Annotated[dict[FileName, BundledFile], Field(max_length=100)]
    config: dict[str, Any]
    """The complete RunConfig; of folders and files on the exporting machine only the name."""
    config_hash: Text
    run_id: Text
    created: Text
    """UTC, ISO 8601."""
    versions: Annotated[dict[Text, Text], Field(max_length=100)]
    licence: Text
    notice: Text

    @model_validator(mode="after")
    def _check(self) -> Manifest:
        if len(set(self.classes)) < len(self.classes) or len(self.classes) > MAX_CLASSES:
            raise ValueError(f"classes must be distinct, and at most {MAX_CLASSES}")
        if self.image_px % self.mask_stride:
            raise ValueError("image_px must be a multiple of mask_stride")
        low, high = self.value_range or (0.0, 1.0)
        if not -math.inf < low < high < math.inf:
            raise ValueError("value_range must ascend between finite numbers")
        parities = [self.parity, *(variant.parity for variant in self.variants)]
        parities += [self.prompts.parity] if self.prompts else []
        if not all(math.isfinite(value) for parity in parities for value in parity.model_dump().values()):
            raise ValueError("parity must be finite")
        self._check_variants()
        return self

    def _check_variants(self) -> None:
        if not self.variants:
            return
        own = self.variants[0]
        if (own.name, own.file, own.image_px, own.precision) != (FULL, MODEL_FILE, self.image_px, "float32"):
            raise ValueError(f"the first variant must be the model itself: {FULL}, {MODEL_FILE}, float32")
        for told in ("name", "file"):
            if len({getattr(variant, told) for variant in self.variants}) < len(self.variants):
                raise ValueError(f"two variants have one {told}")
        if any(variant.image_px % self.mask_stride for variant in self.variants):
            raise ValueError("image_px of a variant must be a multiple of mask_stride")

    @property
    def every_variant(self) -> tuple[Variant, ...]:
        """Return the ways of running the model, itself first."""
        own = Variant(name=FULL, file=MODEL_FILE, image_px=self.image_px, precision="float32", parity=self.parity)
        return self.variants or (own,)

    def quickest(self, looks: Looks) -> Variant:
        """Return the variant that answers where nobody chooses one.

        The rule: of those that lost at most ``VARIANT_LOSS`` Dice on at least ``VARIANT_IMAGES`` validation images of
        the sites, the one that was fastest on the machine that exported, by as many threads; where none was faster,
        the model itself. Variants are measured on whole images: in parts the model itself answers.
        """
        own, *others = self.every_variant
        best = own
        for variant in others if looks == "whole" and own.timing is not None else ():
            measured, timing, so_far = variant.measured, variant.timing, best.timing
            if measured is None or timing is None or so_far is None or timing.threads != so_far.threads:
                continue
            is_good = measured.num_images >= VARIANT_IMAGES and measured.loss <= VARIANT_LOSS
            if is_good and timing.seconds < so_far.seconds:
                best = variant
        return best

    @property
    def best_looks(self) -> Looks:
        """Return how the model looks where nobody says otherwise: what takes longer has to be worth it."""
        if self.looks is None or self.looks.num_images < LOOKS_IMAGES:
            return "whole"
        best, dice = "whole", self.looks.whole
        for slower in ("parts", "fine"):
            if getattr(self.looks, slower) >= dice + LOOKS_GAIN:
                best, dice = slower, getattr(self.looks, slower)
        return best

    @property
    def eye(self) -> Eye:
        """Return what has to be known to give the model an image."""
        return self.eye_of(self.image_px)

    def eye_of(self, image_px: int) -> Eye:
        """Return the same for a variant whose input has ``image_px``."""
        return Eye(image_px, self.mask_stride, self.normalise, self.fit)

    @property
    def reading(self) -> dict[str, Any]:
        """Return what ``engine.data.readers.read_image`` needs to read an image as training did."""
        return {"slice_axis": self.slice_axis, "value_range": self.value_range, "window": self.window}


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a bundle folder without reading its model.

    Raises ``UserError`` ``bundle.missing``, ``bundle.corrupted`` or ``bundle.format``.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise UserError(
            "bundle.missing",
            what=f"There is no model bundle in '{folder}' ({MANIFEST_FILE} is not there).",
            why="A model is served from a bundle folder that an export has written.",
            fix="Give the bundle folder of a finished run, or export the run again.",
        )
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise _corrupted(f"'{path}' cannot be read: {error}") from error
    if len(content) > MAX_MANIFEST_BYTES:
        raise _corrupted(f"'{path}' has more than {MAX_MANIFEST_BYTES} bytes")
    try:
        values = json.loads(content.decode("utf-8"))
    except RecursionError as error:
        raise _corrupted(f"'{path}' is nested too deeply") from error
    except ValueError as error:  # no JSON, no UTF-8, or numbers of thousands of digits
        raise _corrupted(f"'{path}' is not valid JSON: {error}") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise _corrupted(f"'{path}' is not the manifest of a {FORMAT}")
    if values.get("format_version") != FORMAT_VERSION:
        raise UserError(
            "bundle.format",
            what=f"The bundle in '{folder}' has format version {values.get('format_version')!r}.",
            why=f"This version reads format version {FORMAT_VERSION}.",
            fix="Use the version of DSFedMed Studio that wrote the bundle, or export the run again with this one.",
        )
    try:
        return Manifest.model_validate(values)
    except ValidationError as error:
        named = [f"{'.'.join(map(str, e['loc']))[:200] or 'manifest'}: {e['msg']}" for e in error.errors()]
        faults = "; ".join([*named[:12], *(["..."] if len(named) > 12 else [])])
        raise _corrupted(f"'{path}' has {error.error_count()} fault(s): {faults}") from error


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Raise ``UserError`` ``bundle.corrupted`` unless every file of the bundle has the size and SHA-256 it should."""
    named = [variant.file for variant in manifest.every_variant]
    for name in [*named, *([manifest.prompts.file] if manifest.prompts else [])]:
        if name not in manifest.files:
            raise _corrupted(f"The manifest in '{folder}' does not list {name}")
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise _corrupted(f"'{path}' is missing")
        if path.is_symlink():
            raise _corrupted(f"'{path}' is a link, a bundle holds files")
        if path.stat().st_size != expected.size_bytes:  # told at once, however large it is
            raise _corrupted(f"'{path}' has {path.stat().st_size} bytes, the manifest says {expected.size_bytes}")
        found = describe_file(path)
        if found != expected:
            raise _corrupted(
                f"'{path}' has SHA-256 {found.sha256[:12]}..., the manifest says {expected.sha256[:12]}..."
            )


def describe_file(path: Path) -> BundledFile:
    """Return the size and SHA-256 of a file."""
    with path.open("rb") as stream:
        return BundledFile(sha256=hashlib.file_digest(stream, "sha256").hexdigest(), size_bytes=path.stat().st_size)


def _corrupted(what: str) -> UserError:
    return UserError(
        "bundle.corrupted",
        what=f"{what}.",
        why="A model is only served when its files are exactly those that the export wrote.",
        fix="Copy the bundle again from where it was made, or export the run again.",
    )
