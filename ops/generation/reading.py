"""One reading of a model server's figures, out of the page that it keeps for Prometheus."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

from ops.generation.names import ENGINES, FIGURES, FINISHED, FINISHED_REASON, REASONS, SHARE
from ops.latency.stages import OTHER

if TYPE_CHECKING:
    from prometheus_client.samples import Sample

_KNOWN = frozenset({*FINISHED, *(name for figure in FIGURES.values() for name in figure.names)})


class NoMetrics(ValueError):
    """A page of metrics that says nothing which is known here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What was read at `at_s`, a monotonic clock's seconds.

    `values` has the figures of `names.FIGURES` that the server gives, `finished` its requests that ended, by reason.
    `engine` is the kind of server, "vllm", "tensorrt_llm" or "openvino".
    """

    at_s: float
    engine: str
    values: Mapping[str, float]
    finished: Mapping[str, float]


def read(page: str, at_s: float) -> Reading:
    """Take the figures that we know out of a page. Raises NoMetrics where it has none, or is no such page at all."""
    samples: dict[str, list[Sample]] = {}
    try:
        for sample in _known(page):
            if isfinite(sample.value):
                samples.setdefault(sample.name, []).append(sample)
    except ValueError as error:
        raise NoMetrics(f"the model server's metrics cannot be read: {error}") from error
    if not samples:
        raise NoMetrics("the model server's metrics have none of the names that are known here")
    first = next(iter(samples))
    engine = next(engine for prefix, engine in ENGINES.items() if first.startswith(prefix))
    return Reading(at_s=at_s, engine=engine, values=_values(samples), finished=_finished(samples))


def _known(page: str) -> Iterable["Sample"]:
    """Parse the lines that are wanted: a page has thousands, of histograms most of all."""
    from prometheus_client.parser import text_string_to_metric_families  # most commands have no model server

    lines = (line for line in page.splitlines() if line.partition("{")[0].partition(" ")[0] in _KNOWN)
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        yield from family.samples


def _values(samples: Mapping[str, list["Sample"]]) -> dict[str, float]:
    values: dict[str, float] = {}
    for ours, figure in FIGURES.items():
        theirs = next((name for name in figure.names if name in samples), None)
        if theirs is not None:
            found = [sample.value for sample in samples[theirs]]
            values[ours] = max(found) if figure.kind == SHARE else sum(found)
    return values


def _finished(samples: Mapping[str, list["Sample"]]) -> dict[str, float]:
    theirs = next((name for name in FINISHED if name in samples), None)
    finished: dict[str, float] = {}
    for sample in samples.get(theirs, []) if theirs else []:
        given = sample.labels.get(FINISHED_REASON, "")
        reason = given if given in REASONS else OTHER
        finished[reason] = finished.get(reason, 0.0) + sample.value
    return finished
