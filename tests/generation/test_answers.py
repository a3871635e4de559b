"""What answers take, as Prometheus reads it."""

import threading
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from ops.generation.answers import FINISH_REASONS, AnswerMetrics
from ops.generation.model_names import MAX_MODELS
from ops.latency.stages import OUTCOMES
from retrieval.documents import Usage
from retrieval.observing import AnswerObserved
from tests.generation.engine_server import Clock
from tests.latency.watching import answered, searched

Scraped = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scraped(collector: Collector) -> Scraped:
    """Return every sample, by its name and its labels, as Prometheus' own parser reads them."""
    registry = CollectorRegistry()
    registry.register(collector)
    text = generate_latest(registry).decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}


def value(found: Scraped, name: str, **labels: str) -> float | None:
    """Return one sample, without `ragstone_generation_` in its name."""
    return found.get((f"ragstone_generation_{name}", frozenset(labels.items())))


class Answers(AnswerMetrics, Collector):
    """The observer, as a collector of its own."""


def counted(*observed: AnswerObserved) -> Scraped:
    """Return what is scraped after these answers."""
    answers = Answers()
    for one in observed:
        answers(one)
    return scraped(answers)


def test_an_answer_is_counted_by_model_and_length() -> None:
    """20 tokens in a second, the first after 50 ms: 50 ms for each of the 19 that came after it."""
    found = counted(answered())
    where = {"model": "a-model", "input_length": "0-512"}
    assert value(found, "time_to_first_token_seconds_sum", **where) == 0.05
    assert value(found, "time_to_first_token_seconds_bucket", **where, le="0.025") == 0
    assert value(found, "time_to_first_token_seconds_bucket", **where, le="0.05") == 1
    assert value(found, "time_per_output_token_seconds_sum", **where) == (1.0 - 0.05) / 19
    assert value(found, "tokens_per_second_sum", **where) == 20
    assert value(found, "longest_gap_seconds_sum", **where) == 0.2
    assert value(found, "tokens_total", model="a-model", kind="prompt") == 100
    assert value(found, "tokens_total", model="a-model", kind="cached_prompt") == 64
    assert value(found, "tokens_total", model="a-model", kind="completion") == 20
    assert value(found, "answers_total", model="a-model", outcome="ok", finish_reason="stop", streamed="true") == 1


def test_long_prompts_are_counted_apart() -> None:
    """The same model, in the class of each prompt's length."""
    long = replace(answered(), usage=Usage(prompt_tokens=9_000, completion_tokens=10), first_s=2.0, generate_s=3.0)
    found = counted(answered(), long, long)
    assert value(found, "time_to_first_token_seconds_count", model="a-model", input_length="0-512") == 1
    assert value(found, "time_to_first_token_seconds_count", model="a-model", input_length="8k-16k") == 2
    assert value(found, "time_to_first_token_seconds_sum", model="a-model", input_length="8k-16k") == 4


def test_an_answer_that_broke_off_has_no_speed() -> None:
    """How many tokens came is not known then; when the first came is."""
    found = counted(answered("generator_unavailable"), answered("abandoned"))
    where = {"model": "a-model", "input_length": "0-512"}
    assert value(found, "time_to_first_token_seconds_count", **where) == 2
    assert value(found, "time_per_output_token_seconds_count", **where) is None
    assert value(found, "tokens_per_second_count", **where) is None
    for outcome in ("generator_unavailable", "abandoned"):
        labels = {"model": "a-model", "outcome": outcome, "finish_reason": "none", "streamed": "true"}
        assert value(found, "answers_total", **labels) == 1


def test_an_answer_of_one_token_has_no_time_between_tokens() -> None:
    """Nothing is divided by no tokens."""
    one = replace(answered(), usage=Usage(prompt_tokens=10, completion_tokens=1), first_s=0.0, generate_s=0.0)
    found = counted(one, replace(one, usage=Usage()))
    where = {"model": "a-model", "input_length": "0-512"}
    assert value(found, "time_to_first_token_seconds_count", **where) == 2
    assert value(found, "time_per_output_token_seconds_count", **where) is None


def test_a_question_that_is_refused_asks_no_model() -> None:
    """It is an answer, and has no times."""
    refused = replace(answered(), usage=Usage(), finish_reason=None, refused=True, first_s=None, generate_s=None)
    found = counted(refused)
    labels = {"model": "a-model", "outcome": "ok", "finish_reason": "refused", "streamed": "true"}
    assert value(found, "answers_total", **labels) == 1
    assert value(found, "time_to_first_token_seconds_count", model="a-model", input_length="0-512") is None


def test_an_answer_that_did_not_begin_is_counted() -> None:
    """Refused by a budget, or without room in the model's window: by the error's code, without tokens and times."""
    never = replace(answered(answer=3.0), usage=Usage(), finish_reason=None, first_s=None, generate_s=None)
    outcomes = ("budget_exceeded", "invalid_input")
    found = counted(*(replace(never, outcome=outcome, search=searched(total=2)) for outcome in outcomes))
    for outcome in outcomes:
        labels = {"model": "a-model", "outcome": outcome, "finish_reason": "none", "streamed": "true"}
        assert value(found, "answers_total", **labels) == 1
    assert value(found, "tokens_total", model="a-model", kind="prompt") == 0
    assert value(found, "time_to_first_token_seconds_count", model="a-model", input_length="0-512") is None


def test_searches_are_none_of_it() -> None:
    """An observer is told of both."""
    answers = Answers()
    answers(searched(total=1))
    assert not [name for name, labels in scraped(answers) if labels]


@settings(deadline=None)  # the first example pays for imports
@given(st.lists(st.tuples(st.text(), st.text(), st.text(), st.integers(0, 10**6)), max_size=60))
def test_labels_are_bounded_sets(many: list[tuple[str, str, str, int]]) -> None:
    """Whatever a server calls its model and its reasons, and however long prompts are."""
    observed = [
        replace(answered(outcome), model=model, finish_reason=reason, usage=Usage(prompt_tokens=tokens))
        for model, outcome, reason, tokens in many
    ]
    labels = [dict(labels) for _, labels in counted(*observed)]
    assert len({one["model"] for one in labels if "model" in one}) <= MAX_MODELS + 1
    assert {one["finish_reason"] for one in labels if "finish_reason" in one} <= FINISH_REASONS | {"other", "none"}
    assert {one["outcome"] for one in labels if "outcome" in one} <= OUTCOMES | {"other"}
    assert len({one["input_length"] for one in labels if "input_length" in one}) <= 8


def test_first_tokens_of_late() -> None:
    """Those of the last quarter of an hour are remembered one by one."""
    clock = Clock()
    answers = AnswerMetrics(clock)
    for first_s in (1.0, 2.0, 3.0):
        answers(replace(answered(), first_s=first_s))
        clock.now_s += 100
    assert [one.took_s for one in answers.first_tokens(250)] == [2.0, 3.0]
    assert answers.first_tokens(250)[0].prompt_tokens == 100


def test_threads_count_together() -> None:
    """No answer is lost where many end at once."""
    answers = Answers()
    threads = [threading.Thread(target=lambda: [answers(answered()) for _ in range(200)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = scraped(answers)
    assert value(found, "time_to_first_token_seconds_count", model="a-model", input_length="0-512") == 1_600
    assert value(found, "tokens_total", model="a-model", kind="completion") == 32_000
