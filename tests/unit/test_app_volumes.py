"""Whole volumes on the page: what the browser is sent, what is saved, what is refused, and that nothing stays."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zipfile
from collections.abc import Generator
from html import unescape
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from volume_files import PATIENT, write_series

from app import volume_jobs, volume_view
from app.main import build_app
from app.settings import Settings
from app.studio import Studio
from app.uploads import Upload
from app.volume_figures import figures, figures_table
from engine.data.identifiers import identifying_tags
from engine.data.orientation import to_patient
from engine.data.volumes import SourceVolume, open_series, open_volume
from engine.errors import UserError
from export.outputs.measurements import Measurement
from export.pairs import Models

MODEL = "shipped/nuclei_cpu"


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return Studio(Settings(home=tmp_path_factory.mktemp("home"), max_read_mb=16))


def test_what_ends_a_job_waits_for_no_answer(studio: Studio) -> None:
    """Gradio cancels after the answer of what is registered before: the job that was started meanwhile would end."""
    ends: dict[tuple[int, str], list[dict]] = {}
    for event in build_app(studio).config["dependencies"]:
        for target, name in event["targets"]:
            ends.setdefault((target, name), []).append(event)
    ending = [events for events in ends.values() if any(event["cancels"] for event in events)]
    assert len(ending) >= 3, "the stop button, another file, another model"
    for events in ending:
        first = next(at for at, event in enumerate(events) if event["cancels"])
        assert not any(event["backend_fn"] for event in events[:first])


def uploaded(studio: Studio, content: bytes, name: str) -> Path:
    """Put a file where the page keeps uploads, under a name of the page's own."""
    suffix = ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix
    path = Path(studio.save(f"image{suffix}", content))
    studio.uploads._files[str(path)] = Upload(path, "somebody", name, len(content), 0.0)
    return path


def models(studio: Studio) -> Models:
    return Models.of(studio.session(MODEL))


def finished(steps: Generator) -> tuple[list[volume_jobs.Step], volume_jobs.Result]:
    seen = []
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as end:
            return seen, end.value


def drawn_of(volume: SourceVolume, levels_SHW: np.ndarray, **how: int) -> volume_view.View:
    """Return the view of a volume of one class whose probabilities, in hundredths, are these."""
    shown = volume_view.Shown(**how)
    for number, levels_HW in enumerate(levels_SHW):
        shown.take(volume, number, levels_HW[None])
    return volume_view.view(volume, [shown], classes=("organ",), percent=50)


def unpacked(view: volume_view.View) -> tuple[np.ndarray, np.ndarray]:
    """Return the values and levels (Z, Y, X) that the browser works out of what it is sent."""
    shape = view.about["shape"]
    count, content = int(np.prod(shape)), gzip.decompress(view.packed)
    numbers = np.frombuffer(content, "<u2", count).reshape(shape)
    assert len(content) == 3 * count
    return view.about["low"] + numbers * view.about["scale"], np.frombuffer(content[2 * count :], np.uint8).reshape(
        shape
    )


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression=zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(value).integers(0, 255, (40, 50), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_the_browser_gets_hounsfield_units_on_the_patients_axes(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    stored = rng.integers(0, 3000, (4, 5, 6)).astype(np.int16)
    tags = {"RescaleSlope": 1, "RescaleIntercept": -1024, "WindowCenter": 40, "WindowWidth": 400}
    paths = write_series(tmp_path, stored, columns=(-1, 0, 0), rows=(0, -1, 0), **tags)  # prone, feet to head
    levels = rng.integers(0, 100, stored.shape).astype(np.uint8)
    made = drawn_of(open_series(paths), levels)
    values, drawn = unpacked(made)
    np.testing.assert_array_equal(values, stored[:, ::-1, ::-1] - 1024)
    np.testing.assert_array_equal(drawn, levels[:, ::-1, ::-1])
    assert made.about["letters"]["axial"] == {"left": "R", "right": "L", "top": "A", "bottom": "P"}
    assert made.about["steps"] == pytest.approx([3, 0.8, 0.5]) and made.about["unit"] == "HU"
    assert [name for name, _, _ in made.about["presets"]] == [
        "As the file says", "0.5-99.5 %", "Soft tissue", "Lung", "Bone"
    ]  # fmt: skip
    assert made.about["presets"][0][1:] == (40, 400) and made.about["presets"][3][1:] == (-600, 1500)
    fullest = [int(np.count_nonzero(drawn >= 50, axis=axes).argmax()) for axes in ((1, 2), (0, 2), (0, 1))]
    assert made.about["at"] == fullest


def test_values_between_whole_numbers_are_kept_to_a_65535th(tmp_path: Path) -> None:
    values = np.linspace(-1.5, 2.25, 60).reshape(3, 4, 5).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.0, -1, 1, 1])), tmp_path / "a.nii")
    made = drawn_of(open_volume(tmp_path / "a.nii"), np.full((5, 4, 3), 49, np.uint8))
    found, _ = unpacked(made)
    np.testing.assert_allclose(found, values.transpose(2, 1, 0), atol=3.75 / 65535)
    assert made.about["at"] == [2, 2, 1], "the middle where nothing was found"


