"""Two models on one volume, on the page: what the browser is sent, what is saved under which name, and the tables."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zipfile
from collections.abc import Generator
from html import unescape
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from volume_files import Told, scan_voxels, told_pair, write_scan, write_series

from app import model_offers, volume_figures, volume_jobs, volume_view
from app import volume_text as words
from app.settings import Settings
from app.studio import Studio
from app.tabs import volumes
from app.uploads import Upload
from engine.data.orientation import to_patient
from engine.data.volumes import open_volume
from engine.errors import UserError
from export.pairs import Models

LABELS = scan_voxels()


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return Studio(Settings(home=tmp_path_factory.mktemp("home"), max_read_mb=16))


def uploaded(studio: Studio, path: Path, name: str) -> Path:
    """Put a file where the page keeps uploads, under a name of the page's own."""
    kept = Path(studio.save("image" + (".nii.gz" if name.endswith(".nii.gz") else path.suffix), path.read_bytes()))
    studio.uploads._files[str(kept)] = Upload(kept, "somebody", name, kept.stat().st_size, 0.0)
    return kept


def finished(steps: Generator) -> tuple[list[volume_jobs.Step], volume_jobs.Result]:
    seen = []
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as end:
            return seen, end.value


def rows(table: str) -> list[list[str]]:
    """Return the cells of every row of the body of the first table in HTML."""
    body = table.split("<tbody>")[1].split("</tbody>")[0]
    return [
        [unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in body.split("</tr>")[:-1]
    ]


def test_a_job_of_two_models_counts_and_saves_both(studio: Studio, tmp_path: Path) -> None:
    upload = uploaded(studio, write_scan(tmp_path / "scan.nii.gz"), "scan.nii.gz")
    steps, result = finished(volume_jobs.run(studio, told_pair(), upload))
    assert [(step.slice, step.model, step.done) for step in steps][:3] == [(1, 1, 1), (1, 2, 2), (2, 1, 3)]
    assert steps[-1].done == steps[-1].num_slices * steps[-1].num_models == 8
    assert volume_jobs.progress_words(steps[2]) == "scan.nii.gz: slice 2 of 4, by model 1 of 2"
    names = [Path(path).name for path in (result.masks, result.second_masks)]
    assert names == ["scan_mask.nii.gz", "scan_second_mask.nii.gz"] and not result.nifti and not result.second_nifti
    masks = [nibabel.load(path).get_fdata() for path in (result.masks, result.second_masks)]
    np.testing.assert_array_equal(masks[0], LABELS >= 60)
    np.testing.assert_array_equal(masks[1], (LABELS == 30) | (LABELS == 100))
    with Path(result.csv).open() as stream:
        table = list(csv.DictReader(stream))
    assert [(row["model"], row["volume_ml"], row["differing_ml"]) for row in table] == [
        ("first", "1.4", "0.9"), ("second", "1.1", "0.9")
    ]  # fmt: skip


def test_the_browser_has_both_models_probabilities_whose_distance_is_the_map(studio: Studio, tmp_path: Path) -> None:
    upload = uploaded(studio, write_scan(tmp_path / "scan.nii.gz"), "scan.nii.gz")
    _, result = finished(volume_jobs.run(studio, told_pair(), upload))
    assert result.view is not None
    shape, content = result.view.about["shape"], gzip.decompress(Path(result.view_path).read_bytes())
    count = int(np.prod(shape))
    assert len(content) == (2 + 2) * count and result.view.about["models"] == ["first", "second"]
    values = np.frombuffer(content, "<u2", count).reshape(shape)
    first, second = np.frombuffer(content[2 * count :], np.uint8).reshape(2, *shape).astype(int)
    apart = {value: int(np.abs(first - second)[values == value].max()) for value in (0, 30, 60, 100)}
    assert apart == {0: 0, 30: 45, 60: 35, 100: 9}
    np.testing.assert_array_equal((first >= 50) != (second >= 50), (values == 30) | (values == 60))


def test_the_second_models_classes_are_sent_in_the_order_of_the_firsts(studio: Studio, tmp_path: Path) -> None:
    first = Told("first", {100: 90}, {60: 80}, classes=("organ", "core"))
    second = Told("second", {60: 70}, {100: 60}, classes=("core", "organ"))
    upload = uploaded(studio, write_scan(tmp_path / "scan.nii.gz"), "scan.nii.gz")
    _, result = finished(volume_jobs.run(studio, Models.of(first, second), upload))  # type: ignore[arg-type]
    assert result.view is not None and result.view.about["classes"] == ["organ", "core"]
    shape, content = result.view.about["shape"], gzip.decompress(result.view.packed)
    count = int(np.prod(shape))
    values = np.frombuffer(content, "<u2", count)
    sent = np.frombuffer(content[2 * count :], np.uint8).reshape(4, count)
    assert [int(level[values == 100][0]) for level in sent] == [90, 10, 60, 10]
    assert [int(level[values == 60][0]) for level in sent] == [10, 80, 10, 70]


@pytest.mark.parametrize(("num_models", "most_bytes", "every"), [(1, 3 * 64, 1), (2, 4 * 64, 1), (2, 4 * 64 - 1, 2)])
def test_what_a_browser_is_sent_of_two_models_stays_within_its_bytes(
    tmp_path: Path, num_models: int, most_bytes: int, every: int
) -> None:
    """64 voxels of one class: two bytes for the number, one for each model."""
    nibabel.save(nibabel.Nifti1Image(np.ones((4, 4, 4), np.int16), np.eye(4)), tmp_path / "a.nii")
    volume, levels = open_volume(tmp_path / "a.nii"), np.arange(64, dtype=np.uint8).reshape(4, 4, 4)
    shown = [volume_view.Shown(most_bytes=most_bytes, num_models=num_models) for _ in range(num_models)]
    for number in range(4):
        for at, one in enumerate(shown):
            one.take(volume, number, levels[None, number] + at)
    made = volume_view.view(volume, shown, classes=("a",), percent=50, models=("one", "two")[:num_models])
    content, count = gzip.decompress(made.packed), int(np.prod(made.about["shape"]))
    assert max(made.about["every"]) == every and len(content) == (2 + num_models) * count <= most_bytes
    turn = to_patient(volume.geometry.matrix)
    sent = np.frombuffer(content[2 * count :], np.uint8).reshape(num_models, *made.about["shape"])
    for at, one in enumerate(shown):
        np.testing.assert_array_equal(sent[at], turn.apply(one.levels_KSHW[0]))
        np.testing.assert_array_equal(one.levels_KSHW[0][0, 0], levels[0, 0, :: one.every[2]] + at)


def test_a_pair_can_be_drawn_in_all_its_ways_and_a_single_model_as_before(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.ones((3, 3, 3), np.uint8), np.eye(4)), tmp_path / "a.nii")
    volume, shown = open_volume(tmp_path / "a.nii"), volume_view.Shown()
    for number in range(3):
        shown.take(volume, number, np.zeros((1, 3, 3), np.uint8))
    alone = volume_view.view(volume, [shown], classes=("x",), percent=50)
    both = volume_view.view(volume, [shown] * 2, classes=("x",), percent=50, models=("<i>a", "b"))
    drawn = [volume_view.html(made, address="/x", classes=("x",)) for made in (alone, both)]
    found = [
        re.findall(r"<option value='([a-z]+[:\d]*)'>", html.split("class='shown'")[1].split("</select>")[0])
        for html in drawn
    ]
    assert found[0] == ["mask:0", "edge:0", "map:0:0", "nothing"]
    assert found[1] == ["outlines", "differ", "mask:0", "mask:1", "apart:0", "map:0:0", "map:1:0", "nothing"]
    assert "<i>a" not in drawn[1] and "A: &lt;i&gt;a" in drawn[1] and words.CROSSED_KEY not in drawn[1]


