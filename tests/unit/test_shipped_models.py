"""The bundles in assets/models: whole, small, free of folder names, and able to segment what they were made for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from app import examples
from app.settings import REPOSITORY, Settings
from app.studio import Studio
from engine.cli import main
from engine.data.modalities import Origin
from engine.data.phantoms import render
from export.foreign import reasons
from export.manifest import MANIFEST_FILE, read_manifest, verify_files
from export.outputs.pieces import num_components
from export.runtime import load_bundle

FOLDERS = sorted(path for path in (REPOSITORY / "assets" / "models").iterdir() if path.is_dir())


def test_there_is_a_model_to_segment_with_before_any_run() -> None:
    assert FOLDERS
    assert sum(path.stat().st_size for folder in FOLDERS for path in folder.rglob("*") if path.is_file()) < 8e6


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_shipped_bundle_is_whole_and_names_no_folder(folder: Path) -> None:
    manifest = read_manifest(folder)
    verify_files(folder, manifest)
    assert manifest.parity.max_abs_difference <= manifest.parity.tolerance
    assert not [line for line in (folder / MANIFEST_FILE).read_text(encoding="utf-8").splitlines() if '": "/' in line]
    tested = [row for row in manifest.metrics if row["split"] == "test"]
    assert tested and all(row["model"] == manifest.model.role for row in manifest.metrics)


def test_the_nuclei_model_finds_nuclei_of_a_microscope_that_it_never_saw() -> None:
    session = load_bundle(REPOSITORY / "assets" / "models" / "nuclei_cpu")
    scores = []
    for index in range(4):
        phantom = render("nuclei", site="dapi_20x", index=index, image_px=256)
        found, true = session.predict(phantom.image).mask_KHW[0] > 0, phantom.mask[0] > 0
        scores.append(2 * (found & true).sum() / (found.sum() + true.sum()))
    assert np.mean(scores) > 0.6, scores


def test_the_page_offers_it_with_examples_that_it_segments(tmp_path: Path) -> None:
    studio = Studio(Settings(home=tmp_path))
    shipped = [choice.key for choice in studio.models()]
    assert len(shipped) == len(FOLDERS)
    for key in shipped:
        pictures = examples.captioned(studio, key)
        assert len(pictures) == examples.MOST and examples.are_real(studio, key)
        for number, (picture, caption) in enumerate(pictures):
            image = examples.image(studio, key, number)
            assert caption == f"Example {number + 1}" and picture.shape == image.shape and picture.max() == 255
            mask = studio.session(key).predict(image).mask_KHW[0]
            assert 0.01 < mask.mean() < 0.5 and num_components(mask) > 10
            assert not reasons(studio.session(key), image, Origin()), "a notice on one of its own kind"


def test_examples_beside_an_imported_model_are_not_shown(tmp_path: Path) -> None:
    """Only what came with the program is offered to everybody; another model of the task gets drawn ones."""
    studio = Studio(Settings(home=tmp_path, models_dir=tmp_path / "models"))
    shutil.copytree(FOLDERS[0], tmp_path / "models" / "bare", ignore=shutil.ignore_patterns("examples"))
    drawn = examples.captioned(studio, "shipped/bare")
    assert [picture.shape for picture, _ in drawn] == [(256, 256, 3)] * examples.MOST
    assert not examples.are_real(studio, "shipped/bare") and not examples.are_real(studio, "run/shipped")


def test_the_command_line_segments_every_slice_and_goes_on_after_a_file_that_it_cannot_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, out = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    slices = [render("nuclei", site="dapi_20x", index=index, image_px=64).image[..., 0] for index in range(3)]
    nibabel.save(nibabel.Nifti1Image(np.stack(slices, axis=2).astype(np.float32), np.eye(4)), images / "b.nii.gz")
    (images / "a.png").write_bytes(b"no picture")
    assert (
        main(["predict", "nuclei_cpu", str(images), "--out", str(out), "--home", str(tmp_path), "--anyway", "--json"])
        == 2
    )
    answer = json.loads(capsys.readouterr().out)
    (row,) = answer["predictions"]
    assert row["slices"] == 3 and Path(row["mask"]).name == "b_unlike_training_mask.nii.gz"
    assert np.asarray(nibabel.load(row["mask"]).dataobj).any(axis=(0, 1)).tolist() == [True] * 3
    assert [fault["error"]["code"] for fault in answer["faults"]] == ["data.image_unreadable"]
