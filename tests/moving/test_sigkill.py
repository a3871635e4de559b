"""A mover that is killed while it catches up, which is too short to be hit from outside."""

import signal
import subprocess
import sys
from pathlib import Path

import retrieval
from backends.corpus.moves import latest_moves
from ops import moving
from retrieval.config import load
from tests.corpora import random_embeddings

MOVER = """
import os, signal, sys
import retrieval
from ops import moving
from ops.moving import mover
from retrieval.config import load

def killed(self):
    os.kill(os.getpid(), signal.SIGKILL)

mover._Mover._behind = killed
settings = load(embedding_model="hashing", index_min_chunks=100)
with retrieval.open(sys.argv[1], settings=settings) as rag:
    moving.work_on(rag, moving.start(rag, "c", "faiss"))
"""


def test_a_mover_killed_while_it_catches_up_is_followed(tmp_path: Path) -> None:
    """SIGKILL between the build and the verification: the next mover ends it, with what was written in between."""
    settings = load(embedding_model="hashing", index_min_chunks=100)
    embeddings = random_embeddings(500, 16)
    ids = [f"d{number}" for number in range(500)]
    with retrieval.open(tmp_path / "data", settings=settings) as rag:
        collection = rag.create_collection("c", dimension=16)
        collection.upsert_embeddings(ids, embeddings, ids)
        died = subprocess.run([sys.executable, "-c", MOVER, str(tmp_path / "data")], timeout=60, check=False)
        assert died.returncode == -signal.SIGKILL
        assert latest_moves(rag.database)[0].phase == "catching_up"
        collection.upsert_embeddings(["new"], embeddings[:1] + 1, ["new"])
        collection.delete(ids=["d5"])
        ended = moving.work_on(rag, moving.start(rag, "c"))
        assert (ended.phase, ended.tries) == ("done", 2)
        assert ended.verification is not None
        assert (ended.verification["chunks"], ended.verification["missing"], ended.verification["foreign"]) == (
            500,
            0,
            0,
        )
        assert collection.search(embeddings[0] + 1, 1)[0].id == "new"
