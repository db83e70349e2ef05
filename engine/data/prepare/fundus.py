"""Optic disc and cup in fundus photographs: Drishti-GS, RIM-ONE r3 or DL, REFUGE, and the four-domain set of DoFE.

The disc includes the cup, as in the authors' code (OD = label < 200, OC = label == 0) [methods.md 1.8]. Layouts:

- Drishti-GS1: ``{Training,Test}/Images/[glaucoma|normal/]drishtiGS_NNN.png``; four experts' agreement in
  ``{GT,Test_GT}/drishtiGS_NNN/SoftMap/drishtiGS_NNN_{ODseg,cupseg}Softmap.png`` with levels 0, 64, 128, 191 and 255.
- RIM-ONE r3: ``{Healthy,Glaucoma and suspects}/Stereo Images/N-1-L.jpg``, two views side by side of which the left one
  is annotated, and ``Average_masks/N-1-L-{Disc,Cup}-Avg.png`` of one view or of both.
- RIM-ONE DL: ``RIM-ONE_DL_images/partitioned_{by_hospital,randomly}/…/r1_Im001.png`` (the same images twice) and
  ``RIM-ONE_DL_reference_segmentations/{glaucoma,normal}/r1_Im001-1-{Disc,Cup}-T.png``. The r3 images are part of it.
- REFUGE: ``Training400`` (Zeiss) and ``REFUGE-Validation400``, ``Test400`` (Canon); masks ``…/Disc_Cup_Masks/….bmp`` in
  ``Annotation-Training400``, ``REFUGE-Validation400-GT`` and ``REFUGE-Test-GT``: 0 cup, 128 disc, 255 background.
- DoFE: ``Domain{1..4}/{train,test}/ROIs/{image,mask}/NAME.png`` with REFUGE's values. Domains: Drishti-GS, RIM-ONE r3,
  REFUGE training, REFUGE validation.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np

from engine.data.prepare.downloads import Downloads, Entry
from engine.data.prepare.pictures import bright, labels, picture_case, require_size
from engine.data.prepare.records import Bench, Case, Findings, Made, Part, PublicDataset
from engine.data.readers import read_image

CLASSES = ("disc", "cup")
IMAGE = r"\.(?:png|jpe?g|bmp|tiff?)$"
AGREED_ABOVE = 0.7 * 255
"""Drishti-GS: a pixel counts where three of the four experts marked it (191 of 255; threshold ours)."""
DISC_BELOW = 200
"""REFUGE and DoFE: a level below is disc, 0 is cup [C preprocess_center_fundus.py:42-49]."""
REFUGE_SETS = (
    ("refuge_zeiss", "train", r"Training400", "Annotation-Training400"),
    ("refuge_canon", "validation", r"Validation400", "REFUGE-Validation400-GT"),
    ("refuge_canon", "test", r"Test400", "REFUGE-Test-GT"),
)
DRISHTI = Part(
    "Drishti-GS1, images and soft maps",
    "Drishti-GS1_files.zip",
    "https://cvit.iiit.ac.in/projects/mip/drishti-gs/mip-dataset2/Home.php",
)
RIM_ONE_R3 = Part("RIM-ONE r3", "RIM-ONE r3.zip", "https://medimrg.webs.ull.es/research/retinal-imaging/rim-one/")
RIM_ONE_DL = Part(
    "RIM-ONE DL, images and reference segmentations",
    "RIM-ONE_DL_images.zip, RIM-ONE_DL_reference_segmentations.zip",
    "https://github.com/miag-ull/rim-one-dl",
)
REFUGE_PAGE = "https://refuge.grand-challenge.org"
REFUGE = tuple(
    Part(f"REFUGE, {name}", f"{images}.zip, {masks}.zip", REFUGE_PAGE)
    for name, images, masks in (
        ("training set", "REFUGE-Training400", "Annotation-Training400"),
        ("validation set", "REFUGE-Validation400", "REFUGE-Validation400-GT"),
        ("test set", "REFUGE-Test400", "REFUGE-Test-GT"),
    )
)
DOFE = Part("Fundus of DoFE, Domain1 to Domain4", "Fundus-doFE.zip", "https://github.com/emma-sjwang/Dofe")


def grey_levels(paths: list[Path]) -> dict[str, np.ndarray]:
    """Return the planes of a mask with 0 cup, 128 disc and 255 background."""
    stored = labels(paths[0])
    return {"disc": stored < DISC_BELOW, "cup": stored == 0}


def find_collections(tree: Downloads, found: Findings) -> None:
    """Find Drishti-GS, RIM-ONE (r3, or DL where r3 is not there) and REFUGE, each at sites of its own."""
    for part, find in ((DRISHTI, _drishti), (RIM_ONE_R3, _rim_one_r3)):
        before = len(found.cases)
        find(tree, found)
        if len(found.cases) == before:
            found.missing.append(part)
    _rim_one_dl(tree, found, has_r3=RIM_ONE_R3 not in found.missing)
    for part, (site, split, images, masks) in zip(REFUGE, REFUGE_SETS, strict=True):
        before = len(found.cases)
        _refuge(tree, found, site=site, split=split, images=images, masks=masks)
        if len(found.cases) == before:
            found.missing.append(part)


def _drishti(tree: Downloads, found: Findings) -> None:
    images = tree.keyed(r"/images/(?:[^/]+/)?(drishtiGS_\d+)" + IMAGE)
    discs = tree.keyed(r"/(drishtiGS_\d+)_ODsegSoftmap\.png$")
    cups = tree.keyed(r"/(drishtiGS_\d+)_cupsegSoftmap\.png$")
    for key, image, disc in found.paired(images, discs):
        if key in cups:
            found.cases.append(picture_case("drishti_gs", key, image, (disc, cups[key]), _agreed, patient=None))
        else:
            found.leave_out(image.path, "it has a mask of the disc and none of the cup")


def _agreed(paths: list[Path]) -> dict[str, np.ndarray]:
    return _nested(*(bright(path, above=AGREED_ABOVE) for path in paths))


def _nested(disc: np.ndarray, cup: np.ndarray) -> dict[str, np.ndarray]:
    require_size(cup, (disc.shape[0], disc.shape[1]))
    return {"disc": disc | cup, "cup": cup}


def _rim_one_r3(tree: Downloads, found: Findings) -> None:
    images = tree.keyed(r"/Stereo[ _]Images/([NG]-\d+-[LR])" + IMAGE)
    discs = tree.keyed(r"/([NG]-\d+-[LR])-Disc-Avg\.png$")
    cups = tree.keyed(r"/([NG]-\d+-[LR])-Cup-Avg\.png$")
    for key, image, disc in found.paired(images, discs):
        if key not in cups:
            found.leave_out(image.path, "it has a mask of the disc and none of the cup")
            continue
        make = partial(_left_view, image=image, disc=disc, cup=cups[key])
        patient = key.rpartition("-")[0]
        found.cases.append(Case("rim_one_r3", key, patient, (image, disc, cups[key]), make))


def _left_view(bench: Bench, *, image: Entry, disc: Entry, cup: Entry) -> Made:
    """The left of two views is the annotated one; masks are of one view, or as wide as both."""
    both, _ = read_image(bench.local(image))
    half = both.shape[1] // 2
    planes = _nested(bright(bench.local(disc))[:, :half], bright(bench.local(cup))[:, :half])
    require_size(planes["disc"], (both.shape[0], half))
    return Made(np.ascontiguousarray(both[:, :half]), planes)


def _rim_one_dl(tree: Downloads, found: Findings, *, has_r3: bool) -> None:
    name = r"(r\d_Im\d+)"
    images: dict[str, Entry] = {}
    for way in ("by_hospital", "randomly"):
        images = tree.keyed(rf"/partitioned_{way}/(?:[^/]+/)*{name}" + IMAGE) or images
        if images:
            break
    discs = tree.keyed(rf"/{name}-\d+-Disc-T\.png$")
    cups = tree.keyed(rf"/{name}-\d+-Cup-T\.png$")
    if has_r3:
        if images or discs:
            found.leave_out("RIM-ONE DL", "RIM-ONE r3 is there, and DL holds the same images, cropped")
        return
    pairs = found.paired(images, discs)
    for key, image, disc in pairs:
        if key in cups:
            found.cases.append(picture_case("rim_one_dl", key, image, (disc, cups[key]), _white, patient=None))
        else:
            found.leave_out(image.path, "it has a mask of the disc and none of the cup")
    if not pairs:
        found.missing.append(RIM_ONE_DL)


def _white(paths: list[Path]) -> dict[str, np.ndarray]:
    return _nested(*(bright(path) for path in paths))


def _refuge(tree: Downloads, found: Findings, *, site: str, split: str, images: str, masks: str) -> None:
    pictures = tree.keyed(rf"/(?:REFUGE-)?{images}(?:\.zip)?/(?:[^/]+/)*([gnvt]\d{{4}})\.jpe?g$", key=_lower)
    levels = tree.keyed(rf"/{masks}(?:\.zip)?/(?:[^/]+/)*([gnvt]\d{{4}})\.(?:bmp|png)$", key=_lower)
    for key, image, mask in found.paired(pictures, levels):
        found.cases.append(picture_case(site, f"{split}_{key}", image, (mask,), grey_levels))


def _lower(match: re.Match[str]) -> str:
    return match[1].lower()


def find_domains(tree: Downloads, found: Findings) -> None:
    """Find DoFE's four domains; its training and test images of a domain are one site."""
    pattern = r"/Domain([1-4])/(train|test)/ROIs/{}/([^/]+)" + IMAGE
    images = tree.keyed(pattern.format("image"), key=_domain)
    masks = tree.keyed(pattern.format("mask"), key=_domain)
    for key, image, mask in found.paired(images, masks):
        domain, name = key.split("/")
        found.cases.append(picture_case(f"fundus{domain}", name, image, (mask,), grey_levels))
    for domain in sorted(set("1234") - {case.site[-1] for case in found.cases if case.site}):
        found.missing.append(Part(f"Domain{domain}", DOFE.file, DOFE.page))


