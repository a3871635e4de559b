"""Collections that move by themselves, by hand, and in spite of SIGKILL, through the real command and server."""

import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

import retrieval
from backends.corpus.moves import latest_moves
from tests.acceptance.command import Done, Ragstone, Server, wait_for
from tests.moving.subject import DIMENSION, Subject, names

THRESHOLD = 300
DOCUMENTS = 400
SMALL = {"RAGSTONE_PLACEMENT_THRESHOLD": str(THRESHOLD), "RAGSTONE_INDEX_MIN_CHUNKS": "50"}
HASTY = {"RAGSTONE_STATEMENT_BUDGET_MS": "900", "RAGSTONE_BACKEND_TIMEOUT_S": "0.1"}
"""Queries are short here, so that what they might still use can be dropped soon."""
SLOWLY = {"RAGSTONE_MOVE_CHUNKS_PER_S": "300"}
NOWHERE = "http://127.0.0.1:9"
NOBODY = {"RAGSTONE_WEAVIATE_URL": NOWHERE, "RAGSTONE_BACKEND_TIMEOUT_S": "0.5"}
WITHIN_S = 90.0


@pytest.fixture(scope="module")
def rag(tmp_path_factory: pytest.TempPathFactory) -> Iterator[retrieval.Ragstone]:
    """A folder of these tests' own, held open: servers here move whatever is beyond their threshold."""
    data = tmp_path_factory.mktemp("moves") / "data"
    settings = retrieval.Settings(embedding_model="hashing", weaviate_url=NOWHERE, backend_timeout_s=0.5)
    with retrieval.open(data, settings=settings) as opened:
        yield opened


@pytest.fixture
def command(rag: retrieval.Ragstone) -> Iterator[Ragstone]:
    """The command on that folder, which every test leaves without collections."""
    yield Ragstone(rag.settings.data)
    for name in rag.collections():
        rag.delete_collection(name)


def text(number: int) -> str:
    """Words drawn for this document: no other has the same, also where some fall together in the hashing model."""
    drawn = random.Random(number)
    return " ".join(f"word{drawn.randrange(1_000_000)}" for _ in range(12))


@pytest.fixture
def filled(rag: retrieval.Ragstone, command: Ragstone) -> retrieval.Collection:
    """A collection `c` with 400 documents, each of one chunk."""
    collection = rag.create_collection("c")
    collection.upsert([retrieval.Document(id=f"d{n}", text=text(n)) for n in range(DOCUMENTS)])
    return collection


@contextmanager
def serving(command: Ragstone) -> Iterator[tuple[Server, httpx.Client]]:
    """A server, and a client of its API."""
    with command.serving() as server, httpx.Client(base_url=f"{server.url}/v1", timeout=60) as client:
        yield server, client


def found(client: httpx.Client, number: int) -> Any:
    """Ask for a document by its words; the answer must be 200."""
    answer = client.post("/collections/c/retrieve", json={"query": text(number), "top_k": 3})
    assert answer.status_code == 200, answer.text
    return answer.json()


def backend(client: httpx.Client) -> str:
    return str(found(client, 0)["index"]["backend"])


@contextmanager
def asked_all_the_time(client: httpx.Client) -> Iterator[list[int]]:
    """Search in a thread while the block runs; raises where one answer was not 200. Gives the answers' count."""
    answers, failures, stopping = [0], [], threading.Event()

    def ask() -> None:
        try:
            while not stopping.wait(0.02) and answers[0] < 20_000:
                found(client, answers[0] % DOCUMENTS)
                answers[0] += 1
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answers
    finally:
        stopping.set()
        thread.join()
        if failures:
            raise failures[0]


def check_all_there(client: httpx.Client) -> None:
    """Every document is there, and is what a search for its words finds first."""
    assert client.get("/collections/c").json()["documents"] == DOCUMENTS
    for number in range(0, DOCUMENTS, 7):
        assert found(client, number)["results"][0]["document_id"] == f"d{number}"


def with_settings(command: Ragstone, **environment: str) -> Ragstone:
    return replace(command, environment=environment)


