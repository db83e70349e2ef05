"""Nuclei drawn as polygons (Aperio ImageScope XML: MoNuSeg, MoNuSAC) to pixels."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from skimage.draw import polygon

from engine.data.file_faults import reading


def draw_annotations(path: Path, size: tuple[int, int], *, without: Container[str] = ()) -> np.ndarray:
    """Return (H, W) bool of all regions in the file, where ``size`` is (H, W).

    A pixel is inside where its centre is: column 2 reaches from 2 to 3. Regions of annotations with an attribute called
    one of ``without`` (lower case) are not drawn. Raises ``UserError`` as the other readers.
    """
    plane = np.zeros(size, bool)
    with reading(path, suffix=".xml"):
        content = path.read_bytes()
        if b"<!DOCTYPE" in content or b"<!ENTITY" in content:  # names that stand for more text, without a bound
            raise ValueError("it has a document type, which no annotation has")
        for annotation in ElementTree.fromstring(content).iter("Annotation"):
            names = {attribute.get("Name", "").strip().lower() for attribute in annotation.iter("Attribute")}
            if any(name in without for name in names):
                continue
            for region in annotation.iter("Region"):
                points = [(float(v.attrib["Y"]), float(v.attrib["X"])) for v in region.iter("Vertex")]
                if len(points) > 2:
                    rows, columns = np.array(points).T - 0.5
                    plane[polygon(rows, columns, shape=size)] = True
    return plane
