"""A server and a command on one data folder: both at once, and the last one out stops PostgreSQL."""

import signal
from pathlib import Path

import httpx
import pytest

import retrieval
from tests.acceptance.command import Ragstone, left_running, postgres_of, wait_for

SETTINGS = retrieval.Settings(embedding_model="hashing")


def test_a_command_works_beside_a_server(tmp_path: Path, planets: Path) -> None:
    """What a command ingests, the running server finds at once; the command's end leaves the server its PostgreSQL."""
    data = tmp_path / "data"
    ragstone = Ragstone(data)
    with ragstone.serving() as server:
        ragstone.ingest("planets", planets)
        reply = httpx.post(f"{server.url}/v1/collections/planets/retrieve", json={"query": "rings of ice", "top_k": 1})
        assert reply.json()["results"][0]["document_id"] == "outer/saturn.html"
        httpx.delete(f"{server.url}/v1/collections/planets/documents/outer/saturn.html").raise_for_status()
        hits = ragstone("retrieve", "planets", "rings of ice", "--json").json["results"]
        assert "outer/saturn.html" not in {hit["document_id"] for hit in hits}
        assert httpx.get(f"{server.url}/health/ready").status_code == 200
        assert server.stop(signal.SIGTERM) == 0
    assert left_running(data) == []


def test_ctrl_c_ends_a_server_cleanly(tmp_path: Path) -> None:
    """Ctrl-C is how a server is stopped by hand: status 0, and PostgreSQL goes too."""
    with Ragstone(tmp_path / "data").serving() as server:
        assert postgres_of(tmp_path / "data")
        assert server.stop(signal.SIGINT) == 0
    assert left_running(tmp_path / "data") == []


def test_whoever_is_left_after_a_kill_keeps_working_and_is_the_last_one_out(tmp_path: Path, planets: Path) -> None:
    """SIGKILL of the server disturbs nobody else on the folder; when these have closed, PostgreSQL is gone."""
    data = tmp_path / "data"
    with Ragstone(data).serving() as server, retrieval.open(data, settings=SETTINGS) as rag:
        Ragstone(data).ingest("planets", planets)
        server.stop(signal.SIGKILL)
        assert rag.collection("planets").count() == 3
    assert left_running(data) == []


def test_a_killed_server_leaves_nothing_running(tmp_path: Path, planets: Path) -> None:
    """Where the only one on a folder is killed, PostgreSQL stops by itself, and the next command finds all."""
    data = tmp_path / "data"
    with Ragstone(data).serving() as server:
        Ragstone(data).ingest("planets", planets)
        server.stop(signal.SIGKILL)
    assert wait_for(lambda: not left_running(data))
    assert Ragstone(data)("collections", "show", "planets", "--json").json["documents"] == 3
    assert left_running(data) == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_ingest_leaves_nothing_running(tmp_path: Path, number: signal.Signals, status: int) -> None:
    """Ctrl-C and SIGTERM end an ingest without a traceback and without a PostgreSQL left behind; it can be repeated."""
    data, corpus = tmp_path / "data", tmp_path / "corpus.jsonl"
    line = '{{"_id": "d{0}", "text": "{1}"}}\n'
    corpus.write_text("".join(line.format(n, f"word{n} " * 300) for n in range(20_000)), encoding="utf-8")
    ragstone = Ragstone(data)
    process = ragstone.start("ingest", "words", corpus)
    assert wait_for(lambda: postgres_of(data), within_s=60)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    assert "Traceback" not in err
    assert wait_for(lambda: not left_running(data), within_s=10)  # what initdb was doing ends with it, a moment later


def test_a_reader_that_goes_away_is_no_error(ragstone: Ragstone, corpus_jsonl: Path) -> None:
    """`ragstone ... | head` ends quietly when head has read enough."""
    ragstone.ingest("piped", corpus_jsonl)
    process = ragstone.start("retrieve", "piped", "a star", "--top-k", 40, "--json")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 141
    assert err == ""
