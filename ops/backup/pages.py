"""Looks through a Parquet file before pyarrow sees it: no file can expand without bound, or crash the process.

pyarrow trusts what it reads: a codec that it does not know ends the process, and a page may ask for any amount of
memory. Our writer leaves no freedom, and none is granted: flat columns in their order, one page after the other from
the first byte to the footer, every page PLAIN, only strings compressed. Values of fixed width then take their full
width in the file, which bounds the rows; and what the strings of a row group unpack to is bounded before they are,
since Arrow gives zstd a buffer of the size that the page's header names, and refuses a page that fills it otherwise.

The format: https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift, whose field numbers
these are.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from backends.errors import BackupDamaged
from ops.backup.thrift import CompactReader, Maybe, fits

MAX_FOOTER_BYTES = 1 << 19
"""Some 500 row groups of chunks."""
MAX_GROUP_BYTES = 256 << 20
"""What a row group may unpack to; our writer makes them of 16 MiB."""
MAX_ROW_BYTES = 1 << 30
"""What a row group of a single row may: PostgreSQL keeps no longer one."""
MAX_ROW_EXPANSION = 32
"""But only so many times its size in the file: beyond MAX_GROUP_BYTES a text is not that repetitive, a bomb is."""

_MAGIC = b"PAR1"
_INT32, _INT64, _BYTE_ARRAY, _FIXED = 1, 2, 6, 7
_REQUIRED, _OPTIONAL = 0, 1
_UTF8 = {6: 0, 10: {1: {}}}  # the converted type and the logical type
_UNCOMPRESSED, _ZSTD = 0, 6
_DATA_PAGE, _PLAIN, _RLE = 0, 0, 3
_WRITTEN_BY = b"parquet-cpp-arrow version "
_SHOWN_CHARACTERS = 300

_FOOTER = {1: int, 2: list, 3: int, 4: list, 5: Maybe([{1: bytes, 2: bytes}]), 6: bytes, 7: Maybe([{1: {}}])}
_ROW_GROUP = {1: list, 2: int, 3: int, 5: Maybe(int), 6: Maybe(int), 7: Maybe(int)}
_PAGE_COUNTS = [{1: int, 2: int, 3: int}]
_SIZE_STATISTICS = {1: Maybe(int), 2: Maybe([int]), 3: Maybe([int])}
_PAGE_HEADER = {1: _DATA_PAGE, 2: int, 3: int, 5: {1: int, 2: _PLAIN, 3: _RLE, 4: _RLE, 5: Maybe({})}}


def is_packed(field: pa.Field) -> bool:
    """Whether a column is stored with zstd. What has a fixed width is not: that bounds the rows of a file."""
    return bool(pa.types.is_string(field.type))


@contextmanager
def as_damage(where: str) -> Iterator[None]:
    """Say of which file it is that pyarrow complains; it does not document what it raises for bytes that are wrong."""
    try:
        yield
    except BackupDamaged:
        raise
    except Exception as error:
        raise BackupDamaged(where, f"cannot be read as Parquet: {_shown(error)}") from error


def open_checked(data: bytes, where: str, schema: pa.Schema, rows: int) -> pq.ParquetFile:
    """Open a file that has exactly this schema and so many rows, and whose row groups unpack to bounded sizes.

    Raises BackupDamaged, naming `where`, for everything else.
    """
    with as_damage(where):
        _Layout(data, where, schema).check(rows)
        return pq.ParquetFile(pa.BufferReader(data))


def read_group(file: pq.ParquetFile, number: int, where: str) -> pa.RecordBatch:
    """Decode one row group of a file that is checked."""
    with as_damage(where):
        table = file.read_row_group(number, use_threads=False)
        [batch] = table.combine_chunks().to_batches()
        batch.validate(full=True)  # UTF-8, among others
        return batch


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where everything is in a file."""

    data: bytes
    where: str
    schema: pa.Schema

    def check(self, rows: int) -> None:
        begin, end = self._footer_at()
        reader = CompactReader(self.data, begin, end)
        footer = reader.struct()
        self._check_footer(footer, end - reader.position)
        groups = footer[4]
        if not all(fits(group, _ROW_GROUP) and group[3] > 0 for group in groups):
            raise self._damage("found a row group without rows, or with more than a row group says of itself")
        counted = sum(group[3] for group in groups)
        if not footer[3] == counted == rows:
            raise self._damage(f"found {footer[3]} rows, {counted} of them in row groups; needed {rows}")
        position = len(_MAGIC)
        for group in groups:
            position = self._check_group(group, position, begin)
        if position != begin:
            raise self._damage(f"found {begin - position} bytes between the last page and the footer; needed none")

    def _footer_at(self) -> tuple[int, int]:
        data = self.data
        if len(data) < 12 or not (data.startswith(_MAGIC) and data.endswith(_MAGIC)):
            raise self._damage(f"found {len(data)} bytes that are no Parquet file; needed PAR1 at both ends")
        size, end = int.from_bytes(data[-8:-4], "little"), len(data) - 8
        if size > min(end - len(_MAGIC), MAX_FOOTER_BYTES):
            raise self._damage(f"found a footer of {size} bytes; needed at most {MAX_FOOTER_BYTES}, all in the file")
        return end - size, end

    def _check_footer(self, footer: dict[int, Any], left_bytes: int) -> None:
        if left_bytes or not fits(footer, _FOOTER) or not footer[6].startswith(_WRITTEN_BY):
            raise self._damage(f"found a footer of {_shown(footer)}; needed one of Arrow's, and nothing else")
        for number, (found, needed) in enumerate(zip_longest(footer[2], _elements(self.schema))):
            if not fits(found, needed):
                raise self._damage(f"found {_shown(found)} as part {number} of the schema; needed {needed}")
        about = {pair[1]: pair[2] for pair in footer.get(5, [])}
        if about != (self.schema.metadata or {}):
            raise self._damage(f"found metadata {_shown(about)}; needed {self.schema.metadata or {}}")

    def _check_group(self, group: dict[int, Any], position: int, end: int) -> int:
        """Check one row group, which begins at `position`, and return where it ends."""
        begin, rows, unpacked_bytes = position, group[3], 0
        if len(group[1]) != len(self.schema):
            raise self._damage(f"found {len(group[1])} columns in a row group; needed {len(self.schema)}")
        for field, chunk in zip(self.schema, group[1], strict=True):
            if not fits(chunk, _column_chunk(field, rows, position)):
                raise self._damage(
                    f"found column {field.name} stored as {_shown(chunk)}; needed {rows} values from {position} on, "
                    f"{'with zstd' if is_packed(field) else 'not compressed'}, no dictionary, statistics or index"
                )
            size = chunk[3][7]
            if not 0 <= size <= end - position:
                raise self._damage(f"found {size} bytes of {field.name} at {position}; needed them before {end}")
            unpacked_bytes += self._check_pages(field, rows, position, position + size)
            position += size
        limit = MAX_GROUP_BYTES
        if rows == 1:
            limit = max(limit, min(MAX_ROW_BYTES, MAX_ROW_EXPANSION * (position - begin)))
        if unpacked_bytes > limit:
            raise self._damage(f"found a row group that unpacks to {unpacked_bytes} bytes; needed at most {limit}")
        return position

    def _check_pages(self, field: pa.Field, rows: int, position: int, end: int) -> int:
        """Check the pages of one column of a row group, and return what they unpack to, in bytes."""
        values = unpacked_bytes = 0
        reader = CompactReader(self.data, position, end)
        while reader.position < end:
            header = reader.struct()
            if not fits(header, _PAGE_HEADER) or not _is_sound(field, header, end - reader.position):
                raise self._damage(
                    f"found a page of {field.name} with {_shown(header)} before byte {reader.position}; "
                    f"needed plain values that end at {end} or before"
                )
            reader.position += header[3]
            values += header[5][1]
            unpacked_bytes += header[2]
        if values != rows:
            raise self._damage(f"found pages of {values} values of {field.name}; needed {rows}")
        return unpacked_bytes

    def _damage(self, problem: str) -> BackupDamaged:
        return BackupDamaged(self.where, problem)


