"""The model server and the answers that it gives: is it there, does it keep up, does it slow down."""

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from backends.errors import RagstoneError
from ops.generation import telemetry_of
from ops.generation.engine import EngineWatch, watch_of
from ops.generation.figures import EngineFigures
from ops.generation.server import asked, without_password
from ops.generation.trends import (
    FALLEN,
    FASTER,
    FIRST_TOKENS_S,
    LEAST_ANSWERS,
    SUSTAINED_S,
    steepest,
    throughput,
)
from ops.health.check import Check, CheckFunction, Subject, level_above
from retrieval.library import Ragstone

KV_CACHE_WARN = 0.9
LOOK_S = 1.0
"""Between the two readings of a process that does not look at the server regularly."""
LOOK_KEPT_S = 30.0


def model_server(subject: Subject) -> Iterable[Check]:
    """Whether the model server answers, and takes the key."""
    url = subject.rag.settings.generator_url
    if url is None:
        return
    problem = ""
    try:
        with asked(subject.rag) as generator:
            generator.ping()
    except RagstoneError as error:
        problem = str(error)
    yield subject.check(
        "model_server",
        "crit" if problem else "ok",
        threshold="it answers",
        detail=problem or without_password(url),
        hint="no question can be answered: start it, or correct generator_url, generator_model or generator_api_key",
    )


def model_server_queue(subject: Subject) -> Iterable[Check]:
    """Whether requests wait in the model server all the time."""
    seen = _seen(subject.rag)
    waiting = [one.waiting for one in seen.figures if one.waiting is not None]
    if waiting:
        yield subject.check(
            "model_server_queue",
            level_above(seen.least(waiting), 0),
            value=seen.least(waiting),
            unit="requests",
            threshold="nobody waits for long",
            detail=f"at least {seen.least(waiting):g} waited {seen.words}, {waiting[-1]:g} now",
            hint="add a model server, or admit fewer answers at once (generations_running)",
        )


def model_server_kv_cache(subject: Subject) -> Iterable[Check]:
    """Whether the cache that holds the prompts being answered is nearly full all the time."""
    seen = _seen(subject.rag)
    usage = [one.kv_cache_usage for one in seen.figures if one.kv_cache_usage is not None]
    if usage:
        yield subject.check(
            "model_server_kv_cache",
            level_above(seen.least(usage), KV_CACHE_WARN),
            value=min(usage),
            unit="share",
            threshold=f"at most {KV_CACHE_WARN:g}",
            detail=f"{usage[-1]:.0%} is in use; never less than {min(usage):.0%} {seen.words}",
            hint="soon requests lose their place and begin again: admit fewer at once (generations_running), shorten "
            "prompts (context_tokens), or give the server more memory",
        )


def model_server_preemptions(subject: Subject) -> Iterable[Check]:
    """Whether requests lost their place in the cache, and had to begin again."""
    seen = _seen(subject.rag)
    counts = [one.preemptions_per_s * one.span_s for one in seen.figures if one.preemptions_per_s is not None]
    if counts:
        preempted = round(sum(counts))
        yield subject.check(
            "model_server_preemptions",
            level_above(preempted, 0),
            value=preempted,
            unit="requests",
            threshold="none",
            detail=f"{preempted:,} requests lost their place in the KV cache {seen.words}",
            hint="their prompts are read again: admit fewer (generations_running), or give the server more memory",
        )


def model_server_speed(subject: Subject) -> Iterable[Check]:
    """Whether fewer tokens come a second than usually, while no fewer requests want them."""
    telemetry = telemetry_of(subject.rag)
    compared = throughput(telemetry.engine) if telemetry and telemetry.engine else None
    if compared is not None:
        yield subject.check(
            "model_server_speed",
            "warn" if compared.fell else "ok",
            value=compared.share,
            unit="share",
            threshold=f"at least {FALLEN:g} of the usual tokens per second, while as many requests are in progress",
            detail=f"{compared.tokens_per_s:.0f} tokens/s for {compared.in_progress:g} requests in progress; in the "
            f"half hour before, {compared.usual_tokens_per_s:.0f} for {compared.usual_in_progress:g}",
            hint="look at the GPU (clock, temperature, other processes), preemptions, and the length of prompts",
        )


