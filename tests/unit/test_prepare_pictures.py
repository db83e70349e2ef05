"""Public datasets of pictures, from archives in their official layout to images and masks by our own reader."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from public_downloads import box, encoded, extract, patients, photo, polyp_downloads, prepared, read, write_zip
from skimage.color import lab2rgb

from engine.data.prepare.polygons import draw_annotations
from engine.data.prepare.polyps import SEQUENCE_BEGINS
from engine.data.prepare.skin_tone import tone_group, typology_angle
from engine.errors import UserError


def levels(disc: np.ndarray, cup: np.ndarray) -> np.ndarray:
    """Return REFUGE's mask: 255 background, 128 disc, 0 cup."""
    return np.where(cup > 0, 0, np.where(disc > 0, 128, 255)).astype(np.uint8)


DISC, CUP = box(1, 2, 9, 10), box(3, 4, 6, 7)


def drishti() -> dict[str, bytes]:
    """Four experts: 255 where all agree, 191 where three, 128 where two."""
    soft = np.where(DISC > 0, 191, 0).astype(np.uint8)
    soft[0] = 128
    at = "Drishti-GS1_files/Drishti-GS1_files/Training"
    return {
        f"{at}/Images/drishtiGS_002.png": encoded(photo(2)),
        f"{at}/GT/drishtiGS_002/SoftMap/drishtiGS_002_ODsegSoftmap.png": encoded(soft),
        f"{at}/GT/drishtiGS_002/SoftMap/drishtiGS_002_cupsegSoftmap.png": encoded(CUP),
        f"{at}/GT/drishtiGS_002/AvgBoundary/drishtiGS_002_ODAvgBoundary.txt": b"1 2\n",
        f"{at}/Images/drishtiGS_004.png": encoded(photo(4)),
    }


def test_fundus_collections_have_a_disc_that_includes_the_cup(tmp_path: Path) -> None:
    downloads = tmp_path / "downloads"
    write_zip(downloads / "Drishti-GS1_files.zip", drishti())
    stereo = np.full((12, 32, 3), 200, np.uint8)
    stereo[:, 16:] = 20
    r3 = {
        "RIM-ONE r3/Healthy/Stereo Images/N-1-L.jpg": encoded(stereo, "jpg", quality=95),
        "RIM-ONE r3/Healthy/Average_masks/N-1-L-Disc-Avg.png": encoded(box(4, 4, 9, 9)),
        "RIM-ONE r3/Healthy/Average_masks/N-1-L-Cup-Avg.png": encoded(box(3, 5, 6, 7)),  # a row beyond the disc
        "RIM-ONE r3/Healthy/Expert1_masks/N-1-L-Disc-exp1.png": encoded(box(0, 0, 12, 16)),
    }
    write_zip(downloads / "RIM-ONE r3.zip", r3)
    write_zip(downloads / "REFUGE-Training400.zip", {"Training400/Glaucoma/g0001.jpg": encoded(photo(5), "jpg")})
    write_zip(
        downloads / "Annotation-Training400.zip",
        {"Annotation-Training400/Disc_Cup_Masks/Glaucoma/g0001.bmp": encoded(levels(DISC, CUP), "bmp")},
    )
    extract(downloads, {"REFUGE-Validation400/V0001.jpg": encoded(photo(6), "jpg")})
    extract(downloads, {"REFUGE-Validation400-GT/Disc_Cup_Masks/V0001.bmp": encoded(levels(DISC, CUP), "bmp")})
    report, scan = prepared("fundus", downloads, tmp_path / "fundus")

    assert {site.site: site.num_images for site in report.sites} == {
        **{"drishti_gs": 1, "rim_one_r3": 1, "refuge_zeiss": 1, "refuge_canon": 1}
    }
    assert scan.description.classes == ("disc", "cup") and scan.description.modality == "retinal fundus photograph"
    image, planes = read(scan, "drishti_gs", "drishtiGS_002")
    assert (image == photo(2)).all()
    assert (planes[0] == (DISC > 0)).all() and (planes[1] == (CUP > 0)).all(), "two of four experts are not enough"
    image, planes = read(scan, "rim_one_r3", "N-1-L")
    assert image.shape == (12, 16, 3) and (np.abs(image.astype(int) - 200) < 5).all(), "the left view"
    assert planes[0].sum() == 25 + 2 and planes[1].sum() == 6, "the cup's row beyond the disc is disc"
    assert patients(scan, "rim_one_r3") == ["N-1"]
    for site, name in (("refuge_zeiss", "train_g0001"), ("refuge_canon", "validation_v0001")):
        _, planes = read(scan, site, name)
        assert planes[0].sum() == 64 and planes[1].sum() == 9 and planes[0, 4, 5] == planes[1, 4, 5] == 1
    assert [part.title for part in report.missing] == ["REFUGE, test set"]
    (one,) = report.left_out
    assert one.name.endswith("drishtiGS_004.png") and one.why == "it has no mask in these downloads"


