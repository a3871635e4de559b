"""Bytes into text that can be kept: UTF-8, and no character that PostgreSQL or UTF-8 cannot hold."""

import codecs
import re

from backends.errors import InvalidDocument

_UNKEEPABLE = re.compile("[\x00\ud800-\udfff]")
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(field: str, data: bytes) -> str:
    """Decode a whole file: UTF-8 with or without a byte order mark, line endings as they are.

    Raises InvalidDocument, whose field is `field`.
    """
    text = decode(field, data).removeprefix("\ufeff")
    check_text(field, text)
    return text


def decode(field: str, data: bytes, encoding: str = "utf-8", offset: int = 0) -> str:
    """Decode `data`, which begins at byte `offset` of its file; InvalidDocument names the first bad byte."""
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        at = error.start
        actual = "UTF-16" if data.startswith(_UTF16_MARKS) else "ISO-8859-1"
        problem = (
            f"found byte 0x{data[at]:02X} at byte offset {offset + at}, which is not {encoding.upper()}; "
            f"needed UTF-8: convert it, for example with `iconv -f {actual} -t UTF-8`"
        )
        raise InvalidDocument(field, problem) from error


def check_text(field: str, text: str) -> None:
    """Refuse a NUL character and half of a surrogate pair; InvalidDocument says where the first stands."""
    if fault := _UNKEEPABLE.search(text):
        what = "a NUL character" if fault[0] == "\x00" else f"half a surrogate pair, U+{ord(fault[0]):04X},"
        raise InvalidDocument(field, f"found {what} at character offset {fault.start()}; needed text without it")
