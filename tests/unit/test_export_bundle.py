"""Export of real mini models: ONNX parity, the bundle, and the torch-free runtime against torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch.nn import functional

from engine.config import RunConfig, parse_config
from engine.data.transforms import prepare_image
from engine.errors import UserError
from engine.models.registry import build_model
from engine.seeding import numpy_generator
from engine.types import EvaluationRow
from export.manifest import CARD_FILE, MANIFEST_FILE, MODEL_FILE, NOTICE, read_manifest
from export.onnx_export import export_model
from export.package import BundleContent, _clear_leftovers, write_bundle
from export.parity import check_parity, sample_images
from export.runtime import BundleSession, load_bundle
from tests.patience import WAIT_S

IMAGE_PX = 64
ROW = EvaluationRow("distilled_student", "site_d", "test", "disc", 12, 0.81, 0.7, 0.9, 0.7, 0.8, 0.69, None)


def make_config(**data: object) -> RunConfig:
    return parse_config({"data": {"image_px": IMAGE_PX, **data}, "export": {"opset": 18}})


def make_content(config: RunConfig, *, classes: tuple[str, ...] = ("disc", "cup")) -> BundleContent:
    return BundleContent(
        name="fundus-demo",
        role="distilled_student",
        task="fundus",
        modality="colour fundus photograph",
        classes=classes,
        model=config.student,
        config=config,
        metrics=(ROW,),
        run_id="run-1",
    )


def make_model(num_classes: int = 2) -> torch.nn.Module:
    return build_model("tinysam", size="mini", num_classes=num_classes, image_px=IMAGE_PX, seed=1)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "fundus-demo"
    write_bundle(folder, make_model(), content=make_content(make_config(normalise="per_image")))
    return folder


@pytest.fixture
def own_bundle(bundle: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir()
    for path in bundle.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize(
    ("name", "num_classes", "opset"),
    [
        pytest.param("tinysam", 1, 17, marks=pytest.mark.slow),
        ("tinysam", 3, 20),
        ("sam", 1, 18),
        pytest.param("sam", 2, 18, marks=pytest.mark.slow),
        ("unet", 2, 18),
        pytest.param("unet", 1, 21, marks=pytest.mark.slow),
    ],
)
def test_every_model_exports_within_tolerance(name: str, num_classes: int, opset: int, tmp_path: Path) -> None:
    model = build_model(name, size="mini", num_classes=num_classes, image_px=IMAGE_PX, seed=2).train()
    path = tmp_path / "model.onnx"
    export_model(model, path, image_px=IMAGE_PX, opset=opset)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    proto = onnx.load(path)
    assert proto.opset_import[0].version == opset
    batch, *rest = (
        dimension.dim_param or dimension.dim_value for dimension in proto.graph.input[0].type.tensor_type.shape.dim
    )
    assert isinstance(batch, str)
    assert rest == [3, IMAGE_PX, IMAGE_PX]
    parity = check_parity(model, path, image_px=IMAGE_PX, tolerance=1e-4, seed=0)
    assert 0 < parity.max_abs_difference <= 1e-4
    assert parity.num_images == 4


def test_parity_refuses_other_weights_and_nan(tmp_path: Path) -> None:
    model = make_model()
    path = tmp_path / "model.onnx"
    export_model(model, path, image_px=IMAGE_PX, opset=18)
    for bad in (1.01, float("nan")):
        other = make_model()
        with torch.no_grad():
            other.seg1.weight.mul_(bad)
        with pytest.raises(UserError) as caught:
            check_parity(other, path, image_px=IMAGE_PX, tolerance=1e-6, seed=0)
        assert caught.value.code == "export.parity"


def test_an_inexpressible_model_is_a_clear_error(tmp_path: Path) -> None:
    class Spectrum(torch.nn.Module):
        def forward(self, image_B3HW: torch.Tensor) -> torch.Tensor:
            return torch.linalg.eigvals(image_B3HW).real

    with pytest.raises(UserError) as caught:
        export_model(Spectrum(), tmp_path / "model.onnx", image_px=8, opset=18)
    assert caught.value.code == "export.failed"
    assert not (tmp_path / "model.onnx").exists()


def test_the_manifest_names_no_folder_of_the_machine(tmp_path: Path) -> None:
    root = tmp_path / "ward" / "scans"
    config = make_config(source="folder", root=str(root))
    manifest = write_bundle(tmp_path / "bundle", make_model(), content=make_content(config))
    assert manifest.config["data"]["root"] == "scans"
    for name in (MANIFEST_FILE, CARD_FILE):
        assert str(tmp_path) not in (tmp_path / "bundle" / name).read_text(encoding="utf-8")
    assert RunConfig.model_validate(manifest.config).data.held_out == config.data.held_out


def test_the_manifest_tells_what_is_in_the_bundle(bundle: Path) -> None:
    config = make_config(normalise="per_image")
    manifest = read_manifest(bundle)
    assert sorted(path.name for path in bundle.iterdir()) == sorted([CARD_FILE, MANIFEST_FILE, MODEL_FILE])
    assert manifest.classes == ("disc", "cup")
    assert (manifest.image_px, manifest.mask_stride, manifest.normalise) == (IMAGE_PX, 2, "per_image")
    assert RunConfig.model_validate(manifest.config) == config
    assert manifest.config_hash == config.content_hash()
    assert EvaluationRow(**manifest.metrics[0]) == ROW
    assert manifest.parity.max_abs_difference <= manifest.parity.tolerance
    assert manifest.model.parameters == sum(p.numel() for p in make_model().parameters())
    card = (bundle / CARD_FILE).read_text(encoding="utf-8")
    assert NOTICE in card
    assert "0.810 [0.700, 0.900]" in card


def test_a_bundle_is_replaced_whole_and_survives_a_failed_export(own_bundle: Path) -> None:
    strict = make_config().model_copy(
        update={"export": make_config().export.model_copy(update={"parity_tolerance": 1e-12})}
    )
    before = {path.name: path.read_bytes() for path in own_bundle.iterdir()}
    with pytest.raises(UserError) as caught:
        write_bundle(own_bundle, make_model(1), content=make_content(strict, classes=("disc",)))
    assert caught.value.code == "export.parity"
    assert {path.name: path.read_bytes() for path in own_bundle.iterdir()} == before
    write_bundle(own_bundle, make_model(1), content=make_content(make_config(), classes=("disc",)))
    assert read_manifest(own_bundle).classes == ("disc",)
    assert [path.name for path in own_bundle.parent.iterdir()] == [own_bundle.name]


def test_large_logits_may_differ_by_as_many_digits_as_small_ones(own_bundle: Path, tmp_path: Path) -> None:
    """A model whose logits are 1,000 times larger has rounding errors 1,000 times larger, and is no worse exported."""

    class Larger(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = make_model()

        def forward(self, image_B3HW: torch.Tensor) -> torch.Tensor:
            return 1000 * self.inner(image_B3HW)

    larger = Larger().eval()
    export_model(larger, tmp_path / "larger.onnx", image_px=IMAGE_PX, opset=18)
    told = check_parity(larger, tmp_path / "larger.onnx", image_px=IMAGE_PX, tolerance=1e-5, seed=1)
    with torch.inference_mode():
        logits = [
            larger(torch.from_numpy(sample_images(batch, image_px=IMAGE_PX, seed=1))).abs().max() for batch in (1, 3)
        ]
    assert told.tolerance == pytest.approx(1e-5 * float(max(logits)), rel=1e-5) and max(logits) > 10
    with pytest.raises(UserError, match="differ from PyTorch's"):  # the other model's file, by far
        check_parity(larger, own_bundle / MODEL_FILE, image_px=IMAGE_PX, tolerance=1e-5, seed=1)


def torch_probability(image_HW3: np.ndarray) -> np.ndarray:
    """Return the evaluated model's probabilities at the image's size, all in torch."""
    prepared = torch.from_numpy(prepare_image(image_HW3, IMAGE_PX, "per_image")).permute(2, 0, 1)[None]
    with torch.inference_mode():
        logits = make_model().eval()(prepared)
        full = functional.interpolate(logits, size=image_HW3.shape[:2], mode="bilinear", align_corners=False)
    return full.sigmoid()[0].numpy()


@pytest.mark.parametrize(
    ("height", "width", "dtype"),
    [(64, 64, np.uint8), (200, 310, np.uint8), (97, 41, np.uint8), (120, 90, np.uint16), (120, 90, np.float32)],
)
def test_the_runtime_equals_torch(bundle: Path, height: int, width: int, dtype: type) -> None:
    image = numpy_generator(9, "image", height).random((height, width, 3))
    image = image.astype(dtype) if dtype is np.float32 else (image * np.iinfo(dtype).max).astype(dtype)
    prediction = load_bundle(bundle, device="cpu", threads=1).predict(image)
    expected = torch_probability(image)
    assert prediction.probability_KHW.dtype == np.float32
    assert prediction.probability_KHW.shape == (2, height, width)
    assert np.abs(prediction.probability_KHW - expected).max() <= 1e-4
    assert prediction.mask_KHW.dtype == np.uint8
    disagreement = prediction.mask_KHW != (expected > 0.5)
    assert np.abs(expected[disagreement] - 0.5).max(initial=0) <= 1e-4
    assert prediction.provider == "CPUExecutionProvider"
    parts = (prediction.preprocess_ms, prediction.inference_ms, prediction.postprocess_ms)
    assert min(parts) > 0
    assert prediction.wall_ms == pytest.approx(sum(parts))


@pytest.mark.parametrize(
    ("image", "code"),
    [
        (np.zeros((8, 8), np.uint8), "image.shape"),
        (np.zeros((8, 8, 4), np.uint8), "image.shape"),
        (np.zeros((0, 8, 3), np.uint8), "image.shape"),
        (np.broadcast_to(np.uint8(0), (8_001, 8_000, 3)), "image.too_large"),
        (np.full((8, 8, 3), np.nan, np.float32), "image.values"),
        (np.full((8, 8, 3), 255.0, np.float32), "image.values"),
        (np.full((8, 8, 3), -1, np.int16), "image.values"),
    ],
)
def test_images_that_no_model_can_answer_are_refused(bundle: Path, image: np.ndarray, code: str) -> None:
    with pytest.raises(UserError) as caught:
        load_bundle(bundle, device="cpu").predict(image)
    assert caught.value.code == code


def flip_a_byte(folder: Path) -> None:
    data = bytearray((folder / MODEL_FILE).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / MODEL_FILE).write_bytes(data)


def truncate_model(folder: Path) -> None:
    path = folder / MODEL_FILE
    path.write_bytes(path.read_bytes()[:-100])


def change_manifest(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        values = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
        (folder / MANIFEST_FILE).write_text(json.dumps({**values, **changes}), encoding="utf-8")

    return change


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (flip_a_byte, "bundle.corrupted"),
        (truncate_model, "bundle.corrupted"),
        (lambda folder: (folder / CARD_FILE).unlink(), "bundle.corrupted"),
        (lambda folder: (folder / MANIFEST_FILE).write_text("{"), "bundle.corrupted"),
        (lambda folder: (folder / MANIFEST_FILE).write_bytes(b"\xff\xfe\x00"), "bundle.corrupted"),
        (lambda folder: (folder / MANIFEST_FILE).write_text("[]"), "bundle.corrupted"),
        (lambda folder: (folder / MANIFEST_FILE).unlink(), "bundle.missing"),
        (change_manifest(format="other"), "bundle.corrupted"),
        (change_manifest(format_version=2), "bundle.format"),
        (change_manifest(files={}), "bundle.corrupted"),
        (change_manifest(files={"../model.onnx": {"sha256": "0" * 64, "size_bytes": 1}}), "bundle.corrupted"),
        (change_manifest(classes=[]), "bundle.corrupted"),
        (change_manifest(surprise=1), "bundle.corrupted"),
    ],
)
def test_damaged_bundles_are_refused(own_bundle: Path, damage: Callable[[Path], object], code: str) -> None:
    assert isinstance(load_bundle(own_bundle, device="cpu"), BundleSession)
    damage(own_bundle)
    with pytest.raises(UserError) as caught:
        load_bundle(own_bundle, device="cpu")
    assert caught.value.code == code
    assert str(own_bundle) in caught.value.what


def test_the_content_record_is_frozen() -> None:
    content = make_content(make_config())
    assert replace(content, name="other").name == "other"
    with pytest.raises(AttributeError):
        content.name = "other"  # type: ignore[misc]


def test_the_runtime_never_imports_torch_and_starts_fast(bundle: Path) -> None:
    program = (
        "import sys, time; import export.runtime, export.results; cpu_s = time.process_time(); "
        " import numpy as np; from pathlib import Path; "
        "export.runtime.load_bundle(Path(sys.argv[1]), device='cpu').predict(np.zeros((9, 9, 3), np.uint8)); "
        "assert 'torch' not in sys.modules and 'monai' not in sys.modules; print(cpu_s)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(bundle)], capture_output=True, text=True, check=False, timeout=WAIT_S
    )
    assert done.returncode == 0, done.stderr
    # Processor time from the interpreter's start, which other programs do not lengthen; about 0.5 s.
    assert float(done.stdout) < 1.5


FORGED: list[tuple[str, object]] = [
    ("classes", ["disc", "disc"]),
    ("classes", [""]),
    ("classes", ["c"] * 300),
    ("classes", "disc"),
    ("classes", ["disc"]),  # the model has two
    ("image_px", 10**9),
    ("image_px", 10**400),
    ("image_px", 128),  # the model takes 64
    ("image_px", None),
    ("mask_stride", 0),
    ("mask_stride", 4),
    ("value_range", [3, 3]),
    ("value_range", [0, float("inf")]),
    ("slice_axis", 7),
    ("name", "x" * 10_000),
    ("metrics", [1, 2]),
    ("metrics", {}),
    ("versions", {"python": ["3"]}),
    ("files", {"../model.onnx": {"sha256": "0" * 64, "size_bytes": 1}}),
    ("files", {"/etc/passwd": {"sha256": "0" * 64, "size_bytes": 1}}),
    ("files", {"model.onnx": {"sha256": "0" * 64, "size_bytes": -1}}),
    ("files", {"model.onnx": {"sha256": "0" * 64, "size_bytes": 10**30}}),
    ("files", []),
    ("model", []),
    ("parity", {"max_abs_difference": float("nan")}),
    ("config", 3),
    ("extra", 1),
]


@pytest.mark.parametrize(("key", "value"), FORGED)
def test_a_forged_manifest_is_refused_with_its_fault(own_bundle: Path, key: str, value: object) -> None:
    path = own_bundle / MANIFEST_FILE
    values = json.loads(path.read_text())
    assert {"classes", "image_px", "mask_stride", "files"} <= values.keys() and values["image_px"] == 64
    path.write_text(json.dumps(values | {key: value}))
    with pytest.raises(UserError) as caught:
        load_bundle(own_bundle)
    assert caught.value.code == "bundle.corrupted" and len(str(caught.value)) < 3000


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "[" * 200_000, '{"a": ' * 100_000, "1" * 5000, "x" * 5_000_000, "\x00", "NaN"]
)
def test_a_manifest_that_is_no_manifest_is_refused(own_bundle: Path, text: str) -> None:
    (own_bundle / MANIFEST_FILE).write_text(text)
    with pytest.raises(UserError) as caught:
        load_bundle(own_bundle)
    assert caught.value.code == "bundle.corrupted"


def test_a_bundle_holds_files_not_links(own_bundle: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.onnx"
    (own_bundle / MODEL_FILE).rename(outside)
    (own_bundle / MODEL_FILE).symlink_to(outside)
    with pytest.raises(UserError, match="link"):
        load_bundle(own_bundle)


def test_what_a_killed_export_has_left_is_put_in_order(own_bundle: Path) -> None:
    name, dead = own_bundle.name, 2**22 + 1  # no process has so high a number
    alive = own_bundle.with_name(f".{name}.{os.getpid()}-aaaa.partial")
    left = [own_bundle.with_name(f".{name}.{part}.partial") for part in (f"{dead}-bbbb", "k3jd")]
    for folder in (alive, *left):
        folder.mkdir()
        (folder / MODEL_FILE).touch()
    before = read_manifest(own_bundle)
    own_bundle.rename(own_bundle.with_name(f".{name}.{dead}-bbbb.retired"))
    _clear_leftovers(own_bundle)
    assert read_manifest(own_bundle) == before
    assert {path.name for path in own_bundle.parent.iterdir()} == {name, alive.name}
