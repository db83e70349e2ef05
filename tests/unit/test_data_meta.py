"""meta.csv and dataset.toml as spreadsheets and editors save them: one answer, or a fault that says what is wrong."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from engine.data.description import read_description
from engine.data.layout import scan_dataset
from engine.data.plain_text import decode
from engine.data.validation import check_dataset
from tests.unit.data_world import DESCRIPTION, write_dataset

TABLE = "file,group\nimg_0.png,p1\nimg_1.png,p1\nimg_2.png,Grün\nimg_3.png,\n"
GROUPS = {"img_0": "p1", "img_1": "p1", "img_2": "Grün", "img_3": None}


def dataset_with(tmp_path: Path, content: bytes | str, *, name: str = "meta.csv") -> Path:
    root = write_dataset(tmp_path / "set")
    (root / "beta" / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def patients(root: Path) -> dict[str, str | None]:
    return {item.name: item.patient for item in scan_dataset(root).items["beta"]}


FORMS = {
    "plain": TABLE.encode(),
    "byte order mark": codecs.BOM_UTF8 + TABLE.encode(),
    "UTF-16 little": codecs.BOM_UTF16_LE + TABLE.encode("utf-16-le"),
    "UTF-16 big": codecs.BOM_UTF16_BE + TABLE.encode("utf-16-be"),
    "UTF-16 without a mark": TABLE.encode("utf-16-le"),
    "UTF-16 big without a mark": TABLE.encode("utf-16-be"),
    "CRLF": TABLE.replace("\n", "\r\n").encode(),
    "CR": TABLE.replace("\n", "\r").encode(),
    "semicolons": TABLE.replace(",", ";").encode(),
    "tabs": TABLE.replace(",", "\t").encode(),
    "bars": TABLE.replace(",", "|").encode(),
    "named separator": b"sep=;\r\n" + TABLE.replace(",", ";").replace("\n", "\r\n").encode(),
    "quoted": (
        '"file","group","note"\n"img_0.png","p1","a, b"\nimg_1.png,p1,"two\nlines"\nimg_2.png,Grün\nimg_3.png,'
    ).encode(),
    "header in capitals": TABLE.replace("file,group", " FILE , Group ").encode(),
    "other order": b"group,file\np1,img_0.png\np1,img_1.png\n" + "Grün,img_2.png\n,img_3.png\n".encode(),
    "without endings": TABLE.replace(".png", "").encode(),
    "other case": TABLE.replace("img_0.png", "IMG_0.PNG").encode(),
    "with folders": TABLE.replace("img_0", "images/img_0").replace("img_1", r"C:\data\img_1").encode(),
    "blanks and blank lines": TABLE.replace(",p1", " ,  p1 ").replace("\n", "\n\n").encode() + b"\n,\n  \n",
    "accents taken apart": TABLE.replace("ü", "u\u0308").encode(),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_table_of_any_spreadsheet_is_read(tmp_path: Path, form: str) -> None:
    root = dataset_with(tmp_path, FORMS[form])
    assert patients(root) == GROUPS
    assert scan_dataset(root).problems == []


@pytest.mark.parametrize("name", ["Meta.csv", "META.CSV", "meta.CSV"])
def test_a_table_may_be_called_in_other_case(tmp_path: Path, name: str) -> None:
    assert patients(dataset_with(tmp_path, TABLE, name=name)) == GROUPS


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ("is empty",)),
        ("\n  \n", ("is empty",)),
        ("file,group\nimg_0.png,Smith, John\n", ("3 fields under 2 columns", "Smith, John")),
        ("file,group,group\nimg_0.png,a,b\n", ("two columns called 'group'",)),
        ("file;patient\nimg_0.png;p1\n", ("no column 'group'", "'patient'")),
        ("file group\nimg_0.png p1\n", ("no column 'file'", "'file group'")),
        ("file,group\nimg_0.png,p1\nIMG_0,p2\n", ("names 'IMG_0' twice",)),
        (b"file,group\nimg_0.png,M\xfcller\n", ("UTF-8",)),
        (b"PK\x03\x04" + bytes(90), ("spreadsheet",)),
    ],
)
def test_a_table_that_cannot_be_meant_is_a_fault(tmp_path: Path, content: bytes | str, words: tuple[str, ...]) -> None:
    problems = check_dataset(dataset_with(tmp_path, content))
    assert {problem.code for problem in problems} == {"data.meta_invalid"}
    assert all(word in problems[0].what for word in words), problems[0].what
    assert problems[0].file == "beta/meta.csv" and problems[0].site == "beta" and problems[0].fix


def test_a_line_for_no_image_and_an_image_without_a_line(tmp_path: Path) -> None:
    root = dataset_with(tmp_path, "file,group\nimg_0.png,p1\nimg_7.png,p1\nimg_1.png,\n")
    fault, warning = scan_dataset(root).problems
    assert (fault.code, fault.weight) == ("data.meta_unknown_file", "fault") and "img_7.png" in fault.what
    assert (warning.code, warning.weight) == ("data.meta_incomplete", "warning")
    assert "2 image(s) (img_2.png, img_3.png)" in warning.what


def test_spellings_of_a_patient_are_joined_and_told(tmp_path: Path) -> None:
    root = dataset_with(tmp_path, "file,group\nimg_0.png,p 1\nimg_1.png,P  1\nimg_2.png,p2\nimg_3.png,p10\n")
    assert patients(root) == {"img_0": "P  1", "img_1": "P  1", "img_2": "p2", "img_3": "p10"}
    (warning,) = scan_dataset(root).problems
    assert (warning.code, warning.weight) == ("data.patient_spelling", "warning")
    assert "'P  1', 'p 1'" in warning.what


@pytest.mark.parametrize(("here", "there"), [("p1", "P1"), ("Grün", "Gru\u0308n"), ("p 1", "p\u00a01")])
def test_a_patient_of_two_sites_is_found_in_any_spelling(tmp_path: Path, here: str, there: str) -> None:
    root = dataset_with(tmp_path, TABLE.replace("p1", here))
    (root / "alpha" / "meta.csv").write_text(f"file,group\nimg_0,{there}\nimg_1,\nimg_2,\nimg_3,\n", encoding="utf-8")
    codes = [problem.code for problem in check_dataset(root)]
    assert codes == ["data.shared_patient"]


@pytest.mark.parametrize(
    "content",
    [
        codecs.BOM_UTF8 + DESCRIPTION.encode(),
        codecs.BOM_UTF16_LE + DESCRIPTION.encode("utf-16-le"),
        codecs.BOM_UTF16_BE + DESCRIPTION.encode("utf-16-be"),
        DESCRIPTION.encode("utf-16-le"),
        DESCRIPTION.replace("\n", "\r\n").encode(),
    ],
)
def test_a_description_of_any_editor_is_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "DataSet.toml").write_bytes(content)
    description = read_description(tmp_path)
    assert description is not None and (description.name, description.classes) == ("toy", ("blob",))


def test_text_that_is_no_text() -> None:
    assert decode(b"") == "" and decode(b"a") == "a" and decode("é".encode()) == "é"
    with pytest.raises(UnicodeDecodeError):
        decode(b"\xe9t\xe9")
