"""Files of chunks and of runs: what is written comes back bit for bit, and what a corpus could not take does not."""

import errno
import io
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.errors import BackupDamaged
from backends.types import Precision
from backends.vectors import KEPT
from ops.backup import shards
from tests.backup.parquet_files import DIMENSION, WHERE, chunk_rows, listed, written

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
TWO_GROUPS = written([chunk_rows(30), chunk_rows(20, 31)])


def read(data: bytes, rows: int, precision: Precision = "half", **bounds: int | None) -> list[pa.RecordBatch]:
    """Read a file of chunks to its end."""
    return list(shards.read_chunks(data, listed(data, rows, **bounds), WHERE, DIMENSION, precision))


@settings(max_examples=25, deadline=None)
@given(
    texts=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=12),
    hashes=st.lists(st.sampled_from([None, b"", bytes(range(16))]), min_size=12, max_size=12),
    cut=st.integers(0, 12),
    precision=st.sampled_from(["half", "single"]),
)
def test_rows_come_back(
    texts: list[tuple[str, str]], hashes: list[bytes | None], cut: int, precision: Precision
) -> None:
    """Any rows, in any row groups, are read as they were written, embeddings bit for bit."""
    titles, bodies = zip(*texts, strict=True)
    count = len(texts)
    rows = chunk_rows(count, precision=precision, title=titles, text=bodies, content_hash=hashes[:count])
    found = pa.Table.from_batches(read(written([rows.slice(0, cut), rows.slice(cut)], precision), count, precision))
    assert found.equals(pa.Table.from_batches([rows]), check_metadata=True)


def test_columns_are_the_formats() -> None:
    """The names, types and order of the columns are those of format version 1."""
    rows = pq.read_table(io.BytesIO(written([chunk_rows(3)])))
    found = [(field.name, str(field.type), field.nullable) for field in rows.schema]
    assert found == [
        ("id", "int64", False),
        ("document_id", "string", False),
        ("ordinal", "int32", False),
        ("title", "string", False),
        ("text", "string", False),
        ("metadata", "string", False),
        ("start_at", "int32", False),
        ("end_at", "int32", False),
        ("content_hash", "binary", True),
        ("embedding", f"fixed_size_binary[{2 * DIMENSION}]", False),
    ]


@pytest.mark.parametrize("precision", ["half", "single"])
def test_embeddings_are_read_with_numpy_alone(precision: Precision) -> None:
    """The two lines that the documentation gives read the embeddings of any shard."""
    rows = chunk_rows(5, precision=precision)
    table = pq.read_table(io.BytesIO(written([rows], precision)))
    kept = np.dtype(table.schema.metadata[b"embedding_dtype"].decode())
    embeddings = np.array([np.frombuffer(value, kept) for value in table["embedding"].to_pylist()])
    assert embeddings.dtype == KEPT[precision]
    assert np.array_equal(embeddings, shards.embeddings_of(rows))


def test_embeddings_are_not_copied() -> None:
    """An array becomes a column and a column an array within the same memory, also a part of it."""
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((6, DIMENSION)).astype(np.float16)
    found = shards.embeddings_of(chunk_rows(6, embedding=shards.embedding_array(embeddings)).slice(2, 3))
    assert np.shares_memory(found, embeddings)
    assert np.array_equal(found, embeddings[2:5])


@pytest.mark.parametrize("wanted", [[True, False, True], [False, False, False]])
def test_embeddings_of_some_rows(wanted: list[bool]) -> None:
    """Rows that were picked, or none at all, have their own embeddings."""
    rows = chunk_rows(3)
    found = shards.embeddings_of(rows.filter(pa.array(wanted)))
    assert np.array_equal(found, shards.embeddings_of(rows)[wanted])


