"""The demonstration: the Python language reference that every CPython carries, and a question to it."""

from collections.abc import Iterator
from dataclasses import dataclass

from backends.errors import CollectionNotFound
from ops.ingesting import Ingested, Measured, run_ingest
from ops.output import Output
from retrieval import Answer, Document, Ragstone
from retrieval.ingest import Source

COLLECTION = "python-reference"
QUESTION = "What is a context manager?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstrated:
    """What the demonstration did."""

    documents: int
    ingested: Ingested
    answer: Answer


def demonstrate(rag: Ragstone, output: Output) -> Demonstrated:
    """Ingest the reference, which embeds nothing the second time, and ask it a question."""
    try:
        collection = rag.collection(COLLECTION)
    except CollectionNotFound:
        with output.waiting("Loading the embedding model ..."):
            collection = rag.create_collection(COLLECTION)
    topics = list(reference())
    size_bytes = sum(len(topic.text) for topic in topics)
    source = Measured(Source("pydoc_data.topics", lambda: iter(topics)), len(topics), size_bytes)
    ingested = run_ingest(collection, [source], output)
    collection.wait_until_indexed()
    with output.waiting("Looking for an answer ..."):
        answer = collection.generate(QUESTION)
    return Demonstrated(documents=collection.count(), ingested=ingested, answer=answer)


def reference() -> Iterator[Document]:
    """Yield a document for each topic of the language reference, its heading as the title."""
    from pydoc_data.topics import topics  # half a megabyte, which the other commands need not load

    for topic, text in topics.items():
        title, body = split_heading(text)
        yield Document(id=topic, title=title, text=body, metadata={"source": "pydoc_data.topics"})


def split_heading(text: str) -> tuple[str, str]:
    """Return the heading, which is a line above a row of asterisks, and the rest; "" where there is none."""
    heading, _, rest = text.partition("\n")
    rule, _, body = rest.partition("\n")
    if rule and not rule.strip("*"):
        return heading, body.lstrip("\n")
    return "", text
