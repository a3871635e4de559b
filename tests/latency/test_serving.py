"""`ragstone serve` records while it serves, and leaves what it recorded in the corpus."""

import json
import signal
from datetime import UTC, datetime, timedelta

import httpx
import pytest

import retrieval
from backends.corpus.latencies import latencies_since, slow_searches_since
from ops.cli.app import run
from tests.acceptance.command import Ragstone


def test_a_service_that_is_stopped_leaves_its_latencies(
    rag: retrieval.Ragstone, capsys: pytest.CaptureFixture[str]
) -> None:
    """/metrics shows the stages at once; after SIGTERM the corpus has them, and the slow searches, for any command."""
    rag.create_collection("stopped").upsert([retrieval.Document(id="leave", text="thirty days of leave")])
    ragstone = Ragstone(rag.database.conninfo, {"RAGSTONE_SLOW_QUERY_MS": "0"})
    with ragstone.serving() as server:
        for number in range(5):
            body = {"query": f"question {number}"}
            httpx.post(f"{server.url}/v1/collections/stopped/retrieve", json=body).raise_for_status()
        assert (
            'ragstone_stage_duration_seconds_count{backend="pgvector",collection="stopped"'
            in httpx.get(f"{server.url}/metrics").text
        )
        assert server.stop(signal.SIGTERM) == 0
    an_hour_ago = datetime.now(UTC) - timedelta(hours=1)
    rows = {row.stage: sum(row.counts) for row in latencies_since(rag.database, an_hour_ago, "stopped")}
    assert rows == dict.fromkeys(("queue", "embed", "search", "total"), 5)
    assert slow_searches_since(rag.database, an_hour_ago, "stopped")
    assert run(["--data", rag.database.conninfo, "latency", "report", "--json", "--collection", "stopped"]) == 0
    assert [stage["count"] for stage in json.loads(capsys.readouterr().out)["stages"]] == [5, 5, 5, 5]
    rag.delete_collection("stopped")