def first_token_growth(subject: Subject) -> Iterable[Check]:
    """Whether longer prompts wait longer for their first token than their length accounts for."""
    telemetry = telemetry_of(subject.rag)
    growth = steepest(telemetry.answers.first_tokens(FIRST_TOKENS_S)) if telemetry else None
    if growth is not None:
        yield subject.check(
            "first_token_growth",
            level_above(growth.factor, FASTER),
            value=growth.factor,
            unit="times",
            threshold=f"from one length to the next, the time to the first token grows at most {FASTER:g} times as "
            f"much as the prompt; medians of {LEAST_ANSWERS} answers or more",
            detail=f"{growth.shorter_s:.2f} s at {growth.shorter_tokens:,.0f} tokens, "
            f"{growth.longer_s:.2f} s at {growth.longer_tokens:,.0f}",
            hint="long prompts queue behind each other: see model_server_kv_cache and model_server_queue, lower "
            "context_tokens, or let the server read prompts in larger pieces",
        )


def generation_breaker(subject: Subject) -> Iterable[Check]:
    """Whether this process leaves the model server alone, since it failed again and again."""
    breaker = getattr(vars(subject.rag).get("generator"), "breaker", None)
    if breaker is not None:
        yield subject.check(
            "generation_breaker",
            "ok" if breaker.state == "closed" else "crit",
            threshold="closed",
            detail=f"{breaker.state.replace('_', ' ')}; {breaker.failed:,} failures since the start",
            hint="answers are refused until it answers again: see the model server's log",
        )


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was read of the model server of late, and what "of late" means; `known` is False for too short a time."""

    figures: list[EngineFigures]
    words: str
    known: bool

    def least(self, values: list[float]) -> float:
        """Return the least of all, since only what lasts is a finding."""
        return min(values) if self.known else 0.0


class _Looks:
    """Looks of processes that do not read the model server's figures regularly, kept for those who ask next."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._kept: WeakKeyDictionary[Ragstone, tuple[float, EngineWatch]] = WeakKeyDictionary()

    def of(self, rag: Ragstone) -> EngineWatch | None:
        with self._turn:
            looked_s, watch = self._kept.get(rag, (float("-inf"), None))
            if watch is None or time.monotonic() - looked_s > LOOK_KEPT_S:
                watch = watch_of(rag.settings)
                if watch is None:
                    return None
                _look_twice(watch)
                self._kept[rag] = time.monotonic(), watch
            return watch


_looks = _Looks()


def engine_of(rag: Ragstone) -> EngineWatch | None:
    """Return who looks at the model server here, or who has just looked; None where there is no server."""
    telemetry = telemetry_of(rag)
    return telemetry.engine if telemetry is not None else _looks.of(rag)


def _look_twice(watch: EngineWatch) -> None:
    try:
        watch.look()
        if watch.state == "read":
            time.sleep(LOOK_S)
            watch.look()
    finally:
        watch.close()


def _seen(rag: Ragstone) -> _Seen:
    watch = engine_of(rag)
    if watch is None or watch.state != "read":
        return _Seen([], "", known=False)
    if not watch.sustained_s:
        return _Seen(watch.since(SUSTAINED_S), "in two looks, one after the other", known=True)
    figures = watch.since(watch.sustained_s)
    known = sum(one.span_s for one in figures) >= 0.8 * watch.sustained_s
    return _Seen(figures, f"in the last {watch.sustained_s / 60:g} minutes", known)


CORPUS_CHECKS: tuple[CheckFunction, ...] = (
    model_server,
    model_server_queue,
    model_server_kv_cache,
    model_server_preemptions,
    model_server_speed,
    first_token_growth,
    generation_breaker,
)
