"""What crosses a site's border: named arrays and scalars as Flower records, counted to the byte.

Nothing is pickled. Arrays travel as ``.npy`` bytes in sorted key order, so equal contents are equal bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from io import BytesIO
from typing import TypeVar, cast

import numpy as np
from flwr.app import Array as FlowerArray
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from engine.errors import UserError
from engine.federation.checks import WIRE_DTYPES, check_dtype, is_possible_shape, mask_problem
from engine.federation.tasks import Arrays, Scalar, SiteReply, SiteRequest

MAX_SCALAR_BYTES = 100_000
"""Of the figures that go with a reply (ours)."""

_NPY = "numpy.ndarray"
"""Flower's name for ``.npy`` bytes."""
RUN_RECORD, TOLD_RECORD, PROGRAM_RECORD = "run", "told", "program"
"""Beside a request's content: which run asks. Beside a reply's: points of curves, and which program has answered. Only
deployed sites need them."""
_Record = TypeVar("_Record", ArrayRecord, ConfigRecord, MetricRecord)
SETTINGS = "settings"
"""Record of a request's settings."""
_ARRAYS, _METRICS, _EXAMPLES, _TEXTS = "arrays", "metrics", "num-examples", "texts"


def to_payload(arrays: Arrays) -> ArrayRecord:
    """Return ``arrays`` as an ArrayRecord with sorted keys; raises ``UserError`` for a dtype outside WIRE_DTYPES."""
    record = ArrayRecord()
    for name in sorted(arrays):
        array = arrays[name]
        check_dtype(name, array)
        # The bytes of np.save in one copy instead of its many small writes; C order also undoes channels_last.
        content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        data = b"".join((_header(array.dtype, array.shape), content))  # type: ignore[arg-type]
        record[name] = FlowerArray(str(array.dtype), tuple(array.shape), _NPY, data)
    return record


class Malformed(ValueError):
    """A message that no site of ours writes; the text says what is wrong and follows "cannot be used: "."""


def from_payload(record: ArrayRecord, *, copy: bool = True) -> dict[str, np.ndarray]:
    """Return the arrays of a record, writable and owned by the caller; without ``copy`` read-only, where they lie.

    Nothing is allocated for an array whose shape does not fit the bytes that came. Raises :class:`Malformed`.
    """
    views = {name: _decode(name, array) for name, array in record.items()}
    return {name: view.copy() for name, view in views.items()} if copy else views


def _decode(name: str, array: FlowerArray) -> np.ndarray:
    if array.stype != _NPY:
        raise Malformed(f"'{name}' is written as {array.stype!r:.40}")
    fast = _header(np.dtype(array.dtype), tuple(array.shape)) if array.dtype in WIRE_DTYPES else None
    if fast is not None and array.data.startswith(fast):
        dtype, shape, fortran_order, offset = np.dtype(array.dtype), tuple(array.shape), False, len(fast)
    else:
        dtype, shape, fortran_order, offset = _foreign_header(name, array.data)
    if not is_possible_shape(shape):
        raise Malformed(f"'{name}' says that its shape is {shape!s:.80}")
    size = math.prod(shape)
    if len(array.data) - offset != size * dtype.itemsize:
        raise Malformed(f"'{name}' says that it is {dtype}{shape}, and has {len(array.data) - offset} bytes")
    flat = np.frombuffer(array.data, dtype, count=size, offset=offset)
    return flat.reshape(shape, order="F" if fortran_order else "C")


def _foreign_header(name: str, data: bytes) -> tuple[np.dtype, tuple[int, ...], bool, int]:
    """Return (dtype, shape, whether in Fortran order, bytes before the data) of ``.npy`` bytes that others wrote."""
    file = BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            raise ValueError(f"npy version {version}")
        shape, fortran_order, dtype = readers[version](file)
    except (ValueError, SyntaxError, TypeError) as error:  # whatever numpy says of a header that is none
        raise Malformed(f"'{name}' is no array ({error!s:.100})") from error
    if str(dtype) not in WIRE_DTYPES:
        raise Malformed(f"'{name}' is of type {dtype}")
    return dtype, shape, fortran_order, file.tell()


def payload_bytes(arrays: Arrays) -> int:
    """Return the bytes of ``to_payload(arrays)`` on the wire: names, ``.npy`` headers and data, without encoding it.

    Transport framing (HTTP, TLS) is not counted.
    """
    return sum(
        len(name.encode()) + len(_header(array.dtype, array.shape)) + array.nbytes for name, array in arrays.items()
    )


@lru_cache(maxsize=4096)
def _header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    # The header that np.save writes for a C-ordered array, made from its type and shape alone.
    buffer = BytesIO()
    descr = np.lib.format.dtype_to_descr(dtype)
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def request_content(request: SiteRequest, *, arrays: ArrayRecord) -> RecordDict:
    """Return a request's content; ``arrays`` is its encoded payload, shared by all sites of a round."""
    settings = ConfigRecord({**request.settings, "round": request.round, "site": request.site})
    return RecordDict({_ARRAYS: arrays, SETTINGS: settings})


