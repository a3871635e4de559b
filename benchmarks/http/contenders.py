"""The servers: ours, the tightest one, Chroma's and txtai's, each loaded by its own library; one that only answers."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness.datasets import DataSet
from benchmarks.harness.workers import Stage
from benchmarks.http import minimal
from benchmarks.http.servers import HOST, TOP_K, Json, Server
from benchmarks.peers import environments
from benchmarks.peers.protocol import Embeddings

COLLECTION = "benchmark"
"""What the peer `ragstone` calls its collection."""
CHROMA = "/api/v2/tenants/default_tenant/databases/default_database/collections"
CHROMA_COLLECTION = "peer"
TXTAI_FOLDER = "index"
TXTAI_STATEMENT = "select id, text, n, score from txtai where similar(:embedding)"


class RagstoneServer(Server):
    """`ragstone serve` with its defaults: it validates, records, counts and keeps its index like any other day."""

    name = "ragstone"

    def __init__(self, data: DataSet, stage: Stage, url: str, folder: Path) -> None:
        super().__init__(data, stage, url, folder)
        self._effort = 40

    def load(self) -> None:
        self.load_through("ragstone")

    def set_effort(self, effort: int) -> None:
        self._effort = effort

    def command(self) -> list[str]:
        return [sys.executable, "-m", "ops.cli", "--data", self.url, "serve", "--port", str(self.port)]

    def environment(self) -> Mapping[str, str]:
        return {
            "RAGSTONE_EMBEDDING_MODEL": "hashing",  # nothing is embedded here, so no model need be loaded
            "RAGSTONE_EF_SEARCH": str(self._effort),
            "RAGSTONE_PLACEMENT": "advise",  # a benchmark decides itself where the collection is
        }

    def asked(self, embedding: Embeddings) -> tuple[str, Json]:
        return f"/v1/collections/{COLLECTION}/search", {"embedding": embedding.tolist(), "top_k": TOP_K}

    def ids(self, answer: Any) -> list[str]:
        return [hit["id"] for hit in answer["results"]]


class MinimalServer(Server):
    """The limit: see `minimal.py`."""

    name = "minimal service"
    has_our_index = True

    def __init__(self, data: DataSet, stage: Stage, url: str, folder: Path) -> None:
        super().__init__(data, stage, url, folder)
        self._effort = 40

    def load(self) -> None:
        minimal.load(self.url, self.data.rows())

    def set_effort(self, effort: int) -> None:
        self._effort = effort

    def command(self) -> list[str]:
        program = [sys.executable, "-m", "benchmarks.http.minimal"]
        return [*program, "--url", self.url, "--port", str(self.port), "--effort", str(self._effort)]

    def asked(self, embedding: Embeddings) -> tuple[str, Json]:
        return "/search", {"embedding": embedding.tolist(), "top_k": TOP_K}

    def ids(self, answer: Any) -> list[str]:
        return [hit["id"] for hit in answer["results"]]


class ChromaServer(Server):
    """`chroma run`, a server in Rust, on the folder that the library filled."""

    name = "chroma run"

    def __init__(self, data: DataSet, stage: Stage, url: str, folder: Path) -> None:
        super().__init__(data, stage, url, folder)
        self._id = ""

    def load(self) -> None:
        self.load_through("chroma")
        with self.running():
            self._id = self._collection()["id"]

    def set_effort(self, effort: int) -> None:
        with self.running():
            self.exchange("PUT", f"{CHROMA}/{self._id}", {"new_configuration": {"hnsw": {"ef_search": effort}}})

    def command(self) -> list[str]:
        program = [_program("chroma", "chroma"), "run", "--path", str(self.folder)]
        return [*program, "--host", HOST, "--port", str(self.port)]

    def asked(self, embedding: Embeddings) -> tuple[str, Json]:
        body = {
            "query_embeddings": [embedding.tolist()],
            "n_results": TOP_K,
            "include": ["documents", "metadatas", "distances"],
        }
        return f"{CHROMA}/{self._id or self._collection()['id']}/query", body

    def ids(self, answer: Any) -> list[str]:
        return list(answer["ids"][0])

    def _collection(self) -> Any:
        return self.exchange("GET", f"{CHROMA}/{CHROMA_COLLECTION}")


class TxtaiServer(Server):
    """txtai's API on the index that the library saved, asked in SQL whose parameter is the embedding.

    Its API takes texts alone, so that an embedding travels as one: see `txtai_query.py`.
    """

    name = "txtai API"
    metrics = ("cosine",)

    def load(self) -> None:
        self.load_through("txtai")
        embeddings = {"method": "external", "transform": "benchmarks.http.txtai_query.embedded", "content": True}
        settings = {"path": str(self._index), "writable": False, "embeddings": embeddings}
        self._settings.write_text(json.dumps(settings), encoding="utf-8")  # JSON is YAML

    def set_effort(self, effort: int) -> None:
        saved = self._index / "config.json"
        config = json.loads(saved.read_text(encoding="utf-8"))
        config["hnsw"]["efsearch"] = effort
        saved.write_text(json.dumps(config), encoding="utf-8")

    def command(self) -> list[str]:
        program = [_program("txtai", "uvicorn"), "txtai.api:app", "--log-level", "warning", "--no-access-log"]
        return [*program, "--host", HOST, "--port", str(self.port)]

    def environment(self) -> Mapping[str, str]:
        return {"CONFIG": str(self._settings), "ALLOW_RESOLVE_TRANSFORM": "True"}

    def asked(self, embedding: Embeddings) -> tuple[str, Json]:
        parameters = [{"embedding": json.dumps(embedding.tolist())}]
        return "/batchsearch", {"queries": [TXTAI_STATEMENT], "limit": TOP_K, "parameters": parameters}

    def ids(self, answer: Any) -> list[str]:
        return [hit["id"] for hit in answer[0]]

    @property
    def _index(self) -> Path:
        return self.folder / TXTAI_FOLDER

    @property
    def _settings(self) -> Path:
        return self.folder / "api.yml"


class EchoServer(Server):
    """No search at all: see `echo.py`. What it shows is the client's own limit, which every server must be far from."""

    name = "no server (client's limit)"
    is_searching = False

    def load(self) -> None:
        rows = self.data.rows()
        hits = [
            {"id": rows.ids[row], "score": 0.5, "text": rows.texts[row], "metadata": {"n": row}} for row in range(TOP_K)
        ]
        self._answer.write_text(json.dumps({"results": hits}, separators=(",", ":")), encoding="utf-8")

    def set_effort(self, effort: int) -> None:
        pass

    def command(self) -> list[str]:
        program = [sys.executable, "-m", "benchmarks.http.echo"]
        return [*program, "--port", str(self.port), "--answer", str(self._answer)]

    def asked(self, embedding: Embeddings) -> tuple[str, Json]:
        return "/search", {"embedding": embedding.tolist(), "top_k": TOP_K}

    def ids(self, answer: Any) -> list[str]:
        return [hit["id"] for hit in answer["results"]]

    @property
    def _answer(self) -> Path:
        return self.folder.with_suffix(".answer.json")


SERVERS: tuple[type[Server], ...] = (RagstoneServer, MinimalServer, ChromaServer, TxtaiServer, EchoServer)
"""Ours first: its recall is what the others must reach."""


def _program(peer: str, name: str) -> str:
    python = environments.interpreter(peer)
    assert python is not None  # it was loaded by its library before
    return str(python.with_name(name))
