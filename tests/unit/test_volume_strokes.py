"""Strokes on a volume's planes: which voxels they change, what a hostile browser sends, and what follows from them."""

from __future__ import annotations

import csv
import io
import itertools
import zipfile
from pathlib import Path
from typing import Any

import gradio as gr
import nibabel
import numpy as np
import pydicom
import pytest

from app import volume_jobs
from app.settings import Settings
from app.strokes import MAX_PLACES, MAX_SIZE_PX, Stroke
from app.studio import Studio
from app.tabs.volume_tools import Correcting
from app.volume_corrections import Kept, packed, unpacked
from app.volume_strokes import MAX_STROKES, Grid, PlaneStroke, apply, plane_stroke
from engine.data.orientation import Turn
from engine.errors import UserError
from export.outputs.instance_files import instance_labels
from tests.unit.test_app_volumes import MODEL, finished, models, uploaded
from tests.unit.volume_files import write_series

AS_READ = Grid((4, 6, 8), (1, 1, 1), Turn((0, 1, 2), (False, False, False)))


def dab(axis: int, number: int, row: int, column: int, *, kind: Any = "brush", size: int = 1) -> PlaneStroke:
    return PlaneStroke(axis, number, Stroke(kind, 0, size, np.array([[row, column]], "<i4").tobytes()))


def test_a_disc_in_a_plane_sets_and_clears_the_voxels_that_it_covers() -> None:
    masks = np.zeros((2, 4, 6, 8), np.uint8)
    apply(masks, [dab(0, 1, 2, 3, size=3), dab(0, 1, 2, 3, kind="erase")], grid=AS_READ)
    # 3 wide: all whose centre is at most 1.5 from that of (2, 3), and that is the whole square of 3 x 3 (sqrt 2).
    wanted = {(1, 2 + down, 3 + across) for down, across in itertools.product((-1, 0, 1), repeat=2)} - {(1, 2, 3)}
    assert {tuple(at) for at in np.argwhere(masks[0]).tolist()} == wanted and not masks[1].any()


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", [(False, True, False), (True, False, True)])
def test_a_stroke_changes_the_voxel_that_is_shown_there_in_every_orientation(
    axes: tuple[int, int, int], flips: tuple[bool, bool, bool]
) -> None:
    turn = Turn(axes, flips)
    numbers = np.arange(4 * 6 * 8).reshape(4, 6, 8)
    shown = turn.apply(numbers)
    grid = Grid(tuple(shown.shape), (1, 1, 1), turn)
    for axis, place in ((0, (1, 2, 3)), (1, (0, 1, 2)), (2, (3, 3, 1))):
        masks = np.zeros((1, 4, 6, 8), np.uint8)
        row, column = (number for at, number in enumerate(place) if at != axis)
        apply(masks, [dab(axis, place[axis], row, column)], grid=grid)
        assert numbers[masks[0] > 0].tolist() == [int(shown[place])]


def test_a_voxel_of_a_thinned_view_stands_for_those_up_to_the_next() -> None:
    every, turn = (2, 1, 3), Turn((0, 2, 1), (True, False, False))
    full = np.zeros((1, 5, 6, 8), np.uint8)
    thinned = np.zeros((5, 6, 8), int)[::2, ::1, ::3].shape
    assert thinned == (3, 6, 3)
    grid = Grid((3, 3, 6), every, turn)
    apply(full, [dab(0, 0, 2, 4)], grid=grid)  # the first that is shown is the last slice; column 2 of 3, row 4
    assert {tuple(at) for at in np.argwhere(full[0]).tolist()} == {(4, 4, 6), (4, 4, 7)}
    full[:] = 0
    apply(full, [dab(1, 1, 2, 0)], grid=grid)  # across columns: the second, 3 to 5; third slice from the end, row 0
    assert {tuple(at) for at in np.argwhere(full[0]).tolist()} == {(n, 0, c) for n in (0, 1) for c in (3, 4, 5)}


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("brush:0:4:0", [1, 0, 0]),
        ("brush:3:0:0", [1, 0, 0]),
        ("brush:0:0:1", [1, 0, 0]),
        ("brush:0:-1:0", [1, 0, 0]),
        ("brush:0:0", [1, 0, 0]),
        ("brush:0:0:0:0", [1, 0, 0]),
        ("brush:0:²:0", [1, 0, 0]),
        ("paint:0:0:0", [1, 0, 0]),
        ("undo", None),
        (None, [1, 0, 0]),
        (["brush"], [1, 0, 0]),
        ("brush:0:" + "9" * 5000 + ":0", [1, 0, 0]),
        ("brush:0:0:0", [0, 0, 0]),
        ("brush:0:0:0", [MAX_SIZE_PX + 1, 0, 0]),
        ("brush:0:0:0", [1, 6, 0]),
        ("brush:0:0:0", [1, 0, 8]),
        ("brush:0:0:0", [1, 0, 0] * MAX_PLACES),
        ("brush:0:0:0", [True, 0, 0]),
        ("brush:0:0:0", None),
    ],
)
def test_what_is_no_stroke_changes_nothing(value: Any, told: Any) -> None:
    assert plane_stroke(value, told, grid=AS_READ, num_classes=1) is None
    kept = Kept(Path("x"), None, (MODEL, None, "auto"), 50, "", (1, 4, 6, 8), AS_READ)
    assert kept.after(7, value, told) == (Kept(**{**vars(kept), "heard": 7}), "")