def test_tables_have_both_models_side_by_side_in_millilitres(studio: Studio, tmp_path: Path) -> None:
    upload = uploaded(studio, write_scan(tmp_path / "scan.nii.gz"), "scan.nii.gz")
    _, result = finished(volume_jobs.run(studio, told_pair(), upload))
    told = volume_figures.figures(result.measurements, result.compared)
    assert rows(told) == [["scan.nii.gz", "organ", "1.40 mL", "1.10 mL", "0.640", "0.60 mL", "0.30 mL", "0.90 mL"]]
    assert "A: first. B: second. Volumes of masks at threshold 0.50" in told
    each = told.split("</table>", 1)[1]
    assert [row[:3] for row in rows(each)] == [["scan.nii.gz", name, "organ"] for name in ("first", "second")]
    tifffile.imwrite(tmp_path / "stack.tif", np.full((3, 8, 8), 0, np.uint8), photometric="minisblack")
    _, flat = finished(volume_jobs.run(studio, told_pair(), uploaded(studio, tmp_path / "stack.tif", "stack.tif")))
    assert rows(volume_figures.figures(flat.measurements, flat.compared)) == [
        ["stack.tif", "organ", "0 px", "0 px", "1.000", "0 px", "0 px", "0 px"]
    ]


def test_a_series_gives_both_models_segmentations_and_a_zip_of_images_both_masks(
    studio: Studio, tmp_path: Path
) -> None:
    frames = np.ascontiguousarray(scan_voxels().transpose(2, 1, 0))
    for number, path in enumerate(write_series(tmp_path / "s", frames)):
        with zipfile.ZipFile(tmp_path / "ct.zip", "a") as archive:
            archive.write(path, f"s/IM{number}")
    upload = uploaded(studio, tmp_path / "ct.zip", "ct.zip")
    _, result = finished(volume_jobs.run(studio, told_pair(), upload))
    files = (result.masks, result.nifti, result.second_masks, result.second_nifti)
    assert [Path(path).name for path in files] == [
        "ct_seg.dcm", "ct_mask.nii.gz", "ct_second_seg.dcm", "ct_second_mask.nii.gz"
    ]  # fmt: skip
    assert [int(nibabel.load(path).get_fdata().sum()) for path in files[1::2]] == [14, 11]
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        for name in ("a.nii.gz", "b.nii.gz"):
            archive.write(write_scan(tmp_path / "scan.nii.gz"), name)
    _, many = finished(volume_jobs.run(studio, told_pair(), uploaded(studio, tmp_path / "two.zip", "two.zip")))
    assert many.view is None and not many.second_masks
    with zipfile.ZipFile(many.masks) as archive:
        assert sorted(archive.namelist()) == [
            "a_mask.nii.gz", "a_second_mask.nii.gz", "b_mask.nii.gz", "b_second_mask.nii.gz", "measurements.csv"
        ]  # fmt: skip
        table = list(csv.DictReader(io.TextIOWrapper(archive.open("measurements.csv"))))
    assert [(row["image"], row["model"]) for row in table] == [
        ("a.nii.gz", "first"), ("a.nii.gz", "second"), ("b.nii.gz", "first"), ("b.nii.gz", "second")
    ]  # fmt: skip


