"""Search and load through the library, beside raw psycopg on the same tables, rounds interleaved in one run.

    python -m benchmarks.corpus [--data URL_OR_FOLDER] [--npz mnist-784.npz] [--rows 30000] [--rounds 3]
        [--only search,filtered,load] [--out results.jsonl]

Search: one query at a time, `top_k` 10 with text and metadata, HNSW m 16, ef_construction 64, ef_search 40. Raw is
one prepared statement with binary parameters and results on one connection, planned as PostgreSQL likes; raw_kept is
the same with its plan kept (force_generic_plan). Filtered: see `benchmarks.corpus_filtered`. Load:
`upsert_embeddings` of new ids and of replaced ones, beside binary COPY of blocks that were encoded before the clock
started, into tables with the same indexes.
"""

import argparse
import json
import platform
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from pgvector import HalfVector

import retrieval
from backends.corpus.encoding import HEADER, TRAILER, ChunkRows, encode_chunks, encode_embeddings
from backends.corpus.queries import query
from backends.types import Embeddings, IndexSpec
from backends.vectors import prepare
from benchmarks.corpus_filtered import filtered
from benchmarks.raw import EF_SEARCH, TOP_K, fresh, interleaved, query_text, raw_connection, timed
from retrieval.config import load
from retrieval.library import Ragstone

BLOCK_ROWS = 1_024


def main() -> None:
    arguments = _arguments()
    train, queries = _vectors(arguments.npz, arguments.rows)
    settings = load(embedding_model="hashing", ef_search=EF_SEARCH)
    parts: dict[str, Callable[[Ragstone, Embeddings, Embeddings, int], list[dict[str, Any]]]]
    parts = {"search": _search, "filtered": filtered, "load": _loads}
    with _folder(arguments.data) as data, retrieval.open(data, settings=settings) as rag:
        chosen = [parts[name] for name in arguments.only.split(",")]
        results = [result for part in chosen for result in part(rag, train, queries, arguments.rounds)]
    described = {"cpu": _cpu(), "python": platform.python_version(), "rows": len(train), "dimension": train.shape[1]}
    for result in results:
        print(json.dumps(result))
    if arguments.out is not None:
        with arguments.out.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps({**described, **result}) + "\n" for result in results)


def _search(rag: Ragstone, train: Embeddings, queries: Embeddings, rounds: int) -> list[dict[str, Any]]:
    """One search at a time through the library and raw, in turn."""
    collection = fresh(rag, "search", train.shape[1])
    collection.upsert_embeddings(*_given(train))
    collection.wait_until_indexed()
    table_id = collection._state.id  # the same table, raw
    with raw_connection(rag) as raw, raw_connection(rag, "plan_cache_mode = force_generic_plan") as kept:
        statement = _raw_statement(table_id)
        prepared = prepare(queries, IndexSpec(dimension=train.shape[1], metric="l2"))

        def ours(position: int) -> list[str]:
            return [hit.id for hit in collection.search(queries[position], TOP_K)]

        def theirs(connection: psycopg.Connection[Any], position: int) -> list[str]:
            values = {"query": HalfVector(prepared[position]), "top_k": TOP_K}
            return [row[0] for row in connection.execute(statement, values, binary=True).fetchall()]

        agree = statistics.mean(float(set(ours(i)) == set(theirs(raw, i))) for i in range(100))
        calls = {"ragstone": ours, "raw": partial(theirs, raw), "raw_kept": partial(theirs, kept)}
        times = interleaved(calls, len(queries), rounds)
    p50 = {name: statistics.median(values) for name, values in times.items()}
    return [
        {
            "what": "search",
            "p50_ms": {name: round(value * 1e3, 3) for name, value in p50.items()},
            "p99_ms": {name: round(float(np.percentile(values, 99)) * 1e3, 3) for name, values in times.items()},
            "ratio_p50": round(p50["ragstone"] / p50["raw"], 3),
            "ratio_p50_kept": round(p50["ragstone"] / p50["raw_kept"], 3),
            "same_hits": agree,
        }
    ]


