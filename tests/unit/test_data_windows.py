"""How DICOM windows are used is declared once, and the same in training and in serving."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.config import DataConfig
from engine.data.datasets import load_federation
from engine.data.description import DatasetDescription, read_description
from engine.data.readers import read_image
from engine.errors import UserError
from export.manifest import Manifest
from tests.unit.data_medical_files import write_dicom

STORED = np.arange(64, dtype=np.uint16).reshape(8, 8) * 60
WINDOW = {"BitsStored": 12, "HighBit": 11, "WindowCenter": 1024, "WindowWidth": 2048, "VOILUTFunction": "LINEAR_EXACT"}


def dataset(root: Path, line: str, **tags: object) -> Path:
    for site in ("a", "b"):
        for index in range(3):
            for kind in ("images", "masks"):
                (root / site / kind).mkdir(parents=True, exist_ok=True)
            write_dicom(root / site / "images" / f"{index}.dcm", STORED + ord(site) + index, **tags)
            Image.fromarray((STORED > 2000).astype(np.uint8)).save(root / site / "masks" / f"{index}.png")
    (root / "dataset.toml").write_text(f'name = "x"\nmodality = "CT"\nclasses = ["c"]\n{line}\n')
    return root


@pytest.mark.parametrize(
    ("line", "window", "low", "high"),
    [("", "auto", 0, 2048), ('window = "dicom"', "dicom", 0, 2048), ('window = "stored"', "stored", 0, 4095)],
)
def test_training_reads_by_the_declared_window(tmp_path: Path, line: str, window: str, low: int, high: int) -> None:
    root = dataset(tmp_path, line, **WINDOW)
    federation = load_federation(DataConfig(source="folder", root=root, image_px=32, normalise="none"), seed=0)
    assert federation.window == window
    item = federation.sites["a"].train.items[0]
    image, _ = item.read()
    expected = np.clip((STORED + ord("a") + int(item.name) - low) / (high - low), 0, 1)
    np.testing.assert_allclose(image[..., 0], expected, atol=1e-6)


def test_a_bundle_hands_the_window_to_the_reader(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "x.dcm", STORED, **WINDOW)
    told = Manifest.model_construct(slice_axis=2, value_range=None, window="stored")
    np.testing.assert_allclose(read_image(path, **told.reading)[0][..., 0], STORED / 4095, atol=1e-6)
    assert Manifest.model_fields["window"].default == "auto"  # what bundles of before were trained with


def test_a_missing_window_is_a_fault_where_windows_are_declared(tmp_path: Path) -> None:
    root = dataset(tmp_path, 'window = "dicom"')
    with pytest.raises(UserError) as caught:
        load_federation(DataConfig(source="folder", root=root, image_px=32), seed=0, thorough=True)
    assert caught.value.code == "data.image_unsupported" and "no DICOM window" in caught.value.what


@pytest.mark.parametrize("line", ['window = "wide"', 'window = "stored"\nvalue_range = [0, 100]'])
def test_a_window_that_cannot_be_is_told(tmp_path: Path, line: str) -> None:
    with pytest.raises(UserError, match="window"):
        read_description(dataset(tmp_path, line))
    assert DatasetDescription(name="x", modality="y", classes=("z",)).window == "auto"
