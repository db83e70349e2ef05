"""The liver in abdominal CT and MRI: CHAOS's training sets, a site each. Its test sets have no published labels.

- ``CT/N/DICOM_anon/*.dcm`` (i0000,0000b.dcm or IMG-0004-00001.dcm) and ``CT/N/Ground/liver_GT_000.png``, white where
  liver: the k-th picture belongs to the k-th slice by name.
- ``MR/N/T1DUAL/DICOM_anon/{InPhase,OutPhase}/IMG-0004-00002.dcm`` with ``T1DUAL/Ground/IMG-0004-00002.png``, and
  ``MR/N/T2SPIR/{DICOM_anon,Ground}``: 63 (55 to 70) liver, 126 and 189 kidneys, 252 spleen. In- and opposed-phase
  slices alternate in their numbers; the labels are called by one of them and belong to both, by order.

A series becomes a volume in the order of its places in the patient. CT is cut to -160 to 240 HU (ours: the usual
window of the upper abdomen), for all volumes are scaled by their own range when they are read. The three MR series of a
patient are three volumes of one patient.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial

import numpy as np

from engine.data.prepare.downloads import Downloads, Entry
from engine.data.prepare.pictures import labels
from engine.data.prepare.records import Bench, Case, Findings, LeaveOut, Made, Part, PublicDataset, Volume
from engine.data.prepare.volumes import read_series

PAGE = "https://zenodo.org/records/3431873"
TRAINING = Part("CHAOS, training sets", "CHAOS_Train_Sets.zip", PAGE, md5="df21053002a1cc86df918a87da3b2c19")
LIVER_MR = (55, 70)
"""Lowest and highest label of the liver in MR (CHAOS's own evaluation code)."""
WINDOW_HU = (-160, 240)
SERIES = (
    # site, name, folder of the images, folder of the labels
    ("CT", "ct_{}", r"/CT/(\d+)/DICOM_anon/([^/]+\.dcm)$", r"/CT/(\d+)/Ground/([^/]+\.png)$"),
    (
        *("MR", "mr_{}_t1_in"),
        *(r"/MR/(\d+)/T1DUAL/DICOM_anon/InPhase/([^/]+\.dcm)$", r"/MR/(\d+)/T1DUAL/Ground/([^/]+\.png)$"),
    ),
    (
        *("MR", "mr_{}_t1_out"),
        *(r"/MR/(\d+)/T1DUAL/DICOM_anon/OutPhase/([^/]+\.dcm)$", r"/MR/(\d+)/T1DUAL/Ground/([^/]+\.png)$"),
    ),
    (
        *("MR", "mr_{}_t2"),
        *(r"/MR/(\d+)/T2SPIR/DICOM_anon/([^/]+\.dcm)$", r"/MR/(\d+)/T2SPIR/Ground/([^/]+\.png)$"),
    ),
)


def find_chaos(tree: Downloads, found: Findings) -> None:
    """Find the series of both sites with their labels."""
    for site, name, images_at, labels_at in SERIES:
        images, masks = _by_patient(tree, images_at), _by_patient(tree, labels_at)
        for patient in sorted(set(images) | set(masks), key=int):
            here = name.format(patient)
            if patient not in masks:
                found.leave_out(here, "it has no labels (Ground) in these downloads")
            elif patient not in images:
                found.leave_out(here, "its labels belong to no images (DICOM_anon) in these downloads")
            elif len(images[patient]) != len(masks[patient]):
                counts = f"{len(images[patient])} slices and {len(masks[patient])} pictures of labels"
                found.leave_out(here, f"it has {counts}: some are missing")
            else:
                make = partial(_liver, images=images[patient], masks=masks[patient], site=site)
                sources = (*images[patient], *masks[patient])
                found.cases.append(Case(site, here, f"{site} {patient}", sources, make))
    there = {case.site for case in found.cases}
    for site in ("CT", "MR"):
        if site not in there:
            found.missing.append(Part(f"CHAOS, {site} of the training sets", TRAINING.file, PAGE))


def _by_patient(tree: Downloads, pattern: str) -> dict[str, tuple[Entry, ...]]:
    files: dict[str, dict[str, Entry]] = defaultdict(dict)
    for match, entry in tree.find(pattern):
        files[match[1]].setdefault(match[2].lower(), entry)
    return {patient: tuple(named[name] for name in sorted(named)) for patient, named in files.items()}


def _liver(bench: Bench, *, images: tuple[Entry, ...], masks: tuple[Entry, ...], site: str) -> Made:
    volume, order = read_series([bench.local(entry) for entry in images])
    planes = []
    for entry in masks:
        stored = labels(bench.local(entry))
        planes.append((stored >= LIVER_MR[0]) & (stored <= LIVER_MR[1]) if site == "MR" else stored != 0)
    if any(plane.T.shape != volume.voxels.shape[:2] for plane in planes):
        raise LeaveOut("its labels and its slices differ in size")
    voxels = np.clip(volume.voxels, *WINDOW_HU) if site == "CT" else volume.voxels
    liver = np.stack([planes[index].T for index in order], axis=2)
    return Made(Volume(voxels, volume.affine_lps), {"": Volume(liver, volume.affine_lps)})


DATASETS = (
    PublicDataset(
        name="chaos",
        title="Liver: CHAOS, a site of CT and one of MRI",
        modality="abdominal CT or MRI",
        classes=("liver",),
        licence="CC BY-NC-SA 4.0",
        citation="Kavur et al., Medical Image Analysis 69 (2021), doi:10.1016/j.media.2020.101950",
        page=PAGE,
        parts=(TRAINING,),
        find=find_chaos,
        task="liver",
    ),
)