@pytest.mark.parametrize(("shape", "steps", "most", "every"), [
    ((10, 20, 30), (1, 1, 1), 6000, [1, 1, 1]), ((10, 100, 100), (5, 1, 1), 25_000, [1, 2, 2]),
    ((100, 20, 20), (0.5, 1, 1), 20_000, [2, 1, 1]),
])  # fmt: skip
def test_what_is_too_large_for_a_browser_is_thinned_where_it_is_finest(
    shape: tuple, steps: tuple, most: int, every: list[int]
) -> None:
    assert volume_view.strides(shape, steps, most=most) == every


def test_a_thinned_volume_says_so_and_keeps_value_and_label_together(tmp_path: Path) -> None:
    values = np.arange(8 * 10 * 12, dtype=np.int16).reshape(8, 10, 12)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.0, -1, 1, 1])), tmp_path / "a.nii")
    levels = (values.transpose(2, 1, 0) % 100).astype(np.uint8)
    made = drawn_of(open_volume(tmp_path / "a.nii"), levels, most_bytes=600)
    found, drawn = unpacked(made)
    assert found.size <= 200
    np.testing.assert_array_equal(drawn, found % 100)
    assert "Shown at a smaller size" in volume_view.html(made, address="/x", classes=("organ",))


def test_every_class_has_its_levels_and_takes_its_share_of_what_a_browser_is_sent(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.ones((4, 4, 4), np.int16), np.eye(4)), tmp_path / "a.nii")
    volume, levels = open_volume(tmp_path / "a.nii"), np.arange(2 * 64, dtype=np.uint8).reshape(2, 4, 4, 4) % 100
    for most_bytes, every in ((4 * 64, 1), (4 * 64 - 1, 2)):
        shown = volume_view.Shown(most_bytes=most_bytes)
        for number in range(4):
            shown.take(volume, number, levels[:, number])
        made = volume_view.view(volume, [shown], classes=("a", "b"), percent=30)
        count, content = int(np.prod(made.about["shape"])), gzip.decompress(made.packed)
        assert max(made.about["every"]) == every and len(content) == 4 * count <= most_bytes
        kept = levels[(slice(None), *(slice(None, None, step) for step in made.about["every"]))]
        turned = to_patient(volume.geometry.matrix)
        sent = np.frombuffer(content[2 * count :], np.uint8).reshape(2, *made.about["shape"])
        np.testing.assert_array_equal(sent, np.stack([turned.apply(one) for one in kept]))
    assert made.about["percent"] == 30 and len(made.about["shades"]) == 100


def test_html_of_a_viewer_escapes_what_comes_from_outside(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.ones((3, 3, 3), np.uint8), np.eye(4)), tmp_path / "a.nii")
    shown = volume_view.Shown()
    volume = open_volume(tmp_path / "a.nii")
    for number in range(3):
        shown.take(volume, number, np.zeros((1, 3, 3), np.uint8))
    made = volume_view.view(volume, [shown], classes=("<b>",), percent=50)
    drawn = volume_view.html(made, address="/gradio_api/file='><script>", classes=("<b>",))
    assert "<script>" not in drawn and "&lt;b&gt;" in drawn
    about = json.loads(unescape(drawn.split("data-about='")[1].split("'")[0]))
    assert about["shape"] == [3, 3, 3]
    measured = Measurement("<x>", "<x>", 1, 1, 1, None, 1, None, 1, None, 1, 1, 1, 1, "px", 1, "<x>")
    assert "<x>" not in figures_table([(measured, "<x>")])


