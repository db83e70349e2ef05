"""A dataset out of a zip: whole or not at all, and nothing outside of its folder."""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from engine.data import dataset_archives
from engine.data.dataset_archives import unpack_dataset
from engine.data.validation import check_dataset
from engine.errors import UserError
from tests.unit.data_world import write_dataset

MIB = 2**20


def zipped(path: Path, folder: Path, *, below: str = "", more: Mapping[str, bytes] | None = None) -> Path:
    """Write a zip of ``folder``'s files, their names beginning with ``below``, and of ``more``."""
    with zipfile.ZipFile(path, "w", compression=zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, below + file.relative_to(folder).as_posix())
        for name, content in (more or {}).items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("below", ["", "polyps/", "all of it/polyps/", "polyps\\"])
def test_a_dataset_is_unpacked_private_and_without_litter(tmp_path: Path, below: str) -> None:
    litter = {"__MACOSX/polyps/._a.png": b"x", f"{below}alpha/images/._img_0.png": b"x", f"{below}.DS_Store": b"x"}
    root = write_dataset(tmp_path / "set")
    path = zipped(tmp_path / "set.zip", root, below=below, more=litter | {f"{below}notes.docx": b"x"})
    found = unpack_dataset(path, tmp_path / "out", most_bytes=MIB)
    assert found == tmp_path / "out" / Path(below.replace("\\", "/")) and check_dataset(found) == []
    files = {file.relative_to(found) for file in found.rglob("*") if file.is_file()}
    assert files == {file.relative_to(root) for file in root.rglob("*") if file.is_file()}
    for entry in [tmp_path / "out", *(tmp_path / "out").rglob("*")]:
        assert stat.S_IMODE(entry.stat().st_mode) == (0o700 if entry.is_dir() else 0o600), entry


def a_link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize("name", [
    "../outside.png", "alpha/images/../../../outside.png", "/etc/outside.png", "C:\\outside.png", "..\\outside.png",
    a_link("alpha/images/link.png"), "alpha/images/IMG_0.png", "a/b/c/d/e/f/g/h/i.png",
    "alpha/images/" + "x" * 300 + ".png",
    "alpha/images/img_0.png/inner.png", "alpha/images/a\nb.png",
])  # fmt: skip
def test_a_name_that_is_not_plain_refuses_the_whole_archive(tmp_path: Path, name: str | zipfile.ZipInfo) -> None:
    path = zipped(tmp_path / "set.zip", write_dataset(tmp_path / "set"))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"x")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError) as caught:
        unpack_dataset(path, tmp_path / "out", most_bytes=MIB)
    assert caught.value.code == "archive.unsafe" and sorted(tmp_path.rglob("*")) == before


def test_what_does_not_fit_is_refused_before_anything_is_inflated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_dataset(tmp_path / "set")
    bomb = zipped(tmp_path / "bomb.zip", root, more={"alpha/images/big.png": b"\0" * 4 * MIB})
    fine = zipped(tmp_path / "fine.zip", root)
    assert bomb.stat().st_size < MIB
    inflated: list[str] = []
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda _self, info, *_: inflated.append(info))

    def refused(path: Path, code: str) -> None:
        with pytest.raises(UserError) as caught:
            unpack_dataset(path, tmp_path / "out", most_bytes=4 * MIB)
        assert caught.value.code == code and not inflated and not list(tmp_path.glob("*out*")), code

    refused(bomb, "archive.too_large")
    monkeypatch.setattr(dataset_archives, "SPARE_BYTES", 2**60)
    refused(fine, "archive.disk_full")
    monkeypatch.setattr(dataset_archives, "MAX_FILES", 10)
    refused(fine, "archive.too_large")


def test_what_is_no_dataset_or_no_zip_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "one.png").write_bytes(b"x")
    two = write_dataset(tmp_path / "both" / "a").parent
    write_dataset(two / "b")
    (tmp_path / "no.zip").write_bytes(b"no zip")
    cut = zipped(tmp_path / "cut.zip", two / "a")
    cut.write_bytes(cut.read_bytes()[:-40])
    cases = [
        (zipped(tmp_path / "one.zip", tmp_path / "set"), "archive.no_dataset"),
        (zipped(tmp_path / "two.zip", two), "archive.no_dataset"),
        (tmp_path / "no.zip", "archive.damaged"), (cut, "archive.damaged"),
    ]  # fmt: skip
    for path, code in cases:
        with pytest.raises(UserError) as caught:
            unpack_dataset(path, tmp_path / "out", most_bytes=MIB)
        assert caught.value.code == code and not list(tmp_path.glob("*out*")), path
