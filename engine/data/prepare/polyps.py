"""Polyps in colonoscopy frames: Kvasir-SEG, CVC-ClinicDB, CVC-ColonDB, ETIS-Larib and PolypGen.

Layouts, by their collections' folders (the archives' own, and those of the copies that PraNet's authors made):

- ``Kvasir-SEG/{images,masks}/NAME.jpg``; masks are JPEG, white where polyp.
- ``CVC-ClinicDB/{Original,Ground Truth}/N.tif`` (or png, with or without a folder TIF or PNG between).
- ``CVC-ColonDB/{images,masks}/N.png``, or N.bmp beside pN.bmp as first published.
- ``ETIS-LaribPolypDB/{ETIS-LaribPolypDB/N,Ground Truth/pN}.tif``, or ``{images,masks}/N.png``.
- PolypGen: ``data_C{1..6}/images_C{1..6}/NAME.jpg`` and ``masks_C{1..6}/NAME_mask.jpg``. Its sequences are not used:
  they are other images of the same patients, most of them without a polyp.

CVC-ClinicDB's 612 frames are of 29 sequences, one after the other; a sequence is taken for a patient.
"""

from __future__ import annotations

import re
from bisect import bisect_right

from engine.data.prepare.downloads import Downloads
from engine.data.prepare.pictures import picture_case, white
from engine.data.prepare.records import Findings, Part, PublicDataset

IMAGE = r"\.(?:png|jpe?g|bmp|tiff?)$"
SEQUENCE_BEGINS = (
    *(1, 26, 51, 68, 79, 104, 127, 152, 178, 200, 206, 228, 253, 278, 298),
    *(318, 343, 364, 384, 409, 429, 448, 467, 479, 504, 529, 547, 572, 592),
)
"""First frames of CVC-ClinicDB's 29 sequences (the table of its page)."""
CENTRES = {
    **{"1": "C1_paris", "2": "C2_padova", "3": "C3_aviano"},
    **{"4": "C4_oslo", "5": "C5_oxford", "6": "C6_alexandria"},
}
KVASIR = Part("Kvasir-SEG", "kvasir-seg.zip", "https://datasets.simula.no/kvasir-seg/")
CLINIC = Part("CVC-ClinicDB", "CVC-ClinicDB.zip", "https://polyp.grand-challenge.org/CVCClinicDB/")
COLON = Part("CVC-ColonDB", "CVC-ColonDB.zip", "http://vi.cvc.uab.es/colon-qa/cvccolondb/")
ETIS = Part("ETIS-Larib", "ETIS-LaribPolypDB.zip", "https://polyp.grand-challenge.org/EtisLarib/")
POLYPGEN = Part(
    "PolypGen, single frames",
    "PolypGen2021_MultiCenterData_v3.zip",
    "https://www.synapse.org/Synapse:syn26376615",
)
COLLECTIONS = (
    # part, site, images, masks; the first group is the image's name
    (KVASIR, "kvasir_seg", r"/kvasir-seg[^/]*/(?:[^/]+/)*images/([^/]+)", r"/kvasir-seg[^/]*/(?:[^/]+/)*masks/([^/]+)"),
    (
        *(CLINIC, "cvc_clinicdb"),
        r"/(?:CVC-)?ClinicDB[^/]*/(?:[^/]+/)*(?:Original|images)/(\d+)",
        r"/(?:CVC-)?ClinicDB[^/]*/(?:[^/]+/)*(?:Ground[ _]?Truth|masks)/(\d+)",
    ),
    (
        *(COLON, "cvc_colondb"),
        r"/(?:CVC-)?ColonDB[^/]*/(?:(?!masks|ground)[^/]+/)*(\d+)",
        r"/(?:CVC-)?ColonDB[^/]*/(?:[^/]+/)*(?:(?:masks|ground[ _]?truth)/(?=\d)|p)(\d+)",
    ),
    (
        *(ETIS, "etis_larib"),
        r"/ETIS[^/]*/(?:(?!masks|ground)[^/]+/)*(\d+)",
        r"/ETIS[^/]*/(?:[^/]+/)*(?:(?:masks|ground[ _]?truth)/(?=\d)|p)(\d+)",
    ),
)


def find_polyps(tree: Downloads, found: Findings) -> None:
    """Find the four older collections, a site each, and PolypGen's six centres."""
    for part, site, image, mask in COLLECTIONS:
        pairs = found.paired(tree.keyed(image + IMAGE), tree.keyed(mask + IMAGE))
        for key, picture, plane in pairs:
            patient = f"sequence {bisect_right(SEQUENCE_BEGINS, int(key))}" if part is CLINIC else None
            found.cases.append(picture_case(site, key, picture, (plane,), white, patient=patient))
        if not pairs:
            found.missing.append(part)
    find_centres(tree, found)


def find_centres(tree: Downloads, found: Findings) -> None:
    """Find PolypGen's single frames by centre."""
    images = tree.keyed(r"/data_C([1-6])/images_C[1-6]/([^/]+)" + IMAGE, key=_centre)
    masks = tree.keyed(r"/data_C([1-6])/masks_C[1-6]/([^/]+?)(?:_mask)?" + IMAGE, key=_centre)
    for key, image, mask in found.paired(images, masks):
        number, name = key.split("/")
        patient = re.match(r"(\d+)_endocv2021", name, re.IGNORECASE)  # Oslo's frames are called by their patient
        whose = f"{CENTRES[number]} {patient[1]}" if patient else None
        found.cases.append(picture_case(CENTRES[number], name, image, (mask,), white, patient=whose))
    there = {case.site for case in found.cases}
    for number, site in CENTRES.items():
        if site not in there:
            found.missing.append(Part(f"PolypGen, centre {number}", POLYPGEN.file, POLYPGEN.page))


def _centre(match: re.Match[str]) -> str:
    return f"{match[1]}/{match[2]}"


POLYPGEN_CITATION = "Ali et al., Scientific Data 10:75 (2023), doi:10.1038/s41597-023-01981-y"
DATASETS = (
    PublicDataset(
        name="polyps",
        title="Polyps: Kvasir-SEG, CVC-ClinicDB, CVC-ColonDB, ETIS-Larib, PolypGen",
        modality="colonoscopy",
        classes=("polyp",),
        licence="each collection's own, for research and education; PolypGen CC BY 4.0",
        citation="Jha et al., MMM 2020 (Kvasir-SEG); Bernal et al., Comput Med Imaging Graph 43 (2015) (CVC-ClinicDB); "
        "Bernal et al., Pattern Recognition 45 (2012) (CVC-ColonDB); Silva et al., IJCARS 9 (2014) (ETIS-Larib); "
        + POLYPGEN_CITATION,
        page=KVASIR.page,
        parts=(KVASIR, CLINIC, COLON, ETIS, POLYPGEN),
        find=find_polyps,
        task="polyp",
    ),
    PublicDataset(
        name="polypgen",
        title="Polyps: the six hospitals of PolypGen",
        modality="colonoscopy",
        classes=("polyp",),
        licence="CC BY 4.0",
        citation=POLYPGEN_CITATION,
        page=POLYPGEN.page,
        parts=(POLYPGEN,),
        find=find_centres,
        keys={"protocol": "leave-one-site-out"},
        task="polyp",
    ),
)
