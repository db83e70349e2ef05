"""Downloads of any kind and in any state: archives that are cut off, hostile or of another dataset, and killed runs."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from data_world import write_png
from public_downloads import box, encoded, extract, photo, polyp_downloads, prepared, write_zip

from engine.cli import main
from engine.data.budget import at_most
from engine.data.prepare import downloads as reading
from engine.data.prepare.downloads import Downloads, safe_name
from engine.data.prepare.journal import Journal, Record
from engine.data.prepare.preparation import prepare
from engine.data.prepare.records import Part, PublicDataset
from engine.data.prepare.registry import DATASETS, find_dataset
from engine.errors import UserError
from tests.patience import WAIT_S


def opened(root: Path, scratch: Path) -> Downloads:
    return Downloads(root, scratch=scratch, progress=lambda *_: None)


def refused(code: str, word: str, name: str, downloads: Path, folder: Path) -> UserError:
    with pytest.raises(UserError) as caught:
        prepare(find_dataset(name), downloads=downloads, folder=folder, progress=lambda *_: None)
    assert caught.value.code == code and word in caught.value.what + caught.value.fix, caught.value.what
    assert not folder.exists(), "nothing half made stands where the dataset was to be"
    return caught.value


def kvasir(folder: Path, count: int = 3) -> dict[str, bytes]:
    members = {}
    for number in range(count):
        members[f"Kvasir-SEG/images/cju{number}.jpg"] = encoded(photo(number), "jpg")
        members[f"Kvasir-SEG/masks/cju{number}.jpg"] = encoded(box(2, 3, 8, 9), "jpg")
    return members


def write_tar(path: Path, members: dict[str, bytes], *, mode: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    ("name", "mode"), [("a.tar", "w"), ("a.tar.gz", "w:gz"), ("a.tgz", "w:gz"), ("a.tar.xz", "w:xz")]
)
def test_tar_archives_are_read_as_zip_archives_are(name: str, mode: str, tmp_path: Path) -> None:
    members = {"./Kvasir-SEG/images/b.txt": b"bee", "Kvasir-SEG/empty.txt": b"", "Kvasir-SEG/a": bytes(range(256)) * 9}
    path = write_tar(tmp_path / "d" / name, members, mode=mode)
    tree = opened(path.parent, tmp_path / "scratch")
    found = {entry.path: tree.read(entry) for entry in tree.entries}
    assert found == {f"{name}/{member.removeprefix('./')}": content for member, content in members.items()}
    alone = opened(path, tmp_path / "other")
    assert [entry.path for entry in alone.entries] == [entry.path for entry in tree.entries], "an archive by its name"
    copied = tmp_path / "copy"
    tree.copy(next(entry for entry in tree.entries if entry.name == "b.txt"), copied)
    assert copied.read_bytes() == b"bee"


@pytest.mark.parametrize("name", ["../a", "a/../../b", "/etc/passwd", "C:\\a", "c:a", "..\\a", "~/a", "a\0b"])
def test_a_name_that_leads_out_of_the_archive_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="leads out of the archive") as caught:
        safe_name(Path("x.zip"), name)
    assert caught.value.code == "prepare.archive_unsafe"
    if "\0" not in name:
        write_zip(tmp_path / "d" / "kvasir-seg.zip", {name: b"x", **kvasir(tmp_path)})
        refused("prepare.archive_unsafe", "kvasir-seg.zip", "polyps", tmp_path / "d", tmp_path / "set")
        write_tar(tmp_path / "t" / "kvasir-seg.tar.gz", {name: b"x"}, mode="w:gz")
        refused("prepare.archive_unsafe", "kvasir-seg.tar.gz", "polyps", tmp_path / "t", tmp_path / "set")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file() and path.suffix not in (".zip", ".gz")] == []


def test_links_encryption_and_large_files_in_archives_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = zipfile.ZipInfo("a.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(UserError, match="a link"):
        opened(tmp_path / "a.zip", tmp_path)
    linked = tarfile.TarInfo("a.png")
    linked.type, linked.linkname = tarfile.SYMTYPE, "/etc/passwd"
    for name, mode in (("b.tar", "w"), ("b.tar.gz", "w:gz")):
        with tarfile.open(tmp_path / name, mode) as archive:
            archive.addfile(linked)
        with pytest.raises(UserError, match="a link or device"):
            opened(tmp_path / name, tmp_path / "scratch")
    path = write_zip(tmp_path / "c.zip", {"a": b"secret"})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="encrypted"):
        opened(path, tmp_path)
    bomb = write_zip(tmp_path / "d.zip", {"a": bytes(2**20)})
    assert bomb.stat().st_size < 2**12
    tree = opened(bomb, tmp_path)
    with at_most(2**19), pytest.raises(UserError, match="would take 1 MiB"):
        tree.read(tree.entries[0])
    monkeypatch.setattr(reading, "MAX_MEMBER_BYTES", 2**19)
    with pytest.raises(UserError, match="a file of"):
        opened(bomb, tmp_path)


def test_a_truncated_zip_and_one_with_a_changed_byte_are_named(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "d" / "kvasir-seg.zip", kvasir(tmp_path))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    error = refused("prepare.archive_damaged", str(path), "polyps", tmp_path / "d", tmp_path / "set")
    assert "Download the archive again" in error.fix
    changed = bytearray(whole)
    changed[whole.index(b"cju1.jpg") + 60] ^= 0xFF
    path.write_bytes(changed)
    refused("prepare.archive_damaged", "cju1.jpg", "polyps", tmp_path / "d", tmp_path / "set")
    for name, mode in (("a.tar", "w"), ("a.tar.gz", "w:gz")):
        cut = write_tar(tmp_path / "t" / name, {"a": np.random.default_rng(1).bytes(90_000)}, mode=mode)
        cut.write_bytes(cut.read_bytes()[:50_000])
        with pytest.raises(UserError) as caught:
            opened(cut, tmp_path / "scratch")
        assert caught.value.code == "prepare.archive_damaged" and name in caught.value.what


def test_a_wrong_archive_an_empty_folder_and_none_are_told_with_what_is_expected(tmp_path: Path) -> None:
    write_zip(tmp_path / "d" / "kvasir-seg.zip", kvasir(tmp_path))
    (tmp_path / "d" / "CHAOS.rar").write_bytes(b"Rar!")
    error = refused("prepare.nothing_found", "kvasir-seg.zip", "chaos", tmp_path / "d", tmp_path / "set")
    assert "CHAOS_Train_Sets.zip" in error.why and "zenodo.org/records/3431873" in error.why
    assert "CHAOS.rar: RAR archives are not read here" in error.what
    refused("prepare.no_downloads", "nowhere", "chaos", tmp_path / "nowhere", tmp_path / "set")
    with pytest.raises(UserError, match="No dataset called 'chao'"):
        find_dataset("chao")


def test_masks_without_images_and_parts_that_are_missing_are_named(tmp_path: Path) -> None:
    members = kvasir(tmp_path)
    del members["Kvasir-SEG/images/cju1.jpg"], members["Kvasir-SEG/masks/cju2.jpg"]
    members["Kvasir-SEG/images/cju3.jpg"] = encoded(photo(9), "jpg")
    members["Kvasir-SEG/masks/cju3.jpg"] = encoded(box(2, 3, 8, 9, width=20), "jpg")
    members["Kvasir-SEG/images/cju4.jpg"] = encoded(photo(8), "jpg")
    members["Kvasir-SEG/masks/cju4.jpg"] = b"<html>not found</html>"
    write_zip(tmp_path / "d" / "kvasir-seg.zip", members)
    report, scan = prepared("polyps", tmp_path / "d", tmp_path / "set")
    assert [item.name for item in scan.items["kvasir_seg"]] == ["cju0"]
    told = {one.name.rpartition("/")[2]: one.why for one in report.left_out}
    assert told["cju1.jpg"] == "this mask belongs to no image in these downloads"
    assert told["cju2.jpg"] == "it has no mask in these downloads"
    assert told["cju3"] == "its mask is 20 x 12 pixels, the image 16 x 12"
    assert told["cju4"].startswith("The file kvasir-seg.zip/Kvasir-SEG/masks/cju4.jpg is an HTML file")
    assert [part.title for part in report.missing][:2] == ["CVC-ClinicDB", "CVC-ColonDB"]
    assert all(part.page.startswith("http") for part in report.missing)


def test_an_archive_beside_what_it_was_extracted_to_counts_once(tmp_path: Path) -> None:
    members = kvasir(tmp_path)
    write_zip(tmp_path / "d" / "kvasir-seg.zip", members)
    extract(tmp_path / "d", members)
    report, _ = prepared("polyps", tmp_path / "d", tmp_path / "set")
    assert [site.num_images for site in report.sites] == [3]
    extract(tmp_path / "d", {"Kvasir-SEG/images/cju0.jpg": b"another version"})
    refused("prepare.twice", "cju0.jpg", "polyps", tmp_path / "d", tmp_path / "other")


def test_a_published_checksum_is_compared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_zip(tmp_path / "d" / "a.zip", kvasir(tmp_path))
    right = opened(path, tmp_path).md5(path)
    made = find_dataset("polyps")

    def dataset(md5: str) -> PublicDataset:
        part = Part("toy", "A.zip", "https://example.org", md5=md5)
        return PublicDataset(**{**vars(made), "parts": (part,), "name": "toy"})

    report = prepare(dataset(right), downloads=tmp_path / "d", folder=tmp_path / "set", progress=lambda *_: None)
    assert report.checked == ("a.zip",)
    with pytest.raises(UserError) as caught:
        prepare(dataset("0" * 32), downloads=tmp_path / "d", folder=tmp_path / "other", progress=lambda *_: None)
    assert caught.value.code == "prepare.checksum" and right in caught.value.what and "example.org" in caught.value.fix


KILLED = """
import os, signal, sys
from pathlib import Path
from engine.data.prepare.preparation import prepare
from engine.data.prepare.registry import find_dataset