def _domain(match: re.Match[str]) -> str:
    return f"{match[1]}/{match[2].lower()}_{match[3]}"


CITATION = (
    "Sivaswamy et al., ISBI 2014 (Drishti-GS); Fumero et al., CBMS 2011, and Batista et al., Image Anal Stereol 2020 "
    "(RIM-ONE); Orlando et al., Medical Image Analysis 59 (2020) (REFUGE)"
)
DATASETS = (
    PublicDataset(
        name="fundus",
        title="Optic disc and cup: Drishti-GS, RIM-ONE, REFUGE",
        modality="retinal fundus photograph",
        classes=CLASSES,
        licence="each collection's own, for research: see their pages",
        citation=CITATION,
        page=REFUGE_PAGE,
        parts=(DRISHTI, RIM_ONE_R3, RIM_ONE_DL, *REFUGE),
        find=find_collections,
    ),
    PublicDataset(
        name="fundus-dofe",
        title="Optic disc and cup: the four domains of DoFE and FedDG",
        modality="retinal fundus photograph",
        classes=CLASSES,
        licence="each collection's own, for research: see their pages",
        citation=f"Wang et al., IEEE TMI 39 (2020) (DoFE); {CITATION}",
        page=DOFE.page,
        parts=(DOFE,),
        find=find_domains,
        keys={"protocol": "leave-one-site-out"},
        task="fundus",
    ),
)
