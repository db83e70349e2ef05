"""The prostate in T2-weighted MRI: the six sites of SAML and FedDG, and PROMISE12, I2CVB and NCI-ISBI as published.

A label's zones (1 and 2) are one class, the prostate: ``mask_values`` says so, and the files keep their numbers.

- Six sites: ``{BIDMC,HK,I2CVB,UCL}/CaseNN.nii.gz`` with ``CaseNN_segmentation.nii.gz`` (also ``_Segmentation``), and
  NCI-ISBI's two scanners, ``RUNMC`` (3 T, FedDG's ``ISBI``) and ``BMC`` (1.5 T, FedDG's ``ISBI_1.5``); here they have
  FedDG's names, as in the authors' code [methods.md 1.8].
- PROMISE12: ``CaseNN.mhd`` and ``.raw`` with ``CaseNN_segmentation.mhd``, in TrainingData_Part1 to 3 or training_data.
- I2CVB: ``Patient N/T2W/*.dcm`` and ``Patient N/GT/prostate/*.dcm``, a series each. The labels' slices may be stored in
  the other order than the image's: both are put in the order in which they lie in the patient, and only where neither
  says so in that of their InstanceNumber. The same labels turned over (``GT_inv``) are read where GT is not there.
- NCI-ISBI 2013: DICOM of TCIA's Prostate-3T and PROSTATE-DIAGNOSIS below a folder of the patient's name, and
  ``NAME.nrrd`` (``NAME_truth.nrrd`` in the test set). Where the labels say no place, or one that fits nowhere, the
  volume is left out.
"""

from __future__ import annotations

import re
from collections import defaultdict
from functools import partial

import numpy as np

from engine.data.prepare.downloads import Downloads, Entry
from engine.data.prepare.metaimage import HEADER_BYTES, data_file, read_metaimage
from engine.data.prepare.nrrd import read_nrrd
from engine.data.prepare.records import Bench, Case, Findings, LeaveOut, Made, Part, PublicDataset, Volume
from engine.data.prepare.volumes import is_placed_like, lies_on, on_grid_of, read_nifti, read_series

MODALITY = "T2-weighted MRI of the prostate"
KEYS = {"mask_values": {"prostate": [1, 2]}}
SITES = {
    **{"bidmc": "BIDMC", "hk": "HK", "i2cvb": "I2CVB", "ucl": "UCL"},
    **{"isbi": "ISBI", "runmc": "ISBI", "isbi_1.5": "ISBI_1.5", "bmc": "ISBI_1.5"},
}
SIX = Part(
    "Multi-site Dataset for Prostate MRI Segmentation, six folders",
    "Prostate.zip",
    "https://liuquande.github.io/SAML/",
)
PROMISE12 = Part("PROMISE12, training data", "training_data.zip", "https://promise12.grand-challenge.org")
I2CVB = Part("I2CVB, 3 T (Siemens)", "I2CVB.zip", "https://i2cvb.github.io")
ISBI_PAGE = "https://www.cancerimagingarchive.net/analysis-result/isbi-mr-prostate-2013/"
ISBI = (
    Part("NCI-ISBI 2013, images of 3 T", "Prostate-3T (DICOM of TCIA)", ISBI_PAGE),
    Part("NCI-ISBI 2013, images of 1.5 T", "PROSTATE-DIAGNOSIS (DICOM of TCIA)", ISBI_PAGE),
)


def find_six_sites(tree: Downloads, found: Findings) -> None:
    """Find the volumes of the six folders."""
    folder = "|".join(sorted(map(re.escape, SITES), key=len, reverse=True))
    pattern = rf"/({folder})/(Case\d+){{}}\.nii(?:\.gz)?$"
    images = tree.keyed(pattern.format(""), key=_site_and_case)
    masks = tree.keyed(pattern.format("_segmentation"), key=_site_and_case)
    for key, image, mask in found.paired(images, masks):
        site, name = key.split("/")
        make = partial(_nifti_pair, image=image, mask=mask)
        found.cases.append(Case(site, name, f"{site} {name}", (image, mask), make))
    for site in sorted(set(SITES.values()) - {case.site for case in found.cases}):
        found.missing.append(Part(f"the folder of {site}", SIX.file, SIX.page))