def test_strokes_are_taken_back_done_again_and_bounded() -> None:
    kept = Kept(Path("x"), None, (MODEL, None, "auto"), 50, "", (1, 4, 6, 8), AS_READ)
    one, _ = kept.after(1, "brush:0:1:0", [1, 2, 3])
    two, _ = one.after(2, "erase:2:7:0", [3, 0, 0, 1, 1])
    assert [each.stroke.kind for each in two.strokes] == ["brush", "erase"] and two.strokes[1].axis == 2
    back, _ = two.after(3, "undo", None)
    assert back.strokes == one.strokes and back.after(4, "redo", [])[0].strokes == two.strokes
    assert back.after(4, "brush:0:0:0", [1, 0, 0])[0].undone == ()
    full = Kept(**{**vars(kept), "strokes": one.strokes * MAX_STROKES})
    after, said = full.after(9, "brush:0:1:0", [1, 2, 3])
    assert after.strokes == full.strokes and after.heard == 9 and str(MAX_STROKES) in said
    large = Kept(**{**vars(kept), "grid": Grid((2, 8192, 8192), (1, 1, 1), AS_READ.turn)})
    across = [401, *([0, 0, 8191, 8191] * 100)]
    for serial in range(20):
        large, said = large.after(serial, "brush:0:0:0", across)
    assert "no further stroke" in said and len(large.strokes) < 20


