"""Nuclei in H&E sections: PanNuke by tissue, MoNuSeg 2018, MoNuSAC 2020 and TNBC. All kinds of nuclei are one class.

- PanNuke: ``Fold N/{images,masks}/foldN/{images,types,masks}.npy`` of fold_N.zip: images (N, 256, 256, 3) in 0–255,
  masks (N, 256, 256, 6) with a number for each nucleus in the five first channels (the sixth is background), types
  (N,). Each tissue is a site, ``pannuke_breast``, of which ``data.sites`` chooses; its images' patients are
  not published.
- MoNuSeg: ``Tissue Images/TCGA-….tif`` and ``Annotations/TCGA-….xml``; the test set has both side by side, below
  MoNuSegTestData.
- MoNuSAC: ``TCGA-…/TCGA-…_N.{svs,tif,xml}``; what is marked "Ambiguous" is background.
- TNBC: ``Slide_NN/NN_M.png`` and ``GT_NN/NN_M.png``, a patient each NN.

Patients of TCGA are the first three fields of their slides' names.
"""

from __future__ import annotations

import io
import re
from functools import partial
from pathlib import Path

import numpy as np

from engine.data.prepare.downloads import Downloads, Entry
from engine.data.prepare.pictures import labels, require_size
from engine.data.prepare.polygons import draw_annotations
from engine.data.prepare.records import Bench, Case, Findings, LeaveOut, Made, Part, PublicDataset
from engine.data.readers import image_info
from engine.errors import UserError

PANNUKE_PAGE = "https://warwick.ac.uk/fac/cross_fac/tia/data/pannuke"
PANNUKE = tuple(Part(f"PanNuke, fold {fold}", f"fold_{fold}.zip", PANNUKE_PAGE) for fold in (1, 2, 3))
MONUSEG = Part(
    "MoNuSeg 2018, training and test data",
    "MoNuSeg 2018 Training Data.zip, MoNuSegTestData.zip",
    "https://monuseg.grand-challenge.org/Data/",
)
MONUSAC = Part(
    "MoNuSAC 2020, images and annotations",
    "MoNuSAC_images_and_annotations.zip, MoNuSAC Testing Data and Annotations.zip",
    "https://monusac-2020.grand-challenge.org/Data/",
)
TNBC = Part("TNBC", "TNBC_NucleiSegmentation.zip", "https://zenodo.org/records/1175282")
NUCLEI_CHANNELS = 5
"""PanNuke: channels of masks.npy that hold nuclei."""
SLIDE = r"(TCGA-[^/]+)"


def find_nuclei(tree: Downloads, found: Findings) -> None:
    """Find the four collections; PanNuke gives a site for each tissue."""
    find_tissues(tree, found)
    for part, find in ((MONUSEG, _monuseg), (MONUSAC, _monusac), (TNBC, _tnbc)):
        before = len(found.cases)
        find(tree, found)
        if len(found.cases) == before:
            found.missing.append(part)


def find_tissues(tree: Downloads, found: Findings) -> None:
    """Find PanNuke's images by the tissue that types.npy names."""
    for fold, part in zip("123", PANNUKE, strict=True):
        files = tree.keyed(
            rf"/fold[ _]?{fold}/(?:[^/]+/)*(images|masks|types)\.npy$", key=lambda match: match[1].lower()
        )
        if len(files) < 3:
            found.missing.append(part)
            for entry in files.values():
                lacks = ", ".join(f"{name}.npy" for name in ("images", "masks", "types") if name not in files)
                found.leave_out(entry.path, f"its fold lacks {lacks}")
            continue
        for index, tissue in enumerate(_types(tree, files["types"])):
            site = "pannuke_" + re.sub(r"[^a-z]+", "_", tissue.lower()).strip("_")
            make = partial(_from_fold, images=files["images"], masks=files["masks"], index=index)
            sources = (files["images"], files["masks"])
            found.cases.append(Case(site, f"fold{fold}_{index:04d}", None, sources, make))


def _types(tree: Downloads, entry: Entry) -> list[str]:
    try:
        types = np.load(io.BytesIO(tree.read(entry)), allow_pickle=False)
    except ValueError as error:
        raise UserError(
            "prepare.file_unreadable",
            what=f"{entry.path} cannot be read as texts: {error}.",
            why="It names the tissue of each image of the fold, and nothing that a file may run is loaded.",
            fix="Download the fold again; PanNuke's own types.npy holds plain texts.",
        ) from error
    return [str(name) for name in types]