def _site_and_case(match: re.Match[str]) -> str:
    return f"{SITES[match[1].lower()]}/Case{match[2][4:]}"


def _nifti_pair(bench: Bench, *, image: Entry, mask: Entry) -> Made:
    """Copy both where they lie on one grid; else give the mask its image's placement, voxel by voxel."""
    paths = bench.local(image), bench.local(mask)
    if is_placed_like(*paths):
        return Made(image, {"": mask})
    return Made(image, {"": on_grid_of(read_nifti(paths[0]), read_nifti(paths[1]))})


def find_promise12(tree: Downloads, found: Findings) -> None:
    """Find PROMISE12's training cases; which of its four hospitals a case is from is not published."""
    images = tree.keyed(r"/(Case\d+)\.mh[ad]$")
    masks = tree.keyed(r"/(Case\d+)_segmentation\.mh[ad]$")
    voxels = {entry.path: entry for _, entry in tree.find(r"\.z?raw$")}
    for key, image, mask in found.paired(images, masks):
        sources = [image, mask]
        for header in (image, mask):
            with tree.open(header) as stream:
                begin = stream.read(HEADER_BYTES)
            try:
                name = data_file(begin)
            except ValueError as error:
                found.leave_out(header.path, str(error))
                break
            if name is None:
                continue
            beside = f"{header.path.rpartition('/')[0]}/{name}".lstrip("/")
            if beside not in voxels:
                found.leave_out(header.path, f"its voxels ({name}) are missing beside it")
                break
            sources.append(voxels[beside])
        else:
            make = partial(_metaimage_pair, image=image, mask=mask, beside=tuple(sources[2:]))
            found.cases.append(Case("promise12", key, key, tuple(sources), make))
    if not images:
        found.missing.append(PROMISE12)


def _metaimage_pair(bench: Bench, *, image: Entry, mask: Entry, beside: tuple[Entry, ...]) -> Made:
    for entry in beside:
        bench.local(entry)
    picture = read_metaimage(bench.local(image))
    return Made(picture, {"": on_grid_of(picture, read_metaimage(bench.local(mask)))})


def find_i2cvb(tree: Downloads, found: Findings) -> None:
    """Find the T2-weighted series of each patient, with the labels of the whole prostate."""
    patient = r"/Patient[ _-]?(\d+)/(?:[^/]+/)*"
    images = _series(tree, patient + r"T2W/(?:[^/]+/)*[^/]+$")
    masks = _series(tree, patient + r"GT_inv/prostate/(?:[^/]+/)*[^/]+$")
    masks |= _series(tree, patient + r"GT/prostate/(?:[^/]+/)*[^/]+$")
    for key in sorted(set(images) | set(masks), key=int):
        if key not in images or key not in masks:
            lacks = "labels of the prostate (GT/prostate)" if key in images else "T2-weighted images (T2W)"
            found.leave_out(f"Patient {key}", f"it has no {lacks} in these downloads")
            continue
        make = partial(_series_pair, image=images[key], mask=masks[key])
        found.cases.append(Case("i2cvb", f"patient_{key}", key, (*images[key], *masks[key]), make))
    if not images:
        found.missing.append(I2CVB)


def _series(tree: Downloads, pattern: str) -> dict[str, tuple[Entry, ...]]:
    """Return the files of each patient's series, one of each name, in the order of their names."""
    files: dict[str, dict[str, Entry]] = defaultdict(dict)
    for match, entry in tree.find(pattern):
        if not entry.name.lower().endswith((".txt", ".csv", ".json", ".xml", ".mat")):
            files[match[1]].setdefault(entry.name, entry)
    return {key: tuple(named[name] for name in sorted(named)) for key, named in files.items()}


def _series_pair(bench: Bench, *, image: tuple[Entry, ...], mask: tuple[Entry, ...]) -> Made:
    picture, _ = read_series([bench.local(entry) for entry in image])
    labels, _ = read_series([bench.local(entry) for entry in mask])
    if picture.affine_lps is None or labels.affine_lps is None:
        return Made(picture, {"": _whole_gland(on_grid_of(picture, labels))})
    return Made(picture, {"": _whole_gland(_placed(picture, labels))})


