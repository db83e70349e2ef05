"""NRRD (labels of NCI-ISBI 2013) to a volume, by its plain text header (https://teem.sourceforge.net/nrrd/format.html).

None of the pinned libraries reads it. Read here: three axes, one value a voxel, raw or gzip, in one file.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import numpy as np

from engine.data.budget import inflate, require_bytes
from engine.data.file_faults import reading
from engine.data.pixels import Unsupported
from engine.data.prepare.records import Volume

TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    "float": "f4",
    "double": "f8",
}
SKIPS = ("line skip", "lineskip", "byte skip", "byteskip")
TO_LPS = {
    "left-posterior-superior": (1, 1, 1),
    "lps": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1),
    "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1),
    "las": (1, -1, 1),
}


def read_nrrd(path: Path) -> Volume:
    """Return the volume of ``path``; its placement is None where the file names no space. ``UserError`` as others."""
    with reading(path, suffix=".nrrd"):
        content = path.read_bytes()
        end = re.search(rb"\r?\n\r?\n", content)
        if not content.startswith(b"NRRD000") or end is None:
            raise ValueError("it does not begin with the header of an NRRD file")
        fields = _fields(content[: end.start()].decode("ascii", errors="replace"))
        if fields.get("dimension") != "3" or "data file" in fields or "datafile" in fields:
            raise Unsupported("it is no volume of three axes in one file")
        if any(int(fields.get(skip, 0)) for skip in SKIPS):
            raise Unsupported("its voxels begin elsewhere than behind its header (line skip, byte skip)")
        kind = fields.get("type", "").lower()
        if kind not in TYPES:
            raise Unsupported(f"its voxels are {kind}")
        shape = tuple(int(size) for size in fields["sizes"].split())
        dtype = np.dtype((">" if fields.get("endian") == "big" else "<") + TYPES[kind])
        num_values = int(np.prod(shape, dtype=np.int64))
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"its sizes '{fields['sizes']}' are no size")
        require_bytes(path, num_values=num_values, dtype=dtype, copies=2)
        stored = _inflated(path, content[end.end() :], encoding=fields.get("encoding", "raw").lower())
        if len(stored) < num_values * dtype.itemsize:
            raise ValueError(f"it is truncated: {len(stored)} of {num_values * dtype.itemsize} bytes are there")
        voxels = np.frombuffer(stored, dtype, count=num_values).reshape(shape, order="F")
        return Volume(voxels.astype(dtype.newbyteorder("=")), _affine_lps(fields))


def _fields(header: str) -> dict[str, str]:
    lines = [line for line in header.splitlines()[1:] if line and not line.startswith("#") and ":=" not in line]
    return {key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _inflated(path: Path, content: bytes, *, encoding: str) -> bytes:
    if encoding == "raw":
        return content
    if encoding in ("gzip", "gz"):
        return inflate(path, content, wbits=zlib.MAX_WBITS | 16)
    raise Unsupported(f"its encoding is {encoding}")


def _affine_lps(fields: dict[str, str]) -> np.ndarray | None:
    signs = TO_LPS.get(fields.get("space", "").lower())
    directions = _vectors(fields.get("space directions", ""))
    if signs is None or len(directions) != 3:
        return None
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(directions).T
    matrix[:3, 3] = (_vectors(fields.get("space origin", "")) or [[0.0, 0.0, 0.0]])[0]
    return np.diag([*signs, 1]) @ matrix


def _vectors(text: str) -> list[list[float]]:
    return [[float(number) for number in inner.split(",")] for inner in re.findall(r"\(([^)]*)\)", text)]
