"""Everything on one screen: the corpus, its collections, the models, and what a running service says of itself."""

import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from backends.corpus.collections import find_collection
from backends.corpus.indexes import IndexRow, all_indexes
from backends.errors import CollectionNotFound, InvalidInput, InvalidSettings, RagstoneError, Unavailable
from ops.generation.figures import EngineFigures
from ops.generation.server import asked, without_password
from ops.health import generation
from ops.health.check import LEVELS, Check, Subject
from retrieval.library import Ragstone

ADMISSION = {
    "running": "ragstone_generation_running",
    "places": "ragstone_generation_places",
    "waiting": "ragstone_generation_waiting",
    "waiting_places": "ragstone_generation_waiting_places",
    "admitted": "ragstone_generation_admitted_total",
    "refused": "ragstone_generation_refused_total",
    "wait_s": "ragstone_generation_wait_seconds_total",
}
"""What a service says of its answers, and in which metric."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionStatus:
    """A collection, how many of its changes the index that serves does not have yet, and since when that is away."""

    name: str
    backend: str
    documents: int
    chunks: int
    behind: int
    away_since: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorStatus:
    """The model server. `metrics` says how reading its figures went: "read", "no_metrics" or "away"."""

    url: str
    model: str
    window_tokens: int | None
    problem: str | None
    metrics: str
    figures: EngineFigures | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStatus:
    """What a running service says: `admission` by the names of ADMISSION, the breaker's state, findings of its own."""

    url: str
    problem: str | None
    admission: Mapping[str, float]
    breaker: str | None
    findings: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Everything. `generator` is None where no model server is configured, `service` where none was asked."""

    corpus: str
    corpus_ms: float
    collections: tuple[CollectionStatus, ...]
    embedder: str
    generator: GeneratorStatus | None
    service: ServiceStatus | None
    findings: tuple[Check, ...]

    @property
    def unreachable(self) -> bool:
        """Whether the model server, or the service that was named, does not answer."""
        return any(one is not None and one.problem is not None for one in (self.generator, self.service))

    @property
    def has_findings(self) -> bool:
        return bool(self.findings or (self.service and self.service.findings))

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        document = asdict(self)
        if self.generator is not None and self.generator.figures is not None:
            document["generator"]["figures"] = self.generator.figures.as_dict()
        return document


def status(rag: Ragstone, service_url: str | None = None) -> Status:
    """Look at everything. Raises CorpusUnavailable, and InvalidInput for an address that is none."""
    started_s = time.perf_counter()
    rag.ping()
    corpus_ms = round((time.perf_counter() - started_s) * 1000, 3)
    return Status(
        corpus=_corpus(rag),
        corpus_ms=corpus_ms,
        collections=tuple(_collections(rag)),
        embedder=_embedder(rag),
        generator=_generator(rag),
        service=None if service_url is None else _service(service_url),
        findings=tuple(check for check in _checks(rag) if check.level in ("warn", "crit")),
    )


def _corpus(rag: Ragstone) -> str:
    data = rag.settings.data
    if "://" not in data:
        return f"embedded, in {Path(data).expanduser()}"
    url = urlsplit(data)  # without the password that may be in it
    return f"{url.hostname or 'local'}{f':{url.port}' if url.port else ''}{url.path}"


def _collections(rag: Ragstone) -> Iterator[CollectionStatus]:
    serving = {name: row for name, row in all_indexes(rag.database) if row.serving}
    for name in rag.collections():
        try:
            state = find_collection(rag.database, name)
        except CollectionNotFound:
            continue  # deleted meanwhile
        row = serving.get(name)
        away_since = row.away_since if row is not None else None
        yield CollectionStatus(
            name=name,
            backend=state.backend,
            documents=state.documents,
            chunks=state.chunks,
            behind=0 if row is None else _behind(row),
            away_since=away_since.isoformat(timespec="seconds") if away_since is not None else None,
        )


def _behind(row: IndexRow) -> int:
    """An index that lives in the corpus is never behind, and has nothing to apply."""
    return 0 if row.applied is None else max(row.sequence - row.applied, 0)


def _embedder(rag: Ragstone) -> str:
    settings = rag.settings
    url = settings.embedding_url
    return settings.embedding_model if url is None else f"{settings.embedding_model} at {without_password(url)}"


def _generator(rag: Ragstone) -> GeneratorStatus | None:
    watch = generation.engine_of(rag)
    if rag.settings.generator_url is None or watch is None:
        return None
    with asked(rag) as generator:
        problem = None
        try:
            generator.ping()
            window_tokens = generator.window_tokens()
        except RagstoneError as error:
            problem, window_tokens = str(error), None
        return GeneratorStatus(
            url=without_password(rag.settings.generator_url),
            model=generator.model,
            window_tokens=window_tokens,
            problem=problem,
            metrics=watch.state,
            figures=watch.figures,
        )


def _checks(rag: Ragstone) -> Iterator[Check]:
    for function in generation.CORPUS_CHECKS:
        yield from function(Subject(rag=rag))


def _service(url: str) -> ServiceStatus:
    try:
        text = _page(url)
    except Unavailable as error:
        return _no_service(url, str(error))
    if text is None:
        return _no_service(url, f"there is no Ragstone at {url}")
    try:
        return _of_page(url, text)
    except ValueError as error:
        return _no_service(url, f"the metrics at {url} cannot be read: {error}")


def _page(url: str) -> str | None:
    # The HTTP client is for who has a model server, or names a service.
    from retrieval.generation.address import ServerAddress
    from retrieval.generation.metrics_page import MetricsPage

    try:
        page = MetricsPage(ServerAddress(url, None))
    except InvalidSettings as error:
        raise InvalidInput("--url", f"found {url!r}; needed, for example, http://127.0.0.1:8000") from error
    with closing(page):
        return page.read()


def _no_service(url: str, problem: str) -> ServiceStatus:
    return ServiceStatus(url=url, problem=problem, admission={}, breaker=None, findings={})


def _of_page(url: str, text: str) -> ServiceStatus:
    from prometheus_client.parser import text_string_to_metric_families

    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    values = {sample.name: sample.value for sample in samples}
    if ADMISSION["running"] not in values:
        return _no_service(url, f"what answers at {url} is no Ragstone")
    states = (one for one in samples if one.name == "ragstone_generation_breaker_state")
    checks = (one for one in samples if one.name == "ragstone_health_check" and one.labels["check"] in _NAMES)
    levels = {one.labels["check"]: LEVELS[int(one.value)] for one in checks}
    breaker = next((one.labels["state"] for one in states if one.value), None)
    if breaker not in (None, "closed"):  # the service's own check of it may be minutes old
        levels[generation.generation_breaker.__name__] = "crit"
    return ServiceStatus(
        url=url,
        problem=None,
        admission={ours: values[theirs] for ours, theirs in ADMISSION.items() if theirs in values},
        breaker=breaker,
        findings={name: level for name, level in levels.items() if level in ("warn", "crit")},
    )


_NAMES = frozenset(function.__name__ for function in generation.CORPUS_CHECKS)
