"""Every backend against the oracle, on drawn embeddings, metadata, filters, writes and moments to follow."""

from hypothesis import HealthCheck, given, settings

from backends.filters import parse
from backends.vectors import prepare
from tests.congruence.conftest import Subject
from tests.congruence.drawing import IDS, STORIES, Delete, Follow, Question, Story
from tests.congruence.oracle import Oracle, agree, be_sound


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(story=STORIES)
def test_every_backend_gives_the_oracles_hits(subject: Subject, no_short_cut: None, story: Story) -> None:
    """In exact mode and by default, at any moment: the same hits, scores and order as NumPy, ties by id."""
    embeddings = subject.usable(story.embeddings)
    oracle = Oracle(prepare(embeddings, subject.spec), subject.spec)
    subject.take(Delete(IDS), embeddings)
    subject.take(Follow(), embeddings)
    for step, questions in story.steps:
        subject.take(step, embeddings)
        oracle.take(step)
        for question in questions:
            _ask(subject, oracle, story, question)


def _ask(subject: Subject, oracle: Oracle, story: Story, question: Question) -> None:
    query = oracle.embeddings[question.query]
    filter = None if question.filter is None else parse(story.filters[question.filter])
    ranked = oracle.ranked(query, filter)
    exact = subject.searcher.search(query, question.top_k, filter, exact=True)
    assert exact.exact
    agree(exact.hits, ranked, question.top_k)
    found = subject.searcher.search(query, question.top_k, filter)
    if subject.has_hnsw:  # among many copies and rows that died, a graph may lose sight of a few
        be_sound(found.hits, ranked, question.top_k)
    else:
        agree(found.hits, ranked, question.top_k)
        assert found.exact == _compares_all(subject, len(ranked) < question.top_k)


def _compares_all(subject: Subject, short: bool) -> bool:
    """Where the index gave enough, it says so; the rest is compared one by one."""
    return short or subject.index.capabilities.exact or subject.index.capabilities.in_corpus