def stop(step, done, total):
    if done == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

prepare(find_dataset("polyps"), downloads=Path(sys.argv[1]), folder=Path(sys.argv[2]), progress=stop)
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_killed_preparation_goes_on_and_makes_the_same(tmp_path: Path) -> None:
    downloads = polyp_downloads(tmp_path / "d")
    folder = tmp_path / "set"
    words = [sys.executable, "-c", KILLED, str(downloads), str(folder), "3"]
    ended = subprocess.run(words, timeout=WAIT_S, check=False)
    assert ended.returncode == -signal.SIGKILL and not folder.exists()
    work = tmp_path / ".set.preparing"
    lines = [json.loads(line) for line in (work / "journal.jsonl").read_text(encoding="utf-8").splitlines()]
    lines[1]["mark"] = "made from another download"
    (work / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    for name, size in lines[1]["files"].items():
        (work / "data" / name).write_bytes(bytes(size))
    with (work / "journal.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"key": "torn')
    done = work / "data" / "kvasir_seg" / "images" / "cju0.jpg"
    before = done.stat().st_mtime_ns
    (work / "data" / "C1_paris" / "images" / "stranger.png").write_bytes(b"of other downloads")
    report, _ = prepared("polyps", downloads, folder)
    assert report.num_resumed == 2 and not work.exists()
    assert (folder / "kvasir_seg" / "images" / "cju0.jpg").stat().st_mtime_ns == before, "it is not written again"
    prepared("polyps", downloads, tmp_path / "undisturbed")
    ours, theirs = contents(folder), contents(tmp_path / "undisturbed")
    del ours["prepared.json"], theirs["prepared.json"]
    assert ours == theirs


def test_a_prepared_folder_is_left_alone_and_another_one_refused(tmp_path: Path) -> None:
    downloads = polyp_downloads(tmp_path / "d")
    prepared("polyps", downloads, tmp_path / "set")
    before = contents(tmp_path / "set")
    report, _ = prepared("polyps", downloads, tmp_path / "set")
    assert contents(tmp_path / "set") == before and report.num_resumed == 5
    told = json.loads(before["prepared.json"])
    assert told["licence"] == DATASETS["polyps"].licence and len(told["records"]) == 5
    extract(
        downloads,
        {"CVC-ColonDB/1.bmp": encoded(photo(31), "bmp"), "CVC-ColonDB/p1.bmp": encoded(box(1, 1, 4, 4), "bmp")},
    )
    for name in ("polyps", "polypgen"):
        with pytest.raises(UserError) as caught:
            prepare(find_dataset(name), downloads=downloads, folder=tmp_path / "set", progress=lambda *_: None)
        assert caught.value.code == "prepare.folder_taken"
    write_png(tmp_path / "mine" / "a.png", photo(1))
    with pytest.raises(UserError, match="never mixed"):
        prepare(find_dataset("polyps"), downloads=downloads, folder=tmp_path / "mine", progress=lambda *_: None)


def test_the_disk_is_asked_before_a_file_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads = polyp_downloads(tmp_path / "d")
    usage = type("Usage", (), {"free": reading.SPARE_BYTES})
    monkeypatch.setattr(reading.shutil, "disk_usage", lambda _: usage)
    refused("prepare.disk_full", "goes on where it stopped", "polyps", downloads, tmp_path / "set")


def test_a_record_counts_while_its_files_are_whole(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    record = Record("a/b", "mark", "a", "b", None, {"a/images/b.png": 3})
    journal.add(record)
    with journal.path.open("a", encoding="utf-8") as stream:
        stream.write('{"key": "torn')
    Journal(journal.path).add(record)
    assert Journal(journal.path).records == {"a/b": record}, "what is appended after a torn line can be read"
    assert not record.is_whole(tmp_path)
    extract(tmp_path, {"a/images/b.png": b"abc"})
    assert record.is_whole(tmp_path)
    (tmp_path / "a/images/b.png").write_bytes(b"ab")
    assert not record.is_whole(tmp_path)


def test_the_command_lists_makes_and_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    downloads = polyp_downloads(tmp_path / "d")
    assert main(["data", "prepare", "--list", "--json"]) == 0
    listed = {one["name"]: one for one in json.loads(capsys.readouterr().out)["datasets"]}
    assert set(listed) == set(DATASETS) and len(listed) == 15
    assert all(one["licence"] and one["citation"] and one["page"].startswith("http") for one in listed.values())
    assert main(["data", "prepare", "chaos", "--list"]) == 0
    assert "CC BY-NC-SA 4.0" in capsys.readouterr().out
    words = ["data", "prepare", "polypgen", "--from", str(downloads), "--to", str(tmp_path / "set")]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "C1_paris: 2 images" in said.out and "Missing: PolypGen, centre 2" in said.out and "CC BY 4.0" in said.out
    assert "100 % (4 of 4), 0:00 left" in said.err
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["resumed"] == 4
    assert main(["data", "check", str(tmp_path / "set")]) == 0
    capsys.readouterr()
    assert main(["data", "prepare", "polypgen", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "prepare.what"