def _from_fold(bench: Bench, *, images: Entry, masks: Entry, index: int) -> Made:
    pixels, numbers = (_mapped(bench.kept(entry)) for entry in (images, masks))
    if index >= min(len(pixels), len(numbers)):
        raise LeaveOut(f"images.npy and masks.npy have {len(pixels)} and {len(numbers)} entries, types.npy has more")
    image = np.clip(np.rint(pixels[index]), 0, 255).astype(np.uint8)
    plane = (numbers[index][..., :NUCLEI_CHANNELS] > 0).any(axis=-1)
    require_size(plane, image.shape[:2])
    return Made(image, {"": plane})


def _mapped(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise LeaveOut(f"{path.name} cannot be read: {error}") from error


def _monuseg(tree: Downloads, found: Findings) -> None:
    where = r"/MoNuSeg[^/]*/(?:[^/]+/)*"
    images = tree.keyed(where + SLIDE + r"\.tiff?$")
    drawn = tree.keyed(where + SLIDE + r"\.xml$")
    _drawn(found, "monuseg2018", images, drawn)


def _monusac(tree: Downloads, found: Findings) -> None:
    where = r"/MoNuSAC[^/]*/(?:[^/]+/)*"
    images = tree.keyed(where + SLIDE + r"\.tiff?$")
    drawn = tree.keyed(where + SLIDE + r"\.xml$")
    _drawn(found, "monusac2020", images, drawn)


def _drawn(found: Findings, site: str, images: dict[str, Entry], drawn: dict[str, Entry]) -> None:
    for key, image, polygons in found.paired(images, drawn):
        patient = "-".join(key.split("-")[:3])
        make = partial(_from_polygons, image=image, polygons=polygons)
        found.cases.append(Case(site, key, patient, (image, polygons), make))


def _from_polygons(bench: Bench, *, image: Entry, polygons: Entry) -> Made:
    about = image_info(bench.local(image))
    size = (about.height_px, about.width_px)
    return Made(image, {"": draw_annotations(bench.local(polygons), size, without=("ambiguous",))})


def _tnbc(tree: Downloads, found: Findings) -> None:
    images = tree.keyed(r"/Slide_\d+/(\d+_\d+)\.png$")
    masks = tree.keyed(r"/GT_\d+/(\d+_\d+)\.png$")
    for key, image, mask in found.paired(images, masks):
        patient = f"TNBC {key.partition('_')[0]}"
        make = partial(_from_mask, image=image, mask=mask)
        found.cases.append(Case("tnbc", key, patient, (image, mask), make))


def _from_mask(bench: Bench, *, image: Entry, mask: Entry) -> Made:
    about = image_info(bench.local(image))
    plane = labels(bench.local(mask)) != 0
    require_size(plane, (about.height_px, about.width_px))
    return Made(image, {"": plane})


CITATION = (
    "Gamper et al., arXiv 2003.10778 (PanNuke); Kumar et al., IEEE TMI 39 (2020) (MoNuSeg); Verma et al., IEEE TMI 40 "
    "(2021) (MoNuSAC); Naylor et al., IEEE TMI 38 (2019) (TNBC)"
)
DATASETS = (
    PublicDataset(
        name="nuclei",
        title="Nuclei: PanNuke by tissue, MoNuSeg, MoNuSAC, TNBC",
        modality="H&E histology",
        classes=("nucleus",),
        licence="PanNuke, MoNuSeg and MoNuSAC CC BY-NC-SA 4.0, TNBC CC BY 4.0",
        citation=CITATION,
        page=PANNUKE_PAGE,
        parts=(*PANNUKE, MONUSEG, MONUSAC, TNBC),
        find=find_nuclei,
        keys={"protocol": "leave-one-site-out"},
    ),
    PublicDataset(
        name="pannuke",
        title="Nuclei: PanNuke, a site for each of its 19 tissues",
        modality="H&E histology",
        classes=("nucleus",),
        licence="CC BY-NC-SA 4.0",
        citation="Gamper et al., arXiv 2003.10778 (PanNuke)",
        page=PANNUKE_PAGE,
        parts=PANNUKE,
        find=find_tissues,
        task="nuclei",
    ),
)
