"""The bundles in assets/models: whole, small, free of folder names, and able to segment what they were made for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from app.settings import REPOSITORY, Settings
from app.studio import Studio
from app.tabs.segment import example_images
from engine.data.phantoms import render
from export.manifest import MANIFEST_FILE, read_manifest, verify_files
from export.runtime import load_bundle

FOLDERS = sorted(path for path in (REPOSITORY / "assets" / "models").iterdir() if path.is_dir())


def test_there_is_a_model_to_segment_with_before_any_run() -> None:
    assert FOLDERS
    assert sum(path.stat().st_size for folder in FOLDERS for path in folder.iterdir()) < 8e6


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
        pictures = example_images(studio, key)
        assert pictures and all(studio.session(key).predict(image).mask_KHW.any() for image, _ in pictures)
