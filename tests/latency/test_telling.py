"""What observers are told: every stage, of searches and answers, however they end."""

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

import retrieval
from backends.errors import GeneratorUnavailable, QueueFull
from retrieval.config import load
from retrieval.documents import AnswerEvent, TextEvent, Usage
from retrieval.embedding.batching import Batcher
from retrieval.generation.base import Ending, Generator, Prompt, Stream
from retrieval.observing import AnswerObserved, Observed, SearchObserved
from tests.fakes.embedders import HeldEmbedder
from tests.service.serving import database_of_its_own

LEAVE = retrieval.Document(id="leave", text="Everyone has thirty days of leave a year.")
QUESTION = "How many days of leave?"


class Speaker(Generator):
    """Says two words, 20 ms apart, and then fails where it is to."""

    model = "speaker"

    def __init__(self) -> None:
        self.fails: Exception | None = None

    def stream(self, prompt: Prompt, max_tokens: int | None) -> Stream:
        for word in ("thirty", " days"):
            time.sleep(0.02)
            yield word
        if self.fails is not None:
            raise self.fails
        yield Ending(usage=Usage(prompt_tokens=100, completion_tokens=2))


class Place:
    """A collection of texts, whose embedder waits to be let go, and all that its observers are told."""

    def __init__(self, rag: retrieval.Ragstone) -> None:
        self.embedder, self.speaker, self.told = HeldEmbedder(), Speaker(), list[Observed]()
        self.embedder.free()
        rag.__dict__["embedder"] = Batcher(self.embedder, batch_tokens=1_000, queue_texts=1, cache_queries=0)
        rag.__dict__["generator"] = self.speaker
        self.collection = rag.create_collection("texts")
        self.collection.upsert([LEAVE])
        rag.observers.add(self.told.append)

    def hold(self) -> None:
        """Let every pass wait from now on; those that have begun before count no more."""
        while self.embedder.started.acquire(blocking=False):
            pass
        self.embedder._free.clear()


@pytest.fixture
def place(postgres_url: str) -> Iterator[Place]:
    settings = load(embedding_model="hashing", refusal_score=-1)
    with (
        database_of_its_own(postgres_url, "telling") as url,
        retrieval.open(url, settings=settings) as rag,
    ):
        made = Place(rag)
        yield made
        made.embedder.free()


def test_a_retrieval_tells_its_stages(place: Place) -> None:
    """Queue, embed and search are parts of the total, which users are not shown."""
    found = place.collection.retrieve_with_timings(QUESTION)
    (told,) = place.told
    assert isinstance(told, SearchObserved)
    assert told.timings_ms.keys() == {"queue", "embed", "search", "total"}
    assert sum(told.timings_ms.values()) <= 2 * told.timings_ms["total"] + 0.01
    assert found.timings_ms == {stage: took for stage, took in told.timings_ms.items() if stage != "total"}
    assert (told.outcome, told.ids) == ("ok", ["leave"])


def test_waiting_for_the_model_is_the_queue(place: Place) -> None:
    """A query behind another's forward pass waits in the queue for it; embedding it is what comes after."""
    place.hold()
    first = threading.Thread(target=place.collection.retrieve, args=("the first question",))
    first.start()
    assert place.embedder.started.acquire(timeout=10)
    second = threading.Thread(target=place.collection.retrieve, args=("the second question",))
    second.start()
    time.sleep(0.1)
    place.embedder.free()
    first.join()
    second.join()
    by_queue = sorted((told.timings_ms["queue"], told.timings_ms["embed"]) for told in place.told)
    assert by_queue[0][0] < 50 < by_queue[0][1]
    assert by_queue[1][0] > 80


def test_a_query_that_is_refused_is_told(place: Place) -> None:
    """Where too many queries wait, observers hear of the refusal as of any other search, without an embedding."""
    place.hold()
    threads = []
    for question in ("one", "two"):  # one in the pass, one in the queue
        threads.append(threading.Thread(target=place.collection.retrieve, args=(question,)))
        threads[-1].start()
        time.sleep(0.05)
    with pytest.raises(QueueFull):
        place.collection.retrieve("three", filter={"year": 2026})
    place.embedder.free()
    for thread in threads:
        thread.join()
    told = next(told for told in place.told if told.outcome != "ok")
    assert isinstance(told, SearchObserved)
    assert (told.outcome, told.ids, told.filter) == ("queue_full", [], {"year": 2026})
    assert told.embedding.shape == (0,)
    assert told.timings_ms.keys() == {"embed", "total"}


def test_an_answer_tells_its_stages(place: Place) -> None:
    """First and last token are counted from when the model was asked, the answer from the question."""
    answer = place.collection.generate(QUESTION)
    searched, told = place.told
    assert isinstance(searched, SearchObserved)
    assert isinstance(told, AnswerObserved)
    timings_ms = told.timings_ms
    assert timings_ms.items() >= answer.timings_ms.items()
    assert 20 <= timings_ms["generate_first"] < timings_ms["generate"] < timings_ms["answer"]
    assert (told.outcome, told.model, told.usage) == ("ok", "speaker", Usage(prompt_tokens=100, completion_tokens=2))


def test_an_answer_that_fails_is_told(place: Place) -> None:
    """A model that goes away after its first words is told with the error's code and the stages that were reached."""
    place.speaker.fails = GeneratorUnavailable("the model server went away")
    with pytest.raises(GeneratorUnavailable):
        place.collection.generate(QUESTION)
    told = place.told[-1]
    assert isinstance(told, AnswerObserved)
    assert told.outcome == "generator_unavailable"
    assert {"generate_first", "answer"} <= told.timings_ms.keys()
    assert "generate" not in told.timings_ms


def test_an_error_of_nobodys_is_told(place: Place) -> None:
    """A fault in a generator is "unexpected", and the caller sees it as it was."""
    place.speaker.fails = ZeroDivisionError("a fault")
    with pytest.raises(ZeroDivisionError):
        place.collection.generate(QUESTION)
    assert place.told[-1].outcome == "unexpected"


def test_an_answer_that_nobody_waits_for_is_told(place: Place) -> None:
    """A reader who leaves after the first word abandons the answer; one who has the whole does not."""
    for last, outcome in ((TextEvent, "abandoned"), (AnswerEvent, "ok")):
        events = place.collection.stream(QUESTION)
        assert any(isinstance(event, last) for event in events)
        events.close()  # as the service does when a client has gone
        assert place.told[-1].outcome == outcome


def test_without_observers_an_answer_is_the_same(place: Place) -> None:
    """Answers do not depend on being watched."""
    watched = place.collection.generate(QUESTION)
    place.collection._rag.observers.remove(place.told.append)
    before = len(place.told)
    assert place.collection.generate(QUESTION).text == watched.text
    assert len(place.told) == before


def test_a_search_by_embedding_has_no_embed_stage(place: Place) -> None:
    """Who brings an embedding waits for no model."""
    place.collection.search(np.ones(64, np.float32))
    assert place.told[-1].timings_ms.keys() == {"search", "total"}
