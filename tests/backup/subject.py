"""Collections that are backed up and restored, and what is in them to the last bit."""

import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from psycopg import sql

from backends.corpus.collections import CollectionState, find_collection
from ops.backup.creating import Backup
from ops.backup.progress import Progress
from retrieval import Collection, Document, Hit, Ragstone
from retrieval.generation.templates import PromptTemplate

DIMENSION = 16
DOCUMENTS = 300
TOP_K = 10
RECALL = 0.9

_WORDS = """
    protein cell gene mice dose trial patients cohort risk blood growth tumour immune virus receptor bone insulin
    kinase pathway binding brain lung infant smoking vitamin therapy placebo mortality screening antibody membrane
"""
WORDS = _WORDS.split()

ODD_METADATA: list[dict[str, Any]] = [
    {},
    {"text": "ü 漢字 🙂 \\ \" ' \t \u0001", "größe": "ключ"},
    {"int": 2**63, "huge": 10**60, "small": 5e-324, "large": 1.7976931348623157e308, "third": 1 / 3, "minus": -0.0},
    {"yes": True, "no": False, "none": None, "list": [1, "two", False, None, [3.5, {}]], "empty": []},
    {"deep": {"er": {"and": [{"deeper": {"still": ["🌍"]}}]}}},
]


ODD_TEXTS = [
    "She said \"yes\", and 'no'.",
    "one\ntwo\r\n\tthree\n",
    "🙂 👩‍👩‍👧 é e\u0301 \u202eright to left\u202c",
    "\\N \\. NULL",
    "a" * 20_000,
]


class Row(NamedTuple):
    """A chunk with its embedding as PostgreSQL sends it, without the id: a restored one has another."""

    document_id: str
    ordinal: int
    title: str
    text: str
    metadata: str
    start: int
    end: int
    content_hash: bytes | None
    embedding: bytes


_ROWS = sql.SQL(
    "SELECT c.document_id, c.ordinal, c.title, c.text, c.metadata::text, c.start_at, c.end_at, c.content_hash, "
    "{send}(e.embedding), c.id FROM {chunk} c FULL JOIN {embedding} e ON e.chunk_id = c.id "
    "ORDER BY c.document_id, c.ordinal"
)


def rows_of(rag: Ragstone, name: str) -> list[Row]:
    """Everything that a collection holds, by document and ordinal."""
    return [Row(*row[:-1]) for row in _read(rag, name)]


def ids_of(rag: Ragstone, name: str) -> list[int]:
    """The ids of a collection's chunks, ascending."""
    return sorted(row[-1] for row in _read(rag, name))


def _read(rag: Ragstone, name: str) -> list[tuple[Any, ...]]:
    state = find_collection(rag.database, name)
    text = _ROWS.format(
        send=sql.SQL("halfvec_send" if state.spec.precision == "half" else "vector_send"),
        chunk=sql.Identifier("ragstone", f"chunk_{state.id}"),
        embedding=sql.Identifier("ragstone", f"embedding_{state.id}"),
    )
    with rag.database.connection() as connection:
        rows = connection.execute(text).fetchall()
    assert (len(rows), sum(row[1] <= 1 for row in rows)) == (state.chunks, state.documents)
    return rows


def settled(state: CollectionState) -> tuple[object, ...]:
    """What a collection is, but for its number, its name and where it is searched."""
    own = state.placement_threshold, state.recall_target, state.prompt
    return (state.spec, state.stamp, state.sequence, state.documents, state.chunks, *own)


def check_same(source: Ragstone, name: str, other: Ragstone, other_name: str | None = None) -> None:
    """A collection and a restored one have the same rows and settings, and answer alike."""
    other_name = other_name or name
    ours, theirs = source.collection(name), other.collection(other_name)
    assert settled(find_collection(source.database, name)) == settled(find_collection(other.database, other_name))
    assert rows_of(other, other_name) == rows_of(source, name)
    shares = []
    for query in drawn(5, 99, ours.info().dimension):
        exact = shown(ours.search(query, TOP_K, exact=True))
        assert shown(theirs.search(query, TOP_K, exact=True)) == exact
        found = shown(theirs.search(query, TOP_K))
        assert len(found) == len(exact)
        shares.append(sum(hit in exact for hit in found) / max(len(exact), 1))
    assert np.mean(shares) >= RECALL or not exact