def test_a_job_of_two_models_that_is_left_leaves_nothing(studio: Studio, tmp_path: Path) -> None:
    steps = volume_jobs.run(studio, told_pair(), uploaded(studio, write_scan(tmp_path / "a.nii.gz"), "a.nii.gz"))
    for _ in range(3):
        next(steps)
    assert list(studio.scratch.path.glob("job-*"))
    steps.close()
    assert not list(studio.scratch.path.glob("job-*"))


def test_only_other_models_of_the_same_classes_are_offered_as_the_second() -> None:
    def offer(key: str, *classes: str, is_broken: bool = False) -> model_offers.Offer:
        return model_offers.Offer(key, key, "", "", classes, "", None, is_tryout=False, is_broken=is_broken)

    offers = [
        offer("a", "disc", "cup"), offer("b", "cup", "disc"), offer("c", "disc"), offer("d", is_broken=True),
        offer("e", "disc", "cup"),
    ]  # fmt: skip
    assert [found.key for found in model_offers.comparable(offers, "a")] == ["b", "e"]
    assert model_offers.comparable(offers, "c") == [] and model_offers.comparable(offers, "d") == []
    assert model_offers.comparable(offers, None) == [] and model_offers.comparable(offers, "gone") == []


def test_a_model_is_not_compared_with_itself(studio: Studio, tmp_path: Path) -> None:
    keys = ("shipped/nuclei_cpu", "shipped/nuclei_cpu")
    with pytest.raises(UserError, match="The second model is the first one") as caught:
        next(volumes._steps(studio, keys, "whole", str(tmp_path), anyway=False, percent=50, reference=None))
    assert caught.value.code == "app.same_model"
