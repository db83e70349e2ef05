"""Slices of a DICOM series without a window are shown in one range, in training as in serving."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from volume_files import write_series

from engine.config import DataConfig
from engine.data.budget import at_most
from engine.data.datasets import load_federation
from engine.data.volumes import SourceVolume, open_series
from tests.unit.data_medical_files import write_frames

TOPS = (10, 1000, 5000)
"""Half of each slice is 0, half is its top: 0.5 and 99.5 % of all values are 0 and 5000."""
SHARES = [0.002, 0.2, 1.0]


def slices(*tops: int) -> np.ndarray:
    return np.stack([np.repeat([0, top], 200).reshape(20, 20) for top in tops]).astype(np.int16)


def brightest(volume: SourceVolume, **how: object) -> list[float]:
    told = {"value_range": None, "window": "auto", **how}
    return [float(volume.picture(number, **told).max()) for number in range(len(volume))]


def test_slices_of_a_series_are_shown_in_its_range(tmp_path: Path) -> None:
    volume = open_series(write_series(tmp_path, slices(*TOPS)))
    np.testing.assert_allclose(brightest(volume), SHARES, rtol=1e-6)
    with at_most(2**20):  # one slice after the other: as a visitor of the page is served
        np.testing.assert_allclose(brightest(volume), SHARES, rtol=1e-6)


def test_frames_of_one_file_have_the_same_range_as_files(tmp_path: Path) -> None:
    path = write_frames(tmp_path / "a.dcm", slices(*TOPS), per_frame=[{}] * 3)
    np.testing.assert_allclose(brightest(open_series([path])), SHARES, rtol=1e-6)


def test_rescaled_values_and_inverted_slices_have_the_series_range_too(tmp_path: Path) -> None:
    tags = {"RescaleSlope": 2, "RescaleIntercept": -1000, "PhotometricInterpretation": "MONOCHROME1"}
    volume = open_series(write_series(tmp_path, slices(*TOPS), **tags))
    darkest = [float(volume.picture(k, value_range=None, window="auto").min()) for k in range(3)]
    np.testing.assert_allclose(darkest, [0.998, 0.8, 0.0], atol=1e-6)


def test_values_within_the_unit_interval_are_no_exception(tmp_path: Path) -> None:
    volume = open_series(write_series(tmp_path, slices(10, 20), RescaleSlope=0.01))
    np.testing.assert_allclose(brightest(volume), [0.5, 1.0], rtol=1e-6)  # of 0 to 0.2


def test_padding_is_no_part_of_the_range(tmp_path: Path) -> None:
    frames = slices(*TOPS)
    frames[:, 0, :10] = 30000
    frames[0] = 30000  # nothing but padding
    volume = open_series(write_series(tmp_path, frames, PixelPaddingValue=30000))
    np.testing.assert_allclose(brightest(volume), [0.0, 0.2, 1.0], rtol=1e-6)


def test_windows_and_declared_ranges_stay_as_they_are(tmp_path: Path) -> None:
    windowed = {"WindowCenter": 500, "WindowWidth": 1000, "VOILUTFunction": "LINEAR_EXACT"}
    volume = open_series(write_series(tmp_path / "a", slices(*TOPS), **windowed))
    np.testing.assert_allclose(brightest(volume), [0.01, 1.0, 1.0], rtol=1e-6)
    plain = open_series(write_series(tmp_path / "b", slices(*TOPS)))
    np.testing.assert_allclose(brightest(plain, value_range=(0, 10000)), [0.001, 0.1, 0.5], rtol=1e-6)
    np.testing.assert_allclose(brightest(plain, window="stored")[2], (5000 + 2**15) / (2**16 - 1), rtol=1e-6)


@pytest.mark.parametrize(
    ("line", "tags", "shares"),
    [
        ("", {}, SHARES),
        ("value_range = [0, 10000]", {}, [0.001, 0.1, 0.5]),
        ("", {"ImagePositionPatient": None}, [1.0, 1.0, 1.0]),  # radiographs of one series stay pictures in both
    ],
)
def test_training_reads_a_series_as_serving_does(tmp_path: Path, line: str, tags: dict, shares: list[float]) -> None:
    for site in ("a", "b"):
        (tmp_path / site / "masks").mkdir(parents=True)
        for path in write_series(tmp_path / site / "images", slices(*TOPS), **tags):
            Image.fromarray(np.ones((20, 20), np.uint8)).save(tmp_path / site / "masks" / f"{path.stem}.png")
    (tmp_path / "dataset.toml").write_text(f'name = "x"\nmodality = "CT"\nclasses = ["c"]\n{line}\n')
    federation = load_federation(DataConfig(source="folder", root=tmp_path, image_px=32, normalise="none"), seed=0)
    found = []
    for site in federation.sites.values():
        found += [float(item.picture().max()) for half in (site.train, site.validation) for item in half.items]
    found += [float(item.picture().max()) for item in federation.test.test.items]
    assert len(found) % 3 == 0
    np.testing.assert_allclose(sorted(found), sorted(shares * (len(found) // 3)), rtol=1e-6)