def test_it_moves_by_itself(command: Ragstone, tmp_path: Path) -> None:
    """A collection that grows beyond its threshold ends up on FAISS unasked, searched all the while; and goes back."""
    command = with_settings(command, **SMALL)
    lines = [json.dumps({"_id": f"d{n}", "text": text(n)}) + "\n" for n in range(DOCUMENTS)]
    (tmp_path / "corpus.jsonl").write_text("".join(lines), encoding="utf-8")
    with serving(command) as (server, client):
        client.post("/collections", json={"name": "c"}).raise_for_status()
        with asked_all_the_time(client) as answers:
            command.ingest("c", tmp_path / "corpus.jsonl")
            assert wait_for(lambda: backend(client) == "faiss", WITHIN_S)
            check_all_there(client)
            standing = command("move", "status", "c", "--json").json
            assert (standing["move"]["phase"], standing["move"]["by_hand"]) == ("done", False)
            indexes = [(one["backend"], one["serving"], one["behind"]) for one in standing["indexes"]]
            assert indexes == [("faiss", True, 0), ("pgvector", False, None)]
            before = answers[0]
            assert command("move", "rollback", "c", "--json").json == {"collection": "c", "backend": "pgvector"}
            assert wait_for(lambda: backend(client) == "pgvector", WITHIN_S)
            check_all_there(client)
            assert answers[0] > before > 0
        assert server.stop(signal.SIGTERM) == 0


def test_advised_it_stays(command: Ragstone, filled: retrieval.Collection) -> None:
    """Where placement is only advised, a collection beyond its threshold stays, and the log says where it belongs."""
    advising = with_settings(command, **SMALL, RAGSTONE_PLACEMENT="advise")
    with serving(advising) as (server, client), said_by(server) as said:
        assert wait_for(lambda: any("it belongs to faiss" in line for line in said), WITHIN_S)
        assert backend(client) == "pgvector"
        assert server.stop(signal.SIGTERM) == 0
    advice = [line for line in said if "it belongs to faiss" in line]
    assert len(advice) == 1
    assert f"c has {DOCUMENTS} chunks, its threshold is {THRESHOLD}" in advice[0]
    assert "ragstone move plan c" in advice[0]
    assert command("move", "status", "c").out.startswith("It was never moved.")


@contextmanager
def said_by(server: Server) -> Iterator[list[str]]:
    """Collect the lines of a server's log, up to its end."""
    said: list[str] = []
    log = server.process.stderr
    assert log is not None
    reader = threading.Thread(target=said.extend, args=(iter(log.readline, ""),))
    reader.start()
    yield said
    reader.join(60)


def test_a_killed_server_goes_on_with_its_move(
    rag: retrieval.Ragstone, command: Ragstone, filled: retrieval.Collection
) -> None:
    """A server that is killed with its mover in the middle of a move goes on with it when it is started again."""
    command = with_settings(command, **SMALL, **SLOWLY)
    with serving(command) as (server, _):
        assert wait_for(lambda: is_built(rag, filled), WITHIN_S)
        os.killpg(server.process.pid, signal.SIGKILL)
    assert filled.info().backend == "pgvector"
    with serving(command) as (server, client):
        assert wait_for(lambda: backend(client) == "faiss", WITHIN_S)
        check_all_there(client)
        assert server.stop(signal.SIGTERM) == 0
    move = latest_moves(rag.database, filled.id)[0]
    assert (move.phase, move.by_hand) == ("done", False)
    assert move.tries >= 2


def is_built(rag: retrieval.Ragstone, collection: retrieval.Collection) -> bool:
    """Whether a mover builds the collection's new index now."""
    moves = latest_moves(rag.database, collection.id)
    return bool(moves) and moves[0].phase == "building" and moves[0].tries > 0


def test_a_killed_mover_is_followed_by_another(rag: retrieval.Ragstone, command: Ragstone) -> None:
    """`move start` dies in its phases, and users write in between; the last one ends the move, and nothing is lost."""
    moved = Subject(rag, rag.create_collection("killed", dimension=DIMENSION))
    moved.put(names(0, DOCUMENTS), seed=1)
    for number, wanted in enumerate(("building", "building", "verifying")):
        process = command.start("move", "start", "killed", "--to", "faiss", **SLOWLY)
        assert killed_during(process, moved, wanted) == wanted
        moved.put(names(DOCUMENTS + 10 * number, 10), seed=10 + number)
        moved.delete(names(10 * number, 5))
        moved.check_congruent(queries=2)
        assert moved.state.backend == "pgvector"
    done = command("move", "start", "killed", "--json")
    assert (done.status, done.json["phase"], done.json["tries"]) == (0, "done", 4), done.err
    assert done.json["verification"]["missing"] == done.json["verification"]["foreign"] == 0
    moved.arrive("faiss")
    moved.check_whole()
    assert moved.standing == [("faiss", "serving"), ("pgvector", "live")]


