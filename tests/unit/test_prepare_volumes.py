"""Public datasets of volumes, from archives in their official layout to slices and masks by our own reader."""

from __future__ import annotations

import importlib.util
import json
import re
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
from data_medical_files import write_dicom
from public_downloads import box, encoded, extract, patients, photo, prepared, read, write_zip

from engine.data.prepare.decathlon import MSD_MD5
from engine.data.prepare.metaimage import read_metaimage
from engine.data.prepare.nrrd import read_nrrd
from engine.data.prepare.preparation import prepare
from engine.data.prepare.registry import find_dataset
from engine.data.readers import read_image
from engine.errors import UserError

SHAPE = (5, 7, 3)
"""Columns, rows and slices of the volumes here."""


def voxels(seed: int = 0, *, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """Return (X, Y, Z) int16 with each number from 0 once, in an order that only ``seed`` decides."""
    return np.random.default_rng(seed).permutation(int(np.prod(shape))).reshape(shape).astype(np.int16)


def zones(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """Return labels 1 and 2: column 1 and 2 of row 3, in slice 2."""
    labels = np.zeros(shape, np.uint8)
    labels[1, 3, 2], labels[2, 3, 2] = 1, 2
    return labels


def nifti(array: np.ndarray, affine: np.ndarray) -> bytes:
    return nibabel.Nifti1Image(array, affine).to_bytes()


LPS = np.diag([-0.5, -0.5, 3.0, 1.0])
"""A NIfTI whose stored axes are left, posterior, superior: pictures show it as it is stored."""


def test_the_six_sites_with_both_zones_as_prostate(tmp_path: Path) -> None:
    members = {}
    for number, (folder, name) in enumerate(
        (("BIDMC", "_segmentation"), ("RUNMC", "_Segmentation"), ("BMC", "_segmentation"))
    ):
        members[f"Processed_data_nii/{folder}/Case00.nii"] = nifti(voxels(number), LPS)
        moved = LPS.copy()
        moved[:3, 3] = (1, 2, 3) if folder == "BMC" else 0
        members[f"Processed_data_nii/{folder}/Case00{name}.nii"] = nifti(zones(), moved)
    write_zip(tmp_path / "d" / "Prostate.zip", members)
    report, scan = prepared("prostate", tmp_path / "d", tmp_path / "prostate")
    assert sorted(scan.items) == ["BIDMC", "ISBI", "ISBI_1.5"]
    for site in scan.items:
        assert [item.name for item in scan.items[site]] == ["Case00.000", "Case00.001", "Case00.002"]
        _, planes = read(scan, site, "Case00.002")
        expected = np.zeros((7, 5), np.uint8)
        expected[3, 1:3] = 1
        assert (planes[0] == expected).all(), "zones 1 and 2, on the image's own pixels wherever the header puts them"
        assert read(scan, site, "Case00.001")[1].sum() == 0
    assert patients(scan, "ISBI") == ["ISBI Case00"] * 3
    assert [part.title for part in report.missing] == ["the folder of HK", "the folder of I2CVB", "the folder of UCL"]


MHD = """ObjectType = Image
NDims = 3
BinaryData = True
BinaryDataByteOrderMSB = {msb}
CompressedData = {packed}
TransformMatrix = {directions}
Offset = 10 20 30
ElementSpacing = 0.5 0.8 3
DimSize = 5 7 3
ElementType = MET_SHORT
ElementDataFile = {name}
"""


def mhd(name: str, *, directions: str = "1 0 0 0 1 0 0 0 1", msb: bool = False, packed: bool = False) -> bytes:
    return MHD.format(name=name, directions=directions, msb=msb, packed=packed).encode()


def test_promise12_from_metaimages(tmp_path: Path) -> None:
    """The raw file is x fastest; the first slice of a picture is the lowest in the patient."""
    image, labels = voxels(), zones().astype(np.int16)
    members = {
        "TrainingData_Part1/Case00.mhd": mhd("Case00.raw"),
        "TrainingData_Part1/Case00.raw": image.tobytes(order="F"),
        "TrainingData_Part1/Case00_segmentation.mhd": mhd("Case00_segmentation.raw"),
        "TrainingData_Part1/Case00_segmentation.raw": labels.tobytes(order="F"),
        "TrainingData_Part1/Case01.mhd": mhd("Case01.raw"),
        "TrainingData_Part1/Case01_segmentation.mhd": mhd("Case01_segmentation.raw"),
        "TrainingData_Part1/Case02.mhd": mhd("Case02.raw"),
        "TrainingData_Part1/Case02.raw": image.tobytes(order="F")[:50],
        "TrainingData_Part1/Case02_segmentation.mhd": mhd("Case02_segmentation.raw"),
        "TrainingData_Part1/Case02_segmentation.raw": labels.tobytes(order="F"),
    }
    write_zip(tmp_path / "d" / "TrainingData_Part1.zip", members)
    report, scan = prepared("promise12", tmp_path / "d", tmp_path / "set")
    (first, *_, last) = scan.items["promise12"]
    assert first.image.name == "Case00.nii.gz" and len(scan.items["promise12"]) == 3
    shown, _ = read_image(first.image, slice_index=2, value_range=(0, 104))
    assert np.allclose(shown[..., 0] * 104, image[:, :, 2].T, atol=0.01)
    assert first.geometry.spacing_mm == pytest.approx((0.8, 0.5)) and first.geometry.matrix is not None
    assert first.geometry.matrix[:3, 3] == pytest.approx([10, 20, 30])
    assert np.argwhere(last.read()[1][0]).tolist() == [[3, 1], [3, 2]]
    told = {one.name.rpartition("/")[2]: one.why for one in report.left_out}
    assert told["Case01.mhd"] == "its voxels (Case01.raw) are missing beside it"
    assert "truncated: 50 of 210 bytes" in told["Case02"] and "preparing" not in told["Case02"]


def test_metaimages_and_nrrds_of_other_kinds(tmp_path: Path) -> None:
    """Big-endian, compressed, in one file; axes turned: the first axis runs to the back, the second to the right."""
    image = voxels()
    turned = tmp_path / "a.mha"
    content = zlib.compress(image.astype(">i2").tobytes(order="F"))
    turned.write_bytes(mhd("LOCAL", directions="0 1 0 -1 0 0 0 0 1", msb=True, packed=True) + content)
    volume = read_metaimage(turned)
    assert (volume.voxels == image).all() and volume.affine_lps is not None
    assert (volume.affine_lps @ [1, 0, 0, 1]).tolist() == [10, 20.5, 30, 1]
    assert (volume.affine_lps @ [0, 1, 0, 1]).tolist() == [9.2, 20, 30, 1]
    outside = tmp_path / "b.mhd"
    outside.write_bytes(mhd("../a.mha"))
    with pytest.raises(UserError, match="no file beside it"):
        read_metaimage(outside)
    labels = tmp_path / "a.nrrd"
    labels.write_bytes(nrrd(zones(), space="right-anterior-superior", origin="(-10,-20,30)"))
    volume = read_nrrd(labels)
    assert (volume.voxels == zones()).all() and volume.affine_lps is not None
    assert (volume.affine_lps @ [1, 1, 1, 1]).tolist() == pytest.approx([9.5, 19.2, 33, 1])


def nrrd(array: np.ndarray, *, space: str = "left-posterior-superior", origin: str = "(10,20,30)") -> bytes:
    header = (
        f"NRRD0004\n# made here\ntype: unsigned char\ndimension: 3\nspace: {space}\n"
        f"sizes: {' '.join(map(str, array.shape))}\nspace directions: (0.5,0,0) (0,0.8,0) (0,0,3)\n"
        f"kinds: domain domain domain\nendian: little\nencoding: gzip\nspace origin: {origin}\n\n"
    )
    stream = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    return header.encode() + stream.compress(array.tobytes(order="F")) + stream.flush()


def dicom(folder: Path, pixels: np.ndarray, *, z: float, number: int, **tags: object) -> bytes:
    """Return a slice (rows, columns) at ``z`` mm."""
    path = write_dicom(
        folder / "slice.dcm",
        pixels,
        **{
            **{"PixelSpacing": [0.8, 0.5], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "Modality": "MR"},
            **{"ImagePositionPatient": [10, 20, z], "InstanceNumber": number, **tags},
        },
    )
    return path.read_bytes()


def series(folder: Path, array: np.ndarray, name: str, **tags: object) -> dict[str, bytes]:
    """Return files whose numbers go from head to feet, as scanners count."""
    top = array.shape[2] - 1
    return {
        name.format(top - k): dicom(folder, array[:, :, k].T.copy(), z=30 + 3 * k, number=top - k + 1, **tags)
        for k in range(array.shape[2])
    }


def test_nci_isbi_puts_labels_where_they_lie_in_the_patient(tmp_path: Path) -> None:
    """DICOM slices come head first, the labels feet first and turned round from left to right."""
    at = "{}/1.3.6.1/series/{{:06d}}.dcm"
    members = series(tmp_path, voxels(), at.format("Prostate-3T/Prostate3T-01-0001"))
    members["Training/Prostate3T-01-0001.nrrd"] = nrrd(zones())
    members |= series(tmp_path, voxels(1), at.format("PROSTATE-DIAGNOSIS/ProstateDx-01-0001"))
    mirrored = nrrd(zones()[::-1].copy(), origin="(12,20,30)").replace(b"(0.5,0,0)", b"(-0.5,0,0)")
    members["Training/ProstateDx-01-0001.nrrd"] = mirrored
    members |= series(tmp_path, voxels(2), at.format("Prostate-3T/Prostate3T-01-0002"))
    members["Training/Prostate3T-01-0002.nrrd"] = nrrd(zones(), origin="(10,20,90)")
    extract(tmp_path / "d", members)
    report, scan = prepared("nci-isbi", tmp_path / "d", tmp_path / "set")
    assert {site: items[0].patient for site, items in scan.items.items()} == {
        "ISBI": "Prostate3T-01-0001", "ISBI_1.5": "ProstateDx-01-0001",
    }  # fmt: skip
    for site, name in (("ISBI", "Prostate3T-01-0001"), ("ISBI_1.5", "ProstateDx-01-0001")):
        assert np.argwhere(read(scan, site, f"{name}.002")[1][0]).tolist() == [[3, 1], [3, 2]]
        (item,) = (item for item in scan.items[site] if item.slice_index == 0)
        shown, _ = read_image(item.image, slice_index=0, value_range=(0, 110))
        assert np.allclose(shown[..., 0] * 110, voxels(int(site != "ISBI"))[:, :, 0].T, atol=0.01), "feet first"
    (one,) = report.left_out
    assert one.name == "Prostate3T-01-0002" and "lie elsewhere in the patient" in one.why


def test_i2cvb_labels_in_the_other_order(tmp_path: Path) -> None:
    labels = np.where(zones() > 0, 255, 0).astype(np.int16)
    members = series(tmp_path, voxels(), "Siemens/Patient 383/T2W/T2W_{:03d}.dcm")
    top = SHAPE[2] - 1
    for k in range(SHAPE[2]):  # feet first under names that go up
        content = dicom(tmp_path, labels[:, :, k].T.copy(), z=30 + 3 * k, number=k + 1)
        members[f"Siemens/Patient 383/GT/prostate/T2W_{k:03d}.dcm"] = content
    members |= series(tmp_path, voxels(1), "Siemens/Patient 384/T2W/T2W_{:03d}.dcm")
    extract(tmp_path / "d", members)
    report, scan = prepared("i2cvb", tmp_path / "d", tmp_path / "set")
    assert np.argwhere(read(scan, "i2cvb", f"patient_383.{top:03d}")[1][0]).tolist() == [[3, 1], [3, 2]]
    assert [(one.name, one.why) for one in report.left_out] == [
        ("Patient 384", "it has no labels of the prostate (GT/prostate) in these downloads")
    ]


def test_chaos_with_the_liver_of_both_sites(tmp_path: Path) -> None:
    """CT in Hounsfield units within -160 to 240; of MR's labels 55 to 70 are liver, kidneys and spleen are not."""
    shape = (16, 12, 3)
    ct = np.full(shape, 1024 + 40, np.int16)
    ct[0, 0], ct[1, 0] = 0, 4000
    at = "Train_Sets/CT/1/{}"
    tags = {"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": -1024}
    members = series(tmp_path, ct, at.format("DICOM_anon/i{:04d},0000b.dcm"), **tags)
    planes = [box(2, 2 + k, 6, 8) for k in range(3)]
    members |= {at.format(f"Ground/liver_GT_{k:03d}.png"): encoded(planes[k]) for k in range(3)}
    organs = box(2, 2, 6, 8, value=63) + box(7, 2, 9, 8, value=126) + box(9, 2, 11, 8, value=252)
    organs[0, 0], organs[0, 1], organs[0, 2], organs[0, 3] = 55, 70, 54, 71
    for where, name, images in (("T2SPIR", "", "DICOM_anon"), ("T1DUAL", "in", "DICOM_anon/InPhase")):
        mr = voxels(len(name), shape=shape)
        at = f"Train_Sets/MR/2/{where}/{{}}/IMG-0004-{{{{:05d}}}}"
        members |= series(tmp_path, mr, at.format(images) + ".dcm")
        members |= {at.format("Ground").format(k) + ".png": encoded(organs) for k in range(3)}
    members |= series(tmp_path, voxels(9, shape=shape), "Train_Sets/MR/3/T2SPIR/DICOM_anon/IMG-0004-{:05d}.dcm")
    members["Train_Sets/MR/3/T2SPIR/Ground/IMG-0004-00000.png"] = encoded(organs)
    extract(tmp_path / "d" / "CHAOS_Train_Sets", members)
    report, scan = prepared("chaos", tmp_path / "d", tmp_path / "set")
    names = {site: sorted({item.name[:-4] for item in items}) for site, items in scan.items.items()}
    assert names == {"CT": ["ct_1"], "MR": ["mr_2_t1_in", "mr_2_t2"]}
    assert set(patients(scan, "MR")) == {"MR 2"} and set(patients(scan, "CT")) == {"CT 1"}
    # file i0000 is the uppermost slice, and liver_GT_000 its mask: the lowest slice has the last one
    for index in range(3):
        assert (read(scan, "CT", f"ct_1.{index:03d}")[1][0] == (planes[2 - index] > 0)).all()
    (item,) = (item for item in scan.items["CT"] if item.slice_index == 0)
    stored = nibabel.load(item.image).get_fdata()
    assert (stored[0, 0, 0], stored[1, 0, 0], stored[5, 5, 0]) == (-160, 240, 40)
    _, mask = read(scan, "MR", "mr_2_t2.000")
    assert mask[0, 2:6, 2:8].all() and mask[0, 0, :4].tolist() == [1, 1, 0, 0] and mask.sum() == 24 + 2
    assert any(one.name == "mr_3_t2" and "3 slices and 1 pictures" in one.why for one in report.left_out)


def test_a_folder_of_the_decathlon(tmp_path: Path) -> None:
    """Of several modalities the first is taken; labels are those of dataset.json; litter of macOS is none."""
    about = {
        "name": "Prostate",
        "modality": {"0": "T2", "1": "ADC"},
        "labels": {"0": "background", "1": "PZ", "2": "TZ"},
    }
    both = np.stack([voxels(), voxels(500)], axis=3)
    members = {
        "Task05_Prostate/dataset.json": json.dumps(about).encode(),
        "Task05_Prostate/imagesTr/prostate_00.nii.gz": gz(nifti(both, LPS)),
        "Task05_Prostate/imagesTr/._prostate_00.nii.gz": b"litter",
        "Task05_Prostate/labelsTr/prostate_00.nii.gz": gz(nifti(zones(), LPS)),
        "Task05_Prostate/imagesTs/prostate_01.nii.gz": b"not read",
    }
    extract(tmp_path / "d", members)
    _, scan = prepared("nnunet", tmp_path / "d", tmp_path / "set")
    assert scan.description.classes == ("PZ", "TZ") and scan.description.modality == "T2"
    _, planes = read(scan, "Prostate", "prostate_00.002")
    assert np.argwhere(planes[0]).tolist() == [[3, 1]] and np.argwhere(planes[1]).tolist() == [[3, 2]]
    (item,) = (item for item in scan.items["Prostate"] if item.slice_index == 0)
    assert (nibabel.load(item.image).get_fdata() == voxels()).all()


def test_the_decathlons_liver_tests_what_chaos_has_trained(tmp_path: Path) -> None:
    """Tumours (2) lie in the liver (1); Hounsfield units from -160 to 240 become 0 to 1, as CHAOS's are cut."""
    image = voxels()
    image[0, 0, 0], image[1, 0, 0], image[2, 0, 0] = -1000, 240, 40
    members = {
        "Task03_Liver/dataset.json": json.dumps({"labels": {"0": "background", "1": "liver", "2": "cancer"}}).encode(),
        "Task03_Liver/imagesTr/liver_0.nii.gz": gz(nifti(image, LPS)),
        "Task03_Liver/labelsTr/liver_0.nii.gz": gz(nifti(zones(), LPS)),
    }
    extract(tmp_path / "d", members)
    _, scan = prepared("msd-liver", tmp_path / "d", tmp_path / "set")
    assert scan.description.classes == find_dataset("chaos").classes == ("liver",)
    assert np.argwhere(read(scan, "msd_liver", "liver_0.002")[1][0]).tolist() == [[3, 1], [3, 2]]
    picture, _ = read(scan, "msd_liver", "liver_0.000")
    assert picture[0, :3, 0].tolist() == pytest.approx([0, 1, 0.5])


def test_two_folders_of_one_name_are_not_mixed(tmp_path: Path) -> None:
    for number, folder in enumerate(("one", "two")):
        members = {
            f"{folder}/dataset.json": json.dumps(
                {"name": "same", "labels": {"0": "background", "1": "a", "2": "b"}}
            ).encode(),
            f"{folder}/imagesTr/c.nii": nifti(voxels(number), LPS),
            f"{folder}/labelsTr/c.nii": nifti(zones(), LPS),
        }
        extract(tmp_path / "d", members)
    with pytest.raises(UserError) as caught:
        prepare(find_dataset("nnunet"), downloads=tmp_path / "d", folder=tmp_path / "s", progress=lambda *_: None)
    assert caught.value.code == "prepare.twice" and "two/imagesTr/c.nii" in caught.value.what


def gz(content: bytes) -> bytes:
    stream = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    return stream.compress(content) + stream.flush()


def test_a_dataset_of_nnunet_with_regions_and_one_of_pictures(tmp_path: Path) -> None:
    about = {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": {"background": 0, "whole tumour": [1, 2], "core": [2], "ignore": 3},
        "file_ending": ".nii.gz",
    }
    members = {
        "Dataset001_Brain/dataset.json": json.dumps(about).encode(),
        "Dataset001_Brain/imagesTr/case_1_0000.nii.gz": gz(nifti(voxels(), LPS)),
        "Dataset001_Brain/imagesTr/case_1_0001.nii.gz": gz(nifti(voxels(1), LPS)),
        "Dataset001_Brain/labelsTr/case_1.nii.gz": gz(nifti(zones(), LPS)),
    }
    extract(tmp_path / "d", members)
    report, scan = prepared("nnunet", tmp_path / "d", tmp_path / "set")
    assert scan.description.classes == ("whole tumour", "core")
    _, planes = read(scan, "Dataset001_Brain", "case_1.002")
    assert np.argwhere(planes[0]).tolist() == [[3, 1], [3, 2]] and np.argwhere(planes[1]).tolist() == [[3, 2]]
    assert any("'ignore' (3)" in note for note in report.notes)
    about = {"channel_names": {"0": "R"}, "labels": {"background": 0, "road": 1}, "file_ending": ".png"}
    flat = {
        "dataset.json": json.dumps(about).encode(),
        "imagesTr/a_0000.png": encoded(photo(1)),
        "labelsTr/a.png": encoded(box(1, 1, 3, 3, value=1)),
    }
    extract(tmp_path / "Dataset120_Road", flat)
    _, scan = prepared("nnunet", tmp_path / "Dataset120_Road", tmp_path / "pictures")
    assert read(scan, "site", "a")[1].sum() == 4


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (None, "no 'labels'"),
        ({"background": 0}, "name no class"),
        ({"background": 0, "a": "x"}, "no whole numbers"),
    ],
)
def test_a_dataset_json_that_tells_no_classes(labels: dict | None, words: str, tmp_path: Path) -> None:
    extract(tmp_path / "d", {"dataset.json": json.dumps({"labels": labels} if labels else {}).encode()})
    with pytest.raises(UserError, match=words) as caught:
        prepare(find_dataset("nnunet"), downloads=tmp_path / "d", folder=tmp_path / "s", progress=lambda *_: None)
    assert "dataset.json" in caught.value.what


def test_the_decathlons_checksums_are_those_of_monai() -> None:
    """Read from its source: importing it takes most of a minute."""
    spec = importlib.util.find_spec("monai")
    assert spec is not None and spec.origin is not None
    source = (Path(spec.origin).parent / "apps" / "datasets.py").read_text(encoding="utf-8")
    assert dict(re.findall(r'"(Task\d\d_\w+)": "([0-9a-f]{32})"', source)) == MSD_MD5