def _whole_gland(labels: Volume) -> Volume:
    """Return 1 wherever there is a label: it is stored as 1 or as 255."""
    return Volume((labels.voxels != 0).astype(np.uint8), labels.affine_lps)


def _placed(picture: Volume, labels: Volume) -> Volume:
    """Return the labels on the image's grid: as stored, or with the axes turned round that their placement says.

    Raises ``LeaveOut`` where they lie elsewhere in the patient.
    """
    for flips in np.ndindex(2, 2, 2):
        turned = labels
        for axis, flip in enumerate(flips):
            turned = _turned(turned, axis) if flip else turned
        if lies_on(picture, turned):
            return turned
    raise LeaveOut("its labels lie elsewhere in the patient than its image, or have another size")


def _turned(volume: Volume, axis: int) -> Volume:
    """Return the same volume with one axis counted from its other end."""
    assert volume.affine_lps is not None
    turn = np.eye(4)
    turn[axis, axis], turn[axis, 3] = -1, volume.voxels.shape[axis] - 1
    return Volume(np.flip(volume.voxels, axis), volume.affine_lps @ turn)


def find_nci_isbi(tree: Downloads, found: Findings) -> None:
    """Find the DICOM series and labels of the two scanners, a site each (3 T: ISBI, 1.5 T: ISBI_1.5)."""
    name = r"(Prostate(?:3T-\d+|Dx-\d+)-\d+)"
    images = _series(tree, rf"/{name}/(?:[^/]+/)*[^/]+\.dcm$")
    masks = tree.keyed(rf"/{name}(?:_truth[^/]*)?\.nrrd$")
    for key in sorted(set(images) | set(masks)):
        if key not in images or key not in masks:
            lacks = "labels (nrrd)" if key in images else "DICOM images"
            found.leave_out(key, f"it has no {lacks} in these downloads")
            continue
        site = "ISBI" if "3T" in key else "ISBI_1.5"
        make = partial(_nrrd_pair, image=images[key], mask=masks[key])
        found.cases.append(Case(site, key, key, (*images[key], masks[key]), make))
    for part, mark in zip(ISBI, ("3T", "Dx"), strict=True):
        if not any(mark in key for key in images):
            found.missing.append(part)


def _nrrd_pair(bench: Bench, *, image: tuple[Entry, ...], mask: Entry) -> Made:
    picture, _ = read_series([bench.local(entry) for entry in image])
    labels = read_nrrd(bench.local(mask))
    if picture.affine_lps is None or labels.affine_lps is None:
        raise LeaveOut("its image or its labels do not say where they lie")
    return Made(picture, {"": _placed(picture, labels)})


def _dataset(name: str, title: str, parts: tuple[Part, ...], find: object, **about: object) -> PublicDataset:
    return PublicDataset(
        name=name,
        title=title,
        modality=MODALITY,
        classes=("prostate",),
        page=parts[0].page,
        parts=parts,
        find=find,  # type: ignore[arg-type]
        keys=KEYS,
        task="prostate",
        **about,  # type: ignore[arg-type]
    )


DATASETS = (
    _dataset(
        "prostate",
        "Prostate: the six sites of SAML and FedDG",
        (SIX,),
        find_six_sites,
        licence="each collection's own, for research: see their pages",
        citation="Liu et al., MICCAI 2020 (SAML); Liu et al., CVPR 2021 (FedDG)",
    ),
    _dataset(
        "promise12",
        "Prostate: PROMISE12",
        (PROMISE12,),
        find_promise12,
        licence="for research, see its page",
        citation="Litjens et al., Medical Image Analysis 18 (2014), doi:10.1016/j.media.2013.12.002",
    ),
    _dataset(
        "i2cvb",
        "Prostate: I2CVB, 3 T",
        (I2CVB,),
        find_i2cvb,
        licence="CC BY-SA 4.0",
        citation="Lemaitre et al., Computers in Biology and Medicine 60 (2015), doi:10.1016/j.compbiomed.2015.02.009",
    ),
    _dataset(
        "nci-isbi",
        "Prostate: NCI-ISBI 2013, two scanners",
        ISBI,
        find_nci_isbi,
        licence="CC BY 3.0",
        citation="Bloch et al., The Cancer Imaging Archive (2015), doi:10.7937/K9/TCIA.2015.zF0vlOPv",
    ),
)