def killed_during(process: "subprocess.Popen[str]", subject: Subject, wanted: str) -> str:
    """Kill a mover somewhere in a phase, and return the phase that it was in."""
    tries = subject.last_move.tries if latest_moves(subject.rag.database, subject.collection.id) else 0

    def is_there() -> bool:
        move = next(iter(latest_moves(subject.rag.database, subject.collection.id)), None)
        return move is not None and move.tries > tries and move.phase == wanted

    assert wait_for(is_there, WITHIN_S), process.communicate(timeout=10)
    time.sleep(random.uniform(0, 0.2))
    process.kill()
    process.communicate(timeout=60)
    return subject.last_move.phase


def refused(done: Done, status: int, code: str, says: str) -> None:
    assert (done.status, done.json["error"]["code"]) == (status, code), done.err
    assert says in done.json["error"]["message"]
    assert len(done.err.strip().splitlines()) == 1


def test_from_plan_to_finish(command: Ragstone, filled: retrieval.Collection) -> None:
    """A move by hand in words and in JSON: planned, made, shown, taken back, and its leftovers dropped."""
    planned = command("move", "plan", "c", "--to", "faiss", "--json").json
    assert (planned["source"], planned["target"], planned["chunks"]) == ("pgvector", "faiss", DOCUMENTS)
    assert planned["rate_source"] == "a build of 400 of its chunks, thrown away"
    shown = command("move", "plan", "c", "--to", "faiss").out
    assert all(word in shown for word in ("pgvector", "faiss", "400 of dimension", "chunks/s", "on this machine"))

    made = command("move", "start", "c", "--to", "faiss", "--json")
    assert (made.status, made.json["phase"], made.json["chunks_done"]) == (0, "done", DOCUMENTS)
    again = command("move", "start", "c", "--to", "faiss", "--json")
    refused(again, 2, "invalid_input", "served by faiss already")
    shown = command("move", "status", "c").out
    assert "pgvector to faiss: done" in shown
    assert "verified: 400 of 400 chunks, 0 missing, 0 foreign, recall@10" in shown
    assert "serving" in shown

    back = command("move", "rollback", "c")
    assert (back.status, back.out.strip()) == (0, "c is served by pgvector again, and stays there.")
    finished = command("move", "finish", "c", **HASTY)
    assert (finished.status, finished.out.strip()) == (0, "Dropped: faiss.")
    refused(command("move", "rollback", "c", "--json"), 2, "conflict", "no earlier index")
    refused(command("move", "cancel", "c", "--json"), 2, "conflict", "is not being moved")


def test_cancelled_by_another(rag: retrieval.Ragstone, command: Ragstone, filled: retrieval.Collection) -> None:
    """A move that another command cancels ends with a finding; one to a store that is away is cancelled too."""
    process = command.start("move", "start", "c", "--to", "faiss", "--json", **SLOWLY)
    assert wait_for(lambda: is_built(rag, filled), WITHIN_S)
    assert command("move", "cancel", "c", "--json").json == {"collection": "c", "cancelled": True}
    out, err = process.communicate(timeout=60)
    assert (process.returncode, json.loads(out)["phase"]) == (1, "cancelled"), err

    away = command("move", "start", "c", "--to", "weaviate", "--json", **NOBODY)
    refused(away, 3, "index_unavailable", "127.0.0.1:9")
    assert command("move", "status", "c").out.startswith("pgvector to weaviate: building, 0 of 400 chunks")
    refused(command("move", "start", "c", "--to", "faiss", "--json"), 2, "conflict", "under way to weaviate")
    assert command("move", "cancel", "c", **NOBODY).out.strip() == "Cancelled."
    assert latest_moves(rag.database, filled.id)[0].phase == "cancelled"
