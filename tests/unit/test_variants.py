"""Faster variants of a bundle: the rule that picks one, their parity with torch, and what the sites say of them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from pydantic import ValidationError
from torch import nn

from engine.config import RunConfig, parse_config
from engine.errors import UserError
from engine.models.registry import build_model
from engine.models.weights import load_weights
from export import runtime
from export.manifest import (
    MANIFEST_FILE,
    MODEL_FILE,
    Manifest,
    Timing,
    Variant,
    VariantDice,
    describe_file,
    read_manifest,
)
from export.package import BundleContent, write_bundle
from export.parity import sample_images
from export.runtime import load_bundle, variant_for
from export.variants import VariantPlan

IMAGE_PX, HALF_PX = 64, 32


def make_config() -> RunConfig:
    return parse_config({"data": {"image_px": IMAGE_PX}})


def make_model() -> nn.Module:
    model = build_model("tinysam", size="mini", image_px=IMAGE_PX, seed=1)
    load_weights(model, "tinysam-mini")
    return model.eval()


def write(folder: Path, **plan: Any) -> Manifest:
    config = make_config()
    content = BundleContent(
        name="fundus-demo", role="distilled_student", task="fundus", modality="photograph", classes=("disc",),
        model=config.student, config=config, metrics=(), run_id="run-1", variants=VariantPlan(threads=1, **plan),
    )  # fmt: skip
    return write_bundle(folder, make_model(), content=content)


def measured(name: str, path: Path, image_px: int) -> VariantDice:
    """Say that half the side costs 0.4 points and 8 bits 0.6; the files are there and have that side."""
    (given,) = onnxruntime.InferenceSession(path).get_inputs()
    assert given.shape[2:] == [image_px, image_px]
    return VariantDice(dice=0.8 - 0.004 if name == "half" else 0.8 - 0.006, full=0.8, num_images=9)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "bundle"
    images = sample_images(4, image_px=IMAGE_PX, seed=5)
    write(folder, names=("half", "int8", "half_int8"), half_px=HALF_PX, calibration_N3HW=images, measure=measured)
    return folder


@pytest.fixture
def own_bundle(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


def torch_logits(image_13HW: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return make_model()(torch.from_numpy(image_13HW))[0].numpy()


@pytest.mark.parametrize(("name", "side"), [("full", 64), ("half", 32), ("int8", 64), ("half_int8", 32)])
def test_every_variant_is_the_model_as_torch_runs_it_at_that_side(bundle: Path, name: str, side: int) -> None:
    session = load_bundle(bundle, device="cpu", threads=1, variant=name)
    image = sample_images(1, image_px=side, seed=77)
    difference = np.abs(session.run(image)[0] - torch_logits(image)).max()
    told = session.variant.parity
    assert (session.variant.name, session.image_px) == (name, side)
    if name in ("full", "half"):
        assert difference <= 1e-4 and told.max_abs_difference <= told.tolerance
    else:
        # 8 bits are not the same numbers, and what the manifest says is what other images show, within a few times
        assert 1e-3 < told.max_abs_difference / 4 < difference < 4 * told.max_abs_difference
        assert told.mask_disagreement < 0.02 and session.variant.precision == "int8"


def test_the_manifest_says_size_digest_time_and_cost_of_each(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    assert [variant.name for variant in manifest.variants] == ["full", "half", "int8", "half_int8"]
    for variant in manifest.variants:
        content = (bundle / variant.file).read_bytes()
        listed = manifest.files[variant.file]
        assert (listed.sha256, listed.size_bytes) == (hashlib.sha256(content).hexdigest(), len(content))
        assert variant.timing is not None and variant.timing.threads == 1 and variant.timing.repeats >= 1
    full, half, int8, _ = manifest.variants
    assert full.measured is None and half.measured is not None and half.measured.loss == 0.004
    assert manifest.files[int8.file].size_bytes < 0.7 * manifest.files[full.file].size_bytes
    card = (bundle / "MODEL_CARD.md").read_text()
    assert "| half | model_half.onnx | 32 | float32 | 5.5 | " in card and "0.796 (-0.4 points, 9 images)" in card


def test_a_variant_sees_the_image_at_its_own_side_and_answers_at_the_images(bundle: Path) -> None:
    image = np.random.default_rng(3).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    half = load_bundle(bundle, device="cpu", threads=1, variant="half")
    assert half.predict(image).mask_KHW.shape == (1, 90, 120)
    assert half.logits(image).shape == (1, 16, 16), "a logit for two pixels of its input"
    assert half.looking("parts").part_px == HALF_PX and half.looking("parts").variant == half.variant
    assert half.preprocess(image).shape[-1] == IMAGE_PX, "what is compared with training's images has their side"


def manifest_of(bundle: Path, *rows: tuple[str, float | None, float | None, int]) -> Manifest:
    """Return a manifest whose variants have (name, seconds, Dice lost, images); the first is the model itself."""
    known = read_manifest(bundle)
    made = []
    for name, seconds, loss, images in rows:
        like = next(variant for variant in known.variants if variant.name == name)
        timing = None if seconds is None else Timing(seconds=seconds, threads=2, repeats=5)
        dice = None if loss is None else VariantDice(dice=round(0.9 - loss, 6), full=0.9, num_images=images)
        made.append(like.model_copy(update={"timing": timing, "measured": dice}))
    return known.model_copy(update={"variants": tuple(made)})


@pytest.mark.parametrize(
    ("rows", "picked"),
    [
        ([("half", 0.2, 0.005, 8), ("int8", 0.5, 0.0, 8)], "half"),  # the fastest that loses half a point at most
        ([("half", 0.2, 0.0051, 8), ("int8", 0.5, 0.0, 8)], "int8"),  # half loses more
        ([("half", 0.2, 0.004, 7), ("int8", 0.5, 0.0, 8)], "int8"),  # seven images say too little
        ([("half", 0.2, None, 0)], "full"),  # nobody has measured it
        ([("half", None, 0.0, 8)], "full"),  # nobody has timed it
        ([("half", 0.2, -0.1, 8)], "half"),  # better and faster
        ([("int8", 1.1, 0.0, 8)], "full"),  # slower than the model itself
        ([("half", 0.3, 0.0, 8), ("half_int8", 0.2, 0.0, 8)], "half_int8"),
        ([], "full"),
    ],
)
def test_the_fastest_that_loses_half_a_point_at_most_answers(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, rows: list[tuple[str, float | None, float | None, int]], picked: str
) -> None:
    manifest = manifest_of(bundle, ("full", 1.0, None, 0), *rows)
    assert variant_for(manifest, device="cpu").name == picked
    assert variant_for(manifest, looks="parts", device="cpu").name == "full", "costs are measured on whole images"
    assert variant_for(manifest, "full", device="cpu").name == "full", "who chooses decides"
    monkeypatch.setattr(runtime, "_providers", lambda device: ["CUDAExecutionProvider", runtime.CPU])
    assert variant_for(manifest).name == "full", "times are a CPU's"


def test_times_by_other_threads_are_not_compared(bundle: Path) -> None:
    manifest = manifest_of(bundle, ("full", 1.0, None, 0), ("half", 0.2, 0.0, 9))
    own, half = manifest.variants
    other = half.model_copy(update={"timing": Timing(seconds=0.2, threads=4, repeats=5)})
    assert manifest.quickest("whole") == half
    assert manifest.model_copy(update={"variants": (own, other)}).quickest("whole") == own


def test_who_is_asked_for_a_variant_that_is_not_there_says_which_are(bundle: Path) -> None:
    with pytest.raises(UserError, match="has no variant 'quarter'") as caught:
        load_bundle(bundle, device="cpu", variant="quarter")
    assert caught.value.code == "variant.unknown" and "full, half, int8, half_int8" in caught.value.fix


def test_a_bundle_of_before_is_read_and_runs_as_it_did(own_bundle: Path) -> None:
    path = own_bundle / MANIFEST_FILE
    values = json.loads(path.read_text())
    del values["variants"]
    path.write_text(json.dumps(values))
    manifest = read_manifest(own_bundle)
    assert manifest.variants == () and [v.name for v in manifest.every_variant] == ["full"]
    for name in ("auto", "full"):
        assert load_bundle(own_bundle, device="cpu", variant=name).variant.file == MODEL_FILE


def change_variant(place: int, **changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        values = json.loads((folder / MANIFEST_FILE).read_text())
        values["variants"][place] |= changes
        (folder / MANIFEST_FILE).write_text(json.dumps(values))

    return change


def flip_a_byte(folder: Path) -> None:
    content = bytearray((folder / "model_half.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model_half.onnx").write_bytes(content)


def another_model(folder: Path) -> None:
    """Put the model of the full side in the half one's place, and its digest into the manifest."""
    shutil.copyfile(folder / MODEL_FILE, folder / "model_half.onnx")
    values = json.loads((folder / MANIFEST_FILE).read_text())
    values["files"]["model_half.onnx"] = describe_file(folder / "model_half.onnx").model_dump()
    (folder / MANIFEST_FILE).write_text(json.dumps(values))