def read_request(message: Message, *, site: str) -> SiteRequest:
    """Return the request in a message that has reached ``site``."""
    return read_content(message.content, task=message.metadata.message_type, site=site)


def read_content(content: RecordDict, *, task: str, site: str) -> SiteRequest:
    """Return the request whose content has reached ``site``."""
    settings = cast(dict[str, Scalar], dict(records(content, ConfigRecord)[SETTINGS]))
    settings.pop("site", None)
    number = int(settings.pop("round", 0))
    return SiteRequest(site, task, number, settings, from_payload(records(content, ArrayRecord)[_ARRAYS]))


def reply_content(reply: SiteReply) -> RecordDict:
    """Return a reply's content; the key ``num-examples`` is the one that Flower's own strategies weigh by."""
    metrics = MetricRecord({name: float(value) for name, value in reply.metrics.items()})
    metrics[_EXAMPLES] = int(reply.num_examples)
    content = RecordDict({_ARRAYS: to_payload(reply.arrays), _METRICS: metrics})
    if reply.texts:
        content[_TEXTS] = ConfigRecord(dict(reply.texts))
    return content


def read_reply(message: Message, *, max_bytes: int | None = None) -> SiteReply:
    """Return the reply in a message that carries content.

    Raises :class:`Malformed` for what is no reply, and before anything is decoded where its arrays have more than
    ``max_bytes`` or its figures more than ``MAX_SCALAR_BYTES``.
    """
    content = message.content
    arrays, scalars = content_bytes(content)
    if max_bytes is not None and arrays > max_bytes:
        raise Malformed(f"its arrays have {arrays:,} bytes, more than the {max_bytes:,} that were expected")
    if scalars > MAX_SCALAR_BYTES:
        raise Malformed(f"its figures have {scalars:,} bytes")
    found, figures = records(content, ArrayRecord), records(content, MetricRecord)
    if _ARRAYS not in found or _METRICS not in figures:
        raise Malformed("it has no arrays or no figures")
    metrics = dict(figures[_METRICS])
    lists = [name for name, value in metrics.items() if isinstance(value, list)]
    num_examples = metrics.pop(_EXAMPLES, None)
    if lists or not isinstance(num_examples, int):
        raise Malformed(f"'{lists[0]!s:.40}' is a list" if lists else f"{_EXAMPLES} is {num_examples!r:.40}")
    texts = {name: str(text) for name, text in records(content, ConfigRecord).get(_TEXTS, {}).items()}
    arrays_read = from_payload(found[_ARRAYS], copy=False)
    return SiteReply(arrays_read, cast(dict[str, float], metrics), num_examples, texts)


def content_bytes(content: RecordDict) -> tuple[int, int]:
    """Return (bytes of arrays, bytes of scalars) of a message's content."""
    arrays = sum(record.count_bytes() for record in records(content, ArrayRecord).values())
    settings = sum(len(record.deflate()) for record in records(content, ConfigRecord).values())
    return arrays, settings + sum(len(record.deflate()) for record in records(content, MetricRecord).values())


def records(content: RecordDict, kind: type[_Record]) -> dict[str, _Record]:
    """Return the records of a kind by name.

    Flower's own ``content.array_records`` ties the content to itself: its arrays would stay in memory, reply after
    reply, until the garbage collector comes by.
    """
    return {name: record for name, record in content.items() if isinstance(record, kind)}


def pack_masks(mask_NKHW: np.ndarray) -> dict[str, np.ndarray]:
    """Return {0, 1} masks of any shape as bits: ``bits`` uint8 (ceil(size / 8),) and ``shape`` int64."""
    if mask_NKHW.size and int(mask_NKHW.max()) > 1:
        raise UserError(
            "federation.mask_values",
            what=f"Masks to be shared have values up to {int(mask_NKHW.max())}.",
            why="Masks cross a site's border as one bit a pixel.",
            fix="Share masks of 0 and 1 only.",
        )
    return {"bits": np.packbits(mask_NKHW, axis=None), "shape": np.asarray(mask_NKHW.shape, dtype=np.int64)}


def unpack_masks(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the uint8 masks that :func:`pack_masks` packed, in their shape.

    Nothing is allocated for a shape that does not fit the bits. Raises :class:`Malformed`; what is wrong with a site's
    own masks is said by ``checks.check_masks``.
    """
    problem = mask_problem(arrays)
    if problem is not None:
        raise Malformed(problem)
    shape = tuple(int(side) for side in arrays["shape"])
    return np.unpackbits(arrays["bits"], count=math.prod(shape)).reshape(shape)
