"""Parquet files that somebody made to do harm: refused before they are decoded, within a bounded memory."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.errors import BackupDamaged
from ops.backup.pages import MAX_FOOTER_BYTES
from ops.backup.shards import embedding_array, read_chunks
from tests.backup.parquet_files import (
    DIMENSION,
    WHERE,
    chunk_rows,
    footer_of,
    listed,
    with_footer,
    written,
    written_by_others,
    zigzag,
)

ROOT = Path(__file__).parents[2]
ROWS = 1_234
"""Its number takes two bytes, as do those up to 8,191, and is nothing else's."""
HONEST = written([chunk_rows(ROWS)])
MEMORY_LIMIT_MB = 200

READER = """
import json, sys
from pathlib import Path
from backends.errors import BackupDamaged
from ops.backup.shards import read_chunks
from tests.backup.parquet_files import DIMENSION, WHERE, chunk_rows, listed, written

def peak_mb():  # not getrusage's: that begins with what the parent had
    [peak] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(peak.split()[1]) / 1024

honest = written([chunk_rows(3)])
assert len(list(read_chunks(honest, listed(honest, 3), WHERE, DIMENSION, "half"))) == 1  # all that it needs is loaded
before_mb = peak_mb()
data = Path(sys.argv[1]).read_bytes()
try:
    rows = sum(map(len, read_chunks(data, listed(data, int(sys.argv[2])), WHERE, DIMENSION, "half")))
    said = f"{rows} rows"
except BackupDamaged as error:
    said = str(error)
print(json.dumps({"said": said, "peak_mb": peak_mb() - before_mb}))
"""


@dataclass(frozen=True)
class Outcome:
    """What a process said of a file, and the memory that it took beyond what it had before."""

    said: str
    peak_mb: float