def test_big_endian_embeddings_are_turned() -> None:
    """What PostgreSQL sends is big-endian: the column holds the same values in little-endian order."""
    embeddings = np.arange(12, dtype=">f4").reshape(3, 4)
    assert b"".join(shards.embedding_array(embeddings).to_pylist()) == embeddings.astype("<f4").tobytes()


def test_a_batch_is_a_row_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each batch becomes a row group, an empty one none, and one beyond what a reader takes several."""
    data = written([chunk_rows(30), chunk_rows(0), chunk_rows(20, 31)])
    assert [len(batch) for batch in read(data, 50)] == [30, 20]
    monkeypatch.setattr(shards, "MAX_GROUP_BYTES", 4_000)
    assert [len(batch) for batch in read(written([chunk_rows(40)]), 40)] == [10, 10, 10, 10]


class FullDisk(io.BytesIO):
    """Takes 1,000 bytes."""

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > 1_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


def test_a_full_disk_comes_through() -> None:
    """What the sink raises reaches whoever writes, as it is."""
    with pytest.raises(OSError, match="No space left") as caught:
        shards.write_chunks(FullDisk(), chunk_rows(0).schema, [chunk_rows(2_000)])
    assert caught.value.errno == errno.ENOSPC


def test_a_cancelled_read_comes_through() -> None:
    """What the source of the batches raises reaches whoever writes, as it is."""

    class Cancelled(Exception):
        pass

    def batches() -> Any:
        yield chunk_rows(3)
        raise Cancelled

    with pytest.raises(Cancelled):
        written(batches())


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"id": [1, 3, 2]}, "found ids that do not ascend"),
        ({"id": [1, 2, 2]}, "found ids that do not ascend"),
        ({"id": [-1, 2, 3]}, "found ids that do not ascend"),
        ({"id": [2, 3, 4]}, "found the first id 2; needed 1"),
        ({"id": [1, 2, 4]}, "found the last id 4; needed 3"),
        ({"document_id": ["a", "b" * 1_025, "c"]}, "document_id in the row of id 2; needed 1 to 1024 bytes"),
        ({"document_id": ["a", "b", ""]}, "document_id in the row of id 3; needed 1 to 1024 bytes"),
        ({"document_id": ["a", "b", "ü" * 513]}, "document_id in the row of id 3; needed 1 to 1024 bytes"),
        ({"document_id": ["a", "b\0", "c"]}, "document_id in the row of id 2; needed text without NUL"),
        ({"title": ["a", "b", "\0"]}, "title in the row of id 3; needed text without NUL"),
        ({"text": ["a\0", "b", "c"]}, "text in the row of id 1; needed text without NUL"),
        ({"metadata": ["{}", "[]", "{}"]}, "metadata in the row of id 2; needed a JSON object"),
        ({"metadata": ["{}", "{}", ""]}, "metadata in the row of id 3; needed a JSON object"),
        ({"metadata": ["{\0}", "{}", "{}"]}, "metadata in the row of id 1; needed text without NUL"),
        ({"ordinal": [0, -1, 1]}, "ordinal in the row of id 2; needed 0 or more"),
        ({"start_at": [0, 0, -1]}, "start_at in the row of id 3; needed 0 or more"),
        ({"end_at": [-5, 0, 0]}, "end_at in the row of id 1; needed 0 or more"),
        ({"content_hash": [None, b"15 bytes of hash", b"short"]}, "content_hash in the row of id 3; needed 16 bytes"),
    ],
)
def test_wrong_rows_are_refused(columns: dict[str, Any], words: str) -> None:
    """A row that no corpus has given, or that none would take, is found; the error names the file and the row."""
    with pytest.raises(BackupDamaged, match=words) as caught:
        read(written([chunk_rows(3, **columns)]), 3)
    assert caught.value.file == WHERE


@pytest.mark.parametrize("precision", ["half", "single"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_embeddings_are_finite(value: float, precision: Precision) -> None:
    """NaN and infinite values, which pgvector keeps none of, are found; the largest finite ones pass."""
    embeddings = np.full((3, DIMENSION), np.finfo(KEPT[precision]).max, KEPT[precision])

    def check() -> int:
        rows = chunk_rows(3, precision=precision, embedding=shards.embedding_array(embeddings))
        return len(read(written([rows], precision), 3, precision))

    assert check() == 1
    embeddings[1, 4] = value
    with pytest.raises(BackupDamaged, match="embedding in the row of id 2; needed finite numbers"):
        check()


def test_text_is_utf_8() -> None:
    """Bytes that are no text are found, though pyarrow itself reads them."""
    wrong = pa.array([b"a", b"\xff", b"c"], pa.binary()).cast(pa.binary()).view(pa.string())
    with pytest.raises(BackupDamaged, match="UTF8"):
        read(written([chunk_rows(3, text=wrong)]), 3)


def test_ids_ascend_over_row_groups() -> None:
    """The order of ids goes on from one row group to the next."""
    with pytest.raises(BackupDamaged, match="found ids that do not ascend"):
        read(written([chunk_rows(3), chunk_rows(3, 3)]), 6, last_id=5)


def test_rows_are_as_many_as_the_manifest_says() -> None:
    """A file with other rows than the manifest counts is refused before any is read."""
    with pytest.raises(BackupDamaged, match=r"found 50 rows, 50 of them in row groups; needed 51"):
        next(shards.read_chunks(TWO_GROUPS, listed(TWO_GROUPS, 51), WHERE, DIMENSION, "half"))


@settings(max_examples=150, deadline=None)
@given(flips=st.lists(st.integers(0, 8 * len(TWO_GROUPS) - 1), min_size=1, max_size=3, unique=True))
def test_flipped_bits_do_no_harm(flips: list[int]) -> None:
    """Bits flipped where no hash is looked at are damage, or rows of the right shape: never another error."""
    data = bytearray(TWO_GROUPS)
    for flip in flips:
        data[flip // 8] ^= 1 << flip % 8
    with suppress(BackupDamaged):
        found = read(bytes(data), 50)
        assert sum(map(len, found)) == 50
        assert all(shards.embeddings_of(batch).shape == (len(batch), DIMENSION) for batch in found)
        assert all(batch.schema == shards.chunk_schema(DIMENSION, "half") for batch in found)


@settings(max_examples=40, deadline=None)
@given(begin=st.integers(0, len(TWO_GROUPS) - 1), size=st.integers(1, len(TWO_GROUPS)))
def test_cut_files_are_refused(begin: int, size: int) -> None:
    """A file that lacks bytes, wherever they were, is damage."""
    with pytest.raises(BackupDamaged):
        read(TWO_GROUPS[:begin] + TWO_GROUPS[begin + size :], 50)


@pytest.mark.parametrize("count", [0, 1, 5_000])
def test_runs_come_back(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are read as they were written, none as well as many row groups of them."""
    monkeypatch.setattr(shards, "RUNS_PER_GROUP", 1_000)
    first = np.arange(count, dtype=np.int64) * 7 + 2**40
    data = shards.runs_bytes(first, first + 4)
    found_first, found_last = shards.read_runs(data, listed(data, count, None), WHERE)
    assert np.array_equal(found_first, first)
    assert np.array_equal(found_last, first + 4)


@pytest.mark.parametrize(
    ("first", "last"),
    [([5], [4]), ([-2], [3]), ([1, 3], [2, 4]), ([1, 4], [5, 9]), ([7, 1], [8, 2]), ([1, 1], [1, 1])],
)
def test_wrong_runs_are_refused(first: list[int], last: list[int]) -> None:
    """Runs that are empty, negative, adjacent, overlapping or not in order are damage."""
    data = shards.runs_bytes(np.array(first), np.array(last))
    with pytest.raises(BackupDamaged, match="found") as caught:
        shards.read_runs(data, listed(data, len(first), None), WHERE)
    assert caught.value.file == WHERE