def shown(hits: Sequence[Hit]) -> list[tuple[object, ...]]:
    """Hits to compare: everything but the last digits of a score, which a backend may add up in another order."""
    return [(hit.id, hit.title, hit.text, hit.start, hit.end, hit.metadata, round(hit.score, 5)) for hit in hits]


def drawn(count: int, seed: int, dimension: int = DIMENSION) -> np.ndarray:
    """Return float32 [count, dimension], spread evenly."""
    return np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)


def articles(first: int, count: int, edition: int = 1) -> list[Document]:
    """Titles and texts of several sentences, every fifth one long enough for some chunks; editions differ."""
    return [_article(number, edition) for number in range(first, first + count)]


def _article(number: int, edition: int) -> Document:
    draw = random.Random(f"{number} {edition}")
    sentences = [
        f"{' '.join(draw.choices(WORDS, k=9)).capitalize()} {number}." for _ in range(20 if number % 5 == 0 else 3)
    ]
    return Document(
        id=f"a{number:04}",
        title=" ".join(draw.choices(WORDS, k=4)).title(),
        text=" ".join(sentences),
        metadata={"year": 1990 + number % 30, "open": number % 2 == 0},
    )


def names(first: int, count: int) -> list[str]:
    return [f"d{number}" for number in range(first, first + count)]


def put(collection: Collection, ids: Iterable[str], seed: int) -> dict[str, np.ndarray]:
    """Write embeddings of our own that `seed` draws, and return them by document."""
    listed = list(ids)
    embeddings = drawn(len(listed), seed)
    texts = [f"text {seed} of {id_}" for id_ in listed]
    collection.upsert_embeddings(listed, embeddings, texts, [{"seed": seed}] * len(listed))
    return dict(zip(listed, embeddings, strict=True))


def parents(made: Backup) -> dict[str, str | None]:
    """What each collection of a backup goes on from."""
    return {one.name: one.parent for one in made.collections}


def folders(repo: str) -> list[str]:
    """What is in a repository that is a folder, sorted."""
    return sorted(path.name for path in Path(repo).iterdir())


class Stopped(Exception):
    """What a watch raises to end what it watches."""


def stop_in(phase: str, done: int = 1) -> Any:
    """Give a watch that ends a phase when so much is done."""

    def watch(progress: Progress) -> None:
        if progress.phase.startswith(phase) and progress.done >= done:
            raise Stopped

    return watch


def make_papers(rag: Ragstone) -> Collection:
    """Texts of several sentences, embedded by the hashing model; some documents have several chunks."""
    papers = rag.create_collection("papers", placement_threshold=900_000, recall_target=0.9)
    papers.configure(prompt=PromptTemplate(system="Be brief.", user="{passages}\n{question} 🙂"))
    papers.upsert(articles(0, 150))
    assert find_collection(rag.database, "papers").chunks > 200
    return papers


def make_own(rag: Ragstone) -> Collection:
    """Embeddings of the user's own, with texts and metadata that go wrong where anything is not taken literally."""
    own = rag.create_collection("own", dimension=DIMENSION)
    count = len(ODD_TEXTS)
    own.upsert_embeddings([f"odd/{n} 🙂'\"" for n in range(count)], drawn(count, 5), ODD_TEXTS, ODD_METADATA)
    put(own, names(0, 200), seed=6)
    return own


def change(papers: Collection, own: Collection) -> None:
    """Write new documents, replace some, give some other metadata only, and delete some."""
    papers.upsert(articles(150, 20))
    papers.upsert(articles(0, 10, edition=2))
    papers.upsert([Document(id=a.id, title=a.title, text=a.text, metadata={}) for a in articles(20, 10)])
    papers.delete(ids=[article.id for article in articles(40, 10)])
    put(own, names(190, 20), seed=7)
    own.delete(ids=names(0, 20))


def hidden(rag: Ragstone) -> list[str]:
    """Collections that no user can name."""
    with rag.database.connection() as connection:
        rows = connection.execute("SELECT name FROM ragstone.collection WHERE name LIKE '.%' ORDER BY name").fetchall()
    return [row[0] for row in rows]


def tables(rag: Ragstone) -> int:
    """How many tables of collections there are, whoever they belong to."""
    with rag.database.connection() as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_tables WHERE schemaname = 'ragstone' AND tablename ~ '^(chunk|embedding)_'"
        ).fetchone()
    assert row is not None
    return int(row[0])