def test_rim_one_dl_stands_in_for_r3_and_is_left_out_beside_it(tmp_path: Path) -> None:
    dl = {
        "RIM-ONE_DL_images/partitioned_by_hospital/training_set/normal/r1_Im001.png": encoded(photo(1)),
        "RIM-ONE_DL_images/partitioned_randomly/test_set/normal/r1_Im001.png": encoded(photo(1)),
    }
    masks = {
        f"RIM-ONE_DL_reference_segmentations/normal/r1_Im001-1-{name}-T.png": encoded(plane)
        for name, plane in (("Disc", DISC), ("Cup", CUP))
    }
    extract(tmp_path / "d", dl | masks)
    report, scan = prepared("fundus", tmp_path / "d", tmp_path / "fundus")
    assert [(site.site, site.num_images) for site in report.sites] == [("rim_one_dl", 1)]
    assert read(scan, "rim_one_dl", "r1_Im001")[1].sum(axis=(1, 2)).tolist() == [64, 9]
    extract(
        tmp_path / "d",
        {
            "RIM-ONE r3/Glaucoma and suspects/Stereo Images/G-7-R.jpg": encoded(photo(3, width=32), "jpg"),
            "RIM-ONE r3/Glaucoma and suspects/Average_masks/G-7-R-Disc-Avg.png": encoded(box(1, 2, 9, 10, width=32)),
            "RIM-ONE r3/Glaucoma and suspects/Average_masks/G-7-R-Cup-Avg.png": encoded(box(3, 4, 6, 7, width=32)),
        },
    )
    report, _ = prepared("fundus", tmp_path / "d", tmp_path / "both")
    assert [site.site for site in report.sites] == ["rim_one_r3"]
    assert any(one.name == "RIM-ONE DL" and "same images" in one.why for one in report.left_out)


def test_the_four_domains_are_four_sites(tmp_path: Path) -> None:
    members = {}
    for domain in (1, 2, 4):
        for half in ("train", "test"):
            at = f"Fundus/Domain{domain}/{half}/ROIs"
            members[f"{at}/image/gdrishtiGS_1.png"] = encoded(photo(10 * domain + (half == "test")))
            members[f"{at}/mask/gdrishtiGS_1.png"] = encoded(levels(DISC, CUP))
    write_zip(tmp_path / "d" / "Fundus-doFE.zip", members)
    report, scan = prepared("fundus-dofe", tmp_path / "d", tmp_path / "set")
    assert sorted(scan.items) == ["fundus1", "fundus2", "fundus4"]
    assert [item.name for item in scan.items["fundus1"]] == ["test_gdrishtiGS_1", "train_gdrishtiGS_1"]
    assert read(scan, "fundus4", "train_gdrishtiGS_1")[1].sum(axis=(1, 2)).tolist() == [64, 9]
    assert [part.title for part in report.missing] == ["Domain3"]