def test_the_table_of_a_volume_has_the_axes_of_one_piece() -> None:
    one = Measurement("scan", "organ", 2, 9, 0.5, 4.0, 1, 2.5, 3, None, 6, 12.34, 5.0, 4.56, "mm", 7.0, "HU")
    cells = ("4.00 mm²", "2.50 mL", "3", "12.34 × 5.00 mm", "4.56 mm", "7.00 HU")
    told = figures_table([(one, None)])
    assert "".join(f"<td>{cell}</td>" for cell in cells) in told and "Largest piece" in told


def test_a_job_has_its_threshold_in_masks_figures_and_view(studio: Studio) -> None:
    found = {}
    for percent in (50, 1):
        upload = uploaded(studio, png(1), "cells.png")
        _, result = finished(volume_jobs.run(studio, models(studio), upload, anyway=True, percent=percent))
        assert result.view is not None and result.view.about["percent"] == percent
        _, levels = unpacked(result.view)
        (cells,) = result.measurements
        assert cells.foreground_px == np.count_nonzero(levels >= percent) and cells.threshold == percent / 100
        assert ("threshold_0.01" in Path(result.masks).name) == (percent == 1)
        found[percent] = cells.foreground_px
    assert found[1] > found[50]


def test_a_zip_of_images_gives_a_zip_of_masks_and_one_table(studio: Studio) -> None:
    content = zipped({"a/cells.png": png(1), "b/cells.png": png(2), "broken.png": b"\x89PNG no", "readme.txt": b"-"})
    steps, result = finished(
        volume_jobs.run(studio, models(studio), uploaded(studio, content, "day 1.zip"), anyway=True)
    )
    assert [(step.case, step.num_cases) for step in steps] == [(1, 3), (2, 3)] and result.view is None
    (fault,) = result.faults
    assert "broken.png" in fault.what and str(studio.scratch.path) not in fault.what
    assert Path(result.masks).name == "day_1_masks.zip" and Path(result.csv).name == "day_1_measurements.csv"
    with zipfile.ZipFile(result.masks) as archive:
        assert sorted(archive.namelist()) == [
            "cells_2_unlike_training_mask.png", "cells_unlike_training_mask.png", "measurements.csv"
        ]  # fmt: skip
        rows = list(csv.DictReader(io.TextIOWrapper(archive.open("measurements.csv"))))
    assert [row["image"] for row in rows] == ["cells.png", "cells.png"]
    assert not list(studio.scratch.path.glob("job-*")), "what was unpacked is gone"


def test_a_zipped_series_tells_which_tags_identify_and_never_what_they_say(studio: Studio, tmp_path: Path) -> None:
    frames = np.random.default_rng(4).integers(0, 90, (4, 24, 20)).astype(np.int16)
    paths = write_series(tmp_path, frames)
    content = zipped({f"s/IM{number}": path.read_bytes() for number, path in enumerate(paths)})
    steps, result = finished(volume_jobs.run(studio, models(studio), uploaded(studio, content, "ct.zip"), anyway=True))
    assert [step.slice for step in steps] == [1, 2, 3, 4] and result.size == (4, 20, 24)
    assert set(PATIENT) <= set(result.identifiers)
    assert Path(result.masks).name == "ct_unlike_training_seg.dcm"
    assert Path(result.nifti).name == "ct_unlike_training_mask.nii.gz"
    assert result.view is not None and gzip.decompress(Path(result.view_path).read_bytes())
    assert any("CT" in reason for reason in result.unlike)
    with pytest.raises(UserError, match="DICOM Modality CT") as unasked:
        finished(volume_jobs.run(studio, models(studio), uploaded(studio, content, "ct.zip")))
    assert unasked.value.code == "image.foreign"
    told = json.dumps([result.view.about, [step.name for step in steps], result.identifiers])
    assert not any(value in told + Path(result.csv).read_text() for value in PATIENT.values())
    missing = zipped({f"s/IM{number}": path.read_bytes() for number, path in enumerate(paths) if number != 1})
    with pytest.raises(UserError) as caught:
        finished(volume_jobs.run(studio, models(studio), uploaded(studio, missing, "gap.zip"), anyway=True))
    assert caught.value.code == "data.series_broken" and "gap.zip" in caught.value.what


