"""What the format libraries ship is read as independent readers read it, or refused with the right name."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from bench import readers, readers_medical
from bench.reading import Outcome


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    return readers_medical.compare()


def test_no_clinical_test_file_is_read_wrongly(outcomes: list[Outcome]) -> None:
    assert [outcome for outcome in outcomes if outcome.verdict == "wrong"] == []


@pytest.mark.parametrize(("library", "equal"), [("pydicom", 100), ("pydicom-data", 60), ("nibabel", 10)])
def test_most_of_them_hold_an_image_and_are_compared(outcomes: list[Outcome], library: str, equal: int) -> None:
    found = Counter(outcome.verdict for outcome in outcomes if outcome.file.split("/")[0] == library)
    assert found["equal"] >= equal


def test_a_wrong_pixel_is_seen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def off_by_one(path, **how) -> np.ndarray:
        return readers_medical.pixel_array(path) + 1

    name, path = "pydicom/CT_small.dcm", readers_medical.pydicom.data.get_testdata_file("CT_small.dcm")
    monkeypatch.setattr(readers_medical, "read_mask", off_by_one)
    outcome = readers_medical._outcome(name, readers_medical.Path(path), readers_medical._compare_dicom)
    assert outcome.verdict == "wrong"
    monkeypatch.setattr(readers, "COMPARISONS", (lambda: [outcome, Outcome("nibabel/a.nii", "equal", "")],))
    monkeypatch.setattr("sys.argv", ["readers"])
    assert readers.main() == 1
    printed = capsys.readouterr().out
    assert "CT_small.dcm" in printed and "a.nii" not in printed
    assert [line.split() for line in printed.splitlines()[-3:]] == [
        ["nibabel", "1", "0", "0"],
        ["pydicom", "0", "0", "1"],
        ["all", "1", "0", "1"],
    ]