def test_polyps_of_every_collection(tmp_path: Path) -> None:
    downloads = polyp_downloads(tmp_path / "d")
    drawn = box(2, 3, 8, 9)
    members = {}
    for number in (1, 26, 25):
        members[f"CVC-ClinicDB/Original/{number}.tif"] = encoded(photo(number), "tif")
        members[f"CVC-ClinicDB/Ground Truth/{number}.tif"] = encoded(drawn, "tif")
    write_zip(downloads / "CVC-ClinicDB.zip", members)
    extract(
        downloads,
        {
            "CVC-ColonDB/1.bmp": encoded(photo(31), "bmp"),
            "CVC-ColonDB/p1.bmp": encoded(drawn, "bmp"),
            "ETIS-LaribPolypDB/ETIS-LaribPolypDB/2.tif": encoded(photo(32), "tif"),
            "ETIS-LaribPolypDB/Ground Truth/p2.tif": encoded(drawn, "tif"),
            "ETIS-LaribPolypDB/Ground Truth/p3.tif": encoded(drawn, "tif"),
        },
    )
    report, scan = prepared("polyps", downloads, tmp_path / "polyps")
    counts = {site: len(items) for site, items in scan.items.items()}
    assert counts == {
        **{"kvasir_seg": 1, "cvc_clinicdb": 3, "cvc_colondb": 1, "etis_larib": 1, "C1_paris": 2, "C4_oslo": 2}
    }
    for site, items in scan.items.items():
        for item in items:
            assert (item.read()[1] == (drawn > 0)).all(), f"{site}/{item.name}"
    assert patients(scan, "cvc_clinicdb") == ["sequence 1", "sequence 1", "sequence 2"]
    assert patients(scan, "C4_oslo") == ["C4_oslo 7", "C4_oslo 8"]
    assert patients(scan, "C1_paris") == [None, None]
    assert [one.why for one in report.left_out] == ["this mask belongs to no image in these downloads"]
    assert [part.title for part in report.missing] == [f"PolypGen, centre {number}" for number in (2, 3, 5, 6)]
    _, alone = prepared("polypgen", downloads, tmp_path / "polypgen")
    assert sorted(alone.items) == ["C1_paris", "C4_oslo"]


def test_the_sequences_of_clinicdb_cover_its_frames_once() -> None:
    assert len(SEQUENCE_BEGINS) == 29 and list(SEQUENCE_BEGINS) == sorted(SEQUENCE_BEGINS)
    lengths = np.diff([*SEQUENCE_BEGINS, 613])
    assert lengths.min() >= 6 and lengths.max() <= 26 and lengths.sum() == 612


XML = """<?xml version="1.0"?>
<Annotations MicronsPerPixel="0.252"><Annotation Id="1"><Attributes><Attribute Name="{name}"/></Attributes>
<Regions><RegionAttributeHeaders/><Region Id="1"><Vertices>{vertices}</Vertices></Region></Regions></Annotation>
</Annotations>"""


def square(left: float, top: float, right: float, bottom: float) -> str:
    corners = ((left, top), (right, top), (right, bottom), (left, bottom))
    return "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in corners)