def link(folder: Path) -> None:
    (folder / "model_half.onnx").rename(folder.parent / "elsewhere.onnx")
    (folder / "model_half.onnx").symlink_to(folder.parent / "elsewhere.onnx")


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_byte,
        another_model,
        link,
        lambda folder: (folder / "model_half.onnx").unlink(),
        change_variant(1, file="model_other.onnx"),
        change_variant(1, file="../model_half.onnx"),
        change_variant(1, file="/etc/passwd"),
        change_variant(1, name="full"),
        change_variant(1, file="model_int8.onnx"),
        change_variant(1, name="Half/../"),
        change_variant(1, image_px=0),
        change_variant(1, image_px=48),
        change_variant(1, precision="int4"),
        change_variant(1, surprise=1),
        change_variant(1, timing={"seconds": float("inf"), "threads": 1, "repeats": 1}),
        change_variant(1, timing={"seconds": -1, "threads": 1, "repeats": 1}),
        change_variant(1, measured={"dice": 2, "full": 0.5, "num_images": 9}),
        change_variant(0, name="whole"),
        change_variant(0, file="model_other.onnx"),
        change_variant(0, image_px=32),
        change_variant(0, precision="int8"),
    ],
)
def test_a_broken_variant_is_refused(own_bundle: Path, damage: Callable[[Path], object]) -> None:
    assert load_bundle(own_bundle, device="cpu", variant="half").image_px == HALF_PX
    damage(own_bundle)
    with pytest.raises(UserError) as caught:
        load_bundle(own_bundle, device="cpu", variant="half")
    assert caught.value.code == "bundle.corrupted"


