"""All arrays of a message in one piece while it travels.

Flower moves every array, and every 5 MB of it, in HTTP requests and database transactions of its own: the 322 arrays of
a small student are more than 600 of them at each site, each way. Packed they are three.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from engine.errors import UserError
from engine.federation.payload import records

_PIECE, _INDEX = "packed", "packed-index-of-"
"""Name and type of the one array; what precedes a record's name in its index's."""


def pack(messages: Iterable[Message]) -> None:
    """Pack the arrays of each message's content in place; what messages share is packed once."""
    done: dict[int, tuple[ArrayRecord, ConfigRecord, ArrayRecord]] = {}
    for message in messages:
        content = message.content
        for name, record in records(content, ArrayRecord).items():
            if id(record) not in done:
                done[id(record)] = (*_packed(record), record)  # kept alive, for its id
            piece, index, _ = done[id(record)]
            content[name], content[_INDEX + name] = piece, index


def unpack(content: RecordDict) -> None:
    """Undo :func:`pack` in place; ``UserError`` ``federation.packing`` where pieces and index do not fit together."""
    for key, index in records(content, ConfigRecord).items():
        if key.startswith(_INDEX):
            name = key.removeprefix(_INDEX)
            content[name] = _unpacked(records(content, ArrayRecord)[name], index)
            del content[key]


def _packed(record: ArrayRecord) -> tuple[ArrayRecord, ConfigRecord]:
    arrays = list(record.values())
    data = b"".join(array.data for array in arrays)
    index = ConfigRecord(
        {
            "names": list(record),
            "dtypes": [array.dtype for array in arrays],
            "shapes": [",".join(map(str, array.shape)) for array in arrays],
            "stypes": [array.stype for array in arrays],
            "sizes": [len(array.data) for array in arrays],
        }
    )
    return ArrayRecord({_PIECE: Array("uint8", (len(data),), _PIECE, data)}), index


def _unpacked(record: ArrayRecord, index: ConfigRecord) -> ArrayRecord:
    columns = [cast(list, index[key]) for key in ("names", "dtypes", "shapes", "stypes", "sizes")]
    data, sizes = record[_PIECE].data, columns[-1]
    if sum(sizes) != len(data) or min(sizes, default=0) < 0 or len({len(column) for column in columns}) > 1:
        raise UserError(
            "federation.packing",
            what=f"A message's arrays have {len(data)} bytes, not the {sum(sizes)} that its index tells.",
            why="Arrays would be cut at wrong places.",
            fix="Look whether both sides run one version of this program; then resume the run.",
        )
    arrays, start = {}, 0
    for name, dtype, shape, stype, size in zip(*columns, strict=True):
        sides = tuple(int(side) for side in shape.split(",")) if shape else ()
        arrays[name] = Array(dtype, sides, stype, data[start : start + size])
        start += size
    return ArrayRecord(arrays)