def test_a_polygon_covers_the_pixels_whose_centres_lie_inside(tmp_path: Path) -> None:
    """X is the column: from 2 to 6 are columns 2 to 5; from 3 to 8 rows 3 to 7. A triangle leaves half of a square."""
    path = tmp_path / "a.xml"
    path.write_text(XML.format(name="Epithelial", vertices=square(2, 3, 6, 8)))
    assert (draw_annotations(path, (12, 16)) == (box(3, 2, 8, 6) > 0)).all()
    path.write_text(XML.format(name="", vertices=square(2.6, 3, 6.4, 8)))
    assert (draw_annotations(path, (12, 16)) == (box(3, 3, 8, 6) > 0)).all(), "centres at 2.5 and 6.5 lie outside"
    path.write_text(XML.format(name="", vertices='<Vertex X="0" Y="0"/><Vertex X="4.2" Y="0"/><Vertex X="0" Y="4.2"/>'))
    assert draw_annotations(path, (6, 6)).sum(axis=1).tolist() == [4, 3, 2, 1, 0, 0]
    path.write_text(XML.format(name="", vertices=square(14, 10, 20, 20)))
    assert draw_annotations(path, (12, 16)).sum() == 4, "what lies beyond the picture is cut off"
    path.write_text('<!DOCTYPE a [<!ENTITY b "c">]>' + XML.format(name="", vertices="&b;"))
    with pytest.raises(UserError, match="document type"):
        draw_annotations(path, (12, 16))


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def test_nuclei_of_every_collection(tmp_path: Path) -> None:
    downloads = tmp_path / "d"
    images = np.stack([photo(number, height=8, width=8) for number in (1, 2, 3)]).astype(np.float64)
    masks = np.zeros((3, 8, 8, 6))
    masks[..., 5] = 1  # the background's own channel
    masks[1, 2, 3, 0], masks[1, 4, 5, 4], masks[0, 7, 7, 1] = 17, 3, 1
    types = np.array(["Breast", "Bile-duct", "Breast"])
    fold = {"images/fold1/images.npy": images, "images/fold1/types.npy": types, "masks/fold1/masks.npy": masks}
    write_zip(downloads / "fold_1.zip", {f"Fold 1/{name}": npy(array) for name, array in fold.items()})
    slide, other = "TCGA-18-5592-01Z-00-DX1", "TCGA-5P-A9K0-01Z-00-DX1"
    drawn = XML.format(name="", vertices=square(2, 3, 6, 8)).encode()
    seg = {
        f"MoNuSeg 2018 Training Data/Tissue Images/{slide}.tif": encoded(photo(4), "tif"),
        f"MoNuSeg 2018 Training Data/Annotations/{slide}.xml": drawn,
    }
    write_zip(downloads / "MoNuSeg 2018 Training Data.zip", seg)
    ambiguous = XML.format(name="Ambiguous", vertices=square(0, 0, 16, 12))
    macrophage = XML.format(name="Macrophage", vertices=square(1, 1, 3, 3)).partition("<Annotation ")[2]
    both = ambiguous.replace("</Annotations>", "<Annotation " + macrophage)
    sac = f"MoNuSAC_images_and_annotations/{other}/{other}_1"
    write_zip(
        downloads / "MoNuSAC_images_and_annotations.zip",
        {f"{sac}.tif": encoded(photo(5), "tif"), f"{sac}.svs": b"not read", f"{sac}.xml": both.encode()},
    )
    extract(
        downloads / "TNBC_NucleiSegmentation",
        {"Slide_01/01_1.png": encoded(photo(6)), "GT_01/01_1.png": encoded(box(0, 0, 2, 2))},
    )
    report, scan = prepared("nuclei", downloads, tmp_path / "nuclei")
    counts = {site: len(items) for site, items in scan.items.items()}
    assert counts == {"pannuke_breast": 2, "pannuke_bile_duct": 1, "monuseg2018": 1, "monusac2020": 1, "tnbc": 1}
    image, planes = read(scan, "pannuke_bile_duct", "fold1_0001")
    assert (image == images[1]).all() and planes.sum() == 2 and planes[0, 2, 3] == planes[0, 4, 5] == 1
    assert (read(scan, "monuseg2018", slide)[1][0] == (box(3, 2, 8, 6) > 0)).all()
    assert (read(scan, "monusac2020", f"{other}_1")[1][0] == (box(1, 1, 3, 3) > 0)).all(), "ambiguous is background"
    image, planes = read(scan, "tnbc", "01_1")
    assert (image == photo(6)).all() and planes.sum() == 4, "image and mask have one file name in the archive"
    assert patients(scan, "monuseg2018") == ["TCGA-18-5592"] and patients(scan, "tnbc") == ["TNBC 01"]
    assert [part.file for part in report.missing] == ["fold_2.zip", "fold_3.zip"]