def test_what_cannot_be_made_is_left_out_and_told(tmp_path: Path) -> None:
    told: list[str] = []
    lost = VariantDice(dice=0.5, full=0.8, num_images=9)
    how: dict[str, Any] = {"tell": told.append, "measure": lambda *_: lost}
    assert write(tmp_path / "a", names=("half", "int8"), half_px=None, **how).variants == ()
    assert "no smaller side than 64" in told[0] and "no synthetic images" in told[1] and len(told) == 2
    assert write(tmp_path / "b", names=("half",), half_px=HALF_PX, **how).variants == ()
    assert told[2].endswith("it costs 30.0 points of Dice.")
    for folder in ("a", "b"):
        files = sorted(path.name for path in (tmp_path / folder).iterdir())
        assert files == ["MODEL_CARD.md", MANIFEST_FILE, MODEL_FILE]


def test_eight_bits_that_break_the_model_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.variants.LARGEST_INT8_SHARE", 1e-4)
    told: list[str] = []
    images = sample_images(2, image_px=IMAGE_PX, seed=5)
    assert write(tmp_path / "b", names=("int8",), calibration_N3HW=images, tell=told.append).variants == ()
    assert "The variant int8 is left out. The ONNX model's logits differ from PyTorch's" in told[0]


def test_products_with_weights_are_in_eight_bits_and_by_channel(bundle: Path) -> None:
    graph = onnx.load(bundle / "model_int8.onnx").graph
    made_by = {output: node for node in graph.node for output in node.output}
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    products = [node for node in graph.node if node.op_type == "MatMul"]
    eight = [n for n in products if n.input[1] in made_by and made_by[n.input[1]].op_type == "DequantizeLinear"]
    assert len(eight) > 30 and len(products) - len(eight) > 10, "linear layers, and attention's own products"
    weight, scale = (arrays[name] for name in made_by[eight[0].input[1]].input[:2])
    assert weight.dtype == np.int8 and scale.shape == (weight.shape[1],), "a scale for each output channel"
    assert not any(node.op_type == "Conv" and node.input[1] not in arrays for node in graph.node)


def test_a_time_or_a_dice_that_cannot_be_is_no_record() -> None:
    for wrong in ({"seconds": 0, "threads": 1, "repeats": 1}, {"seconds": 1, "threads": 0, "repeats": 1}):
        with pytest.raises(ValidationError):
            Timing.model_validate(wrong)
    assert VariantDice(dice=0.7, full=0.705, num_images=8).points == -0.5
    assert VariantDice(dice=0.7, full=0.705, num_images=8).loss == 0.005, "not 0.00500000000000000444"
    assert replace(VariantPlan(), names=("half",)).names == ("half",) and Variant.model_fields["timing"].default is None