def test_a_job_that_is_left_leaves_nothing(studio: Studio) -> None:
    steps = volume_jobs.run(
        studio,
        models(studio),
        uploaded(studio, zipped({"a.png": png(1), "b.png": png(2)}), "x.zip"),
        anyway=True,
    )
    next(steps)
    assert list(studio.scratch.path.glob("job-*"))
    steps.close()
    assert not list(studio.scratch.path.glob("job-*"))


def test_a_bomb_is_refused_by_its_own_name(studio: Studio) -> None:
    bomb = uploaded(studio, zipped({"a.png": bytes(17 * 2**20)}), "bomb.zip")
    with pytest.raises(UserError, match=r"The archive bomb\.zip holds 17 MiB") as caught:
        finished(volume_jobs.run(studio, models(studio), bomb))
    assert caught.value.code == "archive.too_large"


def test_private_tags_and_burned_in_names_are_told(tmp_path: Path) -> None:
    (path,) = write_series(tmp_path, np.zeros((1, 3, 3), np.int16), BurnedInAnnotation="YES", PatientSex="")
    tags = open_volume(path).dicom_file().tags
    tags.private_block(0x0011, "MAKER", create=True).add_new(1, "LO", "Erika")
    found = identifying_tags(tags)
    assert {"PatientName", "BurnedInAnnotation", "private tags"} <= set(found) and "PatientSex" not in found


def test_a_volume_is_compared_with_a_mask_by_where_both_lie(studio: Studio, tmp_path: Path) -> None:
    """The mask of the job itself, mirrored: its voxels lie in the same places, so both agree."""
    grey = np.random.default_rng(3).integers(0, 255, (40, 36, 3)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(grey, np.diag([2.0, 1.5, 4.0, 1.0]) + np.eye(4, k=3)), tmp_path / "scan.nii.gz")
    scan = uploaded(studio, (tmp_path / "scan.nii.gz").read_bytes(), "scan.nii.gz")
    _, own = finished(volume_jobs.run(studio, models(studio), scan, anyway=True, percent=1))
    mask = nibabel.load(own.masks)
    turned = mask.as_reoriented(np.array([[0, -1], [1, 1], [2, -1]]))
    nibabel.save(turned, tmp_path / "mask.nii.gz")
    truth = uploaded(studio, (tmp_path / "mask.nii.gz").read_bytes(), "reader one.nii.gz")
    _, result = finished(volume_jobs.run(studio, models(studio), scan, anyway=True, percent=1, reference=truth))
    (found,) = result.measurements
    assert found.foreground_px > 0 and result.reference == "reader one.nii.gz"
    assert (found.dice, found.iou, found.hd95, found.surface_dice, found.surface_tolerance) == (1, 1, 0, 1, 4)
    assert ",1,1,0,1,4," in Path(result.csv).read_text()
    shown = figures(result.measurements, result.compared)
    assert "Surface Dice" in shown and "<td>1.000 (within 4.00 mm)</td>" in shown
    elsewhere = nibabel.Nifti1Image(np.ones((40, 36, 2), np.uint8), mask.affine)
    nibabel.save(elsewhere, tmp_path / "short.nii.gz")
    short = uploaded(studio, (tmp_path / "short.nii.gz").read_bytes(), "short.nii.gz")
    with pytest.raises(UserError) as caught:
        next(volume_jobs.run(studio, models(studio), scan, anyway=True, reference=short))
    assert "short.nii.gz lies elsewhere" in caught.value.what and "field for the reference mask" in caught.value.fix
    many = uploaded(studio, zipped({"a.png": png(1), "b.png": png(2)}), "many.zip")
    with pytest.raises(UserError, match="holds 2 images and volumes") as caught:
        next(volume_jobs.run(studio, models(studio), many, anyway=True, reference=truth))
    assert caught.value.code == "reference.several"