def test_types_that_would_run_code_are_not_loaded(tmp_path: Path) -> None:
    at = tmp_path / "d" / "Fold 1"
    extract(at, {"images/fold1/images.npy": b"", "masks/fold1/masks.npy": b""})
    np.save(at / "types.npy", np.array(["Breast", None], dtype=object))
    with pytest.raises(UserError) as caught:
        prepared("pannuke", tmp_path / "d", tmp_path / "set")
    assert caught.value.code == "prepare.file_unreadable" and "types.npy" in caught.value.what


def skin(lightness: float, yellow: float, *, height: int = 12, width: int = 16) -> np.ndarray:
    """Return a picture of one colour of CIE Lab, as sRGB."""
    lab = np.broadcast_to(np.array([lightness, 10.0, yellow]), (height, width, 3))
    return np.rint(lab2rgb(lab) * 255).astype(np.uint8)


def test_the_typology_angle_by_hand() -> None:
    """(65, 15): arctan(1) = 45 degrees; (60, 20): 26.6; (45, 15): -18.4. The lesion and black corners do not count."""
    lesion = box(3, 3, 8, 9, value=1)
    for lightness, yellow, angle in ((65, 15, 45.0), (60, 20, 26.57), (45, 15, -18.43)):
        image = skin(lightness, yellow)
        image[lesion > 0] = 30, 10, 10
        image[:2, :2] = 0
        assert typology_angle(image, lesion) == pytest.approx(angle, abs=1.0)
    assert typology_angle(skin(65, 15), box(0, 0, 12, 16, value=1)) is None
    assert typology_angle(np.zeros((12, 16, 3), np.uint8), lesion) is None
    assert [tone_group(angle) for angle in (56, 41.1, 41, 28.1, 28, -40)] == [
        *("light", "light", "intermediate", "intermediate", "tan_or_darker", "tan_or_darker")
    ]


def test_isic_2017_in_three_groups_and_2018_without_its_images(tmp_path: Path) -> None:
    downloads, lesion = tmp_path / "d", box(3, 3, 8, 9)
    colours = {"ISIC_0000000": (65, 15), "ISIC_0000001": (60, 14), "ISIC_0000002": (45, 15)}
    at, masks = "ISIC-2017_Training_Data", "ISIC-2017_Training_Part1_GroundTruth"
    pictures = {f"{at}/{name}.jpg": encoded(skin(*colour), "jpg", quality=100) for name, colour in colours.items()}
    pictures[f"{at}/ISIC_0000000_superpixels.png"] = encoded(photo(1))
    write_zip(downloads / f"{at}.zip", pictures)
    write_zip(downloads / f"{masks}.zip", {f"{masks}/{name}_segmentation.png": encoded(lesion) for name in colours})
    report, scan = prepared("isic2017", downloads, tmp_path / "isic")
    sites = {site: [item.name for item in items] for site, items in scan.items.items()}
    assert sites == {
        "light": ["ISIC_0000000"], "intermediate": ["ISIC_0000001"], "tan_or_darker": ["ISIC_0000002"],
    }  # fmt: skip
    assert (read(scan, "light", "ISIC_0000000")[1][0] == (lesion > 0)).all()
    assert "arctan((L* - 50)/b*)" in report.notes[0] and "Chardon" in report.notes[0]
    assert [part.title for part in report.missing] == ["ISIC 2017, validation", "ISIC 2017, test"]

    at, masks = "ISIC2018_Task1-2_Test_Input", "ISIC2018_Task1_Test_GroundTruth"
    names = ("ISIC_0000002", "ISIC_0012086")
    extract(downloads, {f"{at}/{name}.jpg": encoded(photo(9), "jpg") for name in names})
    extract(downloads, {f"{masks}/{name}_segmentation.png": encoded(lesion) for name in names})
    report, scan = prepared("isic2018", downloads, tmp_path / "isic_test")
    assert [item.name for item in scan.items["isic2018"]] == ["ISIC_0012086"]
    assert any("ISIC 2017's images" in one.why for one in report.left_out)
