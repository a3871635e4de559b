"""Every backend against the oracle, on drawn embeddings, metadata, filters, writes and moments to follow."""

from hypothesis import HealthCheck, given, settings

from backends.filters import parse
from backends.vectors import prepare
from tests.congruence.conftest import Subject
from tests.congruence.drawing import IDS, STORIES, Delete, Follow, Question, Story
from tests.congruence.oracle import Oracle, agree


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(story=STORIES)
def test_every_backend_gives_the_oracles_hits(subject: Subject, no_short_cut: None, story: Story) -> None:
    """In exact mode and by default, at any moment: the same hits, scores and order as NumPy, ties by id."""
    embeddings = subject.usable(story.embeddings)
    oracle = Oracle(prepare(embeddings, subject.spec), subject.spec)
    subject.take(Delete(IDS), embeddings)
    for step in (Follow(), story.first):
        subject.take(step, embeddings)
        oracle.take(step)
    for step, question in story.steps:
        subject.take(step, embeddings)
        oracle.take(step)
        _ask(subject, oracle, story, question)
    for question in story.last:
        _ask(subject, oracle, story, question)


def _ask(subject: Subject, oracle: Oracle, story: Story, question: Question) -> None:
    query = oracle.embeddings[question.query]
    filter = None if question.filter is None else parse(story.filters[question.filter])
    ranked = oracle.ranked(query, filter)
    exact = subject.searcher.search(query, question.top_k, filter, exact=True)
    assert exact.exact
    agree(exact.chunks, ranked, question.top_k)
    found = subject.searcher.search(query, question.top_k, filter)
    agree(found.chunks, ranked, question.top_k, settles_cut=not subject.has_hnsw)
    if not subject.has_hnsw:  # it may go its own way round, and answer exactly after all
        assert found.exact == _compares_all(subject, len(ranked) < question.top_k)


def _compares_all(subject: Subject, short: bool) -> bool:
    """Where the index gave enough, it says so; the rest is compared one by one."""
    return short or subject.index.capabilities.exact or subject.index.capabilities.in_corpus
