"""SIGKILL at random moments: what was acknowledged is there, whole, and the next start needs no hand."""

import json
import random
import subprocess
import threading
import time
from contextlib import suppress
from itertools import count
from pathlib import Path

import httpx
import psutil

import retrieval
from tests.acceptance.command import Ragstone, postgres_of, wait_for

SETTINGS = retrieval.Settings(embedding_model="hashing")
ROUNDS = 10
BATCH = 5
DOCUMENTS = 600
LOOKED_INTO = 5


def document(number: int, version: int) -> dict[str, object]:
    """A document of several chunks, which no other document shares."""
    text = " ".join(f"Document {number} in version {version} says sentence {part}." for part in range(80))
    return {"id": f"d{number}", "text": text, "metadata": {"number": number, "version": version}}


def check_whole(data: Path, acknowledged: dict[str, int]) -> None:
    """Open the corpus after a kill: each acknowledged version (or a later one) is there, and all there is, is whole."""
    with retrieval.open(data, settings=SETTINGS) as rag:
        if "kept" not in rag.collections():
            assert not acknowledged
            return
        collection = rag.collection("kept")
        found: dict[str, retrieval.Document] = {}
        while page := collection.documents(limit=1000, after=max(found, default=None)):
            found |= {each.id: each for each in page}
        assert collection.count() == len(found)
        lost = {id_ for id_, version in acknowledged.items() if found[id_].metadata["version"] < version}
        assert not lost
        for id_ in random.sample(sorted(found), min(LOOKED_INTO, len(found))):
            check_chunks(collection, found[id_])


def check_chunks(collection: retrieval.Collection, kept: retrieval.Document) -> None:
    """The document is one version from end to end, and its chunks are all of it and of nothing else."""
    number, version = kept.metadata["number"], kept.metadata["version"]
    assert kept.text == document(number, version)["text"]
    hits = collection.retrieve(kept.text[:200], top_k=100, filter={"number": number})
    assert {hit.metadata["version"] for hit in hits} == {version}
    assert all(kept.text[hit.start : hit.end] == hit.text for hit in hits)
    assert (min(hit.start for hit in hits), max(hit.end for hit in hits)) == (0, len(kept.text))
    assert len({hit.start for hit in hits}) == len(hits) > 1


def kill(process: subprocess.Popen[str], data: Path, *, with_postgres: bool) -> None:
    """Kill a command, and on wish every PostgreSQL process of its folder as well."""
    process.kill()
    killed = postgres_of(data) if with_postgres else []
    for postgres in killed:
        with suppress(psutil.NoSuchProcess):
            postgres.kill()
    psutil.wait_procs(killed, timeout=60)
    process.communicate(timeout=60)


def post_until_killed(url: str, numbers: "count[int]", acknowledged: dict[str, int]) -> None:
    """Post new documents and new versions of old ones, and note what was acknowledged, until nobody answers."""
    with httpx.Client(base_url=f"{url}/v1", timeout=30) as client:
        try:
            client.post("/collections", json={"name": "kept"})
            while True:
                version = next(numbers)
                new = [document(version * BATCH + place, version) for place in range(BATCH)]
                old = [
                    document(int(id_[1:]), version)
                    for id_ in random.sample(sorted(acknowledged), min(2, len(acknowledged)))
                ]
                client.post("/collections/kept/documents", json={"documents": new + old}).raise_for_status()
                acknowledged.update({str(each["id"]): version for each in new + old})
        except httpx.TransportError:
            return


def test_what_a_killed_server_acknowledged_is_there(tmp_path: Path) -> None:
    """Ten times a server dies while documents are posted, every other time with its PostgreSQL: none is lost."""
    data, numbers = tmp_path / "data", count()
    acknowledged: dict[str, int] = {}
    for round_ in range(ROUNDS):
        with Ragstone(data).serving() as server:
            writer = threading.Thread(target=post_until_killed, args=(server.url, numbers, acknowledged))
            writer.start()
            time.sleep(random.uniform(0.05, 0.6))
            kill(server.process, data, with_postgres=round_ % 2 == 0)
            writer.join()
        check_whole(data, acknowledged)
    assert len(acknowledged) > ROUNDS


def test_a_killed_ingest_leaves_whole_documents_and_goes_on(tmp_path: Path) -> None:
    """Ten times an ingest of new versions dies; what is there is whole, and the last run brings the rest."""
    data, corpus = tmp_path / "data", tmp_path / "corpus.jsonl"
    ragstone = Ragstone(data)
    for round_ in range(ROUNDS):
        lines = [json.dumps(document(number, round_)) + "\n" for number in range(DOCUMENTS)]
        corpus.write_text("".join(lines), encoding="utf-8")
        process = ragstone.start("ingest", "kept", corpus)
        wait_for(lambda: postgres_of(data), within_s=60)
        time.sleep(random.uniform(0, 1.2))
        kill(process, data, with_postgres=round_ % 2 == 0)
        check_whole(data, {})
    done = ragstone.ingest("kept", corpus)
    assert done["upserted"] + done["unchanged"] == DOCUMENTS
    check_whole(data, {f"d{number}": ROUNDS - 1 for number in range(DOCUMENTS)})