def test_masks_are_packed_to_a_bit_each() -> None:
    masks = np.random.default_rng(1).integers(0, 2, (2, 3, 5, 7), np.uint8)
    assert len(packed(masks)) == -(-masks.size // 8) and (unpacked(packed(masks), (2, 3, 5, 7)) == masks).all()


def test_things_are_numbered_class_after_class() -> None:
    masks = np.zeros((3, 1, 5, 9), np.uint8)
    masks[0, 0, 1, 1], masks[0, 0, 1, 7] = 1, 1
    masks[1, 0, 3, :] = 1
    masks[2, 0, 4, 4] = 1
    labels, numbers = instance_labels(masks, ("nucleus", "polyp", "cell"))  # type: ignore[misc]
    assert labels.dtype == np.uint16 and numbers == {"nucleus": (1, 2), "cell": (3, 3)}
    assert (labels[0, 1, 1], labels[0, 1, 7], labels[0, 4, 4], labels[0, 3].max()) == (1, 2, 3, 0)
    assert instance_labels(masks[:1], ("polyp",)) is None


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return Studio(Settings(home=tmp_path_factory.mktemp("home"), max_read_mb=64))


def kept_of(studio: Studio, upload: Path) -> tuple[Kept, volume_jobs.Result]:
    _, result = finished(volume_jobs.run(studio, models(studio), upload, anyway=True))
    assert result.kept is not None
    masks_file, shape, grid, unlike = result.kept
    return Kept(upload, None, (MODEL, None, "auto"), 50, masks_file, shape, grid, unlike), result  # type: ignore[arg-type]


def event(number: int, value: str, stroke: list[int]) -> gr.SelectData:
    return gr.SelectData(None, {"index": number, "value": value, "selected": True, "stroke": stroke})


def test_a_corrected_volume_has_figures_and_files_of_its_own(studio: Studio, tmp_path: Path) -> None:
    voxels = np.full((16, 20, 6), 100, np.int16)  # to the left, the back and the head
    affine = np.diag([-1.0, -2.0, 3.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(voxels, affine), tmp_path / "scan.nii.gz")
    kept, before = kept_of(studio, uploaded(studio, (tmp_path / "scan.nii.gz").read_bytes(), "scan.nii.gz"))
    handlers = Correcting(studio)
    model = np.asarray(nibabel.load(before.masks).dataobj)
    # All of it is cleared slice by slice, then a square of 3 x 3 voxels is painted in the third slice from the foot.
    for number in range(6):
        lines = [41, *(place for row in range(0, 20, 10) for place in (row, 0, row, 15))]
        kept, said, _ = handlers.correct(kept, event(number + 1, f"erase:0:{number}:0", lines))
    kept, said, button = handlers.correct(kept, event(7, "brush:0:2:0", [3, 10, 5]))
    assert "data-heard='7' data-strokes='7'" in said and "still those of before" in said and button["visible"]
    figures, said, masks, _, _, _, instances, table = handlers.settle(kept)
    changed = int((model > 0).sum())
    hit = model[4:7, 9:12, 2]
    assert f"{changed - int((hit > 0).sum()) + int((hit == 0).sum()):,} voxels of nucleus changed" in said
    path = Path(masks.value["path"])
    assert path.name == "scan_unlike_training_corrected_by_hand_mask.nii.gz"
    made = nibabel.load(path)
    stored = np.asarray(made.dataobj)
    assert {tuple(at) for at in np.argwhere(stored).tolist()} == {
        (x, y, 2) for x, y in itertools.product((4, 5, 6), (9, 10, 11))
    }
    assert (made.affine == affine).all() and b"corrected by hand" in bytes(made.header["descrip"])
    numbered = nibabel.load(instances.value["path"])
    assert numbered.get_data_dtype() == np.uint16 and (np.asarray(numbered.dataobj) == stored).all()
    (row,) = csv.DictReader(Path(table.value["path"]).read_text().splitlines())
    assert row["foreground_px"] == "9" and float(row["volume_ml"]) == pytest.approx(9 * 6 / 1000)
    assert float(row["area_mm2"]) == pytest.approx(18) and row["instances"] == "1" and row["mean_intensity"] == "100"
    assert int(row["corrected_px"]) > 0 and "0.05" in figures
    kept.upload.unlink()
    assert "not kept any more" in handlers.settle(kept)[1]


def test_a_corrected_series_is_a_segmentation_on_the_sources_grid(studio: Studio, tmp_path: Path) -> None:
    write_series(tmp_path / "series", np.random.default_rng(2).integers(0, 900, (4, 12, 16)).astype(np.int16))
    packed_files = io.BytesIO()
    with zipfile.ZipFile(packed_files, "w") as archive:
        for path in sorted((tmp_path / "series").rglob("*.dcm")):
            archive.write(path, path.name)
    kept, _ = kept_of(studio, uploaded(studio, packed_files.getvalue(), "series.zip"))
    kept, _ = kept.after(1, "brush:0:1:0", [5, 4, 4])
    result_masks = Correcting(studio).settle(kept)[2].value["path"]
    made = pydicom.dcmread(result_masks)
    assert "corrected by hand" in made.SeriesDescription and made.pixel_array.any()
    source = pydicom.dcmread(next((tmp_path / "series").rglob("*.dcm")))
    assert (made.Rows, made.Columns) == (source.Rows, source.Columns)


def test_an_answer_that_is_gone_says_so(studio: Studio) -> None:
    assert "not kept" in Correcting(studio).settle(None)[1]
    assert "not kept" in Correcting(studio).correct(None, event(1, "undo", []))[1]
    gone = Kept(Path("/nowhere"), None, (MODEL, None, "auto"), 50, "/nowhere", (1, 4, 6, 8), AS_READ)
    with pytest.raises(UserError):
        from app.volume_corrections import settle

        settle(studio, gone)