def _is_sound(field: pa.Field, header: dict[int, Any], left_bytes: int) -> bool:
    """Whether a page is in the file, and so many values can be in so many bytes."""
    unpacked_bytes, stored_bytes, values = header[2], header[3], header[5][1]
    if not (values > 0 and unpacked_bytes >= 0 and 0 <= stored_bytes <= left_bytes):
        return False
    if is_packed(field):
        return bool(unpacked_bytes >= 4 * values)  # each begins with its length
    if field.nullable:
        return bool(unpacked_bytes == stored_bytes)
    return bool(unpacked_bytes == stored_bytes == values * field.type.bit_width // 8)


def _elements(schema: pa.Schema) -> list[dict[int, Any]]:
    """A schema as Parquet has it: the root, then the columns."""
    return [{3: _REQUIRED, 4: b"schema", 5: len(schema)}, *map(_element, schema)]


def _element(field: pa.Field) -> dict[int, Any]:
    element = {1: _physical(field), 3: _OPTIONAL if field.nullable else _REQUIRED, 4: field.name.encode()}
    if is_packed(field):
        return element | _UTF8
    return element | {2: field.type.byte_width} if element[1] == _FIXED else element


def _physical(field: pa.Field) -> int:
    if pa.types.is_int64(field.type):
        return _INT64
    if pa.types.is_int32(field.type):
        return _INT32
    return _FIXED if pa.types.is_fixed_size_binary(field.type) else _BYTE_ARRAY


def _column_chunk(field: pa.Field, rows: int, position: int) -> dict[int, Any]:
    """The shape of a ColumnChunk: no other file, no dictionary, no index, no encryption."""
    return {
        2: int,
        3: {
            1: _physical(field),
            2: [int],
            3: [field.name.encode()],
            4: _ZSTD if is_packed(field) else _UNCOMPRESSED,
            5: rows,
            6: int,
            7: int,
            9: position,
            13: Maybe(_PAGE_COUNTS),
            16: Maybe(_SIZE_STATISTICS),
        },
    }


def _shown(found: object) -> str:
    """What a file says is shown in part: it may be long."""
    return str(found)[:_SHOWN_CHARACTERS]