def read_apart(folder: Path, data: bytes, rows: int) -> Outcome:
    """Read a file in a process of its own, which it may end."""
    file = folder / "shard.parquet"
    file.write_bytes(data)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.fspath(ROOT), *sys.path])}
    command = [sys.executable, "-W", "error", "-c", READER, os.fspath(file), str(rows)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return Outcome(**json.loads(done.stdout))


def one_long_text() -> bytes:
    """300 MiB of one letter in a single cell."""
    return written_by_others(chunk_rows(1, text=["a" * (300 << 20)]))


def many_long_texts() -> bytes:
    """300 MiB in as many cells of one row group."""
    return written_by_others(chunk_rows(300, text=["a" * (1 << 20)] * 300))


def dictionary() -> bytes:
    """One long value in a dictionary, and 100,000 rows that name it: 10 GB."""
    text = pa.DictionaryArray.from_arrays(np.zeros(100_000, np.int32), ["a" * 100_000])
    rows = chunk_rows(100_000)
    columns = [text if field.name == "text" else rows.column(field.name) for field in rows.schema]
    fields = [field.with_type(array.type) for field, array in zip(rows.schema, columns, strict=True)]
    hostile = pa.record_batch(columns, pa.schema(fields, rows.schema.metadata))
    return written_by_others(hostile, use_dictionary=["text"])


@pytest.mark.parametrize(
    ("make", "rows", "words"),
    [
        (one_long_text, 1, "a row group that unpacks to 314"),
        (many_long_texts, 300, "a row group that unpacks to 314"),
        (dictionary, 100_000, "found column text stored as"),
    ],
)
def test_bombs_do_not_go_off(make: Callable[[], bytes], rows: int, words: str, tmp_path: Path) -> None:
    """Small files that would unpack to much are refused, and take little memory."""
    data = make()
    assert len(data) < 20 << 20
    outcome = read_apart(tmp_path, data, rows)
    assert outcome.said.startswith(WHERE)
    assert words in outcome.said
    assert outcome.peak_mb < len(data) / (1 << 20) + MEMORY_LIMIT_MB


def test_a_long_text_is_no_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit of a row group one row is read, unless it unpacks to many times its size."""
    monkeypatch.setattr("ops.backup.pages.MAX_GROUP_BYTES", 100_000)
    long = np.random.default_rng(0).integers(97, 123, 200_000, np.uint8).tobytes().decode()
    data = written_by_others(chunk_rows(1, text=[long]))
    assert len(list(read_chunks(data, listed(data, 1), WHERE, DIMENSION, "half"))) == 1
    assert "needed at most 100000" in refusal(written_by_others(chunk_rows(5, text=[long, *"abcd"])))
    assert "needed at most 100000" in refusal(written_by_others(chunk_rows(1, text=["a" * 200_000])), rows=1)


def lie(rows: int) -> bytes:
    """Return a footer that says of everything that there are other numbers of rows and values."""
    return footer_of(HONEST).replace(b"\x16" + zigzag(ROWS), b"\x16" + zigzag(rows))


FORGED = {
    "a hundred million rows": (with_footer(HONEST, lie(10**8)), 10**8, "pages of 1234 values of id; needed 100000000"),
    "rows that the manifest lacks": (with_footer(HONEST, lie(10**9)), ROWS, "found 1000000000 rows"),
    "rows that the pages claim too": (
        with_footer(HONEST, lie(8_000)).replace(b"\x2c\x15" + zigzag(ROWS), b"\x2c\x15" + zigzag(8_000)),
        8_000,
        "found a page of id",
    ),
    "a codec that nobody knows": (
        with_footer(HONEST, footer_of(HONEST).replace(b"\x15\x0c\x16", b"\x15\x78\x16")),
        ROWS,
        "found column document_id stored as",
    ),
    "a codec that is another": (
        with_footer(HONEST, footer_of(HONEST).replace(b"\x15\x0c\x16", b"\x15\x08\x16")),
        ROWS,
        "found column document_id stored as",
    ),
    "structs without end": (with_footer(HONEST, b"\x1c" * 500_000), ROWS, "structs more than 8 deep"),
    "lists without end": (with_footer(HONEST, b"\x19" * 500_000), ROWS, "found a list"),
    "a list of more than there is": (with_footer(HONEST, b"\x19\xfc\xff\xff\xff\xff\x07"), ROWS, "found a list of"),
    "a string of more than there is": (with_footer(HONEST, b"\x18\xff\xff\xff\xff\x07"), ROWS, "needed 2147483647"),
    "a footer of half a megabyte": (
        with_footer(HONEST, footer_of(HONEST) + bytes(MAX_FOOTER_BYTES)),
        ROWS,
        "found a footer of 5",
    ),
    "a footer with more behind it": (with_footer(HONEST, footer_of(HONEST) + b"\0"), ROWS, "found a footer of {1: 2"),
    "a footer longer than the file": (HONEST[:-8] + b"\xff\xff\x00\x00PAR1", ROWS, "found a footer of 65535 bytes"),
    "a file of another program": (
        with_footer(HONEST, footer_of(HONEST).replace(b"parquet-cpp-arrow", b"parquet-mr-arrow!")),
        ROWS,
        "needed one of Arrow's",
    ),
    "half a million parts of a schema": (
        with_footer(HONEST, b"\x15\x04\x19\xfc\xa0\xc2\x1e" + bytes(500_001)),
        ROWS,
        "found a footer of {1: 2, 2: [{}, {}",
    ),
    "bytes that nobody reads": (with_footer(HONEST, footer_of(HONEST), b"hidden"), ROWS, "found 6 bytes between"),
    "an encrypted footer": (HONEST[:-4] + b"PARE", ROWS, "no Parquet file"),
    "next to nothing": (b"P", ROWS, "found 1 bytes that are no Parquet file"),
    "only the ends": (b"PAR1PAR1", ROWS, "found 8 bytes that are no Parquet file"),
    "an empty footer": (b"PAR1" + bytes(4) + b"PAR1", ROWS, "cannot be read as Parquet"),
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_files_are_refused(name: str, tmp_path: Path) -> None:
    """Footers and pages that lie are seen through without pyarrow, which some of them would end the process of."""
    data, rows, words = FORGED[name]
    assert data != HONEST
    outcome = read_apart(tmp_path, data, rows)
    assert outcome.said.startswith(WHERE)
    assert words in outcome.said
    assert outcome.peak_mb < MEMORY_LIMIT_MB


@settings(max_examples=100, deadline=None)
@given(footer=st.binary(max_size=60))
def test_any_footer_is_refused(footer: bytes) -> None:
    """Bytes that are no footer are damage, whatever they are."""
    refusal(with_footer(HONEST, footer), ROWS)


def changed(**types: Any) -> bytes:
    """Return a file whose columns have other types, which pyarrow casts them to."""
    table = pa.Table.from_batches([chunk_rows(5)])
    for name, wanted in types.items():
        number = table.schema.get_field_index(name)
        table = table.set_column(number, pa.field(name, wanted, nullable=False), table[name].cast(wanted))
    [batch] = table.to_batches()
    return written_by_others(batch)


def with_fields(fields: list[pa.Field], **columns: pa.Array) -> bytes:
    """Return a file of other columns."""
    rows = chunk_rows(5)
    arrays = [columns[field.name] if field.name in columns else rows.column(field.name) for field in fields]
    return written_by_others(pa.record_batch(arrays, pa.schema(fields, rows.schema.metadata)))


def nested() -> bytes:
    """Return a file whose embeddings are lists."""
    values = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(5 * DIMENSION, np.float16)), DIMENSION)
    fields = [*FIELDS[:-1], pa.field("embedding", values.type, nullable=False)]
    return with_fields(fields, embedding=values)


FIELDS = list(chunk_rows(5).schema)
NULLS = [field.with_nullable(True) for field in FIELDS]
OTHER_COLUMNS: dict[str, Callable[[], bytes]] = {
    "one more": lambda: with_fields([*FIELDS, pa.field("more", pa.int32())], more=pa.array([1] * 5, pa.int32())),
    "one less": lambda: with_fields(FIELDS[:-1]),
    "another order": lambda: with_fields(FIELDS[::-1]),
    "another name": lambda: with_fields([*FIELDS[:-1], pa.field("e", FIELDS[-1].type, nullable=False)], e=wide(8)),
    "nothing but nulls": lambda: with_fields(NULLS, **{field.name: pa.nulls(5, field.type) for field in NULLS}),
    "nullable ids": lambda: with_fields([FIELDS[0].with_nullable(True), *FIELDS[1:]]),
    "smaller ids": lambda: changed(id=pa.int32()),
    "unsigned ids": lambda: changed(id=pa.uint64()),
    "times for ids": lambda: changed(id=pa.timestamp("us")),
    "bytes for text": lambda: changed(text=pa.binary()),
    "lists": nested,
    "another dimension": lambda: with_fields(
        [*FIELDS[:-1], pa.field("embedding", pa.binary(18), nullable=False)], embedding=wide(9)
    ),
    "single precision": lambda: written_by_others(chunk_rows(5, precision="single")),
    "no word on the dtype": lambda: written_by_others(chunk_rows(5).replace_schema_metadata(None)),
    "another dtype": lambda: written_by_others(
        chunk_rows(5).replace_schema_metadata({"embedding_dtype": "|O", "embedding_dimension": "8"})
    ),
    "Arrow's own schema": lambda: written_by_others(chunk_rows(5), store_schema=True),
}
OTHER_OPTIONS: dict[str, dict[str, Any]] = {
    "gzip": {"compression": "gzip"},
    "brotli": {"compression": "brotli"},
    "snappy": {"compression": "snappy"},
    "lz4": {"compression": "lz4"},
    "zstd everywhere": {"compression": "zstd"},
    "no compression": {"compression": "none"},
    "dictionaries": {"use_dictionary": True},
    "statistics": {"write_statistics": True},
    "an index of pages": {"write_page_index": True},
    "checksums": {"write_page_checksum": True},
    "newer pages": {"data_page_version": "2.0"},
    "deltas": {"column_encoding": {"id": "DELTA_BINARY_PACKED"}},
    "lengths apart": {"column_encoding": {"text": "DELTA_LENGTH_BYTE_ARRAY"}},
    "streams of bytes": {"column_encoding": {"id": "BYTE_STREAM_SPLIT"}},
}


def wide(dimension: int) -> pa.Array:
    """Five embeddings of zeros."""
    return embedding_array(np.zeros((5, dimension), np.float16))


def refusal(data: bytes, rows: int = 5) -> str:
    """Return what is said of a file of so many rows."""
    with pytest.raises(BackupDamaged) as caught:
        list(read_chunks(data, listed(data, rows), WHERE, DIMENSION, "half"))
    assert caught.value.file == WHERE
    return caught.value.problem


def test_told_so_others_write_as_we_do() -> None:
    """The files below are refused for what is changed in them, not for who wrote them."""
    data = written_by_others(chunk_rows(5))
    assert [len(batch) for batch in read_chunks(data, listed(data, 5), WHERE, DIMENSION, "half")] == [5]


@pytest.mark.parametrize("name", OTHER_COLUMNS)
def test_other_columns_are_refused(name: str) -> None:
    """A file holds exactly the columns of its format."""
    assert "found" in refusal(OTHER_COLUMNS[name]())


@pytest.mark.parametrize("name", OTHER_OPTIONS)
def test_other_ways_to_store_are_refused(name: str) -> None:
    """What could unpack without bound, and what nobody has looked at, is not read: only what our writer writes."""
    assert "found" in refusal(written_by_others(chunk_rows(5), **OTHER_OPTIONS[name]))
