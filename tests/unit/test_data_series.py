"""Series and zips as people send them: in order, or refused with what is missing, mixed, hidden or too large."""

from __future__ import annotations

import io
import stat
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
import tifffile
from data_medical_files import write_dicom, write_frames
from PIL import Image
from volume_files import write_series

from engine.data import archives
from engine.data.archives import is_dicom, unpack
from engine.data.budget import at_most
from engine.data.volume_cache import VolumeCache, held_open
from engine.data.volumes import open_series, open_volume
from engine.errors import UserError

MIB = 2**20


def frames(count: int = 6) -> np.ndarray:
    return np.arange(count * 12, dtype=np.int16).reshape(count, 3, 4)


def test_a_missing_slice_is_named_by_its_neighbours(tmp_path: Path) -> None:
    paths = write_series(tmp_path, frames())
    kept = [path for path in paths if int(open_volume(path).values(0)[0, 0]) != 36]  # the fourth of six
    with pytest.raises(UserError) as caught:
        open_series(kept)
    assert caught.value.code == "data.series_broken"
    assert "one is missing between number 4 at 11 mm and number 2 at 17 mm" in caught.value.what  # 5 + 3 x 2, 5 + 3 x 4
    assert "every 3 mm" in caught.value.what


def test_a_slice_that_is_there_twice_is_named(tmp_path: Path) -> None:
    paths = write_series(tmp_path, frames())
    (tmp_path / "copy.dcm").write_bytes(paths[0].read_bytes())
    with pytest.raises(UserError, match="lie in one place"):
        open_series([*paths, tmp_path / "copy.dcm"])


def test_series_in_one_folder_are_counted_and_refused(tmp_path: Path) -> None:
    paths = [*write_series(tmp_path / "a", frames()), *write_series(tmp_path / "b", frames(2))]
    with pytest.raises(UserError, match="holds 2 DICOM series, of 6, 2 files") as caught:
        open_series(paths)
    assert caught.value.code == "data.series_mixed"


def test_slices_of_other_sizes_or_planes_are_no_volume(tmp_path: Path) -> None:
    uids = {"SeriesInstanceUID": "1.2.3", "FrameOfReferenceUID": "1.2.4"}
    paths = write_series(tmp_path / "a", frames(2), **uids)
    wider = write_series(tmp_path / "b", np.zeros((1, 5, 5), np.int16), **uids)
    with pytest.raises(UserError, match="differ in size: 4 x 3 and 5 x 5"):
        open_series([*paths, *wider])
    scout = write_series(tmp_path / "c", frames(1), rows=(0, 0, -1), **uids)
    with pytest.raises(UserError, match="different planes"):
        open_series([*paths, *scout])


def test_a_series_without_places_goes_by_its_numbers(tmp_path: Path) -> None:
    paths = write_series(tmp_path, frames(), ImagePositionPatient=None)
    volume = open_series(paths)
    assert [int(volume.values(n)[0, 0]) for n in range(6)] == [60, 48, 36, 24, 12, 0]  # number 1 was written last
    assert volume.geometry.affine_lps is None and volume.voxel_mm is None


def test_slices_of_one_number_have_no_order_where_nothing_else_tells_it(tmp_path: Path) -> None:
    paths = write_series(tmp_path, frames(), ImagePositionPatient=None)
    dataset = pydicom.dcmread(paths[2])
    dataset.InstanceNumber = pydicom.dcmread(paths[4]).InstanceNumber
    dataset.save_as(paths[2])
    with pytest.raises(UserError, match=f"several of its slices have number {dataset.InstanceNumber}") as caught:
        open_series(paths)
    assert caught.value.code == "data.series_broken"


def test_films_without_places_stay_together_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    def film(name: str, number: int, values: list[int]) -> Path:
        pixels = np.repeat(np.array(values, np.uint8), 12).reshape(-1, 3, 4)
        tags = {"NumberOfFrames": len(values), "PixelData": pixels.tobytes(), "InstanceNumber": number}
        return write_dicom(tmp_path / name, pixels[0], SeriesInstanceUID="1.2.3", **tags)

    paths = [film("c.dcm", 3, [30, 31, 32]), film("a.dcm", 1, [10]), film("b.dcm", 2, [20, 21])]
    volume = open_series(paths)
    assert [int(volume.values(n)[0, 0]) for n in range(6)] == [10, 20, 21, 30, 31, 32]
    assert [int(open_series(paths[:1]).values(n)[0, 0]) for n in range(3)] == [30, 31, 32]


def test_tags_that_no_place_can_be_worked_out_from_are_told_of_a_volume_too(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", frames()[0], RescaleSlope="1", RescaleIntercept="-1024")
    path.write_bytes(path.read_bytes().replace(b"-1024 ", b"-10x4 "))
    uid = write_dicom(tmp_path / "b.dcm", frames()[0], SeriesInstanceUID="1.2.34")
    uid.write_bytes(uid.read_bytes().replace(b"\x20\x00\x0e\x00UI", b"\x20\x00\x0e\x00QQ"))
    twice = [{"PlanePositionSequence": {"ImagePositionPatient": [0, 0, 0]}} for _ in range(2)]
    shared = {
        "PixelMeasuresSequence": {"PixelSpacing": [1, 1]},
        "PlaneOrientationSequence": {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]},
    }
    segments = write_frames(
        tmp_path / "c.dcm", np.ones((2, 3, 4), np.uint8), per_frame=twice, shared=shared, Modality="SEG"
    )
    for file, word in ((path, "RescaleIntercept"), (uid, "(0020,000E)"), (segments, "same segment in one plane")):
        for opened in (open_volume, lambda one: open_series([one])):
            with pytest.raises(UserError) as caught:
                opened(file)
            assert word.lower() in caught.value.what.lower() and file.name in caught.value.what


