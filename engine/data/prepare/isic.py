"""Skin lesions: ISIC 2017 in three groups of skin tone, and ISIC 2018 task 1.

- 2017: ``ISIC-2017_{Training,Validation,Test_v2}_Data/ISIC_NNNNNNN.jpg`` (beside superpixels, which are not read) and
  ``ISIC-2017_…_Part1_GroundTruth/ISIC_NNNNNNN_segmentation.png``. A site is a group by the typology angle of the skin
  around the lesion (``skin_tone``).
- 2018: ``ISIC2018_Task1-2_{Training,Validation,Test}_Input/ISIC_NNNNNNN.jpg`` and
  ``ISIC2018_Task1_…_GroundTruth/ISIC_NNNNNNN_segmentation.png``. Images of 2018 that lie in the downloads as images
  of 2017, too, are left out: 2018 is the test set of a model that was trained on 2017.

Patients are not published.
"""

from __future__ import annotations

from functools import partial

from engine.data.prepare.downloads import Downloads, Entry
from engine.data.prepare.pictures import bright, picture_case, require_size, white
from engine.data.prepare.records import Bench, Case, Findings, LeaveOut, Made, Part, PublicDataset
from engine.data.prepare.skin_tone import tone_group, typology_angle
from engine.data.readers import read_image

PAGE = "https://challenge.isic-archive.com/data/"
PARTS_2017 = tuple(
    Part(f"ISIC 2017, {split.lower()}", f"ISIC-2017_{name}_Data.zip, ISIC-2017_{name}_Part1_GroundTruth.zip", PAGE)
    for split, name in (("Training", "Training"), ("Validation", "Validation"), ("Test", "Test_v2"))
)
PARTS_2018 = tuple(
    Part(
        f"ISIC 2018, {name.lower()}",
        f"ISIC2018_Task1-2_{name}_Input.zip, ISIC2018_Task1_{name}_GroundTruth.zip",
        PAGE,
    )
    for name in ("Training", "Validation", "Test")
)
IMAGES_2017 = r"/ISIC-2017_{}[^/]*_Data(?:\.zip)?/(?:[^/]+/)*(ISIC_\d+)\.jpe?g$"
MASKS_2017 = r"/ISIC-2017_{}[^/]*_Part1_GroundTruth(?:\.zip)?/(?:[^/]+/)*(ISIC_\d+)_segmentation\.png$"
IMAGES_2018 = r"/ISIC2018_Task1-2_{}_Input(?:\.zip)?/(?:[^/]+/)*(ISIC_\d+)\.jpe?g$"
MASKS_2018 = r"/ISIC2018_Task1_{}_GroundTruth(?:\.zip)?/(?:[^/]+/)*(ISIC_\d+)_segmentation\.png$"
SPLITS = ("Training", "Validation", "Test")


def find_2017(tree: Downloads, found: Findings) -> None:
    """Find the three splits' images; their pixels decide the site."""
    for split, part in zip(SPLITS, PARTS_2017, strict=True):
        pairs = found.paired(tree.keyed(IMAGES_2017.format(split)), tree.keyed(MASKS_2017.format(split)))
        for key, image, mask in pairs:
            found.cases.append(Case(None, key, None, (image, mask), partial(_by_tone, image=image, mask=mask)))
        if not pairs:
            found.missing.append(part)
    found.notes.append(
        "The sites are groups by ITA = arctan((L* - 50)/b*) of the skin around the lesion: light above 41 degrees, "
        "intermediate above 28, tan_or_darker below (bounds of Chardon 1991 and Del Bino 2013; the three groups ours)."
    )


def _by_tone(bench: Bench, *, image: Entry, mask: Entry) -> Made:
    pixels, _ = read_image(bench.local(image))
    plane = bright(bench.local(mask))
    require_size(plane, (pixels.shape[0], pixels.shape[1]))
    angle = typology_angle(pixels, plane)
    if angle is None:
        raise LeaveOut("it shows too little healthy skin to tell its tone")
    return Made(image, {"": plane}, site=tone_group(angle))


def find_2018(tree: Downloads, found: Findings) -> None:
    """Find the three splits' images as one site, without those of ISIC 2017."""
    trained = {match[1] for match, _ in tree.find(IMAGES_2017.format(""))}
    for split, part in zip(SPLITS, PARTS_2018, strict=True):
        pairs = found.paired(tree.keyed(IMAGES_2018.format(split)), tree.keyed(MASKS_2018.format(split)))
        for key, image, mask in pairs:
            if key in trained:
                found.leave_out(image.path, "it is one of ISIC 2017's images")
            else:
                found.cases.append(picture_case("isic2018", key, image, (mask,), white))
        if not pairs:
            found.missing.append(part)
    if not trained:
        found.notes.append(
            "Most images of ISIC 2018 are those of 2017, too. To test on 2018 what was trained on 2017, put 2017's "
            "archives beside them: what is in both is then left out."
        )


DATASETS = (
    PublicDataset(
        name="isic2017",
        title="Skin lesions: ISIC 2017, three groups of skin tone",
        modality="dermoscopy",
        classes=("lesion",),
        licence="CC0 1.0",
        citation="Codella et al., ISBI 2018, arXiv 1710.05006",
        page=PAGE,
        parts=PARTS_2017,
        find=find_2017,
        task="skin",
    ),
    PublicDataset(
        name="isic2018",
        title="Skin lesions: ISIC 2018, task 1",
        modality="dermoscopy",
        classes=("lesion",),
        licence="CC BY-NC 4.0",
        citation="Codella et al., arXiv 1902.03368; Tschandl et al., Scientific Data 5:180161 (2018)",
        page=PAGE,
        parts=PARTS_2018,
        find=find_2018,
        keys={"protocol": "fixed-test"},
        task="skin",
    ),
)
