"""Runs a model bundle with ONNX Runtime. Never imports torch: this is what the page and a site's machine load.

Shape legend: H and W the input image's own side in pixels, K classes, h and w the model's logit grid.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime

from engine.data.tiling import ENLARGED, Looks, Part, resize_logits
from engine.errors import UserError
from export.levels import levels
from export.manifest import (
    EMBEDDING_NAME,
    FULL,
    INPUT_NAME,
    OUTPUT_NAME,
    Manifest,
    Variant,
    read_manifest,
    verify_files,
)

MAX_IMAGE_PIXELS = 64_000_000
"""Largest accepted H x W: 768 MB of working memory at one class; a whole-slide image must be tiled first."""
Device = Literal["auto", "cpu", "cuda"]
CPU = "CPUExecutionProvider"
AUTO = "auto"
"""In place of a variant's name: the one that the manifest's rule picks."""
NVIDIA_DEVICES = (Path("/dev/nvidiactl"), Path("/dev/dxg"))


@dataclass(frozen=True, eq=False)
class Prediction:
    """One image's answer, at the image's own size.

    ``probability_KHW`` is float32 in [0, 1]; ``mask_KHW`` is uint8 in {0, 1}, probability above 0.5. Times are wall
    clock milliseconds; ``provider`` is the ONNX Runtime execution provider that ran the model.
    """

    probability_KHW: np.ndarray
    mask_KHW: np.ndarray
    preprocess_ms: float
    inference_ms: float
    postprocess_ms: float
    provider: str

    @property
    def wall_ms(self) -> float:
        """Return the whole time from image to mask, in milliseconds."""
        return self.preprocess_ms + self.inference_ms + self.postprocess_ms


class BundleSession:
    """A loaded bundle; safe to call from several threads (ONNX Runtime's ``run`` is)."""

    def __init__(
        self,
        manifest: Manifest,
        inference: onnxruntime.InferenceSession,
        *,
        looks: Looks = "whole",
        variant: Variant | None = None,
    ) -> None:
        self.manifest = manifest
        self.inference = inference
        self.looks = looks
        """How it looks at images."""
        self.variant = variant or manifest.every_variant[0]
        """What of the bundle runs; the model itself where nothing is given."""
        self._eye = manifest.eye_of(self.variant.image_px)

    def looking(self, looks: Looks) -> BundleSession:
        """Return a session of the same model that looks at images so."""
        if looks == self.looks:
            return self
        return BundleSession(self.manifest, self.inference, looks=looks, variant=self.variant)

    @property
    def image_px(self) -> int:
        """Return the side of the input of what runs, in pixels."""
        return self.variant.image_px

    @property
    def provider(self) -> str:
        """Return the execution provider, ``CUDAExecutionProvider`` or ``CPUExecutionProvider``."""
        return self.inference.get_providers()[0]

    def predict(self, image_HW3: np.ndarray) -> Prediction:
        """Return the probabilities and masks of one image at its own size.

        Parameters
        ----------
        image_HW3 : numpy.ndarray
            (H, W, 3) uint8, uint16, or float in [0, 1], as ``engine.data.readers.read_image`` returns it.

        Raises
        ------
        UserError
            ``image.shape``, ``image.too_large`` or ``image.values``.
        """
        check_image(image_HW3)
        started = time.perf_counter()
        logits_Khw, inference_ms = self.look(image_HW3)
        answered = time.perf_counter()
        logits_KHW = self.at_own_size(logits_Khw, size_hw=image_HW3.shape[:2])
        mask_KHW = (logits_KHW > 0).astype(np.uint8)
        probability_KHW = sigmoid(logits_KHW)
        finished = time.perf_counter()
        return Prediction(
            probability_KHW=probability_KHW,
            mask_KHW=mask_KHW,
            preprocess_ms=1000 * (answered - started) - inference_ms,
            inference_ms=inference_ms,
            postprocess_ms=1000 * (finished - answered),
            provider=self.provider,
        )

    def masks(self, image_HW3: np.ndarray) -> tuple[np.ndarray, float]:
        """Return what :meth:`predict` gives as ``mask_KHW`` and ``wall_ms``, in a fifth of its memory.

        Logits exist for one class at a time, and probabilities not at all. Raises as :meth:`predict` does.
        """
        started = time.perf_counter()
        mask_KHW = self._by_class(image_HW3, lambda logits_HW: logits_HW > 0)
        return mask_KHW, 1000 * (time.perf_counter() - started)

    def levels(self, image_HW3: np.ndarray) -> np.ndarray:
        """Return in which hundredth each probability lies (``export.levels``), (K, H, W) uint8.

        In as little memory as :meth:`masks`, and with the same masks from ``MODEL_PERCENT`` on. Raises as
        :meth:`predict` does.
        """
        return self._by_class(image_HW3, levels)

    def _by_class(self, image_HW3: np.ndarray, of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Return ``of`` each class's logits (H, W), (K, H, W) uint8."""
        logits_Khw = self.logits(image_HW3)
        size_hw = image_HW3.shape[:2]
        found_KHW = np.empty((len(logits_Khw), *size_hw), dtype=np.uint8)
        for index in range(len(logits_Khw)):
            found_KHW[index] = of(self.at_own_size(logits_Khw[index : index + 1], size_hw=size_hw)[0])
        return found_KHW

    def logits(self, image_HW3: np.ndarray) -> np.ndarray:
        """Return the model's logits on its own grid, (K, h, w) float32; :meth:`at_own_size` brings them to the image.

        Raises as :meth:`predict` does.
        """
        check_image(image_HW3)
        return self.look(image_HW3)[0]

    def encode(self, image_13HW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return features (C, h, w) and logits (K, grid_px, grid_px) of a model input; needs both ends."""
        logits_1Kgg, features_1Chw = self.inference.run([OUTPUT_NAME, EMBEDDING_NAME], {INPUT_NAME: image_13HW})
        return features_1Chw[0], logits_1Kgg[0]

    def look(self, image_HW3: np.ndarray) -> tuple[np.ndarray, float]:
        """Return the logits (K, h, w) of a checked image and how many milliseconds the model itself took."""
        took_ms: list[float] = []

        def timed(image_13gg: np.ndarray) -> np.ndarray:
            logits_Kgg, ms = self.run(image_13gg)
            took_ms.append(ms)
            return logits_Kgg

        return self._eye.look(timed, image_HW3, self.looks), sum(took_ms)

    def run(self, image_13HW: np.ndarray) -> tuple[np.ndarray, float]:
        """Return the logits (K, grid_px, grid_px) of one model input, and its milliseconds."""
        started = time.perf_counter()
        logits_1Kgg = self.inference.run([OUTPUT_NAME], {INPUT_NAME: image_13HW})[0]
        return logits_1Kgg[0], 1000 * (time.perf_counter() - started)

    def preprocess(self, image_HW3: np.ndarray) -> np.ndarray:
        """Return the model's input (1, 3, image_px, image_px), float32 in [0, 1], exactly as training prepares it.

        Whichever variant runs: what is compared with training's images has the side of theirs.
        """
        return self.manifest.eye.whole_input(image_HW3)

    def at_own_size(self, logits_Khw: np.ndarray, *, size_hw: tuple[int, int]) -> np.ndarray:
        """Return the model's logits (K, h, w) of an image of ``size_hw`` as (K, H, W): without the padding's."""
        return resize_logits(logits_Khw, size_hw=size_hw, part=self.part_of(size_hw))

    @property
    def part_px(self) -> int:
        """Return the side of what the model sees at once, in pixels of the image, or of its input for the whole."""
        return round(self.image_px / ENLARGED.get(self.looks, 1.0))

    def num_looks(self, size_hw: tuple[int, int]) -> int:
        """Return how many times the model looks for one image of ``size_hw``."""
        return self._eye.num_looks(size_hw, self.looks)

    def part_of(self, size_hw: tuple[int, int]) -> Part:
        """Return where an image of ``size_hw`` lies on the grid of logits: left, top, right, bottom, in its cells."""
        return self._eye.part_of(size_hw, self.looks)


def load_bundle(
    folder: Path,
    *,
    device: Device = "auto",
    threads: int | None = None,
    looks: Looks = "whole",
    variant: str = FULL,
) -> BundleSession:
    """Return a session for the bundle in ``folder`` after checking its format and the hash of every file.

    ``auto`` runs on CUDA when a GPU and a working CUDA provider are there, else on the CPU; ``threads`` limits the
    CPU threads of one prediction (all cores when None). ``variant`` names what of the bundle runs, ``auto`` what
    :func:`variant_for` says.

    Raises
    ------
    UserError
        ``bundle.missing``, ``bundle.format``, ``bundle.corrupted``, ``variant.unknown``, or ``bundle.no_cuda`` when
        ``cuda`` was asked for and is not there.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    verify_files(folder, manifest)
    chosen = variant_for(manifest, variant, looks=looks, device=device)
    session = load_graph(folder / chosen.file, device=device, threads=threads)
    _check_model(session, manifest, chosen)
    if device == "cuda" and session.get_providers()[0] != "CUDAExecutionProvider":
        raise UserError(
            "bundle.no_cuda",
            what="The model was asked to run on CUDA, and ONNX Runtime has no working CUDA provider here.",
            why="It needs an NVIDIA GPU, its driver, and onnxruntime-gpu with the CUDA libraries.",
            fix="Choose device 'auto' or 'cpu', or mend the CUDA installation.",
        )
    return BundleSession(manifest, session, looks=looks, variant=chosen)


def load_graph(path: Path, *, device: Device, threads: int | None) -> onnxruntime.InferenceSession:
    """Return a session of an ONNX file; ``UserError`` ``bundle.corrupted`` for what ONNX Runtime does not take."""
    try:
        return onnxruntime.InferenceSession(str(path), session_options(threads), providers=_providers(device))
    except Exception as error:  # onnxruntime's exceptions share no base class but this
        raise UserError(
            "bundle.corrupted",
            what=f"ONNX Runtime {onnxruntime.__version__} cannot load '{path}': {error}",
            why="The model is run with ONNX Runtime.",
            fix="Update onnxruntime, or export the run again with a lower export.opset.",
        ) from error


def session_options(threads: int | None) -> onnxruntime.SessionOptions:
    """Return how a model is run by so many CPU threads, all cores when None.

    Threads that have nothing to do wait and do not spin: beside a training worker, spinning took 43 % more processor
    time and made answers of two threads 1.6 times as slow.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads or 0, 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def variant_for(manifest: Manifest, name: str = AUTO, *, looks: Looks = "whole", device: Device = "auto") -> Variant:
    """Return the variant of that name; ``auto`` is what the manifest's rule picks, on a GPU the model itself.

    Times are a CPU's, and 8 bits are made for one. Raises ``UserError`` ``variant.unknown``.
    """
    if name == AUTO:
        return manifest.quickest(looks) if _providers(device)[0] == CPU else manifest.every_variant[0]
    found = {variant.name: variant for variant in manifest.every_variant}
    if name not in found:
        raise UserError(
            "variant.unknown",
            what=f"'{manifest.name}' has no variant '{name[:40]}'.",
            why="A bundle has the variants that its run was asked for (export.variants).",
            fix=f"Name one of {', '.join(found)}, or {AUTO}.",
        )
    return found[name]


def _check_model(session: onnxruntime.InferenceSession, manifest: Manifest, variant: Variant) -> None:
    """Refuse a model that is not the one the manifest describes: its sides, its classes, the names of its ends."""
    side, grid = variant.image_px, variant.image_px // manifest.mask_stride
    wanted = [(INPUT_NAME, [3, side, side]), (OUTPUT_NAME, [len(manifest.classes), grid, grid])]
    if manifest.prompts is not None and variant.name == FULL:
        wanted.append((EMBEDDING_NAME, list(manifest.prompts.embedding)))
    ends = (*session.get_inputs(), *session.get_outputs())
    found = [(end.name, list(end.shape)[1:]) for end in ends if end.name != EMBEDDING_NAME or len(wanted) > 2]
    same = len(found) == len(wanted) and all(
        name == known and len(shape) == len(sizes)
        and all(not isinstance(size, int) or size == at for size, at in zip(shape, sizes, strict=True))
        for (name, shape), (known, sizes) in zip(found, wanted, strict=True)
    )  # fmt: skip
    if not same:
        raise UserError(
            "bundle.corrupted",
            what=f"The model '{variant.file}' of '{manifest.name}' maps {found[:2]}; its manifest says {wanted}.",
            why="Masks would belong to other classes or other places than it says.",
            fix="Copy the bundle again from where it was made, or export the run again.",
        )


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-x)) without overflow, float32."""
    return (0.5 * (1 + np.tanh(0.5 * logits))).astype(np.float32)


def check_image(image_HW3: np.ndarray) -> None:
    """Raise ``UserError`` unless the array is an (H, W, 3) image of acceptable size, type and values."""
    if image_HW3.ndim != 3 or image_HW3.shape[2] != 3 or 0 in image_HW3.shape:
        raise UserError(
            "image.shape",
            what=f"The image is an array of shape {image_HW3.shape}.",
            why="The model takes (height, width, 3): red, green and blue, or a grey channel three times.",
            fix="Repeat a grey channel three times, or drop the alpha channel.",
        )
    check_size(*image_HW3.shape[:2])
    if image_HW3.dtype in (np.uint8, np.uint16):
        return
    # min and max see NaN and infinity too, in two passes without a copy
    if image_HW3.dtype.kind != "f" or not (image_HW3.min() >= 0 and image_HW3.max() <= 1):
        raise UserError(
            "image.values",
            what=f"The image holds {image_HW3.dtype} values that are not all in [0, 1].",
            why="Pixels are 8-bit or 16-bit unsigned integers, or floats from 0 to 1; other values have no brightness.",
            fix="Scale the values to [0, 1], or read the file with engine.data.readers.read_image.",
        )


def check_size(height: int, width: int) -> None:
    """Raise ``UserError`` ``image.too_large`` for a picture whose answer would take too much memory."""
    if height * width > MAX_IMAGE_PIXELS:
        raise UserError(
            "image.too_large",
            what=f"The image has {width} x {height} pixels.",
            why=f"Above {MAX_IMAGE_PIXELS // 1_000_000} million pixels an answer does not fit the memory set aside.",
            fix="Crop the image, tile it, or scale it down.",
        )


def _providers(device: Device) -> list[str]:
    """Return the providers to try. Without a GPU device file CUDA is not tried: it would only log its failure."""
    wanted = device == "cuda" or (device == "auto" and any(path.exists() for path in NVIDIA_DEVICES))
    if not wanted or "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return [CPU]
    # Finds the CUDA libraries among the installed nvidia-* packages, as torch would if it were imported.
    onnxruntime.preload_dlls()
    return ["CUDAExecutionProvider", CPU]
