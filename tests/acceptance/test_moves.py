"""Collections that move by themselves, by hand, and in spite of SIGKILL, through the real command and server."""

import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

import retrieval
from backends.corpus.collections import find_collection
from backends.corpus.moves import Move, latest_moves
from tests.acceptance.command import Done, Ragstone, Server, wait_for
from tests.moving.subject import DIMENSION, Subject, names

THRESHOLD = 300
DOCUMENTS = 400
SMALL = {"RAGSTONE_PLACEMENT_THRESHOLD": str(THRESHOLD), "RAGSTONE_INDEX_MIN_CHUNKS": "50"}
HASTY = {"RAGSTONE_STATEMENT_BUDGET_MS": "900", "RAGSTONE_BACKEND_TIMEOUT_S": "0.1"}
"""Queries are short here, so that what they might still use can be dropped soon."""
SLOWLY = {"RAGSTONE_MOVE_CHUNKS_PER_S": "200"}
NOBODY = {"RAGSTONE_WEAVIATE_URL": "http://127.0.0.1:9"}
WITHIN_S = 90.0


def documents(folder: Path) -> Path:
    """A file of documents, each of one chunk and with a word of its own."""
    lines = [{"_id": f"d{n}", "text": f"The document of the word{n} and nothing else."} for n in range(DOCUMENTS)]
    path = folder / "corpus.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def found(server: Server, number: int) -> Any:
    """Ask for a document by its word; the answer must be 200."""
    body = {"query": f"word{number}", "top_k": 3}
    answer = httpx.post(f"{server.url}/v1/collections/c/retrieve", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def backend(server: Server) -> str:
    return str(found(server, 0)["index"]["backend"])


@contextmanager
def asked_all_the_time(server: Server) -> Iterator[list[int]]:
    """Search in a thread while the block runs; raises where one answer was not 200. Gives the answers' count."""
    answers, failures, stopping = [0], [], threading.Event()

    def ask() -> None:
        try:
            while not stopping.wait(0.02) and answers[0] < 20_000:
                found(server, answers[0] % DOCUMENTS)
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


def create(server: Server) -> None:
    httpx.post(f"{server.url}/v1/collections", json={"name": "c"}, timeout=60).raise_for_status()


def check_all_there(server: Server) -> None:
    """Every document is there once, and is what a search for its word finds first."""
    assert httpx.get(f"{server.url}/v1/collections/c", timeout=60).json()["documents"] == DOCUMENTS
    for number in range(0, DOCUMENTS, 7):
        assert found(server, number)["results"][0]["document_id"] == f"d{number}"


def test_it_moves_by_itself(tmp_path: Path) -> None:
    """A collection that grows beyond its threshold ends up on FAISS unasked, searched all the while; and goes back."""
    ragstone = Ragstone(tmp_path / "data", SMALL | HASTY)
    with ragstone.serving() as server:
        create(server)
        with asked_all_the_time(server) as answers:
            ragstone.ingest("c", documents(tmp_path))
            assert wait_for(lambda: backend(server) == "faiss", WITHIN_S)
            check_all_there(server)
            standing = ragstone("move", "status", "c", "--json").json
            assert (standing["move"]["phase"], standing["move"]["by_hand"]) == ("done", False)
            assert [(one["backend"], one["serving"]) for one in standing["indexes"]] == [
                ("faiss", True),
                ("pgvector", False),
            ]
            before = answers[0]
            assert ragstone("move", "rollback", "c", "--json").json == {"collection": "c", "backend": "pgvector"}
            assert wait_for(lambda: backend(server) == "pgvector", WITHIN_S)
            check_all_there(server)
            assert answers[0] > before > 0
        assert ragstone("move", "finish", "c", "--json").json == {"collection": "c", "dropped": ["faiss"], "left": []}
        assert backend(server) == "pgvector"
        assert server.stop(signal.SIGTERM) == 0


def test_advised_it_stays(tmp_path: Path) -> None:
    """Where placement is only advised, a collection beyond its threshold stays, and the log says where it belongs."""
    ragstone = Ragstone(tmp_path / "data", SMALL | {"RAGSTONE_PLACEMENT": "advise"})
    ragstone.ingest("c", documents(tmp_path))
    with ragstone.serving() as server:
        said: list[str] = []
        assert server.process.stderr is not None
        reader = threading.Thread(target=said.extend, args=(iter(server.process.stderr.readline, ""),))
        reader.start()
        wait_for(lambda: any("it belongs to faiss" in line for line in said), WITHIN_S)
        check_all_there(server)
        assert backend(server) == "pgvector"
        assert ragstone("move", "status", "c", "--json").json["move"] is None
        assert server.stop(signal.SIGTERM) == 0
        reader.join()
    advice = [line for line in said if "it belongs to faiss" in line]
    assert len(advice) == 1
    assert f"c has {DOCUMENTS} chunks, its threshold is {THRESHOLD}" in advice[0]
    assert "ragstone move plan c" in advice[0]


def test_a_killed_server_goes_on_with_its_move(tmp_path: Path) -> None:
    """A server that is killed with its mover in the middle of a move goes on with it when it is started again."""
    data = tmp_path / "data"
    ragstone = Ragstone(data, SMALL | SLOWLY)
    ragstone.ingest("c", documents(tmp_path))
    with retrieval.open(data, settings=retrieval.Settings(embedding_model="hashing")) as rag:
        with ragstone.serving() as server:
            assert wait_for(lambda: phase(rag, "c") == "building", WITHIN_S)
            os.killpg(server.process.pid, signal.SIGKILL)
        assert find_collection(rag.database, "c").backend == "pgvector"
        with ragstone.serving() as server:
            assert wait_for(lambda: backend(server) == "faiss", WITHIN_S)
            check_all_there(server)
            assert server.stop(signal.SIGTERM) == 0
        move = last_move(rag, "c")
        assert (move.phase, move.by_hand) == ("done", False)
        assert move.tries >= 2


@pytest.fixture
def moved(ragstone: Ragstone) -> Iterator[Subject]:
    """A collection with 400 embeddings in the shared folder, as this process sees it."""
    with retrieval.open(ragstone.data, settings=retrieval.Settings(embedding_model="hashing")) as rag:
        subject = Subject(rag, rag.create_collection("killed", dimension=DIMENSION))
        subject.put(names(0, DOCUMENTS), seed=1)
        yield subject
        rag.delete_collection("killed")


def test_a_killed_mover_is_followed_by_another(ragstone: Ragstone, moved: Subject) -> None:
    """`move start` dies in every phase, and users write in between; the last one ends the move, and nothing is lost."""
    killed_in = []
    for number, wanted in enumerate(("building", "building", "verifying")):
        process = ragstone.start("move", "start", "killed", "--to", "faiss", **SLOWLY)
        killed_in.append(killed_during(process, moved, wanted))
        moved.put(names(DOCUMENTS + 10 * number, 10), seed=10 + number)
        moved.delete(names(10 * number, 5))
        moved.check_congruent(queries=2)
        assert moved.state.backend == "pgvector"
    assert killed_in == ["building", "building", "verifying"]
    done = ragstone("move", "start", "killed", "--json")
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


def phase(rag: retrieval.Ragstone, name: str) -> str | None:
    moves = latest_moves(rag.database, find_collection(rag.database, name).id)
    return moves[0].phase if moves else None


def last_move(rag: retrieval.Ragstone, name: str) -> Move:
    return latest_moves(rag.database, find_collection(rag.database, name).id)[0]


@pytest.fixture(scope="module")
def own(ragstone: Ragstone, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Done]:
    """`ragstone move WORD own ...`, of a collection with 400 documents."""
    ragstone.ingest("own", documents(tmp_path_factory.mktemp("own")))

    def move(word: str, *args: str, **environment: str) -> Done:
        return ragstone("move", word, "own", *args, **environment)

    return move


def refused(done: Done, status: int, code: str, says: str) -> None:
    assert (done.status, done.json["error"]["code"]) == (status, code), done.err
    assert says in done.json["error"]["message"]
    assert len(done.err.strip().splitlines()) == 1


def test_from_plan_to_finish(own: Callable[..., Done]) -> None:
    """A move by hand in words and in JSON: planned, made, shown, taken back, and its leftovers dropped."""
    planned = own("plan", "--to", "faiss", "--json").json
    assert (planned["source"], planned["target"], planned["chunks"]) == ("pgvector", "faiss", DOCUMENTS)
    assert planned["rate_source"] == "a build of 400 of its chunks, thrown away"
    shown = own("plan", "--to", "faiss").out
    assert all(word in shown for word in ("pgvector", "faiss", "400 of dimension", "chunks/s", "on this machine"))
    assert own("status", "--json").json["move"] is None

    made = own("start", "--to", "faiss", "--json")
    assert (made.status, made.json["phase"], made.json["chunks_done"]) == (0, "done", DOCUMENTS)
    refused(own("start", "--to", "faiss", "--json"), 2, "invalid_input", "served by faiss already")
    shown = own("status").out
    assert "pgvector to faiss: done" in shown
    assert "verified: 400 of 400 chunks, 0 missing, 0 foreign, recall@10 1.000 on 200 queries" in shown
    assert "serving" in shown

    back = own("rollback")
    assert (back.status, back.out.strip()) == (0, "own is served by pgvector again, and stays there.")
    finished = own("finish", **HASTY)
    assert (finished.status, finished.out.strip()) == (0, "Dropped: faiss.")
    refused(own("rollback", "--json"), 2, "conflict", "no earlier index")
    refused(own("cancel", "--json"), 2, "conflict", "is not being moved")


def test_cancelled_by_another(ragstone: Ragstone, own: Callable[..., Done]) -> None:
    """A move that another command cancels ends with a finding, and a move to nowhere is cancelled too."""
    process = ragstone.start("move", "start", "own", "--to", "faiss", "--json", **SLOWLY)
    assert wait_for(lambda: (own("status", "--json").json["move"] or {}).get("phase") == "building", WITHIN_S)
    assert own("cancel", "--json").json == {"collection": "own", "cancelled": True}
    out, err = process.communicate(timeout=60)
    assert (process.returncode, json.loads(out)["phase"]) == (1, "cancelled"), err

    refused(own("start", "--to", "weaviate", "--json", **NOBODY, **HASTY), 3, "index_unavailable", "127.0.0.1:9")
    assert own("status", **NOBODY).out.startswith("pgvector to weaviate: building, 0 of 400 chunks")
    refused(own("start", "--to", "pinecone", "--json", **NOBODY), 2, "conflict", "under way to weaviate")
    assert own("cancel", **NOBODY, **HASTY).out.strip() == "Cancelled."
    assert own("status", "--json").json["move"]["phase"] == "cancelled"
