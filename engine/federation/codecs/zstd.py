"""Step ``zstd``: the bytes of a message, packed without loss."""

from __future__ import annotations

from engine.federation.codecs.layout import CodedFault

LEVEL = 3
"""zstd's own default: higher ones take several times as long for the last percent (ours)."""
AS_IT_IS, PACKED = 0, 1
"""The first byte: whether what follows is packed. Bytes that packing would lengthen go as they are."""
OVERHEAD = 1
"""Bytes by which a message can become longer."""


def pack(data: bytes) -> bytes:
    """Return ``data`` packed: ``len(data) + OVERHEAD`` bytes at most."""
    from imagecodecs import zstd_encode

    packed = bytes(zstd_encode(data, level=LEVEL)) if data else data
    return bytes([PACKED]) + packed if len(packed) < len(data) else bytes([AS_IT_IS]) + data


def unpack(packed: memoryview, *, num_bytes: int) -> bytes | memoryview:
    """Return the ``num_bytes`` bytes that :func:`pack` has packed.

    No more than these are ever made of it, whatever it claims. Raises :class:`CodedFault` for anything else.
    """
    from imagecodecs import ZstdError, zstd_decode

    kind, content = packed[:1].tobytes(), packed[1:]
    if kind == bytes([AS_IT_IS]):
        found: bytes | memoryview = content
    elif kind == bytes([PACKED]):
        try:
            found = zstd_decode(content, out=num_bytes)
        except ZstdError as error:
            raise CodedFault(f"it cannot be unpacked into {num_bytes:,} bytes ({error!s:.80})") from error
    else:
        raise CodedFault("it does not begin as a packed message does")
    if len(found) != num_bytes:
        raise CodedFault(f"it unpacks into {len(found):,} bytes, not {num_bytes:,}")
    return found
