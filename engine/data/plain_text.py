"""Text files as spreadsheets and editors of all systems save them."""

from __future__ import annotations

import codecs

UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def decode(content: bytes) -> str:
    """Return the text of a file in UTF-8 or UTF-16, with or without a byte order mark.

    Raises ``UnicodeDecodeError`` for others: the eight-bit code pages of Windows cannot be told from each other, and a
    wrong guess would change names.
    """
    if content.startswith(UTF16_MARKS):
        return content.decode("utf-16")
    # Without a mark: in UTF-16 every other byte of plain Latin text is zero; text in UTF-8 has no zero byte at all.
    for name, zeros in (("utf-16-le", content[1:64:2]), ("utf-16-be", content[0:64:2])):
        if len(zeros) > 1 and not any(zeros):
            return content.decode(name)
    return content.decode("utf-8-sig")
