"""The queries on which recall is measured now: what users asked, and made-up ones where that is too little."""

from dataclasses import replace

import numpy as np

from backends.corpus.collections import CollectionState
from backends.corpus.database import Database
from backends.corpus.indexes import sample_embeddings
from backends.corpus.observations import captured_queries
from backends.efforts import Band
from backends.filters import Filter
from ops.moving.verification import drawn_queries
from ops.recall.truth import Question, question_of

TOP_K = 10
"""Of drawn queries, where no captured one says what users ask for."""


def stored(database: Database, collection: CollectionState, count: int, band: Band | None = None) -> list[Question]:
    """Return the newest captured queries, those without a filter for band "all", those with one for other bands."""
    found = [question_of(captured) for captured in captured_queries(database, collection.id, count, band)]
    return [question for question in found if band is None or (question.filter is None) == (band == "all")]


def drawn(
    database: Database, collection: CollectionState, count: int, like: list[Question], seed: int = 0
) -> list[Question]:
    """Make queries: stored embeddings drawn at random, each moved a tenth of the way to another.

    They ask for as many chunks, and with the filters, as those that they are `like`, in turn; without any, for 10.
    """
    embeddings = drawn_queries(sample_embeddings(database, collection, count, seed), collection.spec)
    patterns = like or [Question(embedding=np.empty(0, np.float32), filter=None, top_k=TOP_K)]
    return [
        replace(patterns[number % len(patterns)], embedding=embedding, drawn=True)
        for number, embedding in enumerate(embeddings)
    ]


def made_up(
    database: Database,
    collection: CollectionState,
    count: int,
    like: list[Question],
    asked: list[Question],
    seed: int = 0,
) -> list[Question]:
    """Make queries like these: those with a filter take first the embeddings that were `asked` with others.

    Drawn ones come last: an index finds what lies near to what it has stored more easily than what users ask.
    """
    if not like or like[0].filter is None:
        return drawn(database, collection, count, like, seed)
    known = {question.embedding.tobytes() for question in like}
    others = {one.embedding.tobytes(): one.embedding for one in asked if one.embedding.tobytes() not in known}
    combined = [
        replace(like[number % len(like)], embedding=embedding, drawn=True)
        for number, embedding in enumerate(list(others.values())[:count])
    ]
    left = count - len(combined)
    return combined + (drawn(database, collection, left, like, seed) if left else [])


def with_filter(questions: list[Question], filter: Filter | None) -> list[Question]:
    """Ask them with this filter in place of their own; None leaves them as they are."""
    return questions if filter is None else [replace(question, filter=filter) for question in questions]
