"""The benchmarks' arithmetic about texts and growth, against what can be counted by hand."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from benchmarks.harness import datasets
from benchmarks.harness.growth import least_bytes
from benchmarks.harness.matrix import LAYERS, SHARE, WIDTH, operations, shares
from benchmarks.harness.quality import collection, mean_ndcg, quality
from benchmarks.harness.results import figure
from benchmarks.harness.targets import standings

TOKENS = 120


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three documents, of which one has no text, and three queries, of which one has a judgement above 0."""
    documents = [("one", "A", "first"), ("two", "", "second"), ("three", "Empty", " ")]
    lines = [json.dumps({"_id": id_, "title": title, "text": text}) for id_, title, text in documents]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines), encoding="utf-8")
    queries = [json.dumps({"_id": id_, "text": f"query {id_}"}) for id_ in "abc"]
    (tmp_path / "queries.jsonl").write_text("\n".join(queries), encoding="utf-8")
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\na\ttwo\t1\nb\tone\t0\n", encoding="utf-8")
    return tmp_path


@pytest.mark.model
def test_operations_are_counted_from_the_weights() -> None:
    """Two for each weight of the layers and each token; two products of width x tokens a token are attention's."""
    from retrieval.embedding.local import default_folder

    weights = load_file(default_folder() / "model.safetensors")
    in_layers = sum(one.numel() for name, one in weights.items() if "encoder.layer." in name and one.ndim == 2)
    attention = LAYERS * 2 * (2 * TOKENS * TOKENS * WIDTH)
    assert operations(TOKENS) == 2 * in_layers * TOKENS + attention


def test_shares_become_figures() -> None:
    """Only the lines that are shares, each by what it is a share of."""
    line = {"what": f"{SHARE}a query, beside products", "median": 0.5, "lowest": 0.4, "highest": 0.6}
    found = list(shares([{"benchmark": "batcher"}, {"what": "encode_p50_ms", "median": 9.0}, line]))
    expected = figure("embedding.share_of_matrix_rate", 0.5, "a query, beside products", lowest=0.4, highest=0.6)
    assert found == [expected]


def test_a_collection_holds_what_can_be_found_and_is_judged(folder: Path) -> None:
    """Documents without text and queries without a relevant document take no part."""
    read = collection(folder)
    assert read.documents == {"one": "A first", "two": "second"}
    assert read.queries == {"a": "query a"}


def test_ndcg_is_of_the_ranking_by_inner_product(folder: Path) -> None:
    """The relevant document comes second: 1 / log2(3); the other way round it comes first."""
    read = collection(folder)
    towards = {"query": [[1.0, 0.0]], "passage": [[1.0, 0.0], [0.6, 0.8]]}

    def embed(texts: list[str], kind: str) -> Any:
        assert len(texts) == len(towards[kind])
        return np.array(towards[kind], dtype=np.float32)

    assert mean_ndcg(read, embed) == pytest.approx(1 / np.log2(3))
    towards["query"] = [[0.0, 1.0]]
    assert mean_ndcg(read, embed) == 1


def test_without_real_data_quality_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said what was skipped, and the target stands as not measured."""
    monkeypatch.delenv(datasets.FOLDER_VARIABLE, raising=False)
    bench: Any = SimpleNamespace(sizes=SimpleNamespace(name="full"))
    found = list(quality(bench))
    assert [one["what"] for one in found] == ["skipped", "skipped"]
    assert datasets.FOLDER_VARIABLE in found[0]["why"]
    standing = next(one for one in standings(found) if one.target.figure == "embedding.ndcg_from_single")
    assert standing.verdict == "not measured"


def test_the_least_that_a_vector_takes() -> None:
    """Two bytes a component; beside them id, text and {"n": 50} on disk, and 32 row numbers of 4 bytes in memory."""
    data = datasets.made_up(50, 16, 1, 7)
    text = sum(len(one) for one in data.rows().texts) / 50
    assert least_bytes(data) == {
        "least_bytes_per_vector": 32,
        "least_stored_per_vector": pytest.approx(32 + text + len("row-00000000") + len('{"n": 50}'), abs=0.05),
        "least_memory_per_vector": 32 + 128,
    }
