"""Search over HTTP: our service, the tightest one, Chroma's server and txtai's API, in turn under the same load."""

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.harness.datasets import DataSet
from benchmarks.harness.results import figure_of
from benchmarks.harness.rounds import spread
from benchmarks.harness.truth import recalls, truth_of
from benchmarks.harness.workers import Stage, WorkerFailed
from benchmarks.http.client import Figures, Load, write_requests
from benchmarks.http.contenders import SERVERS, ChromaServer, MinimalServer, RagstoneServer, TxtaiServer
from benchmarks.http.servers import HOST, TOP_K, Json, Server, ServerFailed

CLIENTS = (1, 8, 32, 128)
JUDGED_CLIENTS = 32
EFFORTS = (40, 60, 90, 135, 200, 300)
EQUAL_RECALL = 0.01
"""Two recalls that are this near count as the same: of the same rows, one HNSW graph has 0.983 and the next 0.995."""
JUDGED_QUERIES = 1_000
WARM_S = 0.5
MARKER = '"n":'
"""It stands once in each hit, in the metadata, whoever answers."""


@dataclass
class Contender:
    """A server that is loaded, with the least effort whose recall is not below ours."""

    server: Server
    effort: int | None
    recall: float | None
    requests: Path
    seen: dict[int, list[Figures]] = field(default_factory=dict)
    """By the number of clients, round by round."""
    cpu_ms: dict[int, list[float]] = field(default_factory=dict)
    """The server process's own, for each answer, likewise."""


def run_http(
    data: DataSet,
    stage: Stage,
    rounds: int,
    failures: list[str],
    measured_s: float = 3.0,
    clients: Sequence[int] = CLIENTS,
) -> Iterator[Json]:
    """Load and start every server that can be had, put them under load in turn, and give results and figures.

    A server that cannot be loaded or started is left out, and told of in `failures`, as are answers that were wrong.
    """
    with stage.database() as url, ExitStack() as stack:
        contenders: list[Contender] = []
        for kind in SERVERS:
            server = kind(data, stage, url, stage.folder / f"http-{kind.__name__}")
            try:
                contender = _ready(server, contenders[0].recall if contenders else None)
                stack.enter_context(server.running())
                contenders.append(contender)
            except (ServerFailed, WorkerFailed) as failure:
                failures.append(str(failure))
        _rounds(contenders, rounds, measured_s, clients, failures)
    for contender in contenders:
        yield from _results(contender, data.where)
    yield from _figures(contenders, data.where)


def _ready(server: Server, wanted: float | None) -> Contender:
    if server.data.metric not in server.metrics:
        raise ServerFailed(f"{server.name} does not compare by {server.data.metric}")
    server.folder.mkdir(parents=True)
    server.load()
    requests = server.folder.with_suffix(".requests")
    write_requests([server.request(query) for query in server.data.queries], requests)
    if not server.is_searching:
        return Contender(server, None, None, requests)
    effort, recall = _effort(server, None if server.has_our_index else wanted)
    return Contender(server, effort, recall, requests)


def _effort(server: Server, wanted: float | None) -> tuple[int, float]:
    """The least effort that reaches the recall, or the greatest there is, and the recall that it has."""
    for effort in EFFORTS:
        server.set_effort(effort)
        with server.running():
            recall = _recall(server)
        if wanted is None or recall >= wanted - EQUAL_RECALL:
            break
    return effort, recall


def _recall(server: Server) -> float:
    positions = list(range(min(JUDGED_QUERIES, len(server.data.queries))))
    found = [server.search(server.data.queries[position]) for position in positions]
    return round(statistics.mean(recalls(server.data, truth_of(server.data), positions, found)), 4)


def _rounds(
    contenders: list[Contender], rounds: int, measured_s: float, clients: Sequence[int], failures: list[str]
) -> None:
    for number in range(rounds):
        for place, at_once in enumerate(clients):
            for contender in _turned(contenders, number + place):
                before_s = contender.server.cpu_s()
                figures = _under_load(contender, at_once, measured_s)
                cpu_ms = (contender.server.cpu_s() - before_s) / max(1, figures.all_answers) * 1e3
                contender.seen.setdefault(at_once, []).append(figures)
                contender.cpu_ms.setdefault(at_once, []).append(cpu_ms)
                failures += [f"{contender.server.name} at {at_once} clients: {error}" for error in figures.errors]


def _turned(contenders: list[Contender], by: int) -> list[Contender]:
    """The same, beginning with another: who comes after whom must not be always the same."""
    first = by % max(1, len(contenders))
    return contenders[first:] + contenders[:first]


def _under_load(contender: Contender, clients: int, measured_s: float) -> Figures:
    load = Load(
        host=HOST,
        port=contender.server.port,
        requests=str(contender.requests),
        clients=clients,
        warm_s=WARM_S,
        measured_s=measured_s,
        marker=MARKER,
        expected=TOP_K,
    )
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.http.client"],
        input=json.dumps(asdict(load)),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return Figures(errors=[f"the load client failed: {done.stderr[-300:]}"])
    return Figures(**json.loads(done.stdout))


def _results(contender: Contender, where: str) -> Iterator[Json]:
    for clients, seen in contender.seen.items():
        yield {
            "what": "http",
            "where": where,
            "server": contender.server.name,
            "clients": clients,
            "queries_per_s": spread([one.qps for one in seen]),
            "p50_ms": spread([one.p50_ms for one in seen]),
            "p99_ms": spread([one.p99_ms for one in seen]),
            "server_cpu_ms": spread(contender.cpu_ms[clients]),
            "client_cpu_share": spread([one.client_cpu_share for one in seen]),
            "answers": sum(one.answers for one in seen),
            "incomplete_answers": sum(one.answers - one.complete_answers for one in seen),
            "effort": contender.effort,
            "recall": contender.recall,
            "rounds": len(seen),
        }


def _figures(contenders: list[Contender], where: str) -> Iterator[Json]:
    """What the targets are about, each a ratio of the same round."""
    seen = {type(one.server): one.seen.get(JUDGED_CLIENTS, []) for one in contenders}
    for kind, name in (
        (MinimalServer, "http.share_of_minimal"),
        (ChromaServer, "http.over_chroma"),
        (TxtaiServer, "http.over_txtai"),
    ):
        if pairs := _pairs(seen, kind):
            yield figure_of(name, spread([a.qps / b.qps for a, b in pairs]), where)
    if pairs := _pairs(seen, MinimalServer):
        yield figure_of("http.p99_over_minimal", spread([a.p99_ms / b.p99_ms for a, b in pairs]), where)


def _pairs(seen: dict[type[Server], list[Figures]], other: type[Server]) -> list[tuple[Figures, Figures]]:
    """Ours and another's of the same round, where both answered."""
    both = zip(seen.get(RagstoneServer, []), seen.get(other, []), strict=False)
    return [(ours, theirs) for ours, theirs in both if ours.qps and theirs.qps]
