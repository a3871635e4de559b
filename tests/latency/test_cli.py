"""`ragstone latency report`, as people and scripts see it."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

import retrieval
from ops import latency
from ops.cli.app import run
from ops.cli.latency import read_span
from ops.latency.recording import LatencyRecorder
from retrieval.documents import Usage
from tests.latency.watching import answered, searched


def report(rag: retrieval.Ragstone, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """Return what the command prints."""
    assert run(["--data", rag.database.conninfo, "latency", "report", *options]) == 0
    return capsys.readouterr().out


@pytest.fixture
def recorded(rag: retrieval.Ragstone) -> LatencyRecorder:
    """A process that has recorded two collections."""
    recorder = LatencyRecorder(rag.database)
    for latency_ms in range(1, 1_001):
        recorder(searched(search=0.5, total=latency_ms))
    recorder(searched(outcome="queue_full", total=0.1))
    recorder(searched("another", "faiss", total=1.25))
    recorder(answered(outcome="generator_unavailable", answer=70_000))
    recorder.flush()
    return recorder


def test_the_table(rag: retrieval.Ragstone, recorded: LatencyRecorder, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each collection, backend and stage: count, percentiles, maximum, and the share of errors."""
    lines = [line.split() for line in report(rag, capsys).splitlines()]
    assert lines[0] == ["collection", "backend", "stage", "count", "p50", "p95", "p99", "p99.9", "max", "errors"]
    assert lines[1] == ["another", "faiss", "total", "1", *["1.25"] * 5, "0"]
    assert lines[2] == ["handbook", "pgvector", "search", "1,000", *["0.498"] * 4, "0.5", "0"]
    assert lines[3] == ["handbook", "pgvector", "total", "1,001", "498", "948", "988", "996", "1,000", "0.10%"]
    assert lines[4] == ["handbook", "pgvector", "answer", "1", *["-"] * 5, "100.00%"]


def test_the_document(rag: retrieval.Ragstone, recorded: LatencyRecorder, capsys: pytest.CaptureFixture[str]) -> None:
    """--json has the same for scripts, with every outcome's count; --collection leaves the others out."""
    found: dict[str, Any] = json.loads(report(rag, capsys, "--json", "--collection", "handbook", "--since", "30m"))
    search, total, answer = found["stages"]
    assert (search["stage"], search["count"], search["errors"]) == ("search", 1_000, 0)
    assert total["outcomes"] == {"ok": 1_000, "queue_full": 1}
    assert total["percentiles_ms"] == {"p50": 498, "p95": 948, "p99": 988, "p99.9": 996}
    assert (answer["percentiles_ms"], answer["errors"]) == (None, 1)
    assert datetime.now(UTC) - datetime.fromisoformat(found["since"]) < timedelta(minutes=31)


def test_times_by_the_length_of_prompts(rag: retrieval.Ragstone, capsys: pytest.CaptureFixture[str]) -> None:
    """--by input-length: the first token, and the mean time between tokens, of short prompts and of long ones."""
    recorder = LatencyRecorder(rag.database)
    long = replace(
        answered(answer=1), usage=Usage(prompt_tokens=9_000, completion_tokens=11), first_s=2.0, generate_s=2.5
    )
    for one in (answered(answer=1), long, replace(long, generate_s=3.0), answered("abandoned", answer=1)):
        recorder(one)
    recorder.flush()
    found = json.loads(report(rag, capsys, "--by", "input-length", "--json"))["stages"]
    assert [(stage["stage"], stage["count"], round(stage["max_ms"])) for stage in found] == [
        ("first_token/0-512", 2, 50),
        ("first_token/8k-16k", 2, 2_000),
        ("next_token/0-512", 1, 50),
        ("next_token/8k-16k", 2, 100),
    ]
    assert {stage["stage"] for stage in json.loads(report(rag, capsys, "--json"))["stages"]} == {"answer"}
    assert "first_token/8k-16k" in report(rag, capsys, "--by", "input-length")


def test_nothing_recorded(rag: retrieval.Ragstone, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a record the command says so, and how to get one."""
    assert "Nothing was recorded in the last 24h" in report(rag, capsys)
    assert json.loads(report(rag, capsys, "--json"))["stages"] == []
    assert "slow_query_ms" in report(rag, capsys, "--slow")


def test_slow_searches(rag: retrieval.Ragstone, capsys: pytest.CaptureFixture[str]) -> None:
    """--slow shows what was slow, when, how long each stage took, and the nodes of the plan."""
    own = rag.create_collection("cli", dimension=2)
    own.upsert_embeddings(["a"], np.eye(1, 2, dtype=np.float32), ["text"], [{"year": 1}])
    with latency.record(rag):
        own.search([1, 0], top_k=3, filter={"year": 1})
    headline, timings, *plan = report(rag, capsys, "--slow", "--collection", "cli").splitlines()
    assert 'cli on pgvector: ok, top_k 3, exact, filter {"year": 1}' in headline
    assert timings.strip().startswith("search ")
    assert any(f"embedding_{own.id}" in line for line in plan)
    (found,) = json.loads(report(rag, capsys, "--slow", "--json"))["slow"]
    assert (found["collection"], found["filter"], found["plan"][0]["Plan"]["Node Type"]) == (
        "cli", {"year": 1}, plan[0].split()[0],
    )  # fmt: skip
    rag.delete_collection("cli")


@pytest.mark.parametrize("text", ["", "24", "h", "0m", "-1h", "1.5h", "2w", "9999d", "\uff11h"])
def test_times_that_are_none(rag: retrieval.Ragstone, capsys: pytest.CaptureFixture[str], text: str) -> None:
    """A --since that is no time is refused with what is needed, status 2."""
    assert run(["--data", rag.database.conninfo, "latency", "report", "--since", text]) == 2
    assert "24h" in capsys.readouterr().err


def test_times() -> None:
    """Minutes, hours and days."""
    assert [read_span(text).total_seconds() for text in ("30m", "24h", "7d")] == [1_800, 86_400, 604_800]
