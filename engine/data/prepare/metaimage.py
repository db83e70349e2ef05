"""MetaImage (PROMISE12: CaseNN.mhd beside CaseNN.raw, or one .mha) to a volume, by its plain text header.

None of the pinned libraries reads it, and ITK is 60 MB for one dataset; the format is fixed since 2003
(https://itk.org/Wiki/MetaIO/Documentation). Read here: three axes, one channel, raw or zlib.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engine.data.budget import inflate, require_bytes
from engine.data.file_faults import reading
from engine.data.pixels import Unsupported
from engine.data.prepare.records import Volume

HEADER_BYTES = 64 * 2**10
TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}


def data_file(header: bytes) -> str | None:
    """Return the name of the file that holds the voxels, None where they follow the header."""
    fields, _ = _fields(header)
    name = fields.get("ElementDataFile", "LOCAL")
    return None if name.upper() == "LOCAL" else name


def read_metaimage(path: Path) -> Volume:
    """Return the volume of ``path``; a file of voxels must lie beside it. ``UserError`` as the other readers."""
    with reading(path, suffix=path.suffix.lower()):
        with path.open("rb") as stream:
            fields, begin = _fields(stream.read(HEADER_BYTES))
        shape, dtype = _layout(fields)
        name = fields["ElementDataFile"]
        local = name.upper() == "LOCAL"
        if not local and (name != Path(name).name or name in (".", "..")):
            raise Unsupported(f"its voxels lie in '{name}', which is no file beside it")
        source = path if local else path.with_name(name)
        if not source.is_file():
            raise ValueError(f"its voxels lie in '{name}', which is not beside it")
        num_values = int(np.prod(shape, dtype=np.int64))
        require_bytes(path, num_values=num_values, dtype=dtype, copies=2)
        content = source.read_bytes()[begin if local else 0 :]
        if fields.get("CompressedData", "False").lower() == "true":
            content = inflate(path, content)
        needed = num_values * dtype.itemsize
        skipped = int(fields.get("HeaderSize", 0))
        begin = len(content) - needed if skipped == -1 else skipped
        if begin < 0 or len(content) - begin < needed:
            raise ValueError(f"it is truncated: {max(len(content) - begin, 0)} of {needed} bytes of voxels are there")
        voxels = np.frombuffer(content, dtype, count=num_values, offset=begin).reshape(shape, order="F")
        return Volume(voxels.astype(dtype.newbyteorder("=")), _affine_lps(fields))


def _fields(header: bytes) -> tuple[dict[str, str], int]:
    """Return the header's fields and where its last line ends; ElementDataFile is always the last."""
    fields: dict[str, str] = {}
    begin = 0
    for line in header.split(b"\n"):
        begin += len(line) + 1
        key, equals, value = line.decode("ascii", errors="replace").partition("=")
        if not equals:
            raise ValueError("it does not begin with the header of a MetaImage")
        fields[key.strip()] = value.strip()
        if key.strip() == "ElementDataFile":
            return fields, begin
    raise ValueError("its header has no ElementDataFile")


def _layout(fields: dict[str, str]) -> tuple[tuple[int, ...], np.dtype]:
    if fields.get("NDims") != "3" or int(fields.get("ElementNumberOfChannels", 1)) != 1:
        raise Unsupported("it is no volume of three axes with one value a voxel")
    if fields.get("ElementType") not in TYPES:
        raise Unsupported(f"its voxels are {fields.get('ElementType')}")
    shape = tuple(int(size) for size in fields["DimSize"].split())
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"its DimSize '{fields['DimSize']}' is no size")
    big = fields.get("BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB", "False")).lower() == "true"
    return shape, np.dtype((">" if big else "<") + TYPES[fields["ElementType"]])


def _affine_lps(fields: dict[str, str]) -> np.ndarray:
    """Return voxel to LPS mm: three numbers of TransformMatrix after the other are the direction of an axis."""
    numbers = {key: [float(one) for one in value.split()] for key, value in fields.items() if key in PLACES}
    matrix = np.eye(4)
    directions = next((numbers[key] for key in PLACES[:3] if key in numbers), [1, 0, 0, 0, 1, 0, 0, 0, 1])
    spacing = next((numbers[key] for key in PLACES[3:5] if key in numbers), [1, 1, 1])
    matrix[:3, :3] = np.array(directions).reshape(3, 3).T * np.array(spacing)
    matrix[:3, 3] = next((numbers[key] for key in PLACES[5:] if key in numbers), [0, 0, 0])
    return matrix


PLACES = ("TransformMatrix", "Rotation", "Orientation", "ElementSpacing", "ElementSize", "Offset", "Position", "Origin")
"""Fields of the placement: directions, spacing and origin, each under the names that the format allows."""