def test_pages_of_a_tiff_are_slices_without_a_place(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "stack.tif", frames().astype(np.uint8), photometric="minisblack")
    volume = open_volume(tmp_path / "stack.tif")
    assert (volume.kind, len(volume), volume.voxel_mm) == ("stack", 6, None)
    np.testing.assert_array_equal(volume.values(4), frames()[4])


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", compression=zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def png(value: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (3, 2), value).save(buffer, "PNG")
    return buffer.getvalue()


def test_images_of_a_zip_are_written_below_the_folder_under_numbers(tmp_path: Path) -> None:
    dicom = write_series(tmp_path / "series", frames(1))[0].read_bytes()
    members = {
        "case/b.png": png(1), "case/a.PNG": png(2), "IM000001": dicom, "notes.txt": b"-", "DICOMDIR": dicom,
        "__MACOSX/._a.png": b"-", ".hidden/c.png": png(), "../../evil.png": png(3), "/etc/absolute.png": png(4),
        "c:\\windows\\d.png": png(5), "empty": b"", "nested.zip": b"PK\x03\x04",
    }  # fmt: skip
    folder = tmp_path / "unpacked" / "inside"
    folder.mkdir(parents=True)
    found = unpack(zipped(tmp_path / "all.zip", members), folder, most_bytes=MIB)
    names = [member.name for member in found]
    assert names == ["absolute.png", "IM000001", "c:\\windows\\d.png", "a.PNG", "b.png"]
    assert all(member.path.parent == folder for member in found)
    assert sorted(path for path in (tmp_path / "unpacked").rglob("*") if path.is_file()) == sorted(
        member.path for member in found
    )
    assert is_dicom(found[1].path) and found[1].path.suffix == ".dcm"


def test_a_link_in_a_zip_is_left_out(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(UserError) as caught:
        unpack(tmp_path / "a.zip", tmp_path, most_bytes=MIB)
    assert caught.value.code == "archive.no_images"


def test_a_bomb_is_refused_before_it_is_inflated(tmp_path: Path) -> None:
    bomb = zipped(tmp_path / "bomb.zip", {f"{n}.png": bytes(4 * MIB) for n in range(4)})
    assert bomb.stat().st_size < 100_000
    tracemalloc.start()
    with pytest.raises(UserError, match="holds 16 MiB of images") as caught:
        unpack(bomb, tmp_path, most_bytes=15 * MIB)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.code == "archive.too_large" and peak < 3 * MIB and list(tmp_path.iterdir()) == [bomb]


def test_a_member_that_is_longer_than_it_says_is_damaged(tmp_path: Path) -> None:
    content = zipped(tmp_path / "a.zip", {"a.png": bytes(MIB)}).read_bytes()
    size = MIB.to_bytes(4, "little")
    (tmp_path / "a.zip").write_bytes(content.replace(size, (9).to_bytes(4, "little")))
    with pytest.raises(UserError) as caught:
        unpack(tmp_path / "a.zip", tmp_path, most_bytes=MIB // 2)
    assert caught.value.code in ("archive.damaged", "archive.no_images")
    assert sum(path.stat().st_size for path in tmp_path.iterdir() if path.suffix == ".png") < 1000


def test_a_list_of_too_many_files_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_FILES", 3)
    path = zipped(tmp_path / "many.zip", {f"{n}.txt": b"" for n in range(7)})
    monkeypatch.setattr(zipfile, "ZipFile", None)
    with pytest.raises(UserError, match="more than 3 files"):
        unpack(path, tmp_path, most_bytes=MIB)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and nothing", b"\x00" * 999])
def test_what_is_no_zip_is_damaged(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(UserError) as caught:
        unpack(tmp_path / "a.zip", tmp_path, most_bytes=MIB)
    assert caught.value.code == "archive.damaged"


def test_a_password_is_told(tmp_path: Path) -> None:
    content = bytearray(zipped(tmp_path / "a.zip", {"a.png": png()}).read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(UserError) as caught:
        unpack(tmp_path / "a.zip", tmp_path, most_bytes=MIB)
    assert caught.value.code == "archive.encrypted"


def test_a_file_is_inflated_once_while_it_is_held_open(tmp_path: Path) -> None:
    class Opened:
        num_bytes = 1

    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    (tmp_path / "c").write_bytes(b"3")
    read: list[str] = []
    cache: VolumeCache = VolumeCache(budget_bytes=100)

    def open_it(path: Path) -> Opened:
        read.append(path.name)
        return Opened()

    with at_most(5):
        for name in "aa":
            cache.get(tmp_path / name, open_it)
        assert read == ["a", "a"], "a visitor's file is not kept"
        with held_open():
            for name in "aabaca":
                cache.get(tmp_path / name, open_it)
        assert read[2:] == ["a", "b", "c", "a"], "two are held"
        cache.get(tmp_path / "a", open_it)
    assert read[6:] == ["a"] and cache.num_bytes == 0