def _loads(rag: Ragstone, train: Embeddings, queries: Embeddings, rounds: int) -> list[dict[str, Any]]:
    """New ids, then the same again, through the library, and new ones by pre-encoded binary COPY; without HNSW.

    Who goes first changes with each round.
    """
    del queries
    rates: dict[str, list[float]] = {"ragstone": [], "copy": [], "replace": []}

    def ours() -> None:
        collection = fresh(rag, "load", train.shape[1])
        given = _given(train)
        for name in ("ragstone", "replace"):
            rates[name].append(len(train) / timed(lambda: collection.upsert_embeddings(*given)))

    def theirs() -> None:
        rates["copy"].append(len(train) / _copy(rag, train))

    for number in range(rounds):
        for turn in (theirs, ours) if number % 2 else (ours, theirs):
            turn()
    middle = {name: statistics.median(values) for name, values in rates.items()}
    return [
        {
            "what": "load",
            "rows_per_s": {name: round(value) for name, value in middle.items()},
            "share_of_copy": round(middle["ragstone"] / middle["copy"], 3),
            "replace_share_of_copy": round(middle["replace"] / middle["copy"], 3),
        }
    ]


def _copy(rag: Ragstone, train: Embeddings) -> float:
    """The limit: blocks encoded beforehand, one transaction for each 20,000 rows, the same tables and indexes."""
    collection = fresh(rag, "raw", train.shape[1])
    table_id = collection._state.id  # the same kind of table, raw
    ids = np.arange(len(train), dtype=np.int64)
    prepared = prepare(train, IndexSpec(dimension=train.shape[1], metric="l2"))
    rows = _rows(len(train))
    blocks = [
        (encode_chunks(ids[a : a + BLOCK_ROWS], rows.part(a, a + BLOCK_ROWS)),
         encode_embeddings(ids[a : a + BLOCK_ROWS], prepared[a : a + BLOCK_ROWS], "half"))
        for a in range(0, len(train), BLOCK_ROWS)
    ]  # fmt: skip
    with raw_connection(rag) as raw:
        return timed(lambda: _copy_blocks(raw, table_id, blocks))


def _copy_blocks(raw: psycopg.Connection[Any], table_id: int, blocks: list[tuple[bytes, bytes]]) -> None:
    per_transaction = 20_000 // BLOCK_ROWS
    for start in range(0, len(blocks), per_transaction):
        part = blocks[start : start + per_transaction]
        with raw.transaction():
            for name, position in (("copy_chunks", 0), ("copy_embeddings", 1)):
                with raw.cursor() as cursor, cursor.copy(query("changes", name, table_id)) as copy:
                    copy.write(HEADER)
                    for block in part:
                        copy.write(block[position])
                    copy.write(TRAILER)


def _given(train: Embeddings) -> tuple[Sequence[str], Embeddings, Sequence[str], list[dict[str, Any]]]:
    """Rows as a user hands them over."""
    rows = _rows(len(train))
    return rows.document_ids, train, rows.texts, [{"label": position % 10} for position in range(len(train))]


def _rows(count: int) -> ChunkRows:
    texts = [f"This is the text of image {position}, about as long as a short caption." for position in range(count)]
    return ChunkRows(
        document_ids=[f"image-{position:08d}" for position in range(count)],
        ordinals=[0] * count,
        titles=[""] * count,
        texts=texts,
        metadata=[f'{{"label": {position % 10}}}' for position in range(count)],
        starts=[0] * count,
        ends=[len(text) for text in texts],
        content_hashes=[b""] * count,
    )


def _raw_statement(table_id: int) -> str:
    return query_text(
        "SELECT {columns}, e.embedding {operator} %(query)s AS distance FROM {embedding} e "
        "JOIN {chunk} c ON c.id = e.chunk_id ORDER BY e.embedding {operator} %(query)s LIMIT %(top_k)s",
        table_id,
    )


def _vectors(npz: Path | None, rows: int) -> tuple[Embeddings, Embeddings]:
    if npz is not None:
        with np.load(npz) as data:
            return data["train"][:rows].astype(np.float32), data["test"].astype(np.float32)
    rng = np.random.default_rng(7)
    centres = rng.normal(size=(100, 784))
    points = centres[rng.integers(0, 100, rows + 1_000)] + 0.7 * rng.normal(size=(rows + 1_000, 784))
    return points[:rows].astype(np.float32), points[rows:].astype(np.float32)


@contextmanager
def _folder(data: str | None) -> Iterator[str]:
    if data is not None:
        yield data
        return
    with tempfile.TemporaryDirectory() as folder:
        yield folder


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data")
    parser.add_argument("--npz", type=Path)
    parser.add_argument("--rows", type=int, default=30_000)
    parser.add_argument("--only", default="search,filtered,load")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
